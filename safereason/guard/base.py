"""The protocol of every guard, and the verdict that it gives on a prompt or on a response."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from safereason.engines.base import Completion, Engine
from safereason.guard.prompt import Question
from safereason.text.verdict import Label

# `Label` and `Question` are defined elsewhere. Callers of a guard need them together with its verdict.
__all__ = ["Guard", "GuardVerdict", "Label", "OnVerdict", "Question"]


CUT = "before its token limit"
"""End of the reason of a verdict that was cut at the token limit."""


@dataclass(frozen=True)
class GuardVerdict:
    """The verdict of a guard on one question, or the reason why there is none."""

    label: Label | None
    """`safe` or `unsafe`; None without a verdict that can be read."""
    score: float | None
    """Probability of `unsafe` against `safe`, in [0, 1]; None without log-probabilities."""
    categories: tuple[str, ...] = ()
    """Ids of the violated categories, in the policy's order."""
    reasoning: str = ""
    """The reasoning before the verdict."""
    text: str = ""
    """Text of the whole completion, reasoning included."""
    reason: str | None = None
    """Reason why there is no verdict; None where there is one."""
    votes: tuple[Label | None, ...] = ()
    """The labels of all samples; empty for a single sample."""
    tokens: int = 0
    """Generated tokens, over all samples."""
    # A failure is a value and not an exception, so that one question does not cost the verdicts of all others.
    failed: bool = False
    """Whether the engine failed, as a server that is down does; a retry may give a verdict."""

    @property
    def unparsed(self) -> bool:
        """Whether there is no verdict that can be read."""
        return self.label is None


def unparsed_verdict(completion: Completion, reason: str = "the guard gave no verdict") -> GuardVerdict:
    """The verdict without a label for a completion that holds none.

    Args:
        completion: A completion without a verdict, or the error of an engine.
        reason: Why there is no verdict. An engine's error replaces it.
    """
    if completion.missing:
        reason = f"the guard could not be asked: {completion.error}"
        return GuardVerdict(None, None, reason=reason, failed=completion.failed)
    if completion.finish_reason == "length":
        reason += f" {CUT}"
    return GuardVerdict(None, None, text=completion.text, reason=reason, tokens=len(completion.token_ids))


OnVerdict = Callable[[int, GuardVerdict], None]
"""Callback for verdicts as they come, in any order: index of the question, verdict."""


class Guard(Protocol):
    """A classifier of questions into safe and unsafe."""

    name: str

    @property
    def engine(self) -> Engine | None:
        """Engine of the guard's model; None for one that is no model of an engine, such as a Moderation API."""
        ...

    def classify(
        self,
        questions: Sequence[Question],
        *,
        seed: int = 0,
        done: Collection[int] = (),
        on_verdict: OnVerdict | None = None,
    ) -> list[GuardVerdict | None]:
        """One verdict per question, in order.

        A question that cannot be judged gets a verdict without a label, which says why; it raises nothing. The same
        questions and seed give the same verdicts, independent of `done`.

        Args:
            questions: Prompts or responses to judge.
            seed: Seed of the sampling.
            done: Indices of questions that the caller has a verdict on already. Their entry in the result is None.
            on_verdict: Called with each new verdict as it comes, so that the caller can save it at once.
        """
        ...
