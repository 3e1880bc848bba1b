"""Few-shot and many-shot: questions that were answered stand before the behavior, as if the model had complied so far.

A few turns of compliance make the next one likelier (Wei et al., arXiv 2310.06387), and hundreds of them do so by a
power law in their number (Anil et al., "Many-shot Jailbreaking", NeurIPS 2024).

Deviations: (1) no harmful demonstration is shipped: a person names a file of their own. Without one, the harmless
requests of the bundled sample are used, which show that the model complies but nothing of what it complies with, so
that this is a far weaker attack than the papers'; (2) demonstrations are turns of their own, as in Wei et al., where
Anil et al. put a dialogue into one turn.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import PositiveInt

from safereason.attacks.base import Attack, Need, Settings, Setup, Step, TestCase
from safereason.data.example import Example
from safereason.engines.base import Message
from safereason.errors import InputError
from safereason.files import json_rows

Shot = tuple[str, str]
"""A question, and its answer."""


class FewShot(Settings):
    """What stands before the behavior."""

    shots: PositiveInt = 5
    """Questions with their answers, drawn by the seed."""
    file: Path | None = None
    """JSONL file with `prompt` and `answer` in each line; by default the bundled sample's harmless ones."""


class ManyShot(FewShot):
    """What stands before the behavior."""

    shots: PositiveInt = 128
    """Questions with their answers, drawn by the seed; Anil et al. measure up to 256. The bundled sample has fewer."""


def _search(name: str, behaviors: Sequence[Example], settings: FewShot, setup: Setup) -> Iterator[Step]:
    there = _shots(settings)
    yield Step(0, tuple(_case(name, behavior, there, settings, setup.seed) for behavior in behaviors))


def few_shot(behaviors: Sequence[Example], settings: FewShot, setup: Setup) -> Iterator[Step]:
    """The behavior's own text after a few turns."""
    return _search("few-shot", behaviors, settings, setup)


def many_shot(behaviors: Sequence[Example], settings: ManyShot, setup: Setup) -> Iterator[Step]:
    """The behavior's own text after many turns."""
    return _search("many-shot", behaviors, settings, setup)


def _check(name: str, behaviors: Sequence[Example], settings: FewShot) -> None:
    there = _shots(settings)
    for behavior in behaviors:
        _others(name, behavior, there, settings)


def check_few(behaviors: Sequence[Example], settings: FewShot, at_hand: frozenset[Need]) -> None:
    """Refuses a file that cannot be read, or has fewer questions than are to be drawn."""
    _check("few-shot", behaviors, settings)


def check_many(behaviors: Sequence[Example], settings: ManyShot, at_hand: frozenset[Need]) -> None:
    """As `check_few`."""
    _check("many-shot", behaviors, settings)


def _shots(settings: FewShot) -> list[Shot]:
    return _bundled() if settings.file is None else _read(settings.file)


def _others(name: str, behavior: Example, there: Sequence[Shot], settings: FewShot) -> list[Shot]:
    """The questions beside the behavior itself.

    Raises:
        InputError: They are fewer than are to be drawn.
    """
    others = [shot for shot in there if shot[0] != behavior.prompt]
    if len(others) < settings.shots:
        key = f"attack.settings.{name}"
        raise InputError(
            f"attack {name}: {key}.shots is {settings.shots}, but {settings.file or 'the bundled sample'} has "
            f"{len(others)}; set {key}.shots={len(others)} or less, or name a file with more as {key}.file"
        )
    return others


def _case(name: str, behavior: Example, there: Sequence[Shot], settings: FewShot, seed: int) -> TestCase:
    others = _others(name, behavior, there, settings)
    drawn = random.Random(f"{seed}/{behavior.id}").sample(others, settings.shots)
    turns = tuple(turn for shot in drawn for turn in _turns(shot))
    return TestCase(behavior.id, name, behavior.prompt, turns, details={"shots": settings.shots})


def _turns(shot: Shot) -> tuple[Message, Message]:
    return {"role": "user", "content": shot[0]}, {"role": "assistant", "content": shot[1]}


def _bundled() -> list[Shot]:
    from safereason.data.sources import sample

    traces = (trace for trace in sample.SOURCE.traces("train") if trace.kind == "harmless")
    return list({trace.prompt: trace.answer for trace in traces if trace.answer}.items())


def _read(file: Path) -> list[Shot]:
    return [(_text(row, "prompt", file, n), _text(row, "answer", file, n)) for n, row in enumerate(json_rows(file), 1)]


def _text(row: dict[str, object], column: str, file: Path, number: int) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{file}: row {number}: `{column}` is {value!r:.60}; each line holds a prompt and its answer")
    return value


FEW_SHOT = Attack("few-shot", "After a few questions that were answered", few_shot, settings=FewShot, check=check_few)
MANY_SHOT = Attack(
    "many-shot", "After a hundred questions that were answered", many_shot, settings=ManyShot, check=check_many
)
