"""From a policy's categories to those of the Moderation API: a table for each shipped policy, or a file of your own."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from safereason.errors import InputError
from safereason.guard import policy as policies
from safereason.guard.policy import Policy
from safereason.recipe import strict_yaml
from safereason.recipe.load import text_of

NAMES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""The Moderation API's categories."""
OTHERWISE = "*"
"""Key of the names for a verdict that names no category, or one that the table leaves out."""
CATCH_ALL = "illicit"
"""What `*` is for a policy without a table: the widest of their names."""

_TABLES = Path(__file__).parent / "mappings"
_EXPECTED = f'a mapping has a line for each category, such as `U1: [violence]`, and one for the others: `"{OTHERWISE}"`'


@dataclass(frozen=True)
class Mapping:
    """Their names for our categories."""

    names: dict[str, tuple[str, ...]]
    """By id of the policy's category; `*` is always there."""

    def of(self, categories: Sequence[str]) -> tuple[str, ...]:
        """Their names for the categories of a verdict, at least one, in their order."""
        others = self.names[OTHERWISE]
        found = {name for category in categories for name in self.names.get(category, others)} or {*others}
        return tuple(name for name in NAMES if name in found)


def for_policy(policy: Policy) -> Mapping | None:
    """The table of the shipped policy that holds all of these categories; None where none does."""
    wanted = {(category.id, category.name) for category in policy.categories}
    for table in sorted(_TABLES.glob("*.yaml")):
        shipped = policies.load(table.stem)
        if wanted <= {(category.id, category.name) for category in shipped.categories}:
            return load(table, shipped)
    return None


def without_table() -> Mapping:
    """What a policy gets that has no table: whatever is unsafe goes by one name."""
    return Mapping({OTHERWISE: (CATCH_ALL,)})


def load(path: Path, policy: Policy) -> Mapping:
    """Reads a table and checks it against a policy; categories that it leaves out go by the names of `*`.

    Raises:
        InputError: It cannot be read, or something is wrong with it; the message says where.
    """
    document = strict_yaml.parse(text_of(path), str(path), _EXPECTED)
    ids = [category.id for category in policy.categories]
    for key, value in document.values.items():
        where = f"{document.place((key,))}: {key}"
        if key not in (*ids, OTHERWISE):
            hint = _did_you_mean(key, ids) or f"; it has {', '.join(ids)}"
            raise InputError(f"{where}: policy {policy.name} has no such category{hint}")
        if not isinstance(value, list) or not value:
            raise InputError(f"{where}: should be a list of the API's categories, not {strict_yaml.shown(value)}")
        for position, name in enumerate(value):
            _check_name(name, value[:position], f"{document.place((key, position))}: {key}[{position}]")
    if OTHERWISE not in document.values:
        raise InputError(f'{path}: "{OTHERWISE}": is missing; it says what a verdict without a category goes by')
    return Mapping({key: tuple(value) for key, value in document.values.items()})


def _check_name(name: Any, before: list[Any], where: str) -> None:
    if name not in NAMES:
        hint = _did_you_mean(str(name), NAMES) or f"; it has {', '.join(NAMES)}"
        raise InputError(f"{where}: the API has no category {strict_yaml.shown(name)}{hint}")
    if name in before:
        raise InputError(f"{where}: {strict_yaml.shown(name)} is here twice; keep one")


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
