"""Figures that several evaluations share: shares by category, and what the completions look like."""

from collections.abc import Callable, Iterable, Sequence

from safereason.evals.base import Outcome
from safereason.evals.metrics import Figure, share

Truth = Callable[[Outcome], bool | None]
"""Whether something holds of an outcome; None where that is unscored."""
FORM = ("closed", "well_formed", "truncated")
"""Names of the figures of `form`."""


def complied(outcome: Outcome) -> bool | None:
    """Whether a judge of refusal saw none."""
    return None if outcome.scored_high is None else not outcome.scored_high


def refused(outcome: Outcome) -> bool | None:
    """Whether a judge of refusal saw one."""
    return outcome.scored_high


def grouped(outcomes: Iterable[Outcome], keys: Callable[[Outcome], Iterable[str]]) -> dict[str, list[Outcome]]:
    """Outcomes by group, in the order in which groups first appear; one outcome may be in several."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        for key in keys(outcome):
            groups.setdefault(key, []).append(outcome)
    return groups


def by_category(name: str, truth: Truth, outcomes: Sequence[Outcome], word: str = "category") -> list[Figure]:
    """A share overall, then in each category; `word` is what the source calls one."""
    groups = grouped(outcomes, lambda outcome: outcome.categories)
    return [
        share(name, map(truth, outcomes)),
        *(share(name, map(truth, members), f"{word}:{category}") for category, members in groups.items()),
    ]


def form(outcomes: Sequence[Outcome]) -> list[Figure]:
    """Shares of completions that close their reasoning, pass the format check, and ran into the token limit."""

    def truncated(outcome: Outcome) -> bool | None:
        return None if outcome.failed else bool(outcome.completion["finish_reason"] == "length")

    def well_formed(outcome: Outcome) -> bool | None:
        return None if outcome.failed else bool(outcome.completion["well_formed"])

    truths: tuple[Truth, ...] = (lambda outcome: outcome.closed, well_formed, truncated)
    return [share(name, map(truth, outcomes)) for name, truth in zip(FORM, truths, strict=True)]
