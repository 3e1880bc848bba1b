"""Watches a guard's rollouts for collapse: the reward can rise while verdicts become unreadable, one-sided or short.

A development run of RSafe left 1584 of 1689 answers without a verdict, and its F1 did not show it.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from safereason.console import say
from safereason.runs.records import Record

WINDOW = 5
"""Steps that a sign must hold for."""
UNPARSED = 0.5
ONE_SIDED = 0.95
SHRUNK = 0.25
"""Share of the first steps' length."""


class CollapseWatch(TrainerCallback):
    """Says once a sign of collapse what it saw; `warnings` keeps them."""

    def __init__(self, past: Iterable[Record] = ()) -> None:
        """Takes the records of the steps that a resumed training has behind it."""
        self.warnings: list[Record] = []
        self._rows: deque[dict[str, Any]] = deque(maxlen=WINDOW)
        self._first_length: float | None = None
        for record in past:
            self._see(record, record["step"])

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Looks at the means of the last steps."""
        if state.is_world_process_zero and "unparsed" in given["logs"]:
            for warning in self._see(given["logs"], state.global_step):
                say(f"guard: collapse? after step {warning['step']}: {warning['what']}")

    def _see(self, logs: dict[str, Any], step: int) -> list[Record]:
        """Takes the means of a step; the signs that are new with it."""
        self._rows.append(logs)
        if len(self._rows) < WINDOW:
            return []
        length = self._mean("completions/mean_length") or 0.0
        self._first_length = self._first_length or length
        known = {warning["sign"] for warning in self.warnings}
        new = [
            {"step": step, "sign": sign, "what": words}
            for sign, words in self._signs(length).items()
            if sign not in known
        ]
        self.warnings += new
        return new

    def _signs(self, length: float) -> dict[str, str]:
        unparsed, unsafe = self._mean("unparsed") or 0.0, self._mean("says_unsafe")
        found = {}
        if unparsed >= UNPARSED:
            found["unparsed"] = f"{unparsed:.0%} of the verdicts cannot be read"
        if unsafe is not None and not 1 - ONE_SIDED < unsafe < ONE_SIDED:
            found["one-sided"] = f"it says unsafe of {unsafe:.0%} of the rows"
        if self._first_length and length < SHRUNK * self._first_length:
            found["shrunk"] = f"its answers shrank from {self._first_length:.0f} to {length:.0f} tokens"
        return found

    def _mean(self, name: str) -> float | None:
        values = [row[name] for row in self._rows if row.get(name) is not None]
        return sum(values) / len(values) if values else None
