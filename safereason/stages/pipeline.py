"""Every stage of a recipe in a row: data, sft, rl, the evaluations of each model, and the report.

What is finished already is skipped, and what was interrupted is resumed; a stage counts as finished where its run has
the same identity. Only `overwrite` does work again.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from safereason.console import say
from safereason.errors import InputError
from safereason.recipe.schema import Recipe
from safereason.runs.directory import finished_runs
from safereason.stages import data, report, rl, sft
from safereason.stages import eval as evaluation
from safereason.stages.base import Options, Result

HEADLINE = {"harmbench": ("well_formed", "dsr"), "xstest": ("well_formed", "compliance_safe")}
"""The figures of each evaluation that say what training changed."""


def steps(recipe: Recipe) -> list[str]:
    """What `run` does, in order.

    Raises:
        InputError: The recipe has a section that `run` cannot do.
    """
    if recipe.guard is not None:
        raise InputError(f"recipe {recipe.name}: `run` does not train guards in this version yet; see CHANGELOG")
    training = [stage for stage in ("sft", "rl") if getattr(recipe, stage) is not None]
    measuring = [f"eval {name} of {model}" for model in ("base", *training) for name in _evals(recipe)]
    return ["data", *training, *measuring, "report"]


def run(recipe: Recipe, options: Options) -> Result:
    """Runs what `steps` lists.

    Returns:
        The report, with `report` (the page), `runs` (all run directories, by step) and `changes`: for each model
        (`base`, `sft`, `rl`) the headline figures with n and their 95 % intervals.
    """
    if options.on_existing == "refuse":
        options = replace(options, on_existing="resume")
    work = _Work(recipe, options)
    work.do("data", partial(data.run, recipe, options))
    models = {"base": recipe.model}
    for stage, train in (("sft", sft.run), ("rl", rl.run)):
        if stage in work.steps:
            models[stage] = str(work.do(stage, partial(train, recipe, options)).run)
    changes: dict[str, list[dict[str, Any]]] = {model: [] for model in models}
    for label, model in models.items():
        measured = replace(options, model=model)
        for name in _evals(recipe):
            done = work.do(f"eval {name} of {label}", partial(evaluation.run, recipe, measured, name))
            changes[label] += _headline(name, done.metrics)
    runs = {step: result.run for step, result in work.results.items()}
    page = work.do("report", partial(report.run, list(runs.values()), options, recipe.name))
    return Result(
        page.run,
        {"report": page.metrics["page"], "runs": {step: str(path) for step, path in runs.items()}, "changes": changes},
    )


class _Work:
    """Does steps one by one, says which one it is at, and keeps their results."""

    def __init__(self, recipe: Recipe, options: Options) -> None:
        self.steps = steps(recipe)
        self.results: dict[str, Result] = {}
        stages = ("data", "sft", "rl", *(f"eval/{name}" for name in HEADLINE))
        self._finished = {run for stage in stages for run in finished_runs(options.root, stage, recipe.name)}
        if options.on_existing == "overwrite":
            self._finished.clear()

    def do(self, step: str, work: Callable[[], Result]) -> Result:
        position = f"[{self.steps.index(step) + 1}/{len(self.steps)}] {step}"
        say(position)
        result = self.results[step] = work()
        say(f"{position}: {'finished before, skipped' if result.run in self._finished else 'done'}: {result.run}")
        return result


def _evals(recipe: Recipe) -> list[str]:
    sources = {"harmbench": recipe.eval.behaviors, "xstest": recipe.eval.benign} if recipe.eval else {}
    return [name for name, source in sources.items() if source]


def _headline(name: str, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    overall = {figure["name"]: figure for figure in metrics["figures"] if figure["group"] == "all"}
    return [{"eval": name, **overall[wanted]} for wanted in HEADLINE[name] if wanted in overall]
