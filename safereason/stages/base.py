"""The parts that every stage shares: options, results, identities, and the runs that a stage starts from."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from safereason import errors, processes
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError, without_credentials
from safereason.guard.open import GuardSpec
from safereason.judges import JudgeSpec
from safereason.recipe.load import to_yaml
from safereason.recipe.named import reference_of
from safereason.recipe.schema import PLACEMENT, Precision, Recipe
from safereason.runs.directory import Metrics as Metrics
from safereason.runs.directory import (
    OnExisting,
    RunDirectory,
    finished_runs,
    read_manifest,
    read_metrics,
    run_path,
)
from safereason.runs.records import Record
from safereason.stages.own_names import with_own_names

if TYPE_CHECKING:
    from safereason.training.fit import Gpus

Identity = dict[str, object]
"""Everything that a run's result depends on, as its manifest holds it."""
Outline = Record
"""The plan of a stage as `--dry-run` prints it: figures and settings by name."""


@dataclass(frozen=True)
class Options:
    """The command-line options that stages share: where to write, and the model."""

    root: Path = Path("runs")
    """Folder that holds the runs."""
    out: Path | None = None
    """Exact run directory; by default one is named under `root`."""
    on_existing: OnExisting = "refuse"
    """Treatment of a run directory that is not empty."""
    model: ModelSpec | None = None
    """Model to start from or to measure, in place of the recipe's own."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server, for `openai/…` models."""
    precision: Precision | None = None
    """Arithmetic of models that run here and are not trained; None is bf16 on a GPU that has it, else fp32."""
    gpus: int | None = None
    """Most GPUs that the work is shared out to; None takes all."""
    planned_gpus: "Gpus | None" = None
    """GPUs to plan for, in place of those of this machine, on a dry run."""
    processes: int = field(default_factory=processes.count)
    """Number of processes that share the training, for its plan."""
    finished_only: bool = False
    """Whether a stage only reads its finished run, and raises `Unfinished` where there is work to do."""


class Unfinished(Exception):
    """A stage has work to do, and was to read its finished run only."""


@dataclass(frozen=True)
class Result:
    """A stage's run directory and its metrics."""

    run: Path
    metrics: Metrics
    is_earlier: bool = field(default=False, compare=False)
    """Whether an earlier command made the run, and this one only read it."""


def run_identity(recipe: Recipe, *sections: str, **inputs: object) -> Identity:
    """The identity of a stage's run: the seed, the recipe's sections that it reads, and named inputs."""
    # Where a training is computed is no part of its result, so that a run goes on after a change of that.
    chosen = with_own_names(recipe, sections).model_dump(
        mode="json", include=set(sections), exclude={"sft": PLACEMENT, "rl": PLACEMENT}
    )
    # The user of a server does not change the result, and a manifest must not hold a password.
    as_written = without_credentials(json.dumps({"seed": recipe.seed, **chosen, **inputs}))
    # Tuples come back as lists, so that this compares equal to an identity that was read from a manifest.
    as_read_back: Identity = json.loads(as_written)
    return as_read_back


def given_inputs(**inputs: object) -> dict[str, object]:
    """The inputs that are set, for an identity.

    An identity leaves out what is not set. An option that is added later then changes no older run's hash.
    """
    return {name: value for name, value in inputs.items() if value}


def open_run(stage: str, recipe: Recipe, options: Options, model: str, identity: Identity) -> RunDirectory:
    """The run directory of this stage, not yet entered.

    Raises:
        Unfinished: Only a finished run was to be read, and this one is not finished.
    """
    # The directory makes all processes of a training wait for each other, so each has to join the others first.
    processes.join()
    # The hash in the name lets runs with other settings lie side by side.
    path = options.out or run_path(options.root, stage, recipe.name, model, identity)
    directory = RunDirectory(path, stage, recipe.name, to_yaml(recipe), identity, options.on_existing)
    if options.finished_only and not directory.is_done():
        raise Unfinished(str(path))
    return directory


def finished_result(directory: RunDirectory) -> Result | None:
    """The result of a run that finished before; None where there is work to do.

    Raises:
        InputError: The directory holds something else, or a run that did not finish and is not resumed.
    """
    if not directory.is_done():
        return None
    return Result(directory.path, read_metrics(directory.path), is_earlier=True)


def advice(command: str, recipe: str, options: Options, *arguments: str) -> str:
    """A command to show in a message, with the recipe and the root of the command at hand.

    Args:
        command: The command's words, such as `data build`.
        recipe: The value for `--recipe`.
        options: Options whose root is named where it is not the default.
        *arguments: Further arguments of the command.
    """
    words: list[str | Path] = [*command.split(), "--recipe", recipe]
    if options.root != Options().root:
        words += ["--root", options.root]
    return errors.command(*words, *arguments)


def source_run(stage: str, recipe: Recipe, options: Options, expected: Identity) -> Path:
    """The finished run of an earlier stage of this recipe: one of this identity, else the newest.

    Raises:
        InputError: There is none; the message says which command makes it.
    """
    runs = finished_runs(options.root, stage, recipe.name)
    # A run of other settings will do: a person may train on data that was built with an override.
    if not runs:
        raise InputError(
            f"no finished {stage} run of {recipe.name} under {options.root}/; "
            f"run {advice(COMMANDS[stage], recipe.reference, options)} first"
        )
    same = [run for run in runs if (read_manifest(run) or {}).get("identity") == expected]
    return (same or runs)[-1]


GUARD_STAGES = ("guard/rl", "guard/sft")
"""Stages that train a guard, the last step of a training first."""


def trained_guard(recipe: str, options: Options, reference: str | None = None) -> Path:
    """The newest finished guard of a recipe: by RL, else by SFT.

    Args:
        recipe: The recipe's name.
        options: Options with the root of the runs.
        reference: The recipe as `--recipe` takes it; worked out from the name by default.

    Raises:
        InputError: There is none; the message says which command makes it.
    """
    # RL starts from the SFT run, so its guard is the later one.
    for stage in GUARD_STAGES:
        if runs := finished_runs(options.root, stage, recipe):
            return runs[-1]
    train = advice("guard train", reference or reference_of(recipe), options)
    raise InputError(f"no trained guard of {recipe} under {options.root}/; run {train} first")


def base_model(recipe: Recipe) -> ModelSpec:
    """The recipe's own model, which its first training starts from."""
    return ModelSpec.parse(recipe.model)


def run_model(run: Path) -> ModelSpec:
    """The model that a run holds."""
    return ModelSpec(str(run))


def named_guard(judge: JudgeSpec) -> str | None:
    """The recipe of the judge `guard:RECIPE`; None for any other judge, including a guard's run or model."""
    guard = judge.argument
    if judge.name != "guard" or not isinstance(guard, GuardSpec) or guard.name:
        return None
    # A folder wins over a recipe of the same name.
    is_path_or_hub_id = "/" in guard.argument or Path(guard.argument).exists()
    if is_path_or_hub_id:
        return None
    return guard.argument


def resolved_judge(judge: JudgeSpec, options: Options) -> JudgeSpec:
    """The judge with `guard:RECIPE` turned into the run of that recipe's guard.

    Raises:
        InputError: That guard was not trained.
    """
    recipe = named_guard(judge)
    if recipe is None:
        return judge
    return replace(judge, argument=GuardSpec("", str(trained_guard(recipe, options))))


COMMANDS = {
    "data": "data build",
    "data/traces": "data traces",
    "sft": "sft",
    "rl": "rl",
    "guard/sft": "guard train",
    "guard/rl": "guard train",
}
"""The command that makes a run of each stage, for messages."""
