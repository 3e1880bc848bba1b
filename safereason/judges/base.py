"""The contract every judge keeps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class BehaviorRequest:
    """What an attack tries to elicit, in its own words."""

    id: str
    """The behavior's: `source/…`."""
    request: str
    context: str | None = None
    """The text that the request is about."""
    category: str | None = None
    """The source's own."""


@dataclass(frozen=True)
class Exchange:
    """What a judge sees: a prompt and the answer to it, never the reasoning."""

    prompt: str
    answer: str
    wanted: BehaviorRequest | None = None
    """What the prompt is to elicit, where it may be an attack's disguise."""

    @property
    def request(self) -> str:
        """What was asked for in plain words."""
        return self.prompt if self.wanted is None else self.wanted.request


@dataclass(frozen=True)
class Verdict:
    """A number in [0, 1] and a label, or unscored with the reason; never a silent 0.

    Unscored is either of two. *Unscorable*: the judge was asked, or had nothing to be asked, and there is no score, as
    of an empty answer or a reply without a verdict; it would be the same again. *Failed*: the verdict could not be had,
    as where a server is down; it is asked for again.
    """

    score: float | None
    """The judge's own quantity (each judge's docstring names it), or None where it is unscored."""
    label: str | None
    """The judge's word for it."""
    reason: str | None = None
    """Why it is unscored."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else the judge said, such as scores by category."""
    failed: bool = False
    """Whether the verdict could not be had, so that it is worth asking for again."""

    @classmethod
    def unscored(cls, reason: str) -> "Verdict":
        """What cannot be scored: asked again, it would be the same."""
        return cls(score=None, label=None, reason=reason)

    @classmethod
    def failure(cls, reason: str) -> "Verdict":
        """What could not be had: a server is down, a reply is garbage, memory ran out."""
        return cls(score=None, label=None, reason=reason, failed=True)


class Judge(Protocol):
    """Scores exchanges, in order."""

    name: str
    measures: str
    """What the score is the size of: `harm`, `refusal` or `quality`."""

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        """One verdict an exchange. Failures are failed verdicts, not exceptions."""
        ...
