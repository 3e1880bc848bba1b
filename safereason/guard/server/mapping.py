"""Tables from a policy's categories to those of the Moderation API: one per shipped policy, or a file of the user."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safereason.errors import InputError, did_you_mean
from safereason.guard import policy as policies
from safereason.guard.policy import Policy
from safereason.recipe import strict_yaml
from safereason.recipe.load import text_of

API_CATEGORIES = (
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
"""Key for verdicts without a category, and for categories that the table leaves out."""
CATCH_ALL = "illicit"
"""The API's category for `*` under a policy without a table: the widest one."""

_TABLES = Path(__file__).parent / "mappings"
_EXPECTED = f'a mapping has a line for each category, such as `U1: [violence]`, and one for the others: `"{OTHERWISE}"`'


@dataclass(frozen=True)
class Mapping:
    """The Moderation API's categories for those of a policy."""

    names: dict[str, tuple[str, ...]]
    """The API's categories by id of the policy's category; `*` is always a key."""

    def of(self, categories: Sequence[str]) -> tuple[str, ...]:
        """The API's categories for those of a verdict: at least one, in the API's order."""
        others = self.names[OTHERWISE]
        mapped: set[str] = set()
        for category in categories:
            mapped.update(self.names.get(category, others))
        if not mapped:
            mapped.update(others)
        return tuple(name for name in API_CATEGORIES if name in mapped)


def for_policy(policy: Policy) -> Mapping | None:
    """The table of the shipped policy that includes all categories of this one; None without such a policy."""
    categories = _ids_and_names(policy)
    for table in sorted(_TABLES.glob("*.yaml")):
        shipped = policies.load(table.stem)
        # A part of a shipped policy can use its table. Names count too, because ids such as U1 are not unique.
        if categories <= _ids_and_names(shipped):
            return load(table, shipped)
    return None


def _ids_and_names(policy: Policy) -> set[tuple[str, str]]:
    return {(category.id, category.name) for category in policy.categories}


def without_table() -> Mapping:
    """The mapping for a policy without a table: one category of the API for all unsafe texts."""
    return Mapping({OTHERWISE: (CATCH_ALL,)})


def load(path: Path, policy: Policy) -> Mapping:
    """The table in a file, checked against a policy. Categories that it leaves out are mapped like `*`.

    Raises:
        InputError: It cannot be read, or has a mistake; the message says where.
    """
    document = strict_yaml.parse(text_of(path), str(path), _EXPECTED)
    ids = [category.id for category in policy.categories]
    names: dict[str, tuple[str, ...]] = {}
    for key, value in document.values.items():
        where = f"{document.location((key,))}: {key}"
        if key not in (*ids, OTHERWISE):
            hint = did_you_mean(key, ids, f"it has {', '.join(ids)}")
            raise InputError(f"{where}: policy {policy.name} has no such category; {hint}")
        # An empty list would make the category invisible to clients.
        if not isinstance(value, list) or not value:
            raise InputError(f"{where}: should be a list of the API's categories, not {strict_yaml.shown(value)}")
        # Each name has a line of its own in the message.
        for position, name in enumerate(value):
            _check_api_category(name, value[:position], f"{document.location((key, position))}: {key}[{position}]")
        names[key] = tuple(value)
    if OTHERWISE not in names:
        raise InputError(f'{path}: "{OTHERWISE}": is missing; it says what a verdict without a category goes by')
    return Mapping(names)


def _check_api_category(name: object, before: Sequence[object], where: str) -> None:
    if name not in API_CATEGORIES:
        hint = did_you_mean(str(name), API_CATEGORIES, f"it has {', '.join(API_CATEGORIES)}")
        raise InputError(f"{where}: the API has no category {strict_yaml.shown(name)}; {hint}")
    if name in before:
        raise InputError(f"{where}: {strict_yaml.shown(name)} is here twice; keep one")
