"""The guard of an evaluation: a model that is asked with a guard prompt, or another guard with a prompt of its own."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from safereason.engines.engine_spec import Loading
from safereason.engines.spec import ModelSpec
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard import policy as policies
from safereason.guard.base import Guard
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.open import GuardSpec, guard_prompt_of, open_with_prompt
from safereason.guard.others import GuardOptions
from safereason.recipe.schema import Recipe
from safereason.runs.manifest import sha256
from safereason.runs.records import Record
from safereason.stages.base import Options
from safereason.stages.guard_eval_plan import GuardEvalPlan
from safereason.stages.placement import place_alone
from safereason.stages.run_engine import RunEngine


@dataclass(frozen=True)
class MeasuredGuard:
    """A guard that is not opened yet, with everything that its verdicts depend on."""

    label: str
    """Its part of the run directory's name."""
    identity: str
    """Its part of the run's identity."""
    model: ModelSpec
    engine: RunEngine
    """The engine of its model."""
    prompt: Record
    """What it is asked with, in full: a policy's file may be edited, and the identity has to notice."""
    open: Callable[[], Guard]
    """Loads the model, or connects to the server."""


def measured_guard(recipe: Recipe, options: Options, plan: GuardEvalPlan) -> MeasuredGuard:
    """The guard of a plan that names one.

    Args:
        recipe: Recipe with the prompt of a model that has none of its own.
        options: Options with the precision and the address of a server.
        plan: The guard, and what is named in place of its own policy, prompt and sampling.

    Raises:
        InputError: The guard's model, its prompt or a policy cannot be read, or the GPU does not have the precision.
    """
    if plan.guard is not None:
        return _other_guard(options, plan, plan.guard)
    assert plan.model is not None
    return _model_as_guard(recipe, options, plan, plan.model)


def _other_guard(options: Options, plan: GuardEvalPlan, guard: GuardSpec) -> MeasuredGuard:
    """A guard that brings its prompt along: only a policy or a file is named in its place."""
    policy = None
    if plan.policy:
        policy = asdict(policies.load(plan.policy))
    template = None
    if plan.template:
        template = sha256(Path(plan.template))

    def open_other() -> Guard:
        loading = Loading(options.precision, place_alone(engine.spec, options, "eval guard").place)
        return guard.open(GuardOptions(options.base_url, plan.policy, plan.template, loading, plan.samples))

    # Its format is read token by token, as transformers gives them.
    engine = RunEngine.choose(guard.model, options, by_transformers=True)
    prompt: Record = {"policy": policy, "template": template}
    return MeasuredGuard(guard.label(), guard.identity(), guard.model, engine, prompt, open_other)


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

    engine = RunEngine.choose(model, options)

    def open_model() -> Guard:
        spec = place_alone(engine.spec, options, "eval guard")
        loading = Loading(spec.precision, spec.place)
        return open_with_prompt(
            spec.model, guard_prompt, base_url=options.base_url, samples=plan.samples, loading=loading
        )

    return MeasuredGuard(model.label(), model.identity(), model, engine, prompt, open_model)


def _recipe_guard_prompt(recipe: Recipe) -> GuardPrompt | None:
    if recipe.guard is None:
        return None
    return guard_prompts.of_section(recipe.guard)
