"""What pydantic found wrong with a recipe or another YAML file, in one line a person can act on."""

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from safereason.recipe.merge import DISCRIMINATORS, lookup
from safereason.recipe.schema import Recipe
from safereason.recipe.strict_yaml import Document, Path, shown

Models = Sequence[type[Any]]
"""Pydantic models and dataclasses: the sections of a file."""

PART = "part"
"""Type of a custom error about a part of a value: `part` in its context is the path from there to it."""
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def first_of(error: ValidationError, document: Document, root: type[Any] = Recipe) -> str:
    """The first mistake with its place, and how many more there are; unknown keys first: they explain missing ones."""
    found: dict[Path, str] = {}
    for detail in sorted(error.errors(include_url=False), key=lambda d: d["type"] not in _UNKNOWN):
        path, models = _walk(detail["loc"], document.values, root)
        path, what = _what(detail, path, models)
        found.setdefault(path, what)
    path, what = next(iter(found.items()))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{document.place(path)}: {_dotted(path)}: {what}{more}"


def _walk(loc: tuple[str | int, ...], values: Any, root: type[Any]) -> tuple[Path, Models]:
    """The path of an error, and the sections that hold its last key.

    Pydantic puts more into `loc` than keys: the tag of a section that has variants, and the names of a union's types.
    """
    path: Path = ()
    models: Models = (root,)
    holders: Models = ()
    for part in loc:
        if len(models) > 1:
            models = [model for model in models if _has_tag(model, part)]
        elif models and isinstance(part, str):
            path, holders = (*path, part), models
            field = _fields(models[0]).get(part)
            models = list(_sections_in(field.annotation)) if field else ()
        elif isinstance(part, int) or (isinstance(inner := lookup(values, path), dict) and part in inner):
            path = (*path, part)
    return path, holders


def _has_tag(model: type[Any], tag: str | int) -> bool:
    fields = _fields(model)
    return any(tag in get_args(fields[key].annotation) for key in DISCRIMINATORS if key in fields)


def _fields(model: type[Any]) -> Mapping[str, FieldInfo]:
    fields: Mapping[str, FieldInfo] = model.__pydantic_fields__
    return fields


def _sections_in(annotation: Any) -> Iterator[type[Any]]:
    if isinstance(annotation, type) and hasattr(annotation, "__pydantic_fields__"):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


def _what(detail: Any, path: Path, holders: Models) -> tuple[Path, str]:
    """The path of the key to mend, and what is wrong with it."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return path, "is missing"
    if kind in _UNKNOWN:
        return path, f"unknown key; {_known(str(path[-1]), holders)}"
    if kind == "union_tag_not_found":
        return (*path, context["discriminator"].strip("'")), "is missing"
    if kind == "union_tag_invalid":
        choices = context["expected_tags"]
        tagged_by = context["discriminator"].strip("'_()")  # a key, or the function that reads it
        return (*path, tagged_by), f"should be one of {choices}, not {shown(context['tag'])}"
    if kind == PART:
        return (*path, *context["part"]), detail["msg"]
    if kind == "value_error":
        return path, str(context["error"])
    if kind in ("model_type", "dict_type", "model_attributes_type", "dataclass_type"):
        return path, f"should be a mapping of keys to values, not {shown(detail['input'])}"
    said = detail["msg"].replace("Input should", "should")
    for theirs, ours in (("a valid integer", "a whole number"), ("a valid array", "a list"), ("a valid ", "a ")):
        said = said.replace(theirs, ours)
    choices = re.findall(r"'([^']*)'", context.get("expected", ""))
    return path, f"{said}, not {shown(detail['input'])}{_did_you_mean(str(detail['input']), choices)}"


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _known(key: str, holders: Models) -> str:
    """Which key was meant: one spelled alike, else one of this name further in, else all that there are."""
    here = list(_fields(holders[0]))
    if holders[0] is Recipe:  # a file has no name of its own, and may have a parent
        here[0] = "extends"
    deeper = [name for name in _keys(holders[0]) if name.rpartition(".")[2] == key]
    close = get_close_matches(key, here, n=1) or deeper
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(here)}"


def _keys(model: type[Any], prefix: str = "") -> Iterator[str]:
    for name, field in _fields(model).items():
        yield f"{prefix}{name}"
        for inner in _sections_in(field.annotation):
            yield from _keys(inner, f"{prefix}{name}.")


def _dotted(path: Path) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return text if text.isprintable() else repr(text)
