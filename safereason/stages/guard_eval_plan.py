"""Plan of a guard's evaluation: the guard, the labelled sets, and how the guard is asked. No model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safereason.data import sources
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.guard import policy as policies
from safereason.guard.open import GuardSpec
from safereason.recipe.schema import GuardSet, Recipe, Sampling
from safereason.stages.guard_sets import check_one_policy_a_set, chosen_sets, guard_eval_section


@dataclass(frozen=True)
class GuardEvalRequest:
    """An evaluation of a guard as it is requested: what is named in place of the recipe's and of the guard's own."""

    guard: str | None = None
    """Another guard in the model's place: `llama-guard:MODEL`, `moderation`, … ."""
    sets: Sequence[str] = ()
    """In place of all sets of the recipe: labels of some, or names of sources."""
    policy: str | None = None
    """In place of the guard's own, and of the sets'."""
    template: str | None = None
    """File with the prompt of `guard`, where it takes one."""
    samples: int = 1
    """Verdicts that vote on a row."""
    sampling: Sampling | None = None
    """In place of the guard's own."""
    limit: int | None = None
    """In place of the recipe's: most rows a set, drawn by the seed."""
    allow_missing: bool = False
    """Whether sets that cannot be had are left out; the metrics then name them."""


@dataclass(frozen=True)
class GuardEvalPlan:
    """A guard, the labelled sets to measure it on, and its policy, prompt and sampling."""

    sets: tuple[GuardSet, ...]
    limit: int | None
    """Most rows a set."""
    resamples: int
    model: ModelSpec | None
    """A run or a model with a guard prompt. None where `guard` is measured; with neither, the recipe's newest guard."""
    guard: GuardSpec | None
    """Another guard."""
    policy: str | None
    template: str | None
    """File with the prompt of `guard`, where it takes one."""
    samples: int
    sampling: Sampling | None


def plan_guard_eval(
    recipe: Recipe, model: ModelSpec | None, request: GuardEvalRequest = GuardEvalRequest()
) -> GuardEvalPlan:
    """Combines the recipe and the request.

    Args:
        recipe: Recipe with the sets.
        model: The model to measure; None where the request names another guard.
        request: The guard and the sets.

    Raises:
        InputError: There is no set, or no such set, policy or guard; or sets of one name have different policies.
    """
    if request.guard and model is not None:
        raise InputError("--guard and --model exclude each other; pass one of them")
    section = guard_eval_section(recipe)
    guard_sets = chosen_sets(recipe, request.sets)
    if not guard_sets:
        raise InputError(
            f"recipe {recipe.name}: it has no guard.eval section; add one, or name a source with --prompts"
        )
    check_one_policy_a_set(recipe, guard_sets)
    _check_template(request)
    for guard_set in guard_sets:
        sources.get(guard_set.source)  # Refuses an unknown name.
    if request.policy:
        policies.load(request.policy)
    guard = None
    if request.guard:
        guard = GuardSpec.parse(request.guard)
    if model is not None:
        # Last, since it may send a request to the Hub.
        model.check()
    return GuardEvalPlan(
        sets=tuple(guard_sets),
        limit=request.limit or section.limit,
        resamples=section.resamples,
        model=model,
        guard=guard,
        policy=request.policy,
        template=request.template,
        samples=request.samples,
        sampling=request.sampling,
    )


def _check_template(request: GuardEvalRequest) -> None:
    if not request.template:
        return
    # A recipe's own guard was trained with its template, so another one would not measure that guard.
    if not request.guard:
        raise InputError("--template: only another guard (--guard) takes one; a recipe has guard.prompt_template")
    if not Path(request.template).is_file():
        raise InputError(f"--template {request.template}: no such file; check the path")
