"""Loading of recipes: from a name to a checked recipe, and back to YAML.

Every mistake is one line: `file:line: section.key: what is wrong; what to do`, where an override replaces the line
if it is what set the key.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from safereason.errors import InputError
from safereason.files import LARGEST_YAML, read_text
from safereason.recipe import explain, merge, strict_yaml
from safereason.recipe.named import SUFFIXES, find
from safereason.recipe.schema import Recipe
from safereason.recipe.strict_yaml import Document, Tree, Value


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe with its parents, lays the overrides on it, and checks the whole.

    Args:
        name: A shipped recipe or a path.
        overrides: `section.key=value` texts; the value is read as YAML is.

    Raises:
        InputError: Something is wrong with it; the message says where.
    """
    path = find(name)
    document = _with_overrides(_read_recipe(path, ()), overrides)
    try:
        # JSON, because pydantic's strict mode takes a list for a tuple there and still takes no text for a number.
        recipe = Recipe.model_validate_json(json.dumps({**document.values, "name": path.stem}), strict=True)
    except ValidationError as error:
        raise InputError(explain.first_of(error, document)) from error
    return recipe.referred_to_as(name)


def resolved(recipe: Recipe) -> Tree:
    """The recipe as JSON has it, without the stages it does not have."""
    return {key: value for key, value in recipe.model_dump(mode="json").items() if value is not None}


def to_yaml(recipe: Recipe) -> str:
    """The recipe as a file that `load` reads back: all of it but its name, which is the file's."""
    return strict_yaml.dump({key: value for key, value in resolved(recipe).items() if key != "name"})


def leaves(recipe: Recipe) -> list[tuple[str, Value]]:
    """The values of the recipe by dotted key, in the schema's order; a list is one value."""
    return list(merge.flatten({key: value for key, value in resolved(recipe).items() if key not in merge.ABOUT}))


def _read_recipe(path: Path, children: tuple[Path, ...]) -> Document:
    """One file, laid on the parent it names; `children` are the files that led here."""
    document = strict_yaml.parse(text_of(path), str(path))
    if "name" in document.values:
        raise InputError(f"{document.location(('name',))}: name: a recipe is named by its file; delete this line")
    # `extends` is an instruction to the loader; the schema does not know the key.
    parent = document.values.pop("extends", None)
    if parent is None:
        return document
    return _with_parent(document, parent, path, children)


def _with_parent(document: Document, name: object, path: Path, children: tuple[Path, ...]) -> Document:
    where = f"{document.location(('extends',))}: extends"
    if not isinstance(name, str):
        raise InputError(f"{where}: one recipe's name or path is expected, not {strict_yaml.shown(name)}")
    try:
        # A path is relative to the file that names it, and not to the folder of the command.
        reference = name
        if name.endswith(SUFFIXES):
            reference = str(path.parent / name)
        file = find(reference)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    # Resolved paths, because a circle may lead through links or through `../`.
    lineage = (*children, path.resolve())
    if file.resolve() in lineage:
        circle = " → ".join(p.name for p in (*lineage, file))
        raise InputError(f"{where}: {circle} goes round in a circle; drop one `extends`")
    parent = _read_recipe(file, lineage)
    # A variation on a paper's recipe is the paper's only if it says so itself.
    parent.values.pop("paper", None)
    values = merge.lay(parent.values, document.values, unexplained=merge.FROM_RECIPE)
    return Document(values, {**_untouched(parent, document), **document.locations})


def _with_overrides(base: Document, overrides: Sequence[str]) -> Document:
    over = Document({})
    for text in overrides:
        keys, value = _override(text)
        # `a.b.c=1` becomes {a: {b: {c: 1}}}, from the inside out.
        tree: Tree = {keys[-1]: value}
        for key in reversed(keys[:-1]):
            tree = {key: tree}
        over.values = merge.merge(over.values, tree)
        for n in range(1, len(keys) + 1):
            over.locations[keys[:n]] = f"override {text!r}"
    values = merge.lay(base.values, over.values, unexplained=merge.OVERRIDE)
    # A section that an override only changes is still in its file: that is where a missing key is to be added.
    return Document(values, {**over.locations, **_untouched(base, over)})


def _override(text: str) -> tuple[tuple[str, ...], Value]:
    key, equals, value = text.partition("=")
    keys = tuple(key.strip().split("."))
    # `all` refuses an empty key, as in `rl.=1` or `=1`.
    if not equals or not all(keys):
        raise InputError(f"override {text!r}: section.key=value is expected, such as rl.kl_coef=1e-3")
    if keys[0] in ("name", "extends"):
        raise InputError(
            f"override {text!r}: a recipe's name and parent are its file's; write a recipe that extends this one"
        )
    return keys, strict_yaml.parse_value(value, f"override {text!r}")


def _untouched(base: Document, over: Document) -> dict[strict_yaml.Path, str]:
    """The locations of `base` whose values `over` leaves, or goes into."""
    replaced: set[strict_yaml.Path] = set()
    for path in over.locations:
        if path and merge.mergeable(merge.lookup(base.values, path), merge.lookup(over.values, path)) is None:
            replaced.add(path)
    untouched: dict[strict_yaml.Path, str] = {}
    for path, location in base.locations.items():
        # What lies in a replaced mapping went with it.
        if not any(path[:n] in replaced for n in range(len(path) + 1)):
            untouched[path] = location
    return untouched


def text_of(path: Path) -> str:
    """The contents of a YAML file, without its byte order mark.

    Raises:
        InputError: It cannot be read, is too large to be one, or is not UTF-8.
    """
    return read_text(path, LARGEST_YAML)
