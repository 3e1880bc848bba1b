"""Every stage of a recipe in a row: data, training, the evaluations of each model, and the report.

What is finished already is skipped, and what was interrupted is resumed; a stage counts as finished where its run has
the same identity. Only `overwrite` does work again. A guard that the recipe names as a judge by its own recipe
(`guard:RECIPE`) is trained first, where there is none.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from safereason import evals
from safereason.console import say
from safereason.recipe.load import load, shipped
from safereason.recipe.schema import Recipe, TarsReward
from safereason.runs.directory import finished_runs, read_metrics
from safereason.stages import data, guard, guard_eval, report, rl, sft, traces
from safereason.stages import eval as evaluation
from safereason.stages.base import GUARD_STAGES, Options, Result, named_guard, trained_guard
from safereason.stages.training_sources import TEACHER_STAGE, taught

HEADLINE = {
    **{name: ("well_formed", one.reports[0]) for name, one in evals.EVALS.items()},
    "guard": ("f1", "f1_always_unsafe", "unparsed"),
}
"""The figures of each evaluation that say what training changed."""

Train = Callable[[Recipe, Options], Result]


def steps(recipe: Recipe, *, base: bool = True) -> list[str]:
    """What `run` does, in order."""
    trained = [name for name, _ in _training(recipe)]
    models = ("base", *trained) if base else trained
    measuring = [f"eval {name} of {model}" for model in models for name in _evals(recipe)]
    guards = [f"guard {name}" for name in judging_guards(recipe)]
    return [*guards, *(["data traces"] if _has_teacher(recipe) else []), "data", *trained, *measuring, "report"]


def judging_guards(recipe: Recipe) -> list[str]:
    """The recipes whose guards judge in this one."""
    reward = recipe.rl.reward if recipe.rl else None
    judges = [reward.safety] if isinstance(reward, TarsReward) else []
    judges += [recipe.eval.harm_judge] if recipe.eval else []
    return list(dict.fromkeys(name for name in map(named_guard, judges) if name))


def run(recipe: Recipe, options: Options, *, base: bool = True) -> Result:
    """Runs what `steps` lists, the evaluations of the base model only where `base` says so.

    Returns:
        The report, with `report` (the page), `runs` (all run directories, by step) and `changes`: for each model
        (`base` and what was trained) the headline figures with n and their 95 % intervals.
    """
    if options.on_existing == "refuse":
        options = replace(options, on_existing="resume")
    work = _Work(recipe, options, steps(recipe, base=base))
    for name in judging_guards(recipe):
        work.do(f"guard {name}", partial(_guard_of, name, options))
    if _has_teacher(recipe):
        work.do("data traces", partial(traces.run, recipe, replace(options, model=None)))
    work.do("data", partial(data.run, recipe, options))
    models = {"base": recipe.model} if base else {}
    for stage, train in _training(recipe):
        start = replace(options, model=models.get("guard sft", options.model)) if stage == "guard rl" else options
        models[stage] = str(work.do(stage, partial(train, recipe, start)).run)
    changes: dict[str, list[dict[str, Any]]] = {model: [] for model in models}
    for label, model in models.items():
        measured = replace(options, model=model)
        for name, measure in _evals(recipe).items():
            done = work.do(f"eval {name} of {label}", partial(measure, recipe, measured))
            changes[label] += _headline(name, done.metrics)
    runs = {step: result.run for step, result in work.results.items()}
    page = work.do("report", partial(report.run, list(runs.values()), options, recipe.name))
    return Result(
        page.run,
        {"report": page.metrics["page"], "runs": {step: str(path) for step, path in runs.items()}, "changes": changes},
    )


class _Work:
    """Does steps one by one, says which one it is at, and keeps their results."""

    def __init__(self, recipe: Recipe, options: Options, steps: list[str]) -> None:
        self.steps = steps
        self.results: dict[str, Result] = {}
        stages = (TEACHER_STAGE, "data", "sft", "rl", *GUARD_STAGES, *(f"eval/{name}" for name in HEADLINE))
        names = (recipe.name, *judging_guards(recipe))
        self._finished = {run for stage in stages for name in names for run in finished_runs(options.root, stage, name)}
        if options.on_existing == "overwrite":
            self._finished.clear()

    def do(self, step: str, work: Callable[[], Result]) -> Result:
        position = f"[{self.steps.index(step) + 1}/{len(self.steps)}] {step}"
        say(position)
        result = self.results[step] = work()
        say(f"{position}: {'finished before, skipped' if result.run in self._finished else 'done'}: {result.run}")
        return result


def _guard_of(name: str, options: Options) -> Result:
    """The guard of another recipe, with its data; one of your own recipe has to be there."""
    if name not in (path.stem for path in shipped()):
        trained = trained_guard(name, options)
        return Result(trained, read_metrics(trained))
    recipe = load(name)
    theirs = replace(options, model=None, out=None)
    if _has_teacher(recipe):
        traces.run(recipe, theirs)
    data.run(recipe, theirs)
    return guard.run(recipe, theirs)


def _has_teacher(recipe: Recipe) -> bool:
    """Whether a teacher writes traces for it; where the recipe names none, they have to be there."""
    return recipe.data.teacher is not None and bool(taught(recipe))


def _training(recipe: Recipe) -> list[tuple[str, Train]]:
    """What is trained, by the step's name, in order."""
    section = recipe.guard
    found: dict[str, tuple[Any, Train]] = {
        "sft": (recipe.sft, sft.run),
        "rl": (recipe.rl, rl.run),
        "guard sft": (section and section.sft, guard.run_sft),
        "guard rl": (section and section.train, guard.run_rl),
    }
    return [(name, train) for name, (part, train) in found.items() if part is not None]


def _evals(recipe: Recipe) -> dict[str, Train]:
    """What is measured, by the evaluation's name."""
    section, guarded = recipe.eval, recipe.guard
    headline = [name for name in ("harmbench", "xstest") if section and evals.get(name).sources(section)]
    also = [evals.get(name).name for name in section.also] if section else []
    found: dict[str, Train] = {name: partial(_evaluate, name) for name in (*headline, *also)}
    if guarded is not None and guarded.eval is not None:
        found["guard"] = guard_eval.run
    return found


def _evaluate(name: str, recipe: Recipe, options: Options) -> Result:
    return evaluation.run(recipe, options, name)


def _headline(name: str, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    overall = {figure["name"]: figure for figure in metrics["figures"] if figure["group"] == "all"}
    return [{"eval": name, **overall[wanted]} for wanted in HEADLINE[name] if wanted in overall]
