"""The contract every guard keeps: what it says about a prompt or a response."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from safereason.guard.prompt import Question
from safereason.text.verdict import Label

__all__ = ["Finding", "Guard", "Label", "OnFinding", "Question"]


@dataclass(frozen=True)
class Finding:
    """What a guard found."""

    label: Label | None
    """Its verdict; None where there is none that can be read."""
    score: float | None
    """Probability of `unsafe` against `safe`, in [0, 1]; None where it is not to be had."""
    categories: tuple[str, ...] = ()
    """Ids of the policy's categories that it names, in the policy's order."""
    reasoning: str = ""
    """What it reasoned before the verdict."""
    text: str = ""
    """All that it wrote."""
    reason: str | None = None
    """Why there is no verdict."""
    votes: tuple[Label | None, ...] = ()
    """The verdicts of all samples, where there are several."""
    tokens: int = 0
    """Tokens it wrote, over all samples."""
    failed: bool = False
    """Whether it could not be asked, as where a server failed; asked again, it may give a verdict."""

    @property
    def unparsed(self) -> bool:
        """Whether it gave no verdict that can be read."""
        return self.label is None


OnFinding = Callable[[int, Finding], None]
"""Called as findings are made, in any order: index of the question, finding."""


class Guard(Protocol):
    """Says of questions whether they are safe, in order."""

    name: str

    def classify(
        self,
        questions: Sequence[Question],
        *,
        seed: int = 0,
        done: Collection[int] = (),
        on_finding: OnFinding | None = None,
    ) -> list[Finding | None]:
        """One finding a question; None for those in `done`, which the caller already holds.

        Failures are findings without a label that say why, not exceptions. The same questions and seed give the same
        findings, whichever are done.
        """
        ...
