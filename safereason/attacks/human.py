"""Human templates: jailbreaks that people wrote. The behavior is put into each, and a judge picks the best.

The published collections (HarmBench's human jailbreaks, JailbreakBench's JBC artifacts; Shen et al., arXiv 2308.03825)
are not shipped: a person names a file.

Deviations:
1. HarmBench draws templates at random and reports each; here every template is tried, and the best is the test case.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveInt

from safereason.attacks.base import Attack, AttackSettings, Need, SearchStep, Setup, TestCase
from safereason.attacks.frames import BEHAVIOR_SLOT, fill_frame
from safereason.attacks.query import BestCase, score_cases
from safereason.data.example import Example
from safereason.errors import InputError
from safereason.files import json_rows, read_text


class HumanSettings(AttackSettings):
    """Settings of the attack with human templates."""

    file: Path | None = None
    """JSONL with `name` and `template` in each line, else a text file of one template a line; `{behavior}` in each."""
    batch: PositiveInt = 16
    """Templates of one call to the target model."""


@dataclass(frozen=True)
class HumanTemplate:
    """One jailbreak that a person wrote."""

    name: str
    """Name of the template; in a text file, the number of its line."""
    text: str
    """The prompt with `{behavior}` in it."""

    def case(self, behavior: Example) -> TestCase:
        """The test case of a behavior in this template."""
        prompt = fill_frame(self.text, behavior.prompt)
        return TestCase(behavior.id, "human", prompt, details={"template": self.name})


def search_human(behaviors: Sequence[Example], settings: HumanSettings, setup: Setup) -> Iterator[SearchStep]:
    """One step for each batch of templates. The first template is the best case until one is scored."""
    (behavior,) = behaviors
    cases = [template.case(behavior) for template in _require_templates(settings)]
    best = BestCase(cases[0])
    # Before the first query, so that a budget that is spent at once still leaves a test case.
    yield best.step(0)
    for number, start in enumerate(range(0, len(cases), settings.batch), start=1):
        # The seed follows from the position of a template, not from the number of calls before it.
        batch = cases[start : start + settings.batch]
        best.update(batch, score_cases(setup, behavior, batch, setup.seed + start))
        yield best.step(number)


def check_human(behaviors: Sequence[Example], settings: HumanSettings, available: frozenset[Need]) -> None:
    """Refuses a missing or unreadable file of templates."""
    _require_templates(settings)


def _require_templates(settings: HumanSettings) -> list[HumanTemplate]:
    """The templates of the file that the settings name.

    Raises:
        InputError: No file is named, or it cannot be used.
    """
    if settings.file is None:
        raise InputError(
            f"attack human: which templates? name a file of them, with {BEHAVIOR_SLOT} in each, "
            "as attack.settings.human.file"
        )
    return read_human_templates(settings.file)


def read_human_templates(file: Path) -> list[HumanTemplate]:
    """The templates of a file.

    Raises:
        InputError: The file cannot be read or has no template, or a template lacks `{behavior}`.
    """
    rows = _read_jsonl_templates(file) if file.suffix == ".jsonl" else _read_text_templates(file)
    templates = list(rows)
    if not templates:
        raise InputError(f"{file}: holds no template; write one a line, with {BEHAVIOR_SLOT} in it")
    for template in templates:
        if BEHAVIOR_SLOT not in template.text:
            raise InputError(
                f"{file}: template {template.name!r} has no {BEHAVIOR_SLOT} in it; write it where the request goes"
            )
    return templates


def _read_text_templates(file: Path) -> Iterator[HumanTemplate]:
    """One template for each line that is not blank."""
    # Split at line feeds alone: a template may hold other characters that `splitlines` takes for a line's end.
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        if line.strip():
            yield HumanTemplate(str(number), line.strip())


def _read_jsonl_templates(file: Path) -> Iterator[HumanTemplate]:
    """One template for each row."""
    for number, row in enumerate(json_rows(file), start=1):
        name = row.get("name", str(number))
        text = row.get("template")
        if not isinstance(name, str) or not isinstance(text, str):
            raise InputError(f"{file}: row {number}: `name` and `template` are to be texts; mend the line")
        yield HumanTemplate(name, text)


ATTACK = Attack(
    "human",
    "Jailbreaks that people wrote, from a file, the best by a judge",
    search_human,
    frozenset({"answers", "score"}),
    HumanSettings,
    check=check_human,
)
