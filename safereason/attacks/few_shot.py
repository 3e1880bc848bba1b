"""Few-shot and many-shot: answered questions come before the behavior, as if the model had complied so far.

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
from typing import NamedTuple

from pydantic import PositiveInt

from safereason.attacks.base import Attack, AttackSettings, Need, SearchStep, Setup, TestCase
from safereason.data.example import Example
from safereason.engines.base import Message
from safereason.errors import InputError
from safereason.files import json_rows


class Shot(NamedTuple):
    """One demonstration: a request, and an answer that complies with it."""

    question: str
    answer: str


class FewShotSettings(AttackSettings):
    """Settings of the few-shot attack."""

    shots: PositiveInt = 5
    """Questions with their answers, drawn by the seed."""
    file: Path | None = None
    """JSONL file with `prompt` and `answer` in each line; by default the bundled sample's harmless ones."""


class ManyShotSettings(FewShotSettings):
    """Settings of the many-shot attack."""

    shots: PositiveInt = 128
    """Questions with their answers, drawn by the seed; Anil et al. measure up to 256. The bundled sample has fewer."""


def search_few_shot(behaviors: Sequence[Example], settings: FewShotSettings, setup: Setup) -> Iterator[SearchStep]:
    """One step with the behaviors' own prompts after a few turns."""
    yield _shots_step("few-shot", behaviors, settings, setup)


def search_many_shot(behaviors: Sequence[Example], settings: ManyShotSettings, setup: Setup) -> Iterator[SearchStep]:
    """One step with the behaviors' own prompts after many turns."""
    yield _shots_step("many-shot", behaviors, settings, setup)


def _shots_step(name: str, behaviors: Sequence[Example], settings: FewShotSettings, setup: Setup) -> SearchStep:
    """The only step: neither attack asks a model."""
    available = _read_shots(settings)
    cases = [_shots_case(name, behavior, available, settings, setup.seed) for behavior in behaviors]
    return SearchStep(0, tuple(cases))


def check_few_shot(behaviors: Sequence[Example], settings: FewShotSettings, available: frozenset[Need]) -> None:
    """Refuses a file that cannot be read or has too few questions."""
    _check_shots("few-shot", behaviors, settings)


def check_many_shot(behaviors: Sequence[Example], settings: ManyShotSettings, available: frozenset[Need]) -> None:
    """Refuses a file that cannot be read or has too few questions."""
    _check_shots("many-shot", behaviors, settings)


def _check_shots(name: str, behaviors: Sequence[Example], settings: FewShotSettings) -> None:
    """Raises for a behavior what its search would raise."""
    available = _read_shots(settings)
    for behavior in behaviors:
        _shots_for_behavior(name, behavior, available, settings)


def _read_shots(settings: FewShotSettings) -> list[Shot]:
    """The demonstrations of the settings' file, or the bundled ones."""
    if settings.file is None:
        return _read_bundled_shots()
    return list(_read_shots_file(settings.file))


def _shots_for_behavior(
    name: str, behavior: Example, available: Sequence[Shot], settings: FewShotSettings
) -> list[Shot]:
    """The demonstrations that may come before a behavior.

    Raises:
        InputError: They are fewer than the settings name.
    """
    # A behavior that is among the questions would be answered by its own demonstration.
    others = [shot for shot in available if shot.question != behavior.prompt]
    if len(others) < settings.shots:
        key = f"attack.settings.{name}"
        raise InputError(
            f"attack {name}: {key}.shots is {settings.shots}, but {settings.file or 'the bundled sample'} has "
            f"{len(others)}; set {key}.shots={len(others)} or less, or name a file with more as {key}.file"
        )
    return others


def _shots_case(
    name: str, behavior: Example, available: Sequence[Shot], settings: FewShotSettings, seed: int
) -> TestCase:
    """The test case of one behavior."""
    others = _shots_for_behavior(name, behavior, available, settings)
    # Seeded by the behavior, too: a behavior has the same shots whether or not others are attacked with it.
    sampled = random.Random(f"{seed}/{behavior.id}").sample(others, settings.shots)
    turns: list[Message] = []
    for shot in sampled:
        turns.append({"role": "user", "content": shot.question})
        turns.append({"role": "assistant", "content": shot.answer})
    return TestCase(behavior.id, name, behavior.prompt, tuple(turns), details={"shots": settings.shots})


def _read_bundled_shots() -> list[Shot]:
    """The harmless traces of the bundled sample, each question once with its last answer."""
    # Imported here, because a run with a file of its own needs no data source.
    from safereason.data.sources import sample

    # A question may have several traces, and a repeated demonstration would take the place of another one.
    answers_by_question: dict[str, str] = {}
    for trace in sample.SOURCE.traces("train"):
        if trace.kind == "harmless" and trace.answer:
            answers_by_question[trace.prompt] = trace.answer
    return [Shot(question, answer) for question, answer in answers_by_question.items()]


def _read_shots_file(file: Path) -> Iterator[Shot]:
    """The demonstrations of a person's file.

    Raises:
        InputError: The file cannot be read, or a row lacks a column.
    """
    for number, row in enumerate(json_rows(file), start=1):
        question = _require_text(row, "prompt", file, number)
        answer = _require_text(row, "answer", file, number)
        yield Shot(question, answer)


def _require_text(row: dict[str, object], column: str, file: Path, number: int) -> str:
    """The text in a column of a row.

    Raises:
        InputError: It is no text, or blank.
    """
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{file}: row {number}: `{column}` is {value!r:.60}; each line holds a prompt and its answer")
    return value


FEW_SHOT = Attack(
    "few-shot",
    "After a few questions that were answered",
    search_few_shot,
    settings=FewShotSettings,
    check=check_few_shot,
)
MANY_SHOT = Attack(
    "many-shot",
    "After a hundred questions that were answered",
    search_many_shot,
    settings=ManyShotSettings,
    check=check_many_shot,
)
