"""What pydantic found wrong with a recipe, in one line a person can act on."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError

from safereason.recipe.merge import DISCRIMINATORS, lookup
from safereason.recipe.schema import Recipe, Section
from safereason.recipe.strict_yaml import Document, Path, shown

Models = Sequence[type[Section]]


def first_of(error: ValidationError, document: Document) -> str:
    """The first mistake with its place, and how many more there are; unknown keys first: they explain missing ones."""
    found: dict[Path, str] = {}
    for detail in sorted(error.errors(include_url=False), key=lambda d: d["type"] != "extra_forbidden"):
        path, models = _walk(detail["loc"], document.values)
        path, what = _what(detail, path, models)
        found.setdefault(path, what)
    path, what = next(iter(found.items()))
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{document.place(path)}: {_dotted(path)}: {what}{more}"


def _walk(loc: tuple[str | int, ...], values: Any) -> tuple[Path, Models]:
    """The path of an error, and the sections that hold its last key.

    Pydantic puts more into `loc` than keys: the tag of a section that has variants, and the names of a union's types.
    """
    path: Path = ()
    models: Models = (Recipe,)
    holders: Models = ()
    for part in loc:
        if len(models) > 1:
            models = [model for model in models if _has_tag(model, part)]
        elif models and isinstance(part, str):
            path, holders = (*path, part), models
            field = models[0].model_fields.get(part)
            models = list(_sections_in(field.annotation)) if field else ()
        elif isinstance(part, int) or (isinstance(inner := lookup(values, path), dict) and part in inner):
            path = (*path, part)
    return path, holders


def _has_tag(model: type[Section], tag: str | int) -> bool:
    return any(
        tag in get_args(model.model_fields[key].annotation) for key in DISCRIMINATORS if key in model.model_fields
    )


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)


def _what(detail: Any, path: Path, holders: Models) -> tuple[Path, str]:
    """The path of the key to mend, and what is wrong with it."""
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return path, "is missing"
    if kind == "extra_forbidden":
        return path, f"unknown key; {_known(str(path[-1]), holders)}"
    if kind == "union_tag_not_found":
        return (*path, context["discriminator"].strip("'")), "is missing"
    if kind == "union_tag_invalid":
        choices = context["expected_tags"]
        return (*path, context["discriminator"].strip("'")), f"should be one of {choices}, not {shown(context['tag'])}"
    if kind == "value_error":
        return path, str(context["error"])
    if kind in ("model_type", "dict_type", "model_attributes_type"):
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
    here = list(holders[0].model_fields)
    if holders[0] is Recipe:  # a file has no name of its own, and may have a parent
        here[0] = "extends"
    deeper = [name for name in _keys(holders[0]) if name.rpartition(".")[2] == key]
    close = get_close_matches(key, here, n=1) or deeper
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(here)}"


def _keys(model: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for inner in _sections_in(field.annotation):
            yield from _keys(inner, f"{prefix}{name}.")


def _dotted(path: Path) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return text if text.isprintable() else repr(text)
