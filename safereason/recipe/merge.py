"""Merging of recipes: a child over its parent, overrides over a recipe, with the provenance of the result."""

from collections.abc import Iterator, Mapping

from safereason.recipe.strict_yaml import Path, Tree, Value

OVERRIDE = "override"
"""The source of a value that was set on the command line."""
FROM_RECIPE = "recipe"
"""The source of a value that a recipe changed without saying why."""
ABOUT = ("name", "paper", "provenance", "hardware", "report_to")
"""Top-level keys that change nothing of what a recipe makes."""

DISCRIMINATORS = {"mix": None, "name": None, "algorithm": "grpo"}
"""Keys that say which variant a mapping is, and which one it is without, where it need not say so."""


def flatten(tree: Mapping[str, Value], prefix: str = "") -> Iterator[tuple[str, Value]]:
    """The values of a tree by dotted key; a list is one value."""
    for key, value in tree.items():
        yield from _leaves(f"{prefix}{key}", value)


def _leaves(key: str, value: Value) -> Iterator[tuple[str, Value]]:
    if isinstance(value, dict):
        yield from flatten(value, f"{key}.")
    else:
        yield key, value


def lookup(tree: Value, path: Path) -> Value:
    """The value at a path of keys, or None."""
    for key in path:
        if not isinstance(tree, dict):
            return None
        tree = tree.get(key)
    return tree


def mergeable(base: Value, over: Value) -> tuple[Tree, Tree] | None:
    """Both values, if `over` goes into `base`: both are mappings, and not of another `mix`, `name` or `algorithm`."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return None
    for key, default in DISCRIMINATORS.items():
        # Two variants share no keys that mean the same: merging `rsafe` into `tars` would leave keys that one refuses.
        if key in over and base.get(key, default) not in (None, over[key]):
            return None
    return base, over


def merge(base: Tree, over: Tree) -> Tree:
    """`over` laid on `base`: mappings go into each other, anything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        if (both := mergeable(base.get(key), value)) is not None:
            merged[key] = merge(*both)
        else:
            merged[key] = value
    return merged


def lay(base: Tree, over: Tree, unexplained: str) -> Tree:
    """`over` laid on `base`, where the provenance of a value that `over` changes does not outlive the value.

    A changed value has the provenance that `over` gives it, else `unexplained`.
    """
    texts = over.get("provenance", {})
    if not isinstance(texts, dict):  # validation will say so
        return merge(base, over)
    # `merge` would keep the parent's text for a value that the child has changed.
    merged = merge(base, over)
    merged["provenance"] = _inherited(base, over, texts, unexplained)
    return merged


def covering(provenance: Mapping[str, str], key: str) -> str | None:
    """The provenance of a key: its own, or that of the nearest section above it."""
    # The nearest entry wins, so that one line can cover a section and another one an exception in it.
    while key:
        if key in provenance:
            return provenance[key]
        key = key.rpartition(".")[0]
    return None


def _inherited(base: Tree, over: Tree, own: dict[str, str], unexplained: str) -> dict[str, str]:
    kept: dict[str, str] = {}
    inherited = base.get("provenance")
    if isinstance(inherited, dict):
        kept = dict(inherited)
    changed: dict[str, str] = {}
    for key, value in _changes(_settings(base), _settings(over)):
        # An entry about a replaced mapping, or about a value inside it, describes what is no longer there.
        for entry in list(kept):
            if entry == key or entry.startswith(f"{key}."):
                del kept[entry]
        for leaf, _ in _leaves(key, value):
            changed[leaf] = covering(own, leaf) or unexplained
    # The later mapping wins: what the author wrote by hand counts before what was worked out.
    return {**kept, **changed, **own}


def _changes(base: Tree, over: Tree, prefix: str = "") -> Iterator[tuple[str, Value]]:
    """The keys at which `over` replaces a value or a whole mapping of `base`, each with the new value."""
    for key, value in over.items():
        if (both := mergeable(base.get(key), value)) is not None:
            yield from _changes(*both, f"{prefix}{key}.")
        elif key not in base or base[key] != value:
            yield f"{prefix}{key}", value


def _settings(tree: Tree) -> Tree:
    return {key: value for key, value in tree.items() if key not in ABOUT}
