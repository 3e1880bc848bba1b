"""Light supervised fine-tuning on reasoning traces, through TRL's SFTTrainer (TARS, arXiv 2507.00971, §4, stage 1).

The texts are tokenized here and not by TRL, so that the trained part is exactly the one that `data show --rendered`
marks: the trace and the answer up to the end-of-turn token. Templates that strip reasoning from an assistant's turn
cannot do so.

Deviations:
    1. Rows longer than `max_tokens` are dropped and counted instead of cut: a cut row teaches never to end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset, disable_progress_bars
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from safereason import processes
from safereason.data.example import Example
from safereason.data.prompt_builder import PromptBuilder, user_turn
from safereason.recipe.schema import SFT
from safereason.text.chat import trace_ids
from safereason.training import plain_head, shared_prefix
from safereason.training.arguments import sft_arguments
from safereason.training.callbacks import restore_token_count, train_to_end
from safereason.training.model import load_trainable, lora_config, save_trainer
from safereason.training.training_run import TrainingRun

GAIN = 1.25
"""Least ratio of tokens run row by row to tokens run packed at which packing is used.

Its longer rows cost more attention.
"""


class TracesTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with the common beginning of a batch's prompts, such as a guard's policy, computed once."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)
        plain_head.install(self.model)
        # DDP and FSDP act in the forward pass of the whole model, which packing does not call.
        self._shares_prefix = self.accelerator.num_processes == 1 and shared_prefix.is_supported(self.model)

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, object]:
        """The mean of -log p over the trained tokens of the step, as TRL defines it."""
        ids, mask, width = split_rows(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
        if return_outputs or not (self._shares_prefix and shared_prefix.gain(ids, mask, width) >= GAIN):
            loss: Tensor | tuple[Tensor, object] = super().compute_loss(
                model, inputs, return_outputs, num_items_in_batch
            )
            return loss
        # accelerate wraps autocast around the model's forward method, which is not called here.
        with self.accelerator.autocast():
            logps, _ = shared_prefix.completion_logps(model, ids, mask, width, 1.0)
        # TRL counts tokens in the method that is replaced here; its log and its checkpoints read the count.
        self._total_train_tokens += int(inputs["attention_mask"].sum())
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        if num_items_in_batch is None:
            num_items_in_batch = mask[:, -width:].sum()
        return -logps.sum() / num_items_in_batch


def split_rows(ids: Tensor, attention: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """Rows padded on the right, rearranged as prompts padded on the left and completions padded on the right.

    Args:
        ids: [B, L].
        attention: [B, L], 1 at tokens that count.
        labels: [B, L], -100 at tokens that are not trained.

    Returns:
        Ids [B, P + C], their mask, and C.
    """
    ends = attention.sum(1).tolist()
    trained = (labels != plain_head.IGNORED).sum(1).tolist()
    # The trained part is the end of a row, so that its length says where the prompt ends.
    starts = [end - count for end, count in zip(ends, trained, strict=True)]
    prompt_width = max(starts)
    completion_width = max(trained)
    moved = ids.new_zeros(len(ids), prompt_width + completion_width)
    mask = torch.zeros_like(moved)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        row = slice(prompt_width - start, prompt_width - start + end)
        moved[i, row] = ids[i, :end]
        mask[i, row] = 1
    return moved, mask, completion_width


@dataclass(frozen=True)
class TokenizedTraces:
    """Tokenized traces, and the number of traces that were dropped for each reason."""

    rows: list[dict[str, list[int]]]
    """`input_ids` and `completion_mask` of each."""
    too_long: int
    empty_reasoning: int


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    traces: Sequence[Example],
    max_tokens: int,
    *,
    prompt_builder: PromptBuilder = user_turn,
    reasoned: bool = True,
) -> TokenizedTraces:
    """Tokenized traces; the mask is 1 on the trace, the answer and the end-of-turn token.

    Args:
        tokenizer: The model's.
        traces: Rows with an answer.
        max_tokens: Longer rows are dropped.
        prompt_builder: Builds the conversation that a row answers.
        reasoned: Whether the reasoning is trained on, and a row without any is dropped.
    """
    rows: list[dict[str, list[int]]] = []
    too_long = 0
    empty = 0
    for trace in traces:
        answer = trace.answer or ""
        reasoning = trace.reasoning or ""
        if not answer.strip() or (reasoned and not reasoning.strip()):
            empty += 1
            continue
        trained_reasoning = trace.reasoning if reasoned else None
        prompt, completion = trace_ids(tokenizer, prompt_builder(trace), trained_reasoning, answer)
        if len(prompt) + len(completion) > max_tokens:
            too_long += 1
            continue
        rows.append({"input_ids": prompt + completion, "completion_mask": [0] * len(prompt) + [1] * len(completion)})
    return TokenizedTraces(rows, too_long, empty)


def train(run: TrainingRun[SFT], rows: Sequence[dict[str, list[int]]]) -> dict[str, float]:
    """Trains on tokenized rows and writes the model.

    Args:
        run: Settings of the training.
        rows: From `tokenize`.

    Returns:
        Steps taken and the mean of their losses.
    """
    disable_progress_bars()  # datasets' own bars would break up ours
    section = run.section
    arguments = sft_arguments(
        section,
        rows=len(rows),
        seed=run.seed,
        output_dir=str(run.checkpoints),
        processes=processes.count(),
        cpu=not torch.cuda.is_available(),
        key=run.key,
    )
    trainer = TracesTrainer(
        model=load_trainable(run.location, run.tokenizer),
        args=SFTConfig(**arguments),
        train_dataset=Dataset.from_list(list(rows)),
        processing_class=run.tokenizer,
        peft_config=lora_config(section.lora),
    )
    if run.resume_from is not None:
        restore_token_count(trainer, run.resume_from)
    train_to_end(trainer, run, title="sft", shown=("loss", "grad_norm"))
    save_trainer(trainer, run.tokenizer, run.model_folder, section.precision)
    # The history is part of a checkpoint; the trainer's own mean forgets the steps before a resume.
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return {"steps": trainer.state.global_step, "mean_loss": sum(losses) / len(losses)}
