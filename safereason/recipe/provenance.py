"""Provenance: the source of each value of a recipe.

`provenance:` in a recipe goes from a dotted key, or a section that holds it, to a short text: `paper`, `code` (the
authors'), `summary` (the reproducibility summary), `ours`, and what there is to add. The nearest entry above a value is
its source. Loading puts `override` where the command line changed a value, and `recipe` where a child changed one of
its parent's and does not say why.
"""

from safereason.errors import did_you_mean
from safereason.recipe import merge
from safereason.recipe.load import leaves
from safereason.recipe.schema import Recipe
from safereason.recipe.strict_yaml import shown

DEFAULT = "default"
"""The source of a value that no recipe sets."""


def sources(recipe: Recipe) -> dict[str, str]:
    """The source of each of `load.leaves(recipe)`, by key."""
    # `exclude_unset` leaves out the schema's defaults, so that what remains was set by some recipe.
    given = {key for key, _ in merge.flatten(recipe.model_dump(mode="json", exclude_unset=True))}
    sources_by_key: dict[str, str] = {}
    for key, _ in leaves(recipe):
        source = merge.covering(recipe.provenance, key)
        if source is None and key in given:
            source = merge.FROM_RECIPE
        sources_by_key[key] = source or DEFAULT
    return sources_by_key


def validate(recipe: Recipe) -> list[str]:
    """The problems of a recipe's provenance, one line each.

    An entry must name something that the recipe has. In a recipe of a paper, each value that is not null must have one.
    """
    known = _nameable(recipe)
    problems: list[str] = []
    for key in recipe.provenance:
        if key not in known:
            hint = did_you_mean(key, known)
            if hint:
                hint = f"; {hint}"
            problems.append(f"provenance.{key}: names nothing in this recipe{hint}")
    # A recipe of one's own reproduces nothing, so nothing has to be proved.
    if recipe.paper is None:
        return problems
    for key, value in leaves(recipe):
        source = merge.covering(recipe.provenance, key)
        if source == merge.FROM_RECIPE:
            problems.append(
                f"{key}: differs from its parent's without a provenance; say under `provenance:` where it is from"
            )
        # Null switches something off; a paper rarely mentions what it does not use.
        elif source is None and value is not None:
            problems.append(f"{key}: has no provenance; say under `provenance:` where {shown(value)} is from")
    return problems


def _nameable(recipe: Recipe) -> list[str]:
    """The keys of values, null ones too, and of the sections above them."""
    keys: dict[str, None] = {}  # in order, each once
    for key, _ in merge.flatten(recipe.model_dump(mode="json", exclude=set(merge.ABOUT))):
        parts = key.split(".")
        for n in range(1, len(parts) + 1):
            keys[".".join(parts[:n])] = None
    return list(keys)
