"""GRPO by verl in place of our own loop, with the same data, reward and settings: export, training, the model back.

Training here and exporting write the same folder. Its `run.sh` is started here, or by hand on a cluster. Stages `rl`
and `guard` describe the training; `training.verl` translates its section into verl's options.
"""

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from safereason.console import say
from safereason.data.example import Example
from safereason.data.prompt_builder import PromptBuilder, user_turn
from safereason.engines.open import load_model, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError, StageFailed
from safereason.judges import JudgeSpec, is_judge
from safereason.recipe.schema import GRPO, Recipe, RSafeRewardSettings, TarsRewardSettings
from safereason.runs.directory import RunDirectory, differing_keys
from safereason.runs.manifest import sha256
from safereason.stages.base import Identity, Metrics, Options, Outline, Result, finished_result, open_run
from safereason.text import chat
from safereason.training import verl, verl_files, verl_reward
from safereason.training.order import epochs
from safereason.training.prompt_limit import short_enough

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = "verl"
LOG = "verl.log"
TAIL = 300
"""Characters from the end of verl's output that an error shows."""


@dataclass(frozen=True)
class VerlBackend:
    """Settings of verl: its cluster, and whether to train here or elsewhere."""

    cluster: verl.GPUCluster = field(default_factory=verl.GPUCluster)
    export: Path | None = None
    """Folder to export verl's input to, in place of training."""
    trained: Path | None = None
    """Exported folder in which verl has trained, to take the model from."""


@dataclass(frozen=True)
class VerlTraining:
    """A GRPO training of a stage, with all that verl needs for it."""

    stage: str
    key: str
    """Dotted key of the section."""
    section: GRPO
    start: ModelSpec
    """Model to start from."""
    identity: Identity
    """Identity of the same training by our own loop."""
    rows: Path
    """File of the built data."""
    examples: Sequence[Example]
    build_prompt: PromptBuilder = user_turn
    """Makes the prompt of a row."""
    held_out: Sequence[Example] | None = None
    """Rows to validate on."""
    every_steps: int | None = None
    """Steps between two validations."""
    reasoning: bool | None = None
    """Whether a guard reasons; None where no guard is trained."""
    finish: Callable[[Path], None] = field(default=lambda model: None)
    """Writes further files into the folder of the trained model."""

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The start model's tokenizer.

        Raises:
            InputError: The tags around reasoning are special tokens, which verl hides from the reward.
        """
        tokenizer = load_tokenizer(self.start)
        # The reward could not tell the reasoning from the answer.
        if chat.special_tags(tokenizer):
            raise InputError(
                f"{self.start}: --backend verl scores texts without their special tokens, and <think> is one of this "
                "tokenizer's; train without --backend verl, or make it an ordinary token"
            )
        return tokenizer

    @property
    def opening(self) -> str:
        """The reasoning tag that the chat template opens; the reward reads it before the completion."""
        return chat.opening(self.tokenizer)

    @cached_property
    def kept(self) -> list[Example]:
        """The rows whose prompts are short enough."""
        return short_enough(
            self.examples,
            self.tokenizer,
            self.section.max_prompt_tokens,
            self.key,
            batch=self.section.prompts_per_step,
            prompt_builder=self.build_prompt,
        )

    @property
    def whole_identity(self) -> Identity:
        """The identity of this training by verl."""
        # verl's arithmetic differs from ours, so the same section gives another model.
        return {**self.identity, "backend": "verl"}

    @property
    def reward_model(self) -> str | None:
        """The reward model that verl serves, where the reward has one.

        Raises:
            InputError: Another judge has a model that would run beside verl.
        """
        return verl_reward.reward_model_of(_reward_with_absolute_paths(self.section), self.key)

    def overrides(self, cluster: verl.GPUCluster, name: str, seed: int) -> verl.HydraOverrides:
        """The section as verl's options."""
        model = self.start.location
        if Path(model).is_dir():
            # verl's workers run in other folders.
            model = str(Path(model).resolve())
        return verl.overrides(
            self.section,
            prompts=len(self.kept),
            model=model,
            name=name,
            seed=seed,
            cluster=cluster,
            validation_every=self.every_steps,
            key=self.key,
            reward_model=self.reward_model,
        )


def verl_outline(training: VerlTraining, recipe: Recipe, backend: VerlBackend) -> Outline:
    """The plan of `export_verl`, with verl's options."""
    overrides = training.overrides(backend.cluster, recipe.name, recipe.seed)
    # verl asks Ray for these beside those that train.
    reward_gpus = 0
    if training.reward_model is not None:
        reward_gpus = int(str(overrides[verl.REWARD_GPUS])) * int(str(overrides[verl.REWARD_NODES]))
    return {
        "stage": training.stage,
        "backend": "verl",
        "model": str(training.start),
        "prompts": len(training.kept),
        "GPUs": {"training": backend.cluster.gpus, "reward model": reward_gpus},
        "reward": training.section.reward.model_dump(mode="json"),
        "overrides": overrides,
    }


def export_verl(training: VerlTraining, recipe: Recipe, options: Options, backend: VerlBackend) -> Result:
    """Exports the training, or trains and takes the model over; a killed run goes on from verl's last checkpoint.

    Raises:
        InputError: The export folder is not empty, verl is missing, or a trained folder is of another training.
        StageFailed: verl ended with an error.
    """
    overrides = training.overrides(backend.cluster, recipe.name, recipe.seed)
    if backend.export is not None:
        return _export_to_folder(training, recipe, overrides, backend.export)
    # Either verl trains here, which it has to be installed for, or it has trained elsewhere.
    if backend.trained is None:
        _check_verl_installed()
    else:
        _check_trained_folder(backend.trained, training)
    label = training.start.label()
    directory = open_run(training.stage, recipe, options, label, training.whole_identity)
    if (result := finished_result(directory)) is not None:
        return result
    with directory as this:
        this.inputs[str(training.rows)] = sha256(training.rows)
        folder = backend.trained
        if folder is None:
            folder = this.path / FOLDER
            _write_verl_folder(training, recipe, overrides, folder)
            _run_verl(folder, this.path / LOG)
        metrics = _import_trained(training, folder, this)
        this.finish(metrics)
    return Result(directory.path, metrics)


def _export_to_folder(training: VerlTraining, recipe: Recipe, overrides: verl.HydraOverrides, folder: Path) -> Result:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not empty; name another folder for --export")
    _write_verl_folder(training, recipe, overrides, folder)
    return Result(folder, {"backend": "verl", **_prompt_counts(training)})


def _write_verl_folder(training: VerlTraining, recipe: Recipe, overrides: verl.HydraOverrides, folder: Path) -> None:
    """Writes verl's input: rows, options, reward and `run.sh`."""
    folder.mkdir(parents=True, exist_ok=True)
    # The rows are written in the order of our own training, epoch by epoch, and verl does not shuffle them.
    ordered = epochs(training.kept, training.section.epochs, recipe.seed)
    verl_files.write_rows(folder / verl.TRAIN, ordered, training.build_prompt)
    if training.held_out is not None:
        verl_files.write_rows(folder / verl.VALIDATION, training.held_out, training.build_prompt)
    about = {"identity": training.whole_identity, **_prompt_counts(training)}
    reward = _reward_with_absolute_paths(training.section)
    verl_files.write_settings(folder, overrides, reward, training.reasoning, about, training.opening)


def _reward_with_absolute_paths(section: GRPO) -> TarsRewardSettings | RSafeRewardSettings:
    """The reward with absolute paths of its judges: verl's workers run in other folders."""
    reward = section.reward
    if isinstance(reward, RSafeRewardSettings):
        return reward
    judges = {"safety": _absolute_judge(reward.safety), "task": _absolute_judge(reward.task)}
    return reward.model_copy(update=judges)


def _absolute_judge(judge: str) -> str:
    """The judge, or the reward model in a judge's place, with an absolute path if it is on this machine."""
    if is_judge(judge):
        return str(JudgeSpec.parse(judge).absolute())
    return str(ModelSpec.parse(judge).absolute())


def _prompt_counts(training: VerlTraining) -> dict[str, int]:
    kept = len(training.kept)
    return {"prompts": kept, "dropped_too_long": len(training.examples) - kept}


def _verl_python() -> str:
    """The interpreter that `run.sh` calls."""
    return os.environ.get("PYTHON", "python")


def _check_verl_installed() -> None:
    """Checks for verl in the interpreter that `run.sh` will call, which need not be this one.

    Raises:
        InputError: It has no verl.
    """
    # Finding the module is quick, where importing verl imports torch and ray.
    find = "import importlib.util as u, sys; sys.exit(u.find_spec('verl') is None)"
    try:
        is_installed = subprocess.run([_verl_python(), "-c", find], capture_output=True).returncode == 0
    except OSError:
        is_installed = False
    if not is_installed:
        raise InputError(
            f"--backend verl: `{_verl_python()}` has no verl; set PYTHON to an interpreter that has it "
            "(docs: train with verl), or pass --export DIR and run it elsewhere"
        )


def _check_trained_folder(folder: Path, training: VerlTraining) -> None:
    """Refuses a folder that was exported from something else, or that verl has not trained in.

    Raises:
        InputError: The folder is one of these.
    """
    differing = differing_keys(verl_files.read_about(folder)["identity"], training.whole_identity)
    if differing:
        raise InputError(f"{folder}: was exported from other settings ({', '.join(differing)}); pass the same recipe")
    verl_files.trained_step(folder)


def _run_verl(folder: Path, log: Path) -> None:
    say(f"verl is training; what it says goes to {log}")
    # Appended, since a resumed run goes on from verl's own checkpoint.
    with log.open("ab") as file:
        status = subprocess.run(["bash", str(folder / verl_files.SCRIPT)], stdout=file, stderr=file).returncode
    if status:
        # The end of the log in one line: the first lines of a traceback say the least.
        last = " ".join(log.read_text(errors="replace")[-TAIL:].split())
        raise StageFailed(f"{log}: verl ended with status {status}; mend it and pass --resume. Its last words: {last}")


def _import_trained(training: VerlTraining, folder: Path, this: RunDirectory) -> Metrics:
    """Fills the run directory with verl's records and model, as our own training would."""
    from safereason.training.model import merged_adapter, save_whole

    # Without a trained model this raises, before any record is written.
    step = verl_files.trained_step(folder)
    _import_records(training, folder, this)
    merged = folder / verl_files.MERGED
    model = merged_adapter(load_model(str(merged)), merged / "lora_adapter")
    save_whole(model, training.tokenizer, this.path / "model", training.section.precision)
    training.finish(this.path / "model")
    return {"backend": "verl", "steps": step, **_prompt_counts(training)}


def _import_records(training: VerlTraining, folder: Path, this: RunDirectory) -> None:
    """Writes verl's rollouts and metrics as records of this run."""
    rollouts_a_step = training.section.prompts_per_step * training.section.rollouts_per_prompt
    labels = isinstance(training.section.reward, RSafeRewardSettings)
    scored: dict[int, int] = {}
    for name in ("rollouts", "metrics"):
        # A killed import may have left some.
        (this.path / f"{name}.jsonl").unlink(missing_ok=True)
    with this.records("rollouts") as rollouts, this.records("metrics") as metrics:
        for rollout in verl_files.read_rollouts(folder, labels, training.opening):
            step = rollout["step"]
            scored[step] = scored.get(step, 0) + 1
            rollouts.append(rollout)
        for record in verl_files.read_metrics(folder):
            step = record["step"]
            if step in scored:
                # verl writes scored rollouts only, so the missing ones are those without a score.
                record = {**record, "unscored": 1 - scored[step] / rollouts_a_step}
            metrics.append(record)
