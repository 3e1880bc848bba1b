"""Asking the target test cases of one behavior, and keeping the best by the judge's score."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from safereason.attacks.base import Setup, Step, TestCase
from safereason.data.example import Example
from safereason.errors import InputError
from safereason.text.chat import user


@dataclass
class Best:
    """The best test case of a search; the one it begins with until a judge scores one."""

    case: TestCase
    score: float | None = None
    tries: int = 0
    """Test cases asked."""
    unscored: int = 0
    """Of these, those whose answer could not be had or not be scored."""

    def take(self, cases: Sequence[TestCase], scores: Sequence[float | None]) -> None:
        """Keeps the first of the highest score."""
        for case, score in zip(cases, scores, strict=True):
            self.tries += 1
            if score is None:
                self.unscored += 1
            elif self.score is None or score > self.score:
                self.case, self.score = case, score

    def step(self, number: int) -> Step:
        """How far the search is."""
        known = {"score": self.score, "tries": self.tries, "unscored": self.unscored}
        return Step(number, (replace(self.case, details={**self.case.details, **known}),), self.score)


def ask(setup: Setup, behavior: Example, cases: Sequence[TestCase], seed: int) -> list[float | None]:
    """The judge's score of the target's answer to each test case; None where there is no answer or no score.

    Raises:
        InputError: There is no judge.
        SpentError: They are more than may be asked; none of them is.
    """
    if setup.score is None:
        raise InputError(
            f"attack {cases[0].attack}: needs a judge that scores answers; name one with attack.judge=JUDGE"
        )
    asked = [[*case.turns, *user(case.prompt)] for case in cases]
    completions = [row[0] for row in setup.target.generate(asked, setup.sampling, seed=seed, prefix=setup.prefix)]
    answered = [number for number, completion in enumerate(completions) if not completion.missing]
    scores: list[float | None] = [None] * len(cases)
    answers = [completions[number].parts.answer for number in answered]
    for number, score in zip(answered, setup.score(behavior, answers) if answers else (), strict=True):
        scores[number] = score
    return scores
