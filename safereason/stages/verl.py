"""GRPO by verl in place of TRL: the same data, reward and figures, written for verl, trained by it, and taken back.

The folder that is trained in is the one that can be exported: its `run.sh` is what is started here, and what is run by
hand on a cluster. Stages `rl` and `guard` say what is to be trained; `training.verl` says it in verl's words.
"""

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safereason.console import say
from safereason.data.example import Example
from safereason.engines.open import load_model, load_tokenizer, model_location
from safereason.errors import InputError, StageFailed
from safereason.recipe.schema import GRPO, Recipe, RSafeReward
from safereason.runs.directory import RunDirectory, differing_keys
from safereason.runs.manifest import sha256
from safereason.stages.base import Options, Result, finished_result, model_label, open_run
from safereason.text import chat
from safereason.training import verl, verl_files
from safereason.training.arguments import check_left
from safereason.training.ask import Ask, asked
from safereason.training.order import epochs

FOLDER, LOG = "verl", "verl.log"
TAIL = 300
"""Characters of verl's output that an error shows."""


@dataclass(frozen=True)
class Backend:
    """How verl is to train."""

    cluster: verl.Cluster = field(default_factory=verl.Cluster)
    export: Path | None = None
    """Folder to write what verl is given to, in place of training."""
    trained: Path | None = None
    """Such a folder in which verl has trained."""


@dataclass(frozen=True)
class Training:
    """What a stage wants trained."""

    stage: str
    key: str
    """The section's dotted key."""
    section: GRPO
    start: str
    """Model to start from."""
    identity: dict[str, Any]
    """What the result depends on, but for verl."""
    rows: Path
    """The built data's file."""
    examples: Sequence[Example]
    ask: Ask = asked
    held_out: Sequence[Example] | None = None
    """Rows to validate on."""
    every_steps: int | None = None
    reasoning: bool | None = None
    """Whether a guard is to reason."""
    finish: Callable[[Path], None] = field(default=lambda model: None)
    """What is done to the model that was trained."""

    @cached_property
    def tokenizer(self) -> Any:
        """The start model's.

        Raises:
            InputError: The tags around reasoning are special tokens, which verl hides from the reward.
        """
        found = load_tokenizer(self.start)
        if chat.special_tags(found):
            raise InputError(
                f"{self.start}: --backend verl scores texts without their special tokens, and <think> is one of this "
                "tokenizer's; train with TRL, or make it an ordinary token"
            )
        return found

    @property
    def opening(self) -> str:
        """The reasoning that the chat template opens: the reward reads it before what the policy wrote."""
        return chat.opening(self.tokenizer)

    @cached_property
    def kept(self) -> list[Example]:
        """Those that are not too long."""
        longest = self.section.max_prompt_tokens
        found = [e for e in self.examples if len(chat.prompt_ids(self.tokenizer, self.ask(e))) <= longest]
        check_left(
            len(found), len(self.examples), longest, f"{self.key}.max_prompt_tokens", self.section.prompts_per_step
        )
        return found

    @property
    def whole_identity(self) -> dict[str, Any]:
        """What the result depends on."""
        return {**self.identity, "backend": "verl"}

    def overrides(self, cluster: verl.Cluster, name: str, seed: int) -> verl.Overrides:
        """The section in verl's words."""
        location = model_location(self.start)
        model = str(Path(location).resolve()) if Path(location).is_dir() else location
        return verl.overrides(
            self.section,
            prompts=len(self.kept),
            model=model,
            name=name,
            seed=seed,
            cluster=cluster,
            validation_every=self.every_steps,
            key=self.key,
        )


def plan(training: Training, recipe: Recipe, backend: Backend) -> dict[str, Any]:
    """What `run` would do, with what verl would be given."""
    return {
        "stage": training.stage,
        "backend": "verl",
        "model": training.start,
        "prompts": len(training.kept),
        "reward": training.section.reward.model_dump(mode="json"),
        "overrides": training.overrides(backend.cluster, recipe.name, recipe.seed),
    }


def run(training: Training, recipe: Recipe, options: Options, backend: Backend) -> Result:
    """Exports, or trains and takes the model back; a killed run goes on from verl's last checkpoint.

    Raises:
        InputError: The section cannot be said in verl's words, verl is not there, or the folder to take back is of
            another recipe or holds no model.
        StageFailed: verl ended with an error.
    """
    given = training.overrides(backend.cluster, recipe.name, recipe.seed)
    if backend.export is not None:
        return _export(training, recipe, given, backend.export)
    if backend.trained is None:
        _check_verl()
    else:
        _check_trained(backend.trained, training)
    label = model_label(training.start)
    directory = open_run(training.stage, recipe, options, label, training.whole_identity)
    if (result := finished_result(directory)) is not None:
        return result
    with directory as this:
        this.inputs[str(training.rows)] = sha256(training.rows)
        folder = backend.trained or this.path / FOLDER
        if backend.trained is None:
            _write(training, recipe, given, folder)
            _train(folder, this.path / LOG)
        metrics = _take_back(training, folder, this)
        this.finish(metrics)
    return Result(directory.path, metrics)


def _export(training: Training, recipe: Recipe, given: verl.Overrides, folder: Path) -> Result:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not empty; name another folder for --export")
    _write(training, recipe, given, folder)
    return Result(folder, {"backend": "verl", **_counts(training)})


def _write(training: Training, recipe: Recipe, given: verl.Overrides, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ordered = epochs(training.kept, training.section.epochs, recipe.seed)
    verl_files.write_rows(folder / verl.TRAIN, ordered, training.ask)
    if training.held_out is not None:
        verl_files.write_rows(folder / verl.VALIDATION, training.held_out, training.ask)
    about = {"identity": training.whole_identity, **_counts(training)}
    reward = _reward_anywhere(training.section)
    verl_files.write_settings(folder, given, reward, training.reasoning, about, training.opening)


def _reward_anywhere(section: GRPO) -> Any:
    """The reward with its judges' paths made absolute: verl's workers start elsewhere."""
    if isinstance(section.reward, RSafeReward):
        return section.reward
    judges = {name: _absolute(getattr(section.reward, name)) for name in ("safety", "task")}
    return section.reward.model_copy(update=judges)


def _absolute(judge: str) -> str:
    name, colon, argument = judge.rpartition(":")
    return f"{name}{colon}{Path(argument).resolve()}" if Path(argument).exists() else judge


def _counts(training: Training) -> dict[str, int]:
    kept = len(training.kept)
    return {"prompts": kept, "dropped_too_long": len(training.examples) - kept}


def _python() -> str:
    return os.environ.get("PYTHON", "python")


def _check_verl() -> None:
    """Refuses to begin where the interpreter that `run.sh` will call has no verl.

    Raises:
        InputError: So it is.
    """
    find = "import importlib.util as u, sys; sys.exit(u.find_spec('verl') is None)"
    try:
        found = subprocess.run([_python(), "-c", find], capture_output=True).returncode == 0
    except OSError:
        found = False
    if not found:
        raise InputError(
            f"--backend verl: `{_python()}` has no verl; set PYTHON to an interpreter that has it "
            "(docs: train with verl), or pass --export DIR and run it elsewhere"
        )


def _check_trained(folder: Path, training: Training) -> None:
    """Refuses a folder that was exported from something else, or was not trained in.

    Raises:
        InputError: So it is.
    """
    differing = differing_keys(verl_files.read_about(folder)["identity"], training.whole_identity)
    if differing:
        raise InputError(f"{folder}: was exported from other settings ({', '.join(differing)}); pass the same recipe")
    verl_files.trained_step(folder)


def _train(folder: Path, log: Path) -> None:
    say(f"verl is training; what it says goes to {log}")
    with log.open("ab") as file:
        status = subprocess.run(["bash", str(folder / verl_files.SCRIPT)], stdout=file, stderr=file).returncode
    if status:
        last = " ".join(log.read_text(errors="replace")[-TAIL:].split())
        raise StageFailed(f"{log}: verl ended with status {status}; mend it and pass --resume. Its last words: {last}")


def _take_back(training: Training, folder: Path, this: RunDirectory) -> dict[str, Any]:
    """Fills the run directory as TRL's training would."""
    from safereason.training.model import merged_adapter, save_whole

    step = verl_files.trained_step(folder)
    group = training.section.prompts_per_step * training.section.rollouts_per_prompt
    labels = isinstance(training.section.reward, RSafeReward)
    scored: dict[int, int] = {}
    for name in ("rollouts", "metrics"):
        (this.path / f"{name}.jsonl").unlink(missing_ok=True)
    with this.records("rollouts") as rollouts, this.records("metrics") as metrics:
        for record in verl_files.read_rollouts(folder, labels, training.opening):
            scored[record["step"]] = scored.get(record["step"], 0) + 1
            rollouts.append(record)
        for record in verl_files.read_metrics(folder):
            left_out = {"unscored": 1 - scored[record["step"]] / group} if record["step"] in scored else {}
            metrics.append({**record, **left_out})
    merged = folder / verl_files.MERGED
    model = merged_adapter(load_model(str(merged)), merged / "lora_adapter")
    save_whole(model, training.tokenizer, this.path / "model", training.section.precision)
    training.finish(this.path / "model")
    return {"backend": "verl", "steps": step, **_counts(training)}
