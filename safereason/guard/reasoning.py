"""RSafe's guard on any engine: it reasons over a policy and then answers safe or unsafe (arXiv 2506.07736).

Deviations: (1) several samples may vote, where the paper draws one; (2) a verdict comes with a probability.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from safereason.engines.base import Completion, Engine, GenerateOptions
from safereason.guard.base import GuardVerdict, Label, OnVerdict, Question, unparsed_verdict
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.policy import Policy
from safereason.guard.score import CHOICES, unsafe_probability
from safereason.text import reasoning, verdict
from safereason.text.inert import special_tokens

_LIST = re.compile(r"categor(?:y|ies)\W{0,3}:", re.IGNORECASE)


class ReasoningGuard:
    """A guard that reasons over its policy before the verdict."""

    def __init__(self, engine: Engine, guard_prompt: GuardPrompt, *, samples: int = 1, scores: bool = True) -> None:
        """A guard from an engine and a prompt.

        Args:
            engine: The guard's model.
            guard_prompt: Policy, templates and sampling.
            samples: Samples per question. The majority of the verdicts that can be read decides; a tie is unsafe.
            scores: Whether to request the log-probabilities that scores need.
        """
        self.name = engine.name
        self.engine = engine
        self.guard_prompt = guard_prompt
        self.samples = samples
        self.scores = scores
        self._special = special_tokens(engine.tokenizer)

    @property
    def policy(self) -> Policy:
        """The categories that the guard calls unsafe."""
        return self.guard_prompt.policy

    def under(self, policy: Policy) -> "ReasoningGuard":
        """The same guard under another policy. It shares the engine, so no weights are loaded."""
        return ReasoningGuard(
            self.engine, replace(self.guard_prompt, policy=policy), samples=self.samples, scores=self.scores
        )

    def classify(
        self,
        questions: Sequence[Question],
        *,
        seed: int = 0,
        alone: bool = False,
        done: Collection[int] = (),
        on_verdict: OnVerdict | None = None,
    ) -> list[GuardVerdict | None]:
        """See `Guard.classify`. With several samples the score is the mean over the samples that have one.

        Args:
            questions: See `Guard.classify`.
            seed: See `Guard.classify`.
            alone: Whether each question gets the verdict that it would get alone, independent of its neighbours.
            done: See `Guard.classify`.
            on_verdict: See `Guard.classify`.
        """
        completions: dict[int, dict[int, Completion]] = {}
        verdicts: dict[int, GuardVerdict] = {}

        def on_finish(index: int, number: int, completion: Completion) -> None:
            drawn = completions.setdefault(index, {})
            drawn[number] = completion
            if len(drawn) < self.samples:
                return
            del completions[index]
            # Samples end in any order. Sorted by number, the votes and the chosen reasoning do not depend on it.
            samples = [verdict_of_completion(drawn[k], self.guard_prompt.policy) for k in range(self.samples)]
            verdicts[index] = combine(samples)
            if on_verdict is not None:
                on_verdict(index, verdicts[index])

        conversations = [self.guard_prompt.conversation(question, self._special) for question in questions]
        self.engine.generate(
            conversations,
            self.guard_prompt.sampling,
            GenerateOptions(
                n=self.samples,
                seed=seed,
                alone=alone,
                done=done,
                on_finish=on_finish,
                choices=CHOICES if self.scores else 0,
            ),
        )
        return [verdicts.get(i) for i in range(len(questions))]


def verdict_of_completion(completion: Completion, policy: Policy) -> GuardVerdict:
    """The verdict in one completion; without a label if it holds none."""
    # There is no text to read: the server failed, or the prompt is longer than what the model reads.
    if completion.missing:
        return unparsed_verdict(completion)
    parts = completion.parts
    label = _label_of_completion(completion)
    if label is None:
        return replace(unparsed_verdict(completion), reasoning=parts.reasoning, text=completion.full_text)
    categories: tuple[str, ...] = ()
    if label == "unsafe":
        categories = _violated_categories(parts.answer, policy)
    score = unsafe_probability(completion)
    return GuardVerdict(
        label, score, categories, parts.reasoning, completion.full_text, tokens=len(completion.token_ids)
    )


def _label_of_completion(completion: Completion) -> Label | None:
    parts = completion.parts
    is_cut = completion.finish_reason == "length"
    # A box inside the reasoning is an idea, or quotes the text to judge: it is no verdict. Reasoning that was cut
    # before its end tag is no answer either.
    if is_cut and not parts.closed and reasoning.OPEN in completion.full_text:
        return None
    return verdict.parse(parts.answer)


def combine(samples: Sequence[GuardVerdict]) -> GuardVerdict:
    """The majority verdict of several samples, with the categories and the reasoning of the first that agrees."""
    if len(samples) == 1:
        return samples[0]
    # Votes keep the order of the samples, so that an output can be compared with that of another run.
    votes = tuple(sample.label for sample in samples)
    tokens = sum(sample.tokens for sample in samples)
    if not any(votes):
        first = samples[0]
        return GuardVerdict(
            None,
            None,
            reasoning=first.reasoning,
            text=first.text,
            reason=first.reason,
            votes=votes,
            tokens=tokens,
            failed=all(sample.failed for sample in samples),
        )
    label = _majority(votes)
    chosen = samples[votes.index(label)]
    return GuardVerdict(
        label, _mean_score(samples), chosen.categories, chosen.reasoning, chosen.text, votes=votes, tokens=tokens
    )


def _majority(votes: Sequence[Label | None]) -> Label:
    count = Counter(votes)
    # A tie is unsafe: for a guard, a miss costs more than a false alarm.
    return "unsafe" if count["unsafe"] >= count["safe"] else "safe"


def _mean_score(samples: Sequence[GuardVerdict]) -> float | None:
    """The mean of the scores that are known, of safe and unsafe samples alike."""
    scores = [sample.score for sample in samples if sample.score is not None]
    if not scores:
        return None
    return sum(scores) / len(scores)


def _violated_categories(answer: str, policy: Policy) -> tuple[str, ...]:
    """The policy's ids that are whole words of the answer, between the reasoning and the verdict.

    After an announced list (`Categories: …`), only its ids count: the text before it may say which do not apply.
    """
    before_verdict = answer.rpartition(verdict.BOX)[0]
    listed = _LIST.split(before_verdict)[-1]
    words = set(re.findall(r"[A-Za-z0-9_.-]+", listed))
    # An id may hold dots and end a sentence.
    words |= {word.rstrip(".") for word in words}
    return tuple(category.id for category in policy.categories if category.id in words)
