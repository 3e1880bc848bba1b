"""Checks of the memory that a training step takes, against the arithmetic of `safereason doctor`."""

import runpy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from gpu_trial import Trial
from training_parts import training_run
from transformers import PrinterCallback
from trl import SFTConfig

from safereason.engines.open import load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.recipe.load import load
from safereason.recipe.schema import GRPO, SFT
from safereason.runs.records import RecordLog
from safereason.training import fit, grpo, memory
from safereason.training.advantage import group_advantages
from safereason.training.arguments import cut_batch, sft_arguments
from safereason.training.fit import Section
from safereason.training.logprobs import Rows
from safereason.training.model import load_trainable
from safereason.training.sft import TracesTrainer
from safereason.training.shapes import shape_of

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "memory.py"))
GIB = 2**30
RECIPE = "tars-1.5b"
ALONE = (
    # Judges and vLLM hold memory of their own, which is not what is measured here.
    "rl.rollouts=engine",
    "rl.reward.safety=refusal",
    "rl.reward.task=compliance",
    # Two passes, so that the second one finds gradients; further ones would take time alone.
    "rl.prompts_per_step=2",
    "rl.rollouts_per_prompt=2",
    "sft.batch_size=4",
)
"""Overrides of the recipe for a step of the training alone."""


def grpo_memory(trial: Trial, *, model: str, band: float, overrides: tuple[str, ...] = ()) -> None:
    """The peak of GRPO's loss and update on the longest rows is what `doctor` works out. Nothing is drawn."""
    section = load(RECIPE, [*ALONE, *overrides]).rl
    location = trial.models[model]
    _compare(trial, section, location, "rl", _grpo_peak(trial, section, location), band)


def _grpo_peak(trial: Trial, section: GRPO, location: Path) -> int:
    """The most bytes that are alive in two steps."""
    before = _allocated(trial.device)
    with RecordLog(trial.folder / "metrics.jsonl") as log:
        trained = grpo.open_trained_model(training_run(section, location, trial.folder, log), steps=2)
    assert trained.accelerator.device.type == trial.device
    prompts, completions = _longest_rows(section.max_prompt_tokens, section.sampling.max_new_tokens)
    rewards = torch.tensor([0.0, 1.0, 1.0, 0.0], device=trial.device)
    advantages = group_advantages(rewards, section.rollouts_per_prompt, section.advantage_epsilon)
    batch = grpo.RolloutBatch(Rows(prompts, completions), advantages, torch.ones_like(rewards, dtype=torch.bool))
    rows_a_pass = cut_batch(len(prompts), section.micro_batch_size, 1, "rl").per_device

    def two_steps() -> None:
        for _ in range(2):
            grpo.backward(trained, batch, section, rows_a_pass)
            grpo.update(trained, section.max_grad_norm)

    return peak_of(trial.device, [trained.model, trained.reference], two_steps) - before


def _longest_rows(prompt_tokens: int, new_tokens: int) -> tuple[list[list[int]], list[list[int]]]:
    """Two prompts with two completions each, as long as they may be; one completion less, so that there is padding."""
    prompts = [[20 + number + token % 200 for token in range(prompt_tokens)] for number in (0, 0, 1, 1)]
    completions = [[20 + token % 200 for token in range(new_tokens - number % 2)] for number in range(4)]
    return prompts, completions


def sft_memory(trial: Trial, *, model: str, band: float, overrides: tuple[str, ...] = ()) -> None:
    """The peak of SFT on the longest rows is what `doctor` works out. No checkpoint is written."""
    section = load(RECIPE, [*ALONE, *overrides]).sft
    location = trial.models[model]
    _compare(trial, section, location, "sft", _sft_peak(trial, section, location), band)


def _sft_peak(trial: Trial, section: SFT, location: Path) -> int:
    """The most bytes that are alive in two steps."""
    tokenizer = load_tokenizer(ModelSpec.parse(str(location)))
    rows = []
    for number in range(2 * section.batch_size):
        # One row is a token shorter, so that there is padding.
        length = section.max_tokens - number % 2
        ids = [20 + token % 200 for token in range(length)]
        rows.append({"input_ids": ids, "completion_mask": [0] + [1] * (length - 1)})
    on_cpu = trial.device == "cpu"
    arguments = sft_arguments(section, rows=len(rows), seed=0, output_dir=str(trial.folder), cpu=on_cpu)
    disable_progress_bars()
    before = _allocated(trial.device)
    trainer = TracesTrainer(
        model=load_trainable(str(location), tokenizer),
        args=SFTConfig(**{**arguments, "max_steps": 2, "save_strategy": "no"}),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    assert trainer.accelerator.device.type == trial.device
    return peak_of(trial.device, [trainer.model], trainer.train) - before


def _allocated(device: str) -> int:
    """Bytes of a GPU's tensors that are alive; on a CPU none are counted but those of the models at hand."""
    if device == "cpu":
        return 0
    return torch.cuda.memory_allocated()


def peak_of(device: str, models: Sequence[torch.nn.Module | None], work: Callable[[], object]) -> int:
    """The most bytes of tensors alive at once, by CUDA's own count, or on a CPU by that of every operation."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()
    live = BENCHMARK["Live"]()
    for model in models:
        if model is not None:
            for weight in model.state_dict().values():
                live.hold(weight)
    with live:
        work()
    return int(live.peak)


def _compare(trial: Trial, section: Section, location: Path, key: str, peak: int, band: float) -> None:
    """Holds a measured peak to the arithmetic's."""
    step = fit.step_of(section, shape_of(str(location)), key, cpu=trial.device == "cpu")
    expected, phase = memory.peak(memory.parts(step))
    bound = f"1 ± {band}"
    trial.note("peak memory", peak / GIB, "GiB")
    trial.note(f"doctor's, in the {phase}", expected / GIB, "GiB")
    trial.note("doctor's, of what was measured", expected / peak, "ratio", bound)
    if trial.device == "cuda":
        trial.note("reserved by torch", torch.cuda.max_memory_reserved() / GIB, "GiB")
    assert 1 - band <= expected / peak <= 1 + band
