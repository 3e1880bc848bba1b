"""All stages of a recipe in a row: data, training, the evaluations of each model, and the report.

Finished steps are skipped and interrupted ones are resumed; a step counts as finished if its run has the same identity.
Only `overwrite` repeats work. If the recipe names another recipe's guard as a judge (`guard:RECIPE`), that guard is
trained first where it is missing.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from safereason import evals
from safereason.console import say
from safereason.recipe.load import load, shipped
from safereason.recipe.schema import Recipe, TarsRewardSettings
from safereason.runs.directory import finished_runs, read_metrics
from safereason.runs.records import Record
from safereason.stages import data, guard, guard_eval, report, rl, sft, traces
from safereason.stages import eval as evaluation
from safereason.stages.base import GUARD_STAGES, Metrics, Options, Result, named_guard, trained_guard
from safereason.stages.preparation.training_sources import TEACHER_STAGE, trace_sources

GUARD_HEADLINE = ("f1", "f1_always_unsafe", "unparsed")
"""Names of the figures of a guard that show the effect of training."""

RunStage = Callable[[Recipe, Options], Result]
"""A function that runs a stage of a recipe."""


def pipeline_steps(recipe: Recipe, *, base: bool = True) -> list[str]:
    """Names of the steps of `run_pipeline`, in order."""
    trained = list(_training_steps(recipe))
    steps = []
    for name in judging_guards(recipe):
        steps.append(f"guard {name}")
    if _has_teacher(recipe):
        steps.append("data traces")
    steps += ["data", *trained]
    models = trained
    if base:
        models = ["base", *trained]
    for model in models:
        for name in _evaluations(recipe):
            steps.append(f"eval {name} of {model}")
    return [*steps, "report"]


def judging_guards(recipe: Recipe) -> list[str]:
    """The recipes whose guards are judges in this one, each once."""
    judges = []
    if recipe.rl is not None and isinstance(recipe.rl.reward, TarsRewardSettings):
        judges.append(recipe.rl.reward.safety)
    if recipe.eval is not None:
        judges.append(recipe.eval.harm_judge)
    recipes: dict[str, None] = {}
    for judge in judges:
        name = named_guard(judge)
        if name:
            recipes[name] = None
    return list(recipes)


def run_pipeline(recipe: Recipe, options: Options, *, base: bool = True) -> Result:
    """Runs the steps of `pipeline_steps`; without `base` the base model is not evaluated.

    Returns:
        The report, with `report` (the page), `runs` (all run directories, by step) and `changes`: for each model
        (`base` and the trained ones) the headline figures with n and their 95 % intervals.
    """
    # Refusing is for single commands. Whoever runs a whole recipe again wants it to go on.
    if options.on_existing == "refuse":
        options = replace(options, on_existing="resume")
    pipeline = _Pipeline(recipe, options, pipeline_steps(recipe, base=base))
    for name in judging_guards(recipe):
        pipeline.run_step(f"guard {name}", partial(_train_judging_guard, name, options))
    if _has_teacher(recipe):
        # `options.model` is the model to train, and not the teacher.
        pipeline.run_step("data traces", partial(traces.write_traces, recipe, replace(options, model=None)))
    pipeline.run_step("data", partial(data.build_data, recipe, options))
    models = _train_models(pipeline, recipe, options)
    if base:
        models = {"base": recipe.model, **models}
    changes: dict[str, list[Record]] = {}
    # All trainings come first, so that a mistake in one of them is found before hours of evaluation.
    for label, model in models.items():
        changes[label] = []
        measured = replace(options, model=model)
        for name, run_evaluation in _evaluations(recipe).items():
            done = pipeline.run_step(f"eval {name} of {label}", partial(run_evaluation, recipe, measured))
            changes[label] += _headline_figures(name, done.metrics)
    runs: dict[str, Path] = {}
    paths: dict[str, str] = {}
    for step, result in pipeline.results.items():
        runs[step] = result.run
        paths[step] = str(result.run)
    page = pipeline.run_step("report", partial(report.write_report, list(runs.values()), options, recipe.name))
    return Result(page.run, {"report": page.metrics["page"], "runs": paths, "changes": changes})


class _Pipeline:
    """The steps of a recipe: it prints the step at hand and keeps the results."""

    def __init__(self, recipe: Recipe, options: Options, steps: list[str]) -> None:
        self.steps = steps
        self.results: dict[str, Result] = {}
        self._finished = set()
        if options.on_existing != "overwrite":
            self._finished = _finished_before(recipe, options)

    def run_step(self, step: str, work: Callable[[], Result]) -> Result:
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


def _train_models(pipeline: _Pipeline, recipe: Recipe, options: Options) -> dict[str, str]:
    """Runs all trainings of the recipe; returns the trained models by step."""
    models: dict[str, str] = {}
    for step, train in _training_steps(recipe).items():
        start = options
        if step == "guard rl":
            # Other trainings find their start model themselves; the RL of a guard takes the one it is given.
            start = replace(options, model=models.get("guard sft", options.model))
        models[step] = str(pipeline.run_step(step, partial(train, recipe, start)).run)
    return models


def _train_judging_guard(name: str, options: Options) -> Result:
    """The guard of a shipped recipe, with its data. A guard of the user's own recipe has to be there."""
    shipped_names = [path.stem for path in shipped()]
    if name not in shipped_names:
        trained = trained_guard(name, options)
        return Result(trained, read_metrics(trained))
    recipe = load(name)
    # The options name the model and the directory of the recipe at hand.
    guard_options = replace(options, model=None, out=None)
    if _has_teacher(recipe):
        traces.write_traces(recipe, guard_options)
    data.build_data(recipe, guard_options)
    return guard.train_guard(recipe, guard_options)


def _has_teacher(recipe: Recipe) -> bool:
    """Whether the pipeline has a teacher write traces. Without a named teacher the traces have to be there."""
    return recipe.data.teacher is not None and bool(trace_sources(recipe))


def _training_steps(recipe: Recipe) -> dict[str, RunStage]:
    """The trainings of a recipe by step, in order."""
    steps: dict[str, RunStage] = {}
    if recipe.sft is not None:
        steps["sft"] = sft.train_sft
    if recipe.rl is not None:
        steps["rl"] = rl.train_rl
    if recipe.guard is not None and recipe.guard.sft is not None:
        steps["guard sft"] = guard.train_guard_sft
    if recipe.guard is not None and recipe.guard.train is not None:
        steps["guard rl"] = guard.train_guard_rl
    return steps


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


def _headline_figures(name: str, metrics: Metrics) -> list[Record]:
    """The headline figures of an evaluation over all its prompts."""
    overall = {figure["name"]: figure for figure in metrics["figures"] if figure["group"] == "all"}
    headlines = []
    names: tuple[str, ...] = GUARD_HEADLINE
    if name != evals.GUARD.name:
        names = ("well_formed", evals.get(name).reports[0].name)
    for headline in names:
        # A figure is missing where no prompt of its kind was evaluated.
        if headline in overall:
            headlines.append({"eval": name, **overall[headline]})
    return headlines
