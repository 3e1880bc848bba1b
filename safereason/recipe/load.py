"""From a recipe's name to a checked recipe, and back to YAML.

Every mistake is one line: `file:line: section.key: what is wrong; what to do`, where an override stands in for the line
if it is what set the key.
"""

import json
import os
from collections.abc import Sequence
from difflib import get_close_matches
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import safereason
from safereason.errors import InputError
from safereason.files import LARGEST_YAML, read_text
from safereason.recipe import explain, merge, strict_yaml
from safereason.recipe.schema import Recipe
from safereason.recipe.strict_yaml import Document

SUFFIXES = (".yaml", ".yml")


def shipped() -> list[Path]:
    """The recipes that come with safereason, by name."""
    package = Path(safereason.__file__).parent
    in_wheel, in_checkout = package / "recipes", package.parent / "recipes"
    folder = in_wheel if in_wheel.is_dir() else in_checkout
    return sorted(folder.glob("*.yaml"), key=lambda path: path.stem)


def find(name: str) -> Path:
    """The file of a recipe: a path that ends in `.yaml`, or the name of a shipped recipe.

    Raises:
        InputError: There is none.
    """
    by_name = {path.stem: path for path in shipped()}
    is_path = name.endswith(SUFFIXES)
    if is_path and os.path.isfile(name):  # unlike Path.is_file, False for any name that cannot be read
        return Path(name)
    if not is_path and name in by_name:
        return by_name[name]
    close = get_close_matches(Path(name).stem if is_path else name, by_name, n=1)
    known = f"a recipe is a path ending in .yaml or one of {', '.join(by_name)}"
    hint = f"did you mean {close[0]}?" if close else known
    raise InputError(f"{name}: no such recipe{' file' if is_path else ''}; {hint}")


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe with its parents, lays the overrides on it, and checks the whole.

    Args:
        name: A shipped recipe or a path.
        overrides: `section.key=value` texts; the value is read as YAML is.

    Raises:
        InputError: Something is wrong with it; the message says where.
    """
    path = find(name)
    document = _with_overrides(_read(path, ()), overrides)
    try:
        # JSON, because pydantic's strict mode takes a list for a tuple there and still takes no text for a number.
        recipe = Recipe.model_validate_json(json.dumps({**document.values, "name": path.stem}), strict=True)
    except ValidationError as error:
        raise InputError(explain.first_of(error, document)) from error
    return recipe.referred_to_as(name)


def reference_of(name: str) -> str:
    """What `--recipe` takes for a recipe that is known by its name alone: the name of a shipped one, else a file's."""
    return name if name in {path.stem for path in shipped()} else f"{name}{SUFFIXES[0]}"


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON has it, without the stages it does not have."""
    return {key: value for key, value in recipe.model_dump(mode="json").items() if value is not None}


def to_yaml(recipe: Recipe) -> str:
    """The recipe as a file that `load` reads back: all of it but its name, which is the file's."""
    return strict_yaml.dump({key: value for key, value in resolved(recipe).items() if key != "name"})


def leaves(recipe: Recipe) -> list[tuple[str, Any]]:
    """What the recipe sets, by dotted key, in the schema's order; a list is one value."""
    return list(merge.flatten({key: value for key, value in resolved(recipe).items() if key not in merge.ABOUT}))


def _read(path: Path, children: tuple[Path, ...]) -> Document:
    """One file, laid on the parent it names; `children` are the files that led here."""
    document = strict_yaml.parse(text_of(path), str(path))
    if "name" in document.values:
        raise InputError(f"{document.place(('name',))}: name: a recipe is named by its file; delete this line")
    parent = document.values.pop("extends", None)
    return document if parent is None else _with_parent(document, parent, path, children)


def _with_parent(document: Document, name: Any, path: Path, children: tuple[Path, ...]) -> Document:
    where = f"{document.place(('extends',))}: extends"
    if not isinstance(name, str):
        raise InputError(f"{where}: one recipe's name or path is expected, not {strict_yaml.shown(name)}")
    try:
        file = find(str(path.parent / name) if name.endswith(SUFFIXES) else name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    lineage = (*children, path.resolve())
    if file.resolve() in lineage:
        circle = " → ".join(p.name for p in (*lineage, file))
        raise InputError(f"{where}: {circle} goes round in a circle; drop one `extends`")
    parent = _read(file, lineage)
    # A variation on a paper's recipe is the paper's only if it says so itself.
    parent.values.pop("paper", None)
    values = merge.lay(parent.values, document.values, unexplained=merge.RECIPE)
    return Document(values, {**_untouched(parent, document), **document.places})


def _with_overrides(base: Document, overrides: Sequence[str]) -> Document:
    over = Document({})
    for text in overrides:
        keys, value = _override(text)
        tree: Any = reduce(lambda inner, key: {key: inner}, reversed(keys), value)
        over.values = merge.merge(over.values, tree)
        over.places |= {keys[:n]: f"override {text!r}" for n in range(1, len(keys) + 1)}
    values = merge.lay(base.values, over.values, unexplained=merge.OVERRIDE)
    # A section that an override only changes still stands in its file: that is where a missing key is to be added.
    return Document(values, {**over.places, **_untouched(base, over)})


def _override(text: str) -> tuple[tuple[str, ...], Any]:
    key, equals, value = text.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        raise InputError(f"override {text!r}: section.key=value is expected, such as rl.kl_coef=1e-3")
    if keys[0] in ("name", "extends"):
        raise InputError(
            f"override {text!r}: a recipe's name and parent are its file's; write a recipe that extends this one"
        )
    return keys, strict_yaml.parse_value(value, f"override {text!r}")


def _untouched(base: Document, over: Document) -> dict[strict_yaml.Path, str]:
    """The places of `base` whose values `over` leaves, or goes into."""
    replaced = {
        path
        for path in over.places
        if path and not merge.merges(merge.lookup(base.values, path), merge.lookup(over.values, path))
    }
    return {p: at for p, at in base.places.items() if not any(p[:n] in replaced for n in range(len(p) + 1))}


def text_of(path: Path) -> str:
    """What a YAML file holds, without a byte order mark.

    Raises:
        InputError: It cannot be read, is too large to be one, or is not UTF-8.
    """
    return read_text(path, LARGEST_YAML)
