"""The policy of a guard: the list of categories that it calls unsafe, read from a YAML file.

Each mistake in a file is reported in one line, as for recipes: `file:line: key: what is wrong; what to do`.
"""

import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError, field_validator
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from safereason.errors import InputError, did_you_mean
from safereason.recipe import explain, strict_yaml
from safereason.recipe.load import text_of
from safereason.recipe.named import SUFFIXES
from safereason.text.inert import inert

_SHIPPED = Path(__file__).parent / "policies"
_EXPECTED = "a policy is a mapping with `title:` and `categories:`"
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
_BREAKS = ("Cc", "Zl", "Zp")
"""Unicode categories of line breaks and other control characters."""
_CLOSED = ConfigDict(extra="forbid")


def _check_single_line(text: str) -> str:
    """The text itself, if it fits on one line of the guard's prompt.

    Raises:
        ValueError: It is blank, or holds a line break, a control character or a marker of a prompt.
    """
    if not text.strip():
        raise ValueError("is blank; write it, or delete the key if it may be left out")
    if any(unicodedata.category(character) in _BREAKS for character in text):
        raise ValueError("holds a line break, a tab or a control character; `>-` folds several lines into one")
    # A policy goes into the prompt as it is. Text that `inert` would change could close one of the prompt's markers.
    if inert(text) != text:
        raise ValueError("holds a marker of the guard's prompt or of a chat template; write it without the `<` or `[`")
    return text


def _check_id(text: str) -> str:
    if not _ID.fullmatch(text):
        allowed = "a letter, then letters, digits, `_`, `.` and `-`"
        raise ValueError(f"should be {allowed}, not {strict_yaml.shown(text)}")
    return text


SingleLine = Annotated[str, AfterValidator(_check_single_line)]


@dataclass(frozen=True, config=_CLOSED)
class Category:
    """One category of unsafe content."""

    id: Annotated[str, AfterValidator(_check_id)]
    name: SingleLine
    definition: SingleLine | None = None


@dataclass(frozen=True, config=_CLOSED)
class Policy:
    """A list of categories of unsafe content. Content that falls under none of them is safe."""

    name: SingleLine
    title: SingleLine
    categories: tuple[Category, ...]
    source: SingleLine | None = None
    """Publication or document that the categories come from."""

    @field_validator("categories")
    @classmethod
    def _check_unique(cls, categories: tuple[Category, ...]) -> tuple[Category, ...]:
        if not categories:
            raise ValueError("is empty; a policy has one category at least")
        # Guards write ids and names in any case, so two that differ only in case could not be told apart.
        for key in ("id", "name"):
            first_positions: dict[str, int] = {}
            for position, category in enumerate(categories):
                text = getattr(category, key)
                first = first_positions.setdefault(text.casefold(), position)
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
    """The policy of a name or a file.

    Args:
        spec: The name of a shipped policy, or a path: a text with a `/` in it, or one that ends in `.yaml`.

    Raises:
        InputError: There is no such policy, or it has a mistake; the message says where.
    """
    path = _find_policy(spec)
    document = strict_yaml.parse(text_of(path), str(path), _EXPECTED)
    # The file's own `name:` wins over the file's name.
    values = {"name": path.stem, **document.values}
    try:
        # JSON, because pydantic's strict mode takes a list for a tuple there and still takes no number for text.
        return _POLICY.validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise InputError(explain.first_of(error, document, Policy)) from error


def to_yaml(policy: Policy, *, named: bool = True) -> str:
    """The policy as YAML that `load` reads back.

    Args:
        policy: The policy.
        named: Whether to write its name. Without it, the name of the file becomes the policy's name.
    """
    values = _POLICY.dump_python(policy, mode="json", exclude_none=True)
    # The categories go to the end of the file, below the short keys.
    categories = values.pop("categories")
    if not named:
        del values["name"]
    return strict_yaml.dump({**values, "categories": categories})


def _find_policy(spec: str) -> Path:
    names = shipped()
    is_path = "/" in spec or spec.endswith(SUFFIXES)
    if is_path and os.path.isfile(spec):  # unlike Path.is_file, False for any name that cannot be read
        return Path(spec)
    if not is_path and spec in names:
        return _SHIPPED / f"{spec}.yaml"
    raise InputError(_no_such_policy(spec, is_path, names))


def _no_such_policy(spec: str, is_path: bool, names: tuple[str, ...]) -> str:
    """The message for a policy that does not exist, with the closest shipped name if there is one."""
    kind = "policy"
    word = spec
    if is_path:
        kind = "policy file"
        word = Path(spec).stem
    hint = did_you_mean(word, names, f"a policy is a path ending in .yaml or one of {', '.join(names)}")
    return f"{spec}: no such {kind}; {hint}"
