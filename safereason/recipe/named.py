"""Recipes by name: the shipped ones, and the files that a person names."""

import os
from pathlib import Path

import safereason
from safereason.errors import InputError, did_you_mean

SUFFIXES = (".yaml", ".yml")


def shipped() -> list[Path]:
    """The recipes that come with safereason, by name."""
    package = Path(safereason.__file__).parent
    folder = package / "recipes"  # in a wheel
    if not folder.is_dir():
        folder = package.parent / "recipes"  # in a checkout
    # By stem: sorted by path, `tars-1.5b.yaml` and `tars-1.5b-x.yaml` would change their order.
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
    what = "recipe"
    stem = name
    if is_path:
        what = "recipe file"
        stem = Path(name).stem
    hint = did_you_mean(stem, by_name, f"a recipe is a path ending in .yaml or one of {', '.join(by_name)}")
    raise InputError(f"{name}: no such {what}; {hint}")


def reference_of(name: str) -> str:
    """The value of `--recipe` for a recipe that is known by its name alone: a shipped one's name, else a file's."""
    if name in [path.stem for path in shipped()]:
        return name
    return f"{name}{SUFFIXES[0]}"
