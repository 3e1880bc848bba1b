"""The guard of RSafe on any engine: it reasons over a policy and then says safe or unsafe (arXiv 2506.07736).

Deviations: (1) several samples may vote, where the paper draws one; (2) a verdict comes with a probability.
"""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from safereason.engines.base import Completion, Engine
from safereason.guard.base import Finding, Label, OnFinding, Question
from safereason.guard.guide import Guide
from safereason.guard.policy import Policy
from safereason.guard.score import CHOICES, unsafe_probability
from safereason.text import reasoning, verdict
from safereason.text.inert import special_tokens

_LIST = re.compile(r"categor(?:y|ies)\W{0,3}:", re.IGNORECASE)


class ReasoningGuard:
    """Asks an engine with a guide."""

    def __init__(self, engine: Engine, guide: Guide, *, samples: int = 1, scores: bool = True) -> None:
        """Puts them together.

        Args:
            engine: The guard's model.
            guide: What it is asked, and how it answers.
            samples: Verdicts drawn for a question; the majority of those that can be read decides, and a tie is unsafe.
            scores: Whether probabilities are asked for.
        """
        self.name = engine.name
        self.engine = engine
        self.guide = guide
        self.samples = samples
        self.scores = scores
        self._special = special_tokens(engine)

    @property
    def policy(self) -> Policy:
        """What it calls unsafe."""
        return self.guide.policy

    def under(self, policy: Policy) -> "ReasoningGuard":
        """The same guard, asked under another policy."""
        return ReasoningGuard(self.engine, replace(self.guide, policy=policy), samples=self.samples, scores=self.scores)

    def classify(
        self,
        questions: Sequence[Question],
        *,
        seed: int = 0,
        alone: bool = False,
        done: Collection[int] = (),
        on_finding: OnFinding | None = None,
    ) -> list[Finding | None]:
        """See `Guard.classify`. With several samples the score is the mean of the scores there are.

        `alone`: each question gets the finding it would get as the only one, whichever stand beside it.
        """
        drawn: dict[int, dict[int, Completion]] = {}
        found: dict[int, Finding] = {}

        def finish(index: int, number: int, completion: Completion) -> None:
            drawn.setdefault(index, {})[number] = completion
            if len(drawn[index]) == self.samples:
                samples = drawn.pop(index)
                found[index] = combine([read(samples[k], self.guide.policy) for k in range(self.samples)])
                if on_finding is not None:
                    on_finding(index, found[index])

        asked = [self.guide.conversation(question, self._special) for question in questions]
        self.engine.generate(
            asked,
            self.guide.sampling,
            n=self.samples,
            seed=seed,
            alone=alone,
            done=done,
            on_finish=finish,
            choices=CHOICES if self.scores else 0,
        )
        return [found.get(i) for i in range(len(questions))]


def read(completion: Completion, policy: Policy) -> Finding:
    """The finding in one completion."""
    tokens = len(completion.token_ids)
    if completion.missing:
        reason = f"the guard could not be asked: {completion.error}"
        return Finding(None, None, reason=reason, failed=completion.failed)
    parts, is_cut = completion.parts, completion.finish_reason == "length"
    # A box inside the reasoning is a thought, or quotes what is judged: it is no verdict.
    still_reasons = is_cut and not parts.closed and reasoning.OPEN in completion.full_text
    label = None if still_reasons else verdict.parse(parts.answer)
    if label is None:
        cut = " before its token limit" if is_cut else ""
        reason = f"the guard gave no verdict{cut}"
        return Finding(None, None, reasoning=parts.reasoning, text=completion.full_text, reason=reason, tokens=tokens)
    named = _named(parts.answer, policy) if label == "unsafe" else ()
    score = unsafe_probability(completion)
    return Finding(label, score, named, parts.reasoning, completion.full_text, tokens=tokens)


def combine(samples: Sequence[Finding]) -> Finding:
    """The majority of the samples' verdicts; what is said of it is the first such sample's."""
    if len(samples) == 1:
        return samples[0]
    votes = tuple(sample.label for sample in samples)
    tokens, count = sum(sample.tokens for sample in samples), Counter(vote for vote in votes if vote)
    if not count:
        first = samples[0]
        return Finding(
            None,
            None,
            reasoning=first.reasoning,
            text=first.text,
            reason=first.reason,
            votes=votes,
            tokens=tokens,
            failed=all(sample.failed for sample in samples),
        )
    label: Label = "unsafe" if count["unsafe"] >= count["safe"] else "safe"
    chosen = next(sample for sample in samples if sample.label == label)
    scores = [sample.score for sample in samples if sample.score is not None]
    mean = sum(scores) / len(scores) if scores else None
    return Finding(label, mean, chosen.categories, chosen.reasoning, chosen.text, votes=votes, tokens=tokens)


def _named(answer: str, policy: Policy) -> tuple[str, ...]:
    """The policy's ids that stand as words of their own in what comes after the reasoning and before the verdict.

    Where a list is announced (`Categories: …`), only its ids count, for what stands before may tell which do not apply.
    """
    listed = _LIST.split(answer.rpartition(verdict.BOX)[0])[-1]
    words = set(re.findall(r"[A-Za-z0-9_.-]+", listed))
    words |= {word.rstrip(".") for word in words}
    return tuple(category.id for category in policy.categories if category.id in words)
