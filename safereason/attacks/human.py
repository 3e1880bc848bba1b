"""Human templates: jailbreaks that people wrote, with the behavior put into each, the best by a judge.

The collections of others (HarmBench's human jailbreaks, JailbreakBench's JBC artifacts; Shen et al., arXiv 2308.03825)
are not shipped: a person names a file.

Deviations:
1. HarmBench draws templates at random and reports each; here every template is tried, and the best is the test case.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveInt

from safereason.attacks.base import Attack, Need, Settings, Setup, Step, TestCase
from safereason.attacks.frames import SLOT, filled
from safereason.attacks.tries import Best, ask
from safereason.data.example import Example
from safereason.errors import InputError
from safereason.files import json_rows, read_text


class Human(Settings):
    """Which templates are tried."""

    file: Path | None = None
    """JSONL with `name` and `template` in each line, else a text file of one template a line; `{behavior}` in each."""
    batch: PositiveInt = 16
    """Templates asked at a time."""


@dataclass(frozen=True)
class Template:
    """One jailbreak."""

    name: str
    """In a text file, its line."""
    text: str
    """With `{behavior}` in it."""

    def case(self, behavior: Example) -> TestCase:
        """The behavior put into it."""
        return TestCase(behavior.id, "human", filled(self.text, behavior.prompt), details={"template": self.name})


def search(behaviors: Sequence[Example], settings: Human, setup: Setup) -> Iterator[Step]:
    """A step for each batch of templates; the first template stands until one is scored."""
    (behavior,) = behaviors
    cases = [template.case(behavior) for template in _named(settings)]
    best = Best(cases[0])
    yield best.step(0)
    for number, start in enumerate(range(0, len(cases), settings.batch), start=1):
        batch = cases[start : start + settings.batch]
        best.take(batch, ask(setup, behavior, batch, setup.seed + start))
        yield best.step(number)


def check(behaviors: Sequence[Example], settings: Human, at_hand: frozenset[Need]) -> None:
    """Refuses where no file of templates is named, or it cannot be read."""
    _named(settings)


def _named(settings: Human) -> list[Template]:
    if settings.file is None:
        raise InputError(
            f"attack human: which templates? name a file of them, with {SLOT} in each, as attack.settings.human.file"
        )
    return read_templates(settings.file)


def read_templates(file: Path) -> list[Template]:
    """The templates of a file.

    Raises:
        InputError: It cannot be read, holds none, or a template lacks `{behavior}`.
    """
    found = list(_rows(file) if file.suffix == ".jsonl" else _lines(file))
    if not found:
        raise InputError(f"{file}: holds no template; write one a line, with {SLOT} in it")
    for template in found:
        if SLOT not in template.text:
            raise InputError(f"{file}: template {template.name!r} has no {SLOT} in it; write it where the request goes")
    return found


def _lines(file: Path) -> Iterator[Template]:
    lines = enumerate(read_text(file).split("\n"), start=1)
    return (Template(str(number), line.strip()) for number, line in lines if line.strip())


def _rows(file: Path) -> Iterator[Template]:
    for number, row in enumerate(json_rows(file), start=1):
        name, text = row.get("name", str(number)), row.get("template")
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError(f"{file}: row {number}: `name` and `template` are to be texts; mend the line")
        yield Template(name, text)


ATTACK = Attack(
    "human",
    "Jailbreaks that people wrote, from a file, the best by a judge",
    search,
    frozenset({"answers", "score"}),
    Human,
    check=check,
)
