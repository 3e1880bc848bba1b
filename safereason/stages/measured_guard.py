"""The guard of an evaluation: a model that is asked with a guard prompt, or another guard with a prompt of its own."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from safereason.engines.open import precision_here
from safereason.engines.spec import ModelSpec
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard import policy as policies
from safereason.guard.base import Guard
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.open import GuardSpec, guard_prompt_of, open_with_prompt
from safereason.guard.others import GuardOptions
from safereason.recipe.schema import Precision, Recipe
from safereason.runs.manifest import sha256
from safereason.runs.records import Record
from safereason.stages.base import Options
from safereason.stages.guard_eval_plan import GuardEvalPlan


@dataclass(frozen=True)
class MeasuredGuard:
    """A guard that is not opened yet, with everything that its verdicts depend on."""

    label: str
    """Its part of the run directory's name."""
    identity: str
    """Its part of the run's identity."""
    model: ModelSpec
    prompt: Record
    """What it is asked with, in full: a policy's file may be edited, and the identity has to notice."""
    open: Callable[[], Guard]
    """Loads the model, or connects to the server."""


def measured_guard(recipe: Recipe, options: Options, plan: GuardEvalPlan) -> MeasuredGuard:
    """The guard of a plan that names one.

    Args:
        recipe: Recipe with the precision, and with the prompt of a model that has none of its own.
        options: Options with the address of a server.
        plan: The guard, and what is named in place of its own policy, prompt and sampling.

    Raises:
        InputError: The guard's model, its prompt or a policy cannot be read.
    """
    if plan.guard is not None:
        return _other_guard(recipe, options, plan, plan.guard)
    assert plan.model is not None
    return _model_as_guard(recipe, options, plan, plan.model)


def _other_guard(recipe: Recipe, options: Options, plan: GuardEvalPlan, guard: GuardSpec) -> MeasuredGuard:
    """A guard that brings its prompt along: only a policy or a file is named in its place."""
    policy = None
    if plan.policy:
        policy = asdict(policies.load(plan.policy))
    template = None
    if plan.template:
        template = sha256(Path(plan.template))

    def open_other() -> Guard:
        precision = precision_here(_trained_precision(recipe))
        return guard.open(GuardOptions(options.base_url, plan.policy, plan.template, precision, plan.samples))

    return MeasuredGuard(
        guard.label(), guard.identity(), guard.model, {"policy": policy, "template": template}, open_other
    )


def _model_as_guard(recipe: Recipe, options: Options, plan: GuardEvalPlan, model: ModelSpec) -> MeasuredGuard:
    """A run of `guard train`, or another model, with its own prompt or the recipe's."""
    guard_prompt = guard_prompt_of(
        model, policy=plan.policy, sampling=plan.sampling, otherwise=_recipe_guard_prompt(recipe)
    )
    set_policies = {}
    # A policy on the command line goes before those of the sets.
    if not plan.policy:
        for guard_set in plan.sets:
            if guard_set.policy:
                set_policies[guard_set.label] = asdict(policies.load(guard_set.policy))
    prompt = {**guard_prompt.document(), "policies": set_policies}

    def open_model() -> Guard:
        precision = precision_here(_trained_precision(recipe))
        return open_with_prompt(
            model, guard_prompt, base_url=options.base_url, samples=plan.samples, precision=precision
        )

    return MeasuredGuard(model.label(), model.identity(), model, prompt, open_model)


def _recipe_guard_prompt(recipe: Recipe) -> GuardPrompt | None:
    if recipe.guard is None:
        return None
    return guard_prompts.of_section(recipe.guard)


def _trained_precision(recipe: Recipe) -> Precision:
    """The precision of the guard's training; fp32 where nothing was trained."""
    if recipe.guard is None:
        return "fp32"
    section = recipe.guard.train or recipe.guard.sft
    # The schema asks for one of the two, and mypy does not know.
    if section is None:
        return "fp32"
    return section.precision
