"""Queries to the target model: the scores of test cases of one behavior, and the best case so far."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from safereason.attacks.base import SearchStep, Setup, TestCase
from safereason.data.example import Example
from safereason.engines.base import GenerateOptions
from safereason.errors import InputError
from safereason.text.chat import user


@dataclass
class BestCase:
    """The best test case of a search. It is the initial one until the judge has scored a case."""

    case: TestCase
    score: float | None = None
    queried: int = 0
    """Test cases sent to the target model; `tries` in the records."""
    unscored: int = 0
    """Test cases among them without an answer or without a score."""

    def update(self, cases: Sequence[TestCase], scores: Sequence[float | None]) -> None:
        """Counts scored cases and keeps the one with the highest score; the first one wins a tie."""
        for case, score in zip(cases, scores, strict=True):
            self.queried += 1
            if score is None:
                self.unscored += 1
            elif self.score is None or score > self.score:
                self.case = case
                self.score = score

    def step(self, number: int) -> SearchStep:
        """The step of this number, with the best case and the counts in its details."""
        counts = {"score": self.score, "tries": self.queried, "unscored": self.unscored}
        case = replace(self.case, details={**self.case.details, **counts})
        return SearchStep(number, (case,), self.score)


def score_cases(setup: Setup, behavior: Example, cases: Sequence[TestCase], seed: int) -> list[float | None]:
    """The judge's score of the target model's answer to each test case; None without an answer or a score.

    Args:
        setup: The target model and the judge.
        behavior: The behavior of all cases.
        cases: At least one test case.
        seed: Seed of the answers.

    Raises:
        InputError: There is no judge.
        SpentError: The cases exceed the query budget; none of them is sent.
    """
    if setup.score is None:
        raise InputError(
            f"attack {cases[0].attack}: needs a judge that scores answers; name one with attack.judge=JUDGE"
        )
    conversations = [[*case.turns, *user(case.prompt)] for case in cases]
    completions = setup.target_model.generate(
        conversations, setup.sampling, GenerateOptions(seed=seed, prefix=setup.prefix)
    )
    answers: list[str] = []
    answered_cases: list[int] = []
    for number, (completion,) in enumerate(completions):
        if not completion.missing:
            answered_cases.append(number)
            answers.append(completion.parts.answer)
    scores: list[float | None] = [None] * len(cases)
    # A judge is not called with nothing to judge: it may be a server that refuses an empty request.
    if answers:
        for number, score in zip(answered_cases, setup.score(behavior, answers), strict=True):
            scores[number] = score
    return scores
