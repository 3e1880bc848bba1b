"""Light supervised fine-tuning on reasoning traces, through TRL's SFTTrainer (TARS, arXiv 2507.00971, §4, stage 1).

The texts are tokenized here and not by TRL, so that the trained part is exactly what `data show --rendered` marks: the
trace and the answer up to the end-of-turn token. Templates that strip reasoning from an assistant's turn cannot do so.

Deviations:
    1. Rows longer than `max_tokens` are dropped and counted instead of cut: a cut row teaches never to end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from safereason.data.example import Example
from safereason.recipe.schema import SFT
from safereason.runs.records import RecordLog, read_json
from safereason.text.chat import trace_ids
from safereason.training.arguments import sft_arguments
from safereason.training.callbacks import train_to_end
from safereason.training.model import load_trainable, lora_config, save_whole


@dataclass(frozen=True)
class Rows:
    """Tokenized traces, and what was left out of them."""

    rows: list[dict[str, list[int]]]
    too_long: int
    empty_reasoning: int


def tokenize(tokenizer: PreTrainedTokenizerBase, traces: Sequence[Example], max_tokens: int) -> Rows:
    """Tokenizes traces; the mask is 1 on the trace, the answer and the end-of-turn token."""
    rows, too_long, empty = [], 0, 0
    for trace in traces:
        if not (trace.reasoning or "").strip() or not (trace.answer or "").strip():
            empty += 1
            continue
        prompt, completion = trace_ids(tokenizer, trace.prompt, str(trace.reasoning), str(trace.answer))
        if len(prompt) + len(completion) > max_tokens:
            too_long += 1
            continue
        rows.append({"input_ids": prompt + completion, "completion_mask": [0] * len(prompt) + [1] * len(completion)})
    return Rows(rows, too_long, empty)


def train(
    section: SFT, location: str, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, list[int]]], *,
    seed: int, run: Path, log: RecordLog, resume_from: Path | None, steps_done: int,
) -> dict[str, Any]:  # fmt: skip
    """Trains and writes `run/model`.

    Args:
        section: The recipe's figures.
        location: Folder or hub id of the model to start from.
        tokenizer: Its tokenizer.
        rows: From `tokenize`.
        seed: Seed of the order of rows.
        run: Run directory; checkpoints go to `run/checkpoints`.
        log: Where a record a step goes.
        resume_from: Checkpoint to go on from.
        steps_done: Its step.

    Returns:
        Steps taken and the mean of their losses.
    """
    disable_progress_bars()  # one bar, ours
    cpu = not torch.cuda.is_available()
    arguments = sft_arguments(section, rows=len(rows), seed=seed, output_dir=str(run / "checkpoints"), cpu=cpu)
    trainer = SFTTrainer(
        model=load_trainable(location),
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        peft_config=lora_config(section.lora),
    )
    if resume_from:  # a counter that is no part of TRL's checkpoints
        state = read_json(resume_from / "trainer_state.json")
        trainer._total_train_tokens = int(state["log_history"][-1]["num_tokens"])
    train_to_end(trainer, resume_from, what="sft", log=log, shown=("loss", "grad_norm"), steps_done=steps_done)
    save_whole(trainer.accelerator.unwrap_model(trainer.model), tokenizer, run / "model", section.precision)
    # The history is part of a checkpoint; the trainer's own mean forgets the steps before a resume.
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"steps": trainer.state.global_step, "mean_loss": sum(losses) / len(losses)}
