"""Laying one recipe on another: a child on its parent, overrides on a recipe, and what that does to provenance."""

from collections.abc import Iterator, Mapping
from typing import Any

from safereason.recipe.strict_yaml import Path, Tree

OVERRIDE = "override"
"""The source of a value that was set on the command line."""
RECIPE = "recipe"
"""The source of a value that a recipe changed without saying why."""
ABOUT = ("name", "paper", "provenance", "report_to")
"""Top-level keys that change nothing of what a recipe makes."""

DISCRIMINATORS = {"mix": None, "name": None, "algorithm": "grpo"}
"""Keys that say which variant a mapping is, and which one it is without, where it need not say so."""


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a tree by dotted key; a list is one value."""
    for key, value in tree.items():
        yield from _leaves(f"{prefix}{key}", value)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from flatten(value, f"{key}.")
    else:
        yield key, value


def lookup(tree: Any, path: Path) -> Any:
    """The value at a path of keys, or None."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def merges(base: Any, over: Any) -> bool:
    """Whether `over` goes into `base`: both are mappings, and not of another `mix`, `name` or `algorithm`."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return False
    return all(base.get(key, default) in (None, over[key]) for key, default in DISCRIMINATORS.items() if key in over)


def merge(base: Tree, over: Tree) -> Tree:
    """`over` laid on `base`: mappings go into each other, anything else is replaced."""
    laid = {key: merge(base[key], value) if merges(base.get(key), value) else value for key, value in over.items()}
    return {**base, **laid}


def lay(base: Tree, over: Tree, unexplained: str) -> Tree:
    """`over` laid on `base`, where the provenance of a value that `over` changes does not outlive the value.

    A changed value has the provenance that `over` gives it, else `unexplained`.
    """
    texts = over.get("provenance", {})
    if not isinstance(texts, dict):  # validation will say so
        return merge(base, over)
    merged = merge(base, over)
    merged["provenance"] = _inherited(base, over, texts, unexplained)
    return merged


def covering(provenance: Mapping[str, str], key: str) -> str | None:
    """The provenance of a key: its own, or that of the nearest section above it."""
    while key:
        if key in provenance:
            return provenance[key]
        key = key.rpartition(".")[0]
    return None


def _inherited(base: Tree, over: Tree, own: dict[str, str], unexplained: str) -> dict[str, str]:
    kept = base.get("provenance")
    kept = dict(kept) if isinstance(kept, dict) else {}
    changed: dict[str, str] = {}
    for key, value in _changes(_settings(base), _settings(over)):
        kept = {k: text for k, text in kept.items() if k != key and not k.startswith(f"{key}.")}
        changed |= {leaf: covering(own, leaf) or unexplained for leaf, _ in _leaves(key, value)}
    return {**kept, **changed, **own}


def _changes(base: Tree, over: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Where `over` puts another value, or a whole mapping, in the place of what `base` has."""
    for key, value in over.items():
        if merges(base.get(key), value):
            yield from _changes(base[key], value, f"{prefix}{key}.")
        elif key not in base or base[key] != value:
            yield f"{prefix}{key}", value


def _settings(tree: Tree) -> Tree:
    return {key: value for key, value in tree.items() if key not in ABOUT}
