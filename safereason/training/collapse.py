"""A watch over a guard's rollouts: the reward can rise while verdicts become unreadable, one-sided or short.

A development run of RSafe left 1584 of 1689 answers without a verdict, and its F1 did not show it.
"""

from collections import deque
from collections.abc import Iterable, Mapping

from safereason.console import say
from safereason.runs.records import Record

WINDOW = 5
"""Steps that a sign must hold for."""
MOST_UNPARSED = 0.5
"""Least share of verdicts that cannot be read."""
ONE_SIDED = 0.95
"""Least share of the commoner label."""
SHRUNK = 0.25
"""Most length, as a share of the first steps' length."""


class CollapseWatch:
    """Warns of each sign of collapse once, when it is first seen; `warnings` keeps them."""

    def __init__(self, past: Iterable[Record] = ()) -> None:
        """Takes the records of the steps before a resume."""
        self.warnings: list[Record] = []
        self._steps: deque[Mapping[str, float | None]] = deque(maxlen=WINDOW)
        self._first_length: float | None = None
        for record in past:
            self._add_step(record, record["step"])

    def add(self, step: int, metrics: Record) -> None:
        """Adds the metrics of a step, and prints the warnings that are new with it."""
        for warning in self._add_step(metrics, step):
            say(f"guard: collapse? after step {warning['step']}: {warning['what']}")

    def _add_step(self, metrics: Mapping[str, float | None], step: int) -> list[Record]:
        """Takes the metrics of a step; returns the warnings that are new with it."""
        self._steps.append(metrics)
        if len(self._steps) < WINDOW:
            return []
        length = self._mean("completions/mean_length") or 0.0
        # The first full window: later ones may have shrunk already.
        self._first_length = self._first_length or length
        known = {warning["sign"] for warning in self.warnings}
        new: list[Record] = []
        for sign, description in self._signs(length).items():
            if sign not in known:
                new.append({"step": step, "sign": sign, "what": description})
        self.warnings += new
        return new

    def _signs(self, length: float) -> dict[str, str]:
        """Descriptions of the signs in the last steps, whose completions have this mean length in tokens."""
        unparsed = self._mean("unparsed") or 0.0
        unsafe = self._mean("says_unsafe")
        signs = {}
        if unparsed >= MOST_UNPARSED:
            signs["unparsed"] = f"{unparsed:.0%} of the verdicts cannot be read"
        if unsafe is not None and not 1 - ONE_SIDED < unsafe < ONE_SIDED:
            signs["one-sided"] = f"it says unsafe of {unsafe:.0%} of the rows"
        if self._first_length and length < SHRUNK * self._first_length:
            signs["shrunk"] = f"its answers shrank from {self._first_length:.0f} to {length:.0f} tokens"
        return signs

    def _mean(self, name: str) -> float | None:
        """The mean of a metric over the last steps that have it, or None."""
        values = [value for step in self._steps if (value := step.get(name)) is not None]
        if not values:
            return None
        return sum(values) / len(values)
