"""Stage `eval/capability`: what a model can still do, by tasks of lm-evaluation-harness.

`replies.jsonl` holds what the model said to each request, so that a resumed run asks for none twice; `metrics.json`
holds the harness's figures with intervals.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safereason.engines.open import check_name, open_engine
from safereason.errors import InputError
from safereason.evals import capability
from safereason.evals.metrics import Figure, share
from safereason.recipe.schema import Evaluation, Recipe
from safereason.runs.manifest import sha256
from safereason.runs.records import keep_records, read_records
from safereason.stages.base import (
    Options,
    Result,
    finished_result,
    identity,
    model_identity,
    model_label,
    open_run,
)
from safereason.stages.contents import contents
from safereason.stages.trained import model_of, precision_of

LOG = "replies"


@dataclass(frozen=True)
class Plan:
    """What is measured, and on how much."""

    section: Evaluation
    tasks: tuple[str, ...]
    include: Path | None
    """Folder of further tasks."""
    shots: int | None
    limit: int | None
    """First items of each task."""


def run(
    recipe: Recipe,
    options: Options,
    *,
    tasks: Sequence[str] = (),
    include: Path | None = None,
    shots: int | None = None,
    limit: int | None = None,
) -> Result:
    """Measures `options.model`, else the recipe's newest finished rl run, else its sft run.

    Args:
        recipe: Its `eval` section says how completions are drawn and what they begin with.
        options: Where to write, and the model.
        tasks: By the harness's names; by default `capability.TASKS`.
        include: Folder with further tasks, whose YAML files the harness reads and whose code it runs.
        shots: Examples a prompt shows, in place of a task's own number.
        limit: In place of the recipe's: items of each task, from its first on.

    Raises:
        InputError: The harness, a task, its data or the model cannot be had.
        StageFailed: Completions could not be had; `--resume` asks again.
    """
    plan = make_plan(recipe, tasks, include, shots, limit)
    model = model_of(recipe, options)
    check_name(model)
    about = _identity(recipe, plan, model, options)
    directory = open_run("eval/capability", recipe, options, model_label(model), about)
    if (result := finished_result(directory)) is not None:
        return result
    from safereason.evals import harness

    loaded = harness.load(plan.tasks, plan.include, plan.shots)
    engine = open_engine(model, base_url=options.base_url, precision=precision_of(recipe))
    with directory as this:
        keep_records(this.path / f"{LOG}.jsonl", lambda record: "error" not in record)
        with this.records(LOG) as log:
            found = harness.measure(harness.EngineModel(engine, plan.section, recipe.seed, log), loaded, plan.limit)
        figures = [*capability.figures(found), *_form(log.path)]
        metrics = {
            "eval": "capability",
            "model": model_identity(model),
            "recipe": recipe.name,
            "tasks": list(plan.tasks),
            "lm_eval": about["lm_eval"],
            "versions": found["versions"],
            "shots": found["n-shot"],
            "prefix": plan.section.prefix,
            "limit": plan.limit,
            "figures": [asdict(figure) for figure in figures],
        }
        this.finish(metrics)
    return Result(directory.path, metrics)


def make_plan(recipe: Recipe, tasks: Sequence[str], include: Path | None, shots: int | None, limit: int | None) -> Plan:
    """Puts the recipe and the command line together, as `run` does; arguments as there.

    Raises:
        InputError: The harness is not installed, the recipe has no `eval` section, or there is no such folder.
    """
    capability.check_installed()
    if recipe.eval is None:
        raise InputError(f"recipe {recipe.name}: it has no eval section; add one")
    if include is not None and not include.is_dir():
        raise InputError(f"--include {include}: no such folder; name one that holds lm-eval tasks")
    named = tuple(dict.fromkeys(tasks)) or capability.TASKS
    return Plan(recipe.eval, named, include, shots, limit or recipe.eval.limit)


def _identity(recipe: Recipe, plan: Plan, model: str, options: Options) -> dict[str, Any]:
    inside = sorted(plan.include.rglob("*")) if plan.include else []
    files = [path for path in inside if path.is_file() and "__pycache__" not in path.parts]
    return identity(
        recipe,
        model=model_identity(model),
        eval="capability",
        tasks=list(plan.tasks),
        shots=plan.shots,
        limit=plan.limit,
        sampling=plan.section.sampling.model_dump(mode="json"),
        prefix=plan.section.prefix,
        lm_eval=version("lm_eval"),
        include={str(path): sha256(path) for path in files},
        **({"base_url": options.base_url} if options.base_url else {}),
        **contents(models=[model]),
    )


def _form(path: Path) -> list[Figure]:
    """Of the completions, the share that closed its reasoning and the share that ran into the token limit, by task."""
    replies: dict[str, list[dict[str, Any]]] = {}
    for record in read_records(path):
        if "answer" in record:
            replies.setdefault(record["task"], []).append(record)
    closed = [share("closed", [bool(r["closed"]) for r in members], task) for task, members in replies.items()]
    cut = [
        share("truncated", [r["finish_reason"] == "length" for r in members], task) for task, members in replies.items()
    ]
    return [*closed, *cut]
