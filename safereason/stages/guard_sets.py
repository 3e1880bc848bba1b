"""The sets of a guard's evaluation: those that are chosen, and their labelled rows."""

from collections.abc import Sequence

from safereason import console
from safereason.data import rsafe_mix, sources
from safereason.data.example import Example
from safereason.data.sampling import limited
from safereason.errors import InputError
from safereason.recipe.schema import GuardEvaluation, GuardSet, Recipe


def guard_eval_section(recipe: Recipe) -> GuardEvaluation:
    """The section `guard.eval` of a recipe; without one, a section with no set, for sets of the command line."""
    if recipe.guard is None or recipe.guard.eval is None:
        return GuardEvaluation(sets=())
    return recipe.guard.eval


def chosen_sets(recipe: Recipe, names: Sequence[str]) -> list[GuardSet]:
    """The recipe's sets of these labels, and the sources of other names as whole sets; without names, all its sets."""
    known = guard_eval_section(recipe).sets
    chosen: list[GuardSet] = []
    # A set that is named twice is in the list once.
    for name in dict.fromkeys(names):
        same_label = [guard_set for guard_set in known if guard_set.label == name]
        # A name that is no label is taken for a source; an unknown one is refused where the source is looked up.
        chosen += same_label or [GuardSet(source=name)]
    guard_sets: list[GuardSet] = []
    for guard_set in chosen or known:
        # Records know a source by its own name, by whatever path it was found.
        own_name = sources.SOURCES.own_name(guard_set.source)
        guard_sets.append(guard_set.model_copy(update={"source": own_name}))
    return guard_sets


def check_one_policy_a_set(recipe: Recipe, guard_sets: Sequence[GuardSet]) -> None:
    """Refuses sets of one name under different policies: their rows share figures.

    Raises:
        InputError: Two sets of one name have different policies.
    """
    policies_by_set: dict[str, set[str | None]] = {}
    for guard_set in guard_sets:
        policies_by_set.setdefault(guard_set.label, set()).add(guard_set.policy)
    # Predictions have no policy of their own, so one set has one.
    for set_name, policies in policies_by_set.items():
        if len(policies) > 1:
            raise InputError(
                f"recipe {recipe.name}: guard.eval.sets: the parts of {set_name} are judged by different "
                "policies; name one, or call them apart"
            )


def labelled_rows(
    guard_sets: Sequence[GuardSet], limit: int | None, seed: int, allow_missing: bool
) -> tuple[dict[str, list[Example]], dict[str, str]]:
    """The labelled rows of each set that can be had, and the reasons why the others cannot, both by the set's name.

    Args:
        guard_sets: The sets. Those of one name share their rows, as one set.
        limit: Most rows of a name; None keeps all.
        seed: Seed by which the rows are drawn.
        allow_missing: Whether sets that cannot be had are left out.

    Raises:
        InputError: A set has no labelled row, or sets are missing and `allow_missing` is false or none is left.
    """
    rows_by_set: dict[str, list[Example]] = {}
    missing: dict[str, str] = {}
    for guard_set in guard_sets:
        set_name = guard_set.label
        # An unknown name is always an error; it is no set that may be missing.
        source = sources.get(guard_set.source)
        try:
            rows = rsafe_mix.set_rows(guard_set, seed, source.load(guard_set.split))
        except InputError as error:
            missing[set_name] = str(error)
            console.say(f"eval guard: {error}")
            continue
        if not rows:
            raise InputError(f"eval guard: set {set_name} has no labelled row; see its `skip` and `categories`")
        rows_by_set.setdefault(set_name, []).extend(rows)
    drawn: dict[str, list[Example]] = {}
    for set_name, rows in rows_by_set.items():
        # If one of its sources is missing, a set would give another figure under the same name.
        if set_name not in missing:
            drawn[set_name] = limited(rows, limit, seed)
    if missing and not (allow_missing and drawn):
        advice = "get one of them, or name another with --prompts"
        if drawn:
            advice = "--allow-missing measures the others"
        count = len({guard_set.label for guard_set in guard_sets})
        raise InputError(f"eval guard: {len(missing)} of {count} sets cannot be had ({', '.join(missing)}); {advice}")
    return drawn, missing
