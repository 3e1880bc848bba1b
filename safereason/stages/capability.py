"""Stage `eval/capability`: a model's remaining abilities, by tasks of lm-evaluation-harness.

`replies.jsonl` holds the record of each request, so that a resumed run repeats none; `metrics.json` holds the harness's
figures with intervals.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.evals import capability
from safereason.evals.base import eval_section
from safereason.evals.metrics import Figure, share
from safereason.recipe.schema import Evaluation, Recipe
from safereason.runs.manifest import sha256
from safereason.runs.records import Record, keep_records, read_records
from safereason.stages.base import (
    Identity,
    Options,
    Result,
    finished_result,
    given_inputs,
    run_identity,
)
from safereason.stages.contents import contents
from safereason.stages.placement import place_alone
from safereason.stages.resolve_model import model_of
from safereason.stages.run_engine import RunEngine, noted_engine

LOG = "replies"


@dataclass(frozen=True)
class CapabilityRequest:
    """A measurement as it is requested: its tasks, and what is named in place of theirs or the recipe's."""

    tasks: Sequence[str] = ()
    """Names of tasks, as the harness has them; by default `capability.TASKS`."""
    include: Path | None = None
    """Folder with further tasks, whose YAML files the harness reads and whose code it runs."""
    shots: int | None = None
    """Examples in a prompt, in place of a task's own number."""
    limit: int | None = None
    """In place of the recipe's: items of each task, from its first on."""


@dataclass(frozen=True)
class CapabilityPlan:
    """Tasks of the harness, and how many items of each."""

    section: Evaluation
    tasks: tuple[str, ...]
    include: Path | None
    """Folder of further tasks."""
    shots: int | None
    limit: int | None
    """Number of items of each task, from its first on."""


def run_capability(recipe: Recipe, options: Options, request: CapabilityRequest = CapabilityRequest()) -> Result:
    """Measures `options.model`, else the recipe's newest finished rl run, else its sft run.

    Args:
        recipe: Recipe whose `eval` section has the sampling and the generation prefix.
        options: Where to write, and the model.
        request: The tasks.

    Raises:
        InputError: The harness, a task, its data or the model cannot be had.
        StageFailed: Completions failed; `--resume` tries those again.
    """
    plan = plan_capability(recipe, request)
    model = model_of(recipe, options)
    model.check()
    # Some tasks compare likelihoods.
    engine = RunEngine.choose(model, options, by_transformers=True)
    identity = _capability_identity(recipe, plan, model, options)
    directory = engine.open_run("eval/capability", recipe, options, model.label(), identity)
    if (result := finished_result(directory)) is not None:
        return result
    from safereason.evals import harness

    # The tasks come first: loading them finds mistakes in seconds, and a model may take minutes.
    loaded = harness.load(plan.tasks, plan.include, plan.shots)
    engine.begin(directory.path)
    opened = place_alone(engine.spec, options, "eval capability").open()
    with directory as this:
        engine.note(this.path)
        # Failed requests are recorded too, and a resumed run repeats them.
        keep_records(this.path / f"{LOG}.jsonl", lambda record: "error" not in record)
        with this.records(LOG) as log:
            recorded_model = harness.EngineModel(opened, plan.section, recipe.seed, log)
            results = harness.measure(recorded_model, loaded, plan.limit)
        # The harness knows nothing of reasoning, so its form is measured from the records.
        figures = [*capability.figures(results), *_format_figures(log.path)]
        metrics = {
            "eval": "capability",
            "model": model.identity(),
            "recipe": recipe.name,
            "tasks": list(plan.tasks),
            "lm_eval": identity["lm_eval"],
            "versions": results["versions"],
            "shots": results["n-shot"],
            "prefix": plan.section.prefix,
            "limit": plan.limit,
            **noted_engine(this.path),
            "figures": [asdict(figure) for figure in figures],
        }
        this.finish(metrics)
    return Result(directory.path, metrics)


def plan_capability(recipe: Recipe, request: CapabilityRequest = CapabilityRequest()) -> CapabilityPlan:
    """Combines the recipe and the request.

    Raises:
        InputError: The harness is not installed, the recipe has no `eval` section, or there is no such folder.
    """
    # The harness is an optional dependency.
    capability.check_installed()
    section = eval_section(recipe)
    include = request.include
    if include is not None and not include.is_dir():
        raise InputError(f"--include {include}: no such folder; name one that holds lm-eval tasks")
    # A task that is named twice is measured once.
    tasks = tuple(dict.fromkeys(request.tasks)) or capability.TASKS
    return CapabilityPlan(section, tasks, include, request.shots, request.limit or section.limit)


def _capability_identity(recipe: Recipe, plan: CapabilityPlan, model: ModelSpec, options: Options) -> Identity:
    return run_identity(
        recipe,
        model=model.identity(),
        eval="capability",
        tasks=list(plan.tasks),
        shots=plan.shots,
        limit=plan.limit,
        sampling=plan.section.sampling.model_dump(mode="json"),
        prefix=plan.section.prefix,
        # Another version of the harness may read the same answer otherwise.
        lm_eval=version("lm_eval"),
        include=_task_file_hashes(plan.include),
        **given_inputs(base_url=options.base_url),
        **contents(models=[model]),
    )


def _task_file_hashes(folder: Path | None) -> dict[str, str]:
    """Hashes of all files in a folder of tasks: a task's YAML file may load others."""
    hashes: dict[str, str] = {}
    if folder is None:
        return hashes
    for path in sorted(folder.rglob("*")):
        # Python writes its caches when the harness imports a task's code.
        if path.is_file() and "__pycache__" not in path.parts:
            hashes[str(path)] = sha256(path)
    return hashes


def _format_figures(path: Path) -> list[Figure]:
    """The share of completions with closed reasoning, and of those that reached the token limit, by task."""
    records_by_task: dict[str, list[Record]] = {}
    for record in read_records(path):
        # Requests for a likelihood have no answer.
        if "answer" in record:
            records_by_task.setdefault(record["task"], []).append(record)
    closed = []
    truncated = []
    for task, records in records_by_task.items():
        closed.append(share("closed", [bool(record["closed"]) for record in records], task))
        truncated.append(share("truncated", [record["finish_reason"] == "length" for record in records], task))
    return [*closed, *truncated]
