"""All stages of a recipe in a row: data, training, the evaluations of each model, and the report.

Finished steps are skipped and interrupted ones are resumed; a step counts as finished if its run has the same identity.
Only `overwrite` repeats work. If the recipe names another recipe's guard as a judge (`guard:RECIPE`), that guard is
trained first where it is missing.

A step that opens a model may be run elsewhere, in a process of its own, so that its memory is given back at its end.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from safereason import evals
from safereason.console import say
from safereason.engines.spec import EngineName, ModelSpec
from safereason.errors import InputError, StageFailed, did_you_mean
from safereason.judges import JudgeSpec
from safereason.recipe.load import load
from safereason.recipe.named import shipped
from safereason.recipe.schema import DPO, GRPO, SFT, Recipe, TarsRewardSettings
from safereason.runs.directory import finished_runs, read_metrics
from safereason.runs.records import Record
from safereason.stages import data, guard, guard_eval, report, rl, sft, traces
from safereason.stages import eval as evaluation
from safereason.stages.base import (
    GUARD_STAGES,
    Metrics,
    Options,
    Result,
    Unfinished,
    base_model,
    named_guard,
    run_model,
    trained_guard,
)
from safereason.stages.preparation.training_sources import TEACHER_STAGE, trace_sources

GUARD_SUMMARY = ("f1", "f1_always_unsafe", "unparsed")
"""Names of a guard's figures that the summary of a pipeline shows: those in which training shows."""
BASE = "base"
"""The name of the recipe's own model among those that are evaluated."""
REPORT = "report"
ENGINES: dict[EngineName, str] = {"hf": "transformers", "vllm": "vllm", "openai": "a server"}
"""The engines of models, in the words of a plan."""

RunStage = Callable[[Recipe, Options], Result]
"""A function that runs a stage of a recipe."""


@dataclass(frozen=True)
class Step:
    """One step of a recipe: a stage, and the model that it starts from or measures."""

    name: str
    run_stage: RunStage
    key: str | None = None
    """Dotted key of the section that is trained; None where nothing is."""
    evaluation: str | None = None
    """Name of the evaluation; None for other steps."""
    model: str | None = None
    """The step whose model this one takes, or `base`; None where the stage finds its model by itself."""
    engine: str | None = None
    """What draws completions in it; None where nothing does."""

    @property
    def opens_model(self) -> bool:
        """Whether it opens a model: all steps do but that of the data."""
        return self.run_stage is not data.build_data


StartStep = Callable[[Recipe, Step], None]
"""Runs a step of a recipe in a process of its own, and returns when its run is finished."""


def pipeline_steps(recipe: Recipe, *, base: bool = True) -> list[str]:
    """Names of the steps of `run_pipeline`, in order."""
    guards = [f"guard {name}" for name in judging_guards(recipe)]
    return [*guards, *(step.name for step in own_steps(recipe, base=base)), REPORT]


def own_steps(recipe: Recipe, *, base: bool = True) -> list[Step]:
    """The steps of `run_pipeline` in order, without the guards that judge and the report."""
    steps: list[Step] = []
    teacher = recipe.data.teacher
    if teacher is not None and _has_teacher(recipe):
        engine = ENGINES[ModelSpec.parse(teacher.model).engine or "hf"]
        steps.append(Step("data traces", _write_traces, engine=engine))
    steps.append(Step("data", data.build_data))
    trainings = training_steps(recipe)
    steps += trainings
    # All trainings come first, so that a mistake in one of them is found before hours of evaluation.
    models = [step.name for step in trainings]
    if base:
        models = [BASE, *models]
    for model in models:
        engine = ENGINES["hf"]
        if model == BASE:
            engine = ENGINES[base_model(recipe).engine or "hf"]
        for name, run_evaluation in _evaluations(recipe).items():
            steps.append(Step(f"eval {name} of {model}", run_evaluation, evaluation=name, model=model, engine=engine))
    return steps


def planned_placements(recipe: Recipe, options: Options) -> list[Record]:
    """The placements of a recipe's evaluations under attack and of answers, a row a model; none without GPUs.

    All models of a recipe are of one size, so that each evaluation is placed once. One whose judge is a guard that is
    trained on the way is left out: its size is that of its own recipe.

    Raises:
        InputError: A model does not fit the GPUs.
    """
    rows: list[Record] = []
    for name in dict.fromkeys(step.evaluation for step in own_steps(recipe)):
        if name is None or name == evals.GUARD.name:
            continue
        plan = evaluation.plan_eval(recipe, evaluation.EvalRequest(name))
        if plan.judge is not None and named_guard(plan.judge) is not None:
            continue
        for row in evaluation.planned_placements(recipe, plan, options):
            rows.append({**row, "work": f"{name}: {row['work']}"})
    return rows


def training_steps(recipe: Recipe) -> list[Step]:
    """The trainings of a recipe, in order."""
    steps: list[Step] = []
    if recipe.sft is not None:
        steps.append(Step("sft", sft.train_sft, "sft"))
    if recipe.rl is not None:
        steps.append(Step("rl", rl.train_rl, "rl", engine=_rollout_engine(recipe.rl)))
    if recipe.guard is None:
        return steps
    guard_start = None
    if recipe.guard.sft is not None:
        steps.append(Step("guard sft", guard.train_guard_sft, "guard.sft"))
        # Other trainings find their start model themselves; the RL of a guard takes the one it is given.
        guard_start = "guard sft"
    if recipe.guard.train is not None:
        engine = _rollout_engine(recipe.guard.train)
        steps.append(Step("guard rl", guard.train_guard_rl, "guard.train", model=guard_start, engine=engine))
    return steps


def guard_steps(recipe: Recipe) -> list[Step]:
    """The steps that make the guard of a recipe, in order: its data and its trainings."""
    steps: list[Step] = []
    for step in own_steps(recipe, base=False):
        trains_model = step.key is not None and not step.key.startswith("guard.")
        if step.evaluation is None and not trains_model:
            steps.append(step)
    return steps


def steps_with_model(recipe: Recipe) -> list[tuple[Recipe, Step]]:
    """All steps of `run_pipeline` that open a model, each with its recipe: those of guards that judge come first."""
    steps: list[tuple[Recipe, Step]] = []
    for name in judging_guards(recipe):
        if name in _shipped_names():
            guard_recipe = load(name)
            steps += [(guard_recipe, step) for step in guard_steps(guard_recipe)]
    steps += [(recipe, step) for step in own_steps(recipe)]
    return [(step_recipe, step) for step_recipe, step in steps if step.opens_model]


def unfinished_trainings(recipe: Recipe, options: Options) -> list[tuple[Recipe, Step]]:
    """The trainings that `run_pipeline` has yet to do, each with its recipe: those of guards that judge come first."""
    left: list[tuple[Recipe, Step]] = []
    for name in judging_guards(recipe):
        if name in _shipped_names():
            guard_recipe = load(name)
            trainings = [step for step in guard_steps(guard_recipe) if step.key is not None]
            left += _unfinished(guard_recipe, trainings, replace(options, model=None))
    return left + _unfinished(recipe, training_steps(recipe), options)


def judging_guards(recipe: Recipe) -> list[str]:
    """The recipes whose guards are judges in this one, each once."""
    judges = []
    if recipe.rl is not None and isinstance(recipe.rl.reward, TarsRewardSettings):
        judges.append(recipe.rl.reward.safety)
    if recipe.eval is not None:
        judges.append(recipe.eval.harm_judge)
    recipes: dict[str, None] = {}
    for judge in judges:
        name = named_guard(JudgeSpec.parse(judge))
        if name:
            recipes[name] = None
    return list(recipes)


def run_pipeline(recipe: Recipe, options: Options, *, base: bool = True, start: StartStep | None = None) -> Result:
    """Runs the steps of `pipeline_steps`; without `base` the base model is not evaluated.

    Args:
        recipe: The recipe.
        options: Where to write.
        base: Whether the base model is evaluated.
        start: Runs each step that opens a model in a process of its own; None runs all in this one.

    Returns:
        The report, with `report` (the page), `runs` (all run directories, by step) and `changes`: for each model
        (`base` and the trained ones) the headline figures with n and their 95 % intervals.
    """
    options = _going_on(options)
    pipeline = _Pipeline(recipe, options, pipeline_steps(recipe, base=base))
    for name in judging_guards(recipe):
        pipeline.show_step(f"guard {name}", partial(_train_judging_guard, name, options, start))
    changes: dict[str, list[Record]] = {}
    if base:
        changes[BASE] = []
    models = {BASE: base_model(recipe)}
    for step in own_steps(recipe, base=base):
        result = pipeline.show_step(step.name, partial(_result_of, recipe, step, options, models, start))
        if step.key is not None:
            models[step.name] = run_model(result.run)
            changes[step.name] = []
        if step.evaluation is not None and step.model is not None:
            changes[step.model] += _summary_figures(step.evaluation, result.metrics)
    runs: dict[str, Path] = {}
    paths: dict[str, str] = {}
    for name, result in pipeline.results.items():
        runs[name] = result.run
        paths[name] = str(result.run)
    page = pipeline.show_step(REPORT, partial(report.write_report, list(runs.values()), options, recipe.name))
    return Result(page.run, {"report": page.metrics["page"], "runs": paths, "changes": changes})


def run_step(recipe: Recipe, options: Options, step: Step) -> Result:
    """Runs one step of `own_steps` in this process, as `run_pipeline` does.

    Raises:
        InputError: The step takes the model of one that is not finished.
    """
    options = _going_on(options)
    models: dict[str, ModelSpec] = {}
    if step.model is not None:
        models[step.model] = _finished_model(recipe, options, step.model)
    return step.run_stage(recipe, _options_of(step, options, models))


def find_step(recipe: Recipe, name: str) -> Step:
    """The step of `own_steps` with this name.

    Raises:
        InputError: There is none.
    """
    steps = {step.name: step for step in own_steps(recipe)}
    if name not in steps:
        hint = did_you_mean(name, steps, f"its steps are {', '.join(steps)}")
        raise InputError(f"--step {name}: no such step of recipe {recipe.name}; {hint}")
    return steps[name]


def _finished_model(recipe: Recipe, options: Options, name: str) -> ModelSpec:
    """The model that a step starts from or measures: the base model, or the finished run of a training.

    Raises:
        InputError: The training is not finished.
    """
    if name == BASE:
        return base_model(recipe)
    step = find_step(recipe, name)
    models: dict[str, ModelSpec] = {}
    if step.model is not None:
        models[step.model] = _finished_model(recipe, options, step.model)
    result = _finished(recipe, step, replace(options, on_existing="resume"), models)
    if result is None:
        raise InputError(f"recipe {recipe.name}: its step {name} is not finished, and gives the model; run it first")
    return run_model(result.run)


class _Pipeline:
    """The steps of a recipe: it prints the step at hand and keeps the results."""

    def __init__(self, recipe: Recipe, options: Options, steps: list[str]) -> None:
        self.steps = steps
        self.results: dict[str, Result] = {}
        self._finished = set()
        if options.on_existing != "overwrite":
            self._finished = _finished_before(recipe, options)

    def show_step(self, step: str, work: Callable[[], Result]) -> Result:
        """Runs one step, with a line on its position before and one on its run after."""
        position = f"[{self.steps.index(step) + 1}/{len(self.steps)}] {step}"
        say(position)
        result = work()
        self.results[step] = result
        state = "done"
        if result.run in self._finished:
            state = "finished before, skipped"
        say(f"{position}: {state}: {result.run}")
        return result


def _going_on(options: Options) -> Options:
    """The options, with runs resumed that are not finished."""
    # Refusing is for single commands. Whoever runs a whole recipe again wants it to go on.
    if options.on_existing == "refuse":
        return replace(options, on_existing="resume")
    return options


def _options_of(step: Step, options: Options, models: Mapping[str, ModelSpec]) -> Options:
    """The options of a step's stage; `models` are those of earlier steps and the base model, by name."""
    if step.model is None:
        return options
    return replace(options, model=models[step.model])


def _result_of(
    recipe: Recipe, step: Step, options: Options, models: Mapping[str, ModelSpec], start: StartStep | None
) -> Result:
    """The result of a step that is run here, or by `start` where it opens a model and is not finished."""
    if start is None or not step.opens_model:
        return step.run_stage(recipe, _options_of(step, options, models))
    if options.on_existing != "overwrite":
        result = _finished(recipe, step, options, models)
        if result is not None:
            return result
    start(recipe, step)
    result = _finished(recipe, step, replace(options, on_existing="resume"), models)
    if result is None:
        raise StageFailed(f"{step.name}: its process ended without a finished run; run it again")
    return result


def _finished(recipe: Recipe, step: Step, options: Options, models: Mapping[str, ModelSpec]) -> Result | None:
    """The result of a step whose run is finished; None where it has work to do."""
    try:
        return step.run_stage(recipe, replace(_options_of(step, options, models), finished_only=True))
    except Unfinished:
        return None


def _finished_before(recipe: Recipe, options: Options) -> set[Path]:
    """All finished runs of the recipe and of its judging guards, when the pipeline starts."""
    stages = [TEACHER_STAGE, "data", "sft", "rl", *GUARD_STAGES]
    stages += [f"eval/{name}" for name in _evaluations(recipe)]
    runs: set[Path] = set()
    # The runs are listed once, at the start: later on the pipeline's own would be among them.
    for stage in stages:
        for name in (recipe.name, *judging_guards(recipe)):
            runs.update(finished_runs(options.root, stage, name))
    return runs


def _train_judging_guard(name: str, options: Options, start: StartStep | None) -> Result:
    """The guard of a shipped recipe, with its data. A guard of the user's own recipe has to be there."""
    if name not in _shipped_names():
        trained = trained_guard(name, options)
        return Result(trained, read_metrics(trained))
    recipe = load(name)
    if recipe.guard is None:
        raise InputError(f"recipe {name}: it has no guard section, so that no guard of it can judge; name another one")
    # The options name the model and the directory of the recipe at hand.
    guard_options = replace(options, model=None, out=None)
    models: dict[str, ModelSpec] = {}
    for step in guard_steps(recipe):
        result = _result_of(recipe, step, guard_options, models, start)
        models[step.name] = run_model(result.run)
    return result


def _shipped_names() -> list[str]:
    return [path.stem for path in shipped()]


def _unfinished(recipe: Recipe, steps: list[Step], options: Options) -> list[tuple[Recipe, Step]]:
    """The first of these trainings that is not finished, and all behind it, each with the recipe."""
    options = _going_on(options)
    models: dict[str, ModelSpec] = {}
    left: list[tuple[Recipe, Step]] = []
    for step in steps:
        result = None
        if not left and options.on_existing != "overwrite":
            # A mistake is for the step itself to tell: here a guard that judges may only be missing as yet.
            with suppress(InputError):
                result = _finished(recipe, step, options, models)
        if result is None:
            left.append((recipe, step))
        else:
            models[step.name] = run_model(result.run)
    return left


def _write_traces(recipe: Recipe, options: Options) -> Result:
    # `options.model` is the model to train, and not the teacher.
    return traces.write_traces(recipe, replace(options, model=None))


def _rollout_engine(section: SFT | GRPO | DPO) -> str:
    """What draws the rollouts of an RL."""
    if isinstance(section, GRPO) and section.rollouts != "engine":
        return section.rollouts
    return ENGINES["hf"]


def _has_teacher(recipe: Recipe) -> bool:
    """Whether the pipeline has a teacher write traces. Without a named teacher the traces have to be there."""
    return recipe.data.teacher is not None and bool(trace_sources(recipe))


def _evaluations(recipe: Recipe) -> dict[str, RunStage]:
    """The evaluations of each model, by name."""
    evaluations: dict[str, RunStage] = {}
    section = recipe.eval
    if section is not None:
        for name in ("harmbench", "xstest", *section.also):
            named = evals.get(name)
            # A recipe leaves one of the first two out by setting its source to null.
            if name in section.also or named.sources(section):
                evaluations[named.name] = partial(_run_evaluation, named.name)
    if recipe.guard is not None and recipe.guard.eval is not None:
        evaluations[evals.GUARD.name] = guard_eval.run_guard_eval
    return evaluations


def _run_evaluation(name: str, recipe: Recipe, options: Options) -> Result:
    return evaluation.run_eval(recipe, options, evaluation.EvalRequest(name))


def _summary_figures(name: str, metrics: Metrics) -> list[Record]:
    """The figures of an evaluation that the summary shows, over all its prompts."""
    overall = {figure["name"]: figure for figure in metrics["figures"] if figure["group"] == "all"}
    headlines = []
    names: tuple[str, ...] = GUARD_SUMMARY
    if name != evals.GUARD.name:
        names = ("well_formed", evals.get(name).reports[0].name)
    for headline in names:
        # A figure is missing where no prompt of its kind was evaluated.
        if headline in overall:
            headlines.append({"eval": name, **overall[headline]})
    return headlines
