"""What a guard calls unsafe: a policy, which is a YAML file. A deployer may put one of their own in its place.

Every mistake in a file is one line, as it is in a recipe: `file:line: key: what is wrong; what to do`.
"""

import json
import os
import re
import unicodedata
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError, field_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from safereason.errors import InputError
from safereason.recipe import explain, strict_yaml
from safereason.recipe.load import SUFFIXES, text_of
from safereason.text.inert import inert

_SHIPPED = Path(__file__).parent / "policies"
_EXPECTED = "a policy is a mapping with `title:` and `categories:`"
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_BREAKS = ("Cc", "Zl", "Zp")
"""Unicode categories of line breaks and of what else controls a terminal."""
_CLOSED = ConfigDict(extra="forbid")


def _on_one_line(text: str) -> str:
    """Refuses what would not stay one line of the guard's prompt."""
    if not text.strip():
        raise ValueError("is blank; write it, or delete the key if it may be left out")
    if any(unicodedata.category(character) in _BREAKS for character in text):
        raise ValueError("holds a line break, a tab or a control character; `>-` folds several lines into one")
    if inert(text) != text:
        raise ValueError("holds a marker of the guard's prompt or of a chat template; write it without the `<` or `[`")
    return text


def _as_id(text: str) -> str:
    if not _ID.fullmatch(text):
        allowed = "a letter, then letters, digits, `_`, `.` and `-`"
        raise ValueError(f"should be {allowed}, not {strict_yaml.shown(text)}")
    return text


Line = Annotated[str, AfterValidator(_on_one_line)]


@dataclass(frozen=True, config=_CLOSED)
class Category:
    """One kind of what is unsafe."""

    id: Annotated[str, AfterValidator(_as_id)]
    name: Line
    definition: Line | None = None


@dataclass(frozen=True, config=_CLOSED)
class Policy:
    """The categories of what is unsafe; whatever falls under none of them is safe."""

    name: Line
    title: Line
    categories: tuple[Category, ...]
    source: Line | None = None
    """Where the categories come from."""

    @field_validator("categories")
    @classmethod
    def _told_apart(cls, categories: tuple[Category, ...]) -> tuple[Category, ...]:
        if not categories:
            raise ValueError("is empty; a policy has one category at least")
        for key in ("id", "name"):
            seen: dict[str, int] = {}
            for position, text in enumerate(getattr(category, key) for category in categories):
                first = seen.setdefault(text.casefold(), position)
                if first != position:
                    raise PydanticCustomError(
                        explain.PART,
                        "{text} is that of categories[{first}] too, whatever its case; each has its own",
                        {"part": (position, key), "text": strict_yaml.shown(text), "first": first},
                    )
        return categories


_POLICY = TypeAdapter(Policy)


def shipped() -> tuple[str, ...]:
    """The names of the policies that come with safereason."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


def load(spec: str) -> Policy:
    """Reads a policy and checks it.

    Args:
        spec: The name of a shipped policy, or a path: that has a `/` in it or ends in `.yaml`.

    Raises:
        InputError: There is none, or something is wrong with it; the message says where.
    """
    path = _find(spec)
    document = strict_yaml.parse(text_of(path), str(path), _EXPECTED)
    try:
        # JSON, because pydantic's strict mode takes a list for a tuple there and still takes no number for text.
        return _POLICY.validate_json(json.dumps({"name": path.stem, **document.values}), strict=True)
    except ValidationError as error:
        raise InputError(explain.first_of(error, document, Policy)) from error


def to_yaml(policy: Policy, *, named: bool = True) -> str:
    """The policy as a file that `load` reads back; without its name, the file's is in its place."""
    values = _POLICY.dump_python(policy, mode="json", exclude_none=True)
    categories = values.pop("categories")
    if not named:
        del values["name"]
    return strict_yaml.dump({**values, "categories": categories})


def _find(spec: str) -> Path:
    names = shipped()
    is_path = "/" in spec or spec.endswith(SUFFIXES)
    if is_path and os.path.isfile(spec):  # unlike Path.is_file, False for any name that cannot be read
        return Path(spec)
    if not is_path and spec in names:
        return _SHIPPED / f"{spec}.yaml"
    close = get_close_matches(Path(spec).stem if is_path else spec, names, n=1)
    known = f"a policy is a path ending in .yaml or one of {', '.join(names)}"
    hint = f"did you mean {close[0]}?" if close else known
    raise InputError(f"{spec}: no such policy{' file' if is_path else ''}; {hint}")
