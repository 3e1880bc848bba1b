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
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from safereason import processes
from safereason.data.example import Example
from safereason.recipe.schema import SFT
from safereason.runs.directory import CHECKPOINTS
from safereason.runs.records import RecordLog, read_json
from safereason.text.chat import trace_ids
from safereason.training import plain_head, shared_prefix
from safereason.training.arguments import sft_arguments
from safereason.training.ask import Ask, asked
from safereason.training.callbacks import train_to_end
from safereason.training.model import load_trainable, lora_config, save_trained

GAIN = 1.25
"""Tokens run row by row for each one run packed, from which on packing is worth its attention over longer rows."""


class Trainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer; what the prompts of a batch begin with, such as a guard's policy, is computed once."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        plain_head.install(self.model)
        self._shares_prefix = self.accelerator.num_processes == 1 and shared_prefix.is_supported(self.model)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The mean of -log p over the trained tokens of the step, as TRL has it."""
        ids, mask, width = split_rows(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        if return_outputs or not (self._shares_prefix and shared_prefix.gain(ids, mask, width) >= GAIN):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with self.accelerator.autocast():  # accelerate's own is around the forward pass that is not called here
            logps, _ = shared_prefix.completion_logps(model, ids, mask, width, 1.0)
        self._total_train_tokens += int(inputs["attention_mask"].sum())
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        trained = num_items_in_batch if num_items_in_batch is not None else mask[:, -width:].sum()
        return -logps.sum() / trained


def split_rows(ids: Tensor, attention: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """Rows padded on the right, as prompts padded on the left before completions padded on the right.

    Args:
        ids: [B, L].
        attention: [B, L], 1 at tokens that count.
        labels: [B, L], -100 at tokens that are not trained.

    Returns:
        Ids [B, P + C], their mask, and C.
    """
    ends = attention.sum(1).tolist()
    starts = [end - int((row != -100).sum()) for end, row in zip(ends, labels, strict=True)]
    before, width = max(starts), max(end - start for start, end in zip(starts, ends, strict=True))
    moved = ids.new_zeros(len(ids), before + width)
    mask = torch.zeros_like(moved)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        moved[i, before - start : before - start + end] = ids[i, :end]
        mask[i, before - start : before - start + end] = 1
    return moved, mask, width


@dataclass(frozen=True)
class Rows:
    """Tokenized traces, and what was left out of them."""

    rows: list[dict[str, list[int]]]
    too_long: int
    empty_reasoning: int


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    traces: Sequence[Example],
    max_tokens: int,
    *,
    ask: Ask = asked,
    reasoned: bool = True,
) -> Rows:
    """Tokenizes traces; the mask is 1 on the trace, the answer and the end-of-turn token.

    Args:
        tokenizer: The model's.
        traces: Rows with an answer.
        max_tokens: Longer rows are dropped.
        ask: The conversation that a row answers.
        reasoned: Whether the reasoning is trained on, and a row without any is dropped.
    """
    rows, too_long, empty = [], 0, 0
    for trace in traces:
        if (reasoned and not (trace.reasoning or "").strip()) or not (trace.answer or "").strip():
            empty += 1
            continue
        prompt, completion = trace_ids(tokenizer, ask(trace), trace.reasoning if reasoned else None, str(trace.answer))
        if len(prompt) + len(completion) > max_tokens:
            too_long += 1
            continue
        rows.append({"input_ids": prompt + completion, "completion_mask": [0] * len(prompt) + [1] * len(completion)})
    return Rows(rows, too_long, empty)


def train(
    section: SFT,
    location: str,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, list[int]]],
    *,
    seed: int,
    run: Path,
    log: RecordLog,
    resume_from: Path | None,
    steps_done: int,
    report_to: str = "none",
    key: str = "sft",
) -> dict[str, Any]:
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
        report_to: The tracker that is told.
        key: The section's dotted key, for messages.

    Returns:
        Steps taken and the mean of their losses.
    """
    disable_progress_bars()  # one bar, ours
    cpu = not torch.cuda.is_available()
    arguments = sft_arguments(
        section,
        rows=len(rows),
        seed=seed,
        output_dir=str(run / CHECKPOINTS),
        processes=processes.count(),
        cpu=cpu,
        key=key,
    )
    trainer = Trainer(
        model=load_trainable(location, tokenizer),
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=tokenizer,
        peft_config=lora_config(section.lora),
    )
    if resume_from:  # a counter that is no part of TRL's checkpoints
        state = read_json(resume_from / "trainer_state.json")
        trainer._total_train_tokens = int(state["log_history"][-1]["num_tokens"])
    train_to_end(
        trainer,
        resume_from,
        what="sft",
        log=log,
        shown=("loss", "grad_norm"),
        steps_done=steps_done,
        report_to=report_to,
    )
    save_trained(trainer, tokenizer, run / "model", section.precision)
    # The history is part of a checkpoint; the trainer's own mean forgets the steps before a resume.
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"steps": trainer.state.global_step, "mean_loss": sum(losses) / len(losses)}
