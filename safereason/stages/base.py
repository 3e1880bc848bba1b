"""What every stage shares: where it writes, what its result depends on, and which model it starts from."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safereason import errors, processes
from safereason.errors import InputError, without_credentials
from safereason.recipe.load import reference_of, to_yaml
from safereason.recipe.schema import Recipe
from safereason.runs.directory import (
    OnExisting,
    RunDirectory,
    digest,
    finished_runs,
    is_finished,
    read_manifest,
    read_metrics,
    run_path,
)
from safereason.runs.manifest import sha256


@dataclass(frozen=True)
class Options:
    """Where a stage writes and what it does about what is there."""

    root: Path = Path("runs")
    """Folder that holds the runs."""
    out: Path | None = None
    """Exact run directory; by default one is named under `root`."""
    on_existing: OnExisting = "refuse"
    """What to do with a run directory that is not empty."""
    model: str | None = None
    """Model to start from or to measure, in place of the one the recipe leads to."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server, for `openai/…` models."""
    processes: int = field(default_factory=processes.count)
    """How many share the training, for a plan of it."""


@dataclass(frozen=True)
class Result:
    """What a stage made."""

    run: Path
    metrics: dict[str, Any]
    is_earlier: bool = field(default=False, compare=False)
    """Whether an earlier command made it, and this one only read it."""


def identity(recipe: Recipe, *sections: str, **inputs: Any) -> dict[str, Any]:
    """What a stage's result depends on, as the manifest holds it: the seed, the sections it reads, and named inputs."""
    chosen = {name: value for name, value in recipe.model_dump(mode="json").items() if name in sections}
    # Who asks a server is no part of the result, and a manifest is no place for a password.
    as_written = without_credentials(json.dumps({"seed": recipe.seed, **chosen, **inputs}))
    as_read_back: dict[str, Any] = json.loads(as_written)
    return as_read_back


def open_run(stage: str, recipe: Recipe, options: Options, model: str, identity: dict[str, Any]) -> RunDirectory:
    """The run directory of this stage, not yet entered."""
    processes.join()
    path = options.out or run_path(options.root, stage, recipe.name, model, identity)
    return RunDirectory(path, stage, recipe.name, to_yaml(recipe), identity, options.on_existing)


def finished_result(directory: RunDirectory) -> Result | None:
    """The result of a run that finished before, as it was; None where there is work to do.

    Raises:
        InputError: The directory holds something else, or a run that did not finish and is not resumed.
    """
    if not directory.is_done():
        return None
    return Result(directory.path, read_metrics(directory.path), is_earlier=True)


def advice(command: str, recipe: str, options: Options, *arguments: str) -> str:
    """A command for a message, that works where the one at hand does: on its recipe, among its runs.

    Args:
        command: Its words, such as `data build`.
        recipe: What `--recipe` takes.
        options: Where the runs are.
        *arguments: Further ones.
    """
    root = () if options.root == Options().root else ("--root", options.root)
    return errors.command(*command.split(), "--recipe", recipe, *root, *arguments)


def source_run(stage: str, recipe: Recipe, options: Options, expected: dict[str, Any]) -> Path:
    """The finished run of an earlier stage that belongs to this recipe: the one of this identity, else the newest.

    Raises:
        InputError: There is none; the message says which command makes it.
    """
    runs = finished_runs(options.root, stage, recipe.name)
    same = [run for run in runs if (read_manifest(run) or {}).get("identity") == expected]
    if not runs:
        raise InputError(
            f"no finished {stage} run of {recipe.name} under {options.root}/; "
            f"run {advice(COMMANDS[stage], recipe.reference, options)} first"
        )
    return (same or runs)[-1]


GUARD_STAGES = ("guard/rl", "guard/sft")
"""Stages that train a guard, the last to be done first."""


def trained_guard(recipe: str, options: Options, reference: str | None = None) -> Path:
    """The newest finished guard of the recipe of this name: by RL, else by SFT.

    Args:
        recipe: The recipe's name.
        options: Where the runs are.
        reference: What `--recipe` takes for it, where that is known.

    Raises:
        InputError: There is none; the message says which command makes it.
    """
    for stage in GUARD_STAGES:
        if runs := finished_runs(options.root, stage, recipe):
            return runs[-1]
    train = advice("guard train", reference or reference_of(recipe), options)
    raise InputError(f"no trained guard of {recipe} under {options.root}/; run {train} first")


def named_guard(judge: str) -> str | None:
    """The recipe whose guard the judge `guard:RECIPE` is; None for any other judge, a guard's run or model included."""
    name, _, argument = judge.partition(":")
    is_recipe = name == "guard" and argument and "/" not in argument and not Path(argument).exists()
    return argument if is_recipe else None


def resolved_judge(judge: str, options: Options) -> str:
    """The judge with `guard:RECIPE` turned into the run of that recipe's guard.

    Raises:
        InputError: That guard was not trained.
    """
    recipe = named_guard(judge)
    return judge if recipe is None else f"guard:{trained_guard(recipe, options)}"


def judge_identity(judge: str) -> str:
    """What a judge contributes to an identity: its name, its model where it has one, and what a rubric's file says."""
    name, colon, argument = judge.partition(":")
    if name == "rubric":
        from safereason.judges import rubric

        file, model = rubric.split(argument)
        content = sha256(Path(file)) if Path(file).is_file() else file  # which opening it refuses
        return f"rubric:{content}@{model_identity(model) if model else ''}"
    return f"{name}{colon}{model_identity(argument) if argument else ''}"


_INSIDE = "vllm/"
"""What stands before a model or a run that vLLM is to load: it draws otherwise."""


def model_label(spec: str) -> str:
    """A short name for a model in a run directory's name: a run is named by its stage, recipe and hash."""
    run = read_manifest(Path(spec.removeprefix(_INSIDE)))
    if run is not None:
        return f"{run['stage']}.{digest(run['identity'])}"
    return spec.rstrip("/").split("/")[-1]


def model_identity(spec: str) -> str:
    """What a model contributes to an identity: a run's stage, recipe and hash, or the name as given."""
    path = Path(spec.removeprefix(_INSIDE))
    run = read_manifest(path)
    if run is None:
        return spec
    if not is_finished(path):
        raise InputError(f"{spec}: this {run['stage']} run is not finished; resume it first")
    engine = _INSIDE if spec.startswith(_INSIDE) else ""
    return f"{engine}{run['stage']}/{run['recipe']}/{digest(run['identity'])}"


COMMANDS = {
    "data": "data build",
    "data/traces": "data traces",
    "sft": "sft",
    "rl": "rl",
    "guard/sft": "guard train",
    "guard/rl": "guard train",
}
