"""Validation errors of a recipe or another YAML file, each in one line that a person can act on."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from safereason.errors import did_you_mean
from safereason.recipe.merge import DISCRIMINATORS, lookup
from safereason.recipe.schema import Recipe
from safereason.recipe.strict_yaml import Document, Path, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Sections = Sequence[type[object]]
"""Pydantic models and dataclasses: the sections of a file."""

PART = "part"
"""Type of a custom error about a part of a value: `part` in its context is the path from there to it."""
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def first_of(error: ValidationError, document: Document, root: type[object] = Recipe) -> str:
    """The first mistake with its location, and the number of further ones; unknown keys come first."""
    mistakes: dict[Path, str] = {}
    # A misspelt key also makes the intended key missing: the first explains the second.
    for detail in sorted(error.errors(include_url=False), key=lambda d: d["type"] not in _UNKNOWN):
        path, models = _walk(detail["loc"], document.values, root)
        path, mistake = _mistake(detail, path, models)
        mistakes.setdefault(path, mistake)  # a union reports one mistake once for each of its types
    path, mistake = next(iter(mistakes.items()))
    line = f"{document.location(path)}: {_dotted(path)}: {mistake}"
    if len(mistakes) > 1:
        line += f" (and {len(mistakes) - 1} more)"
    return line


def _walk(loc: tuple[str | int, ...], values: object, root: type[object]) -> tuple[Path, Sections]:
    """The path of an error, and the sections that hold its last key.

    Pydantic puts more into `loc` than keys: the tag of a section that has variants, and the names of a union's types.
    """
    path: Path = ()
    models: Sections = (root,)
    holders: Sections = ()
    for part in loc:
        # This part of `loc` is a variant's tag, and not a key: it chooses among the models.
        if len(models) > 1:
            models = [model for model in models if _has_tag(model, part)]
        elif models and isinstance(part, str):
            path = (*path, part)
            holders = models
            field = _fields(models[0]).get(part)
            models = ()
            if field is not None:
                models = list(_sections_in(field.annotation))
        # A free mapping or list: a part that is no key of it is pydantic's name for a type of a union.
        elif isinstance(part, int) or _has_key(lookup(values, path), part):
            path = (*path, part)
    return path, holders


def _has_key(values: object, key: str) -> bool:
    return isinstance(values, dict) and key in values


def _has_tag(model: type[object], tag: str | int) -> bool:
    fields = _fields(model)
    return any(tag in get_args(fields[key].annotation) for key in DISCRIMINATORS if key in fields)


def _fields(model: type[object]) -> Mapping[str, FieldInfo]:
    # Models and pydantic's dataclasses share this attribute, and no base class.
    fields: Mapping[str, FieldInfo] = getattr(model, "__pydantic_fields__", {})
    return fields


def _sections_in(annotation: object) -> Iterator[type[object]]:
    if isinstance(annotation, type) and hasattr(annotation, "__pydantic_fields__"):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


def _mistake(detail: "ErrorDetails", path: Path, holders: Sections) -> tuple[Path, str]:
    """The path of the key to mend, and its mistake in words."""
    kind = detail["type"]
    context = detail.get("ctx", {})
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
    # The message follows the key's name, and pydantic's words for types are Python's.
    message = detail["msg"].replace("Input should", "should")
    for theirs, ours in (("a valid integer", "a whole number"), ("a valid array", "a list"), ("a valid ", "a ")):
        message = message.replace(theirs, ours)
    choices = re.findall(r"'([^']*)'", context.get("expected", ""))
    hint = did_you_mean(str(detail["input"]), choices)
    if hint:
        hint = f"; {hint}"
    return path, f"{message}, not {shown(detail['input'])}{hint}"


def _known(key: str, holders: Sections) -> str:
    """A hint at the intended key: one spelled alike, else one of this name further in, else a list of all keys."""
    here = list(_fields(holders[0]))
    if holders[0] is Recipe:  # a file has no name of its own, and may have a parent
        here[0] = "extends"
    hint = f"known here: {', '.join(here)}"
    for name in _keys(holders[0]):
        if name.rpartition(".")[2] == key:
            hint = f"did you mean {name}?"
            break
    return did_you_mean(key, here, hint)


def _keys(model: type[object], prefix: str = "") -> Iterator[str]:
    for name, field in _fields(model).items():
        yield f"{prefix}{name}"
        for inner in _sections_in(field.annotation):
            yield from _keys(inner, f"{prefix}{name}.")


def _dotted(path: Path) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}"
    text = text.removeprefix(".")
    if not text.isprintable():  # a key of another's file may hold anything
        return repr(text)
    return text
