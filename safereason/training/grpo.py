"""GRPO, as both papers trained: draw, score, advantages, loss, step, log, checkpoint.

TARS: arXiv 2507.00971, §4, stage 3. RSafe: arXiv 2506.07736, §3. Both trained with verl. The loss of one step is

    mean over all tokens of the step of [ -min(ratio · A, clip(ratio, 1 ± clip) · A) + kl_coef · k3 - entropy_coef · H ]

with A from `training.advantage`, k3 = exp(q - p) - (q - p) - 1 on log-probabilities p of the model being trained and q
of the reference model, H the entropy, and a dual clip: where A < 0, the first term is at most dual_clip · |A|. There is
one update for each batch of rollouts, so that ratio = 1 where it is differentiated.

Deviations:
    1. verl clamps the log-ratio to ±20 and k3 to ±10. Neither bound is near in a run that is not broken.
    2. Unscored rollouts have no advantage (see `training.advantage`).
    3. Every step sees the mix's ratio of kinds or labels (see `training.order`); verl shuffles.
    4. Top-p, top-k and the repetition penalty change the draw and not the loss. As in verl, the log-probabilities are
       those of the model at the sampling temperature, taken anew after the draw, so that the ratio starts at 1.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, get_scheduler

from safereason import console, processes
from safereason.data.example import Example
from safereason.data.prompt_builder import PromptBuilder, user_turn
from safereason.engines.open import precision_here
from safereason.engines.transformers import end_of_turn_ids
from safereason.recipe.schema import GRPO
from safereason.rewards.base import Reward
from safereason.runs.records import Record, RecordLog, finite_or_none
from safereason.text import chat
from safereason.training import checkpoint, logprobs, offload, sharding
from safereason.training.advantage import group_advantages, uniform_groups
from safereason.training.arguments import grpo_schedule, lr_scheduler, vllm_arguments
from safereason.training.logprobs import Rows, TokenLogps
from safereason.training.model import add_adapters, load_trainable, report_full_memory, save_trained, without_dropout
from safereason.training.order import epochs
from safereason.training.rollouts import EngineSampler, Sampler, Scorer, Share, open_vllm
from safereason.training.tracking import Tracker
from safereason.training.training_run import TrainingRun

SHOWN = ("reward", "format", "kl", "completions/mean_length")
"""Metrics beside the progress bar."""

Validate = Callable[[int, PreTrainedModel, bool], None]
"""Validates the model after a step, which may be the last one; step 0 is before the first."""
Watch = Callable[[int, Record], None]
"""Reads the metrics of a step."""


@dataclass(frozen=True)
class TrainedModel:
    """The model being trained, with what its loss and its update need."""

    model: PreTrainedModel
    """The model itself; in parts under FSDP2."""
    module: nn.Module
    """The module to call for a loss: the model, or DDP's wrapper of it."""
    reference: nn.Module | None
    """The frozen reference model; None without a KL term, and with adapters, whose base model it then is."""
    optimizer: Optimizer
    schedule: LRScheduler
    accelerator: Accelerator
    bf16: bool
    """Whether the arithmetic is bf16; weights and optimizer are fp32."""

    def autocast(self) -> AbstractContextManager[object]:
        """The context of every pass."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self.bf16)

    def reference_logps(self, rows: Rows) -> Tensor:
        """Log-probabilities of the reference model, [N]."""
        with torch.no_grad():
            if self.reference is not None:
                figures: TokenLogps = self.reference(rows=rows)
                return figures.logps
            with self.model.disable_adapter():  # type: ignore[operator] # peft's
                figures = self.module(rows=rows)
            return figures.logps


@dataclass(frozen=True)
class RolloutBatch:
    """The rollouts of one process in a step, with all that the loss reads."""

    rows: Rows
    """Prompts and completions of B rollouts."""
    advantages: Tensor
    """[B]."""
    is_counted: Tensor
    """Whether a rollout is part of the loss, [B] bool."""


def train(
    run: TrainingRun[GRPO],
    examples: Sequence[Example],
    reward: Reward,
    rollout_log: RecordLog,
    *,
    prompt_builder: PromptBuilder = user_turn,
    validate: Validate | None = None,
    watch: Watch | None = None,
    shown: tuple[str, ...] = SHOWN,
) -> dict[str, int]:
    """Trains on prompts and writes the model.

    Args:
        run: Settings of the training.
        examples: Prompts, all within `section.max_prompt_tokens`.
        reward: The reward to maximise.
        rollout_log: Log with one record per rollout.
        prompt_builder: Builds the conversation of an example.
        validate: Validates the model; called before the first step and after each.
        watch: Reads the metrics of each step.
        shown: Metrics beside the progress bar.

    Returns:
        Steps taken.
    """
    section = run.section
    schedule = grpo_schedule(section, prompts=len(examples), processes=processes.count(), key=run.key)
    trained = open_trained_model(run, schedule.steps)
    end_ids = end_of_turn_ids(trained.model, run.tokenizer)
    sampler = open_sampler(run, trained, end_ids)
    scorer = Scorer(reward, run.tokenizer, end_ids, rollout_log.append)
    share = Share(processes.index() * schedule.batch.share, schedule.batch.share, section.rollouts_per_prompt)
    groups = [group for group, _ in share.positions]  # of each local rollout, the number of its prompt in the step
    order = epochs(examples, section.epochs, run.seed)
    tokens_seen = 0
    if run.resume_from is not None:
        counters = checkpoint.load(run.resume_from, trained.model, trained.optimizer, trained.schedule)
        tokens_seen = counters["tokens_seen"]
    elif validate is not None:
        with trained.autocast():
            validate(0, trained.model, False)

    tracker = Tracker(run.report_to, run.folder)
    with report_full_memory(section, run.key), console.progress(run.key, schedule.steps, run.steps_done) as advance:
        for step in range(run.steps_done + 1, schedule.steps + 1):
            start = time.monotonic()
            # Draw.
            first = (step - 1) * section.prompts_per_step
            step_prompts = order[first : first + section.prompts_per_step]
            # A prompt is rendered once for all of its rollouts.
            built = {group: prompt_builder(step_prompts[group]) for group in dict.fromkeys(groups)}
            prompt_ids = {group: chat.prompt_ids(run.tokenizer, conversation) for group, conversation in built.items()}
            local = [step_prompts[group] for group in groups]
            conversations = [built[group] for group in groups]
            with trained.autocast():
                completions = sampler.draw(conversations, share, step - 1)
            # Score.
            scored = scorer.score(local, conversations, completions, step)
            rewards = trained.accelerator.gather(_rewards_tensor(scored.rewards, trained.accelerator.device))  # [all B]
            # Advantages: a group may be spread over processes, so each computes all and keeps those of its own rows.
            advantages = group_advantages(rewards, section.rollouts_per_prompt, section.advantage_epsilon)
            is_counted = torch.ones_like(rewards, dtype=torch.bool)
            if section.drop_uniform_groups:
                is_counted = ~uniform_groups(rewards, section.rollouts_per_prompt)
            rows = Rows([prompt_ids[group] for group in groups], completions)
            batch = RolloutBatch(rows, advantages[share.local], is_counted[share.local])
            # Loss and step.
            figures = backward(trained, batch, section, schedule.batch.per_device)
            learning_rate = trained.schedule.get_last_lr()[0]
            grad_norm = update(trained, section.max_grad_norm)
            # Log.
            lengths = trained.accelerator.gather(
                _lengths(batch.rows, end_ids, trained.accelerator.device)
            )  # [all B, 3]
            tokens_seen += int(lengths[:, :2].sum())
            metrics: Record = {
                "step": step,
                **figures,
                "grad_norm": grad_norm,
                "learning_rate": learning_rate,
                **_reward_metrics(rewards, section.rollouts_per_prompt),
                **scored.metrics,
                **_length_metrics(lengths),
                "num_tokens": tokens_seen,
                "epoch": step * section.prompts_per_step / len(examples),
                "step_time": time.monotonic() - start,
            }
            metrics = {name: finite_or_none(value) for name, value in metrics.items()}
            run.metrics.append(metrics)
            tracker.log(metrics, step)
            if watch is not None:
                watch(step, metrics)
            if validate is not None:
                with trained.autocast():
                    validate(step, trained.model, step == schedule.steps)
            # Checkpoint.
            if step % section.save_steps == 0 or step == schedule.steps:
                counters = {"tokens_seen": tokens_seen}
                checkpoint.save(run.checkpoints, step, trained.model, trained.optimizer, trained.schedule, counters)
            advance("  ".join(f"{name} {metrics[name]:.3g}" for name in shown if metrics.get(name) is not None))
    tracker.close()
    save_trained(trained.model, run.tokenizer, run.model_folder, section.precision)
    return {"steps": schedule.steps}


def open_trained_model(run: TrainingRun[GRPO], steps: int) -> TrainedModel:
    """The model, laid out on the processes, with its reference, its optimizer and its schedule of so many steps."""
    section = run.section
    bf16 = precision_here(section.precision) == "bf16"
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    set_seed(run.seed)
    temperature = section.sampling.temperature

    model = add_adapters(load_trainable(run.location, run.tokenizer), section.lora)
    # By dropout the ratio would differ from 1, and by chance.
    without_dropout(model)
    if section.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
    logprobs.install(model, temperature, shares_prefix=section.shared_prefix)
    module = sharding.lay_out(model, accelerator, bf16=bf16)

    reference = None
    if section.kl_coef > 0 and section.lora is None:
        frozen = load_trainable(run.location, run.tokenizer)
        frozen.requires_grad_(False)
        logprobs.install(frozen, temperature, shares_prefix=section.shared_prefix)
        reference = sharding.lay_out(frozen, accelerator, bf16=bf16)

    # As in verl, decay acts on every weight. One fused kernel needs no copy of the weights while it works.
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = AdamW(
        trained, lr=section.learning_rate, weight_decay=section.weight_decay, fused=accelerator.device.type == "cuda"
    )
    if offload.chosen_offload(section, run.key, run.location) == "optimizer":
        offload.park_between_steps(optimizer)
    warmup = math.ceil(steps * section.warmup_ratio)
    schedule: LRScheduler = get_scheduler(lr_scheduler(section), optimizer, warmup, steps)
    return TrainedModel(model, module, reference, optimizer, schedule, accelerator, bf16)


def open_sampler(run: TrainingRun[GRPO], trained: TrainedModel, end_ids: set[int]) -> Sampler:
    """The generator of rollouts that the recipe names.

    Raises:
        InputError: `extra` holds an argument that TRL's vLLM does not take, or there is no vLLM to take it.
    """
    section = run.section
    arguments = vllm_arguments(section, processes.count(), run.key, sorted(end_ids))
    if section.rollouts == "engine":
        return EngineSampler(trained.model, run.tokenizer, section.sampling, run.seed)
    return open_vllm(arguments, trained.model, trained.accelerator, run.tokenizer)


def backward(trained: TrainedModel, batch: RolloutBatch, section: GRPO, rows_per_pass: int) -> dict[str, float]:
    """Adds the gradient of the step's loss, in passes of so many rows each; every process calls it.

    Returns:
        The loss, and the means of KL and entropy over the counted tokens of all processes.
    """
    accelerator = trained.accelerator
    trained.module.train()
    counted_tokens = sum(
        length for length, counted in zip(batch.rows.lengths, batch.is_counted.tolist(), strict=True) if counted
    )
    total = accelerator.reduce(torch.tensor(counted_tokens, device=accelerator.device), "sum").clamp(min=1)
    sums = torch.zeros(3, device=accelerator.device)  # of the loss, the KL and the entropy
    starts = range(0, len(batch.rows.completions), rows_per_pass)
    for start in starts:
        part = slice(start, start + rows_per_pass)
        rows = Rows(batch.rows.prompts[part], batch.rows.completions[part])
        lengths = torch.tensor(rows.lengths, device=accelerator.device)
        advantages = batch.advantages[part].repeat_interleave(lengths)  # [N]
        weights = batch.is_counted[part].repeat_interleave(lengths).float()  # [N]
        is_last = start == starts[-1]
        with sharding.gradients_kept_local(trained.module, is_last):
            with trained.autocast():
                reference_logps = trained.reference_logps(rows) if section.kl_coef > 0 else None
                figures: TokenLogps = trained.module(rows=rows)
            losses, kl = token_losses(figures, figures.logps.detach(), reference_logps, advantages, section)
            loss = (losses * weights).sum() / total
            # DDP and FSDP2 divide the sum of the processes' gradients by their number.
            (loss * accelerator.num_processes).backward()
        with torch.no_grad():
            sums += torch.stack([loss * total, (kl * weights).sum(), (figures.entropies * weights).sum()])
    loss_sum, kl_sum, entropy_sum = (accelerator.reduce(sums, "sum") / total).tolist()
    metrics = {"loss": loss_sum, "entropy": entropy_sum}
    if section.kl_coef > 0:
        metrics["kl"] = kl_sum
    return metrics


def token_losses(
    figures: TokenLogps, old_logps: Tensor, reference_logps: Tensor | None, advantages: Tensor, section: GRPO
) -> tuple[Tensor, Tensor]:
    """The loss and the KL estimate of each token, [N] each (see the head of this module).

    Args:
        figures: Figures of the model being trained.
        old_logps: Log-probabilities of the model that drew the tokens, [N].
        reference_logps: Those of the reference model, [N]; None without a KL term.
        advantages: [N].
        section: Clips and coefficients.
    """
    ratio = (figures.logps - old_logps).exp()
    clipped = ratio.clamp(1 - section.clip, 1 + section.clip)
    objective = torch.minimum(ratio * advantages, clipped * advantages)
    bounded = torch.where(advantages < 0, torch.maximum(objective, section.dual_clip * advantages), objective)
    losses = -bounded - section.entropy_coef * figures.entropies
    kl = torch.zeros_like(figures.logps)
    if reference_logps is not None:
        distance = reference_logps - figures.logps
        kl = distance.exp() - distance - 1
        losses = losses + section.kl_coef * kl
    return losses, kl


def update(trained: TrainedModel, max_grad_norm: float) -> float:
    """Takes one optimizer step, and returns the gradient's norm before it was clipped."""
    grad_norm = sharding.clip_gradients(trained.model, max_grad_norm)
    trained.optimizer.step()
    trained.schedule.step()
    trained.optimizer.zero_grad()
    return grad_norm


def _rewards_tensor(rewards: Sequence[float | None], device: torch.device) -> Tensor:
    """[B]; NaN where a rollout is unscored."""
    return torch.tensor([math.nan if reward is None else reward for reward in rewards], device=device)


def _reward_metrics(rewards: Tensor, group_size: int) -> dict[str, float]:
    """Mean and deviation of the scored rewards [B], and the share of groups whose scored rewards are all equal."""
    scored = rewards[~rewards.isnan()]
    grouped = rewards.view(-1, group_size)
    spread = grouped.nan_to_num(-math.inf).amax(1) - grouped.nan_to_num(math.inf).amin(1)
    deviation = float(scored.std()) if len(scored) > 1 else 0.0
    return {
        "reward": float(scored.mean()),
        "reward_std": deviation,
        "frac_reward_zero_std": float((spread <= 0).float().mean()),
    }


def _lengths(rows: Rows, end_ids: set[int], device: torch.device) -> Tensor:
    """Tokens of each prompt and completion, and 1 where the completion was cut off, [B, 3]."""
    values = []
    for prompt, completion in zip(rows.prompts, rows.completions, strict=True):
        values.append([len(prompt), len(completion), int(completion[-1] not in end_ids)])
    return torch.tensor(values, device=device)


def _length_metrics(lengths: Tensor) -> dict[str, float]:
    completions = lengths[:, 1].float()
    return {
        "completions/mean_length": float(completions.mean()),
        "completions/min_length": float(completions.min()),
        "completions/max_length": float(completions.max()),
        "completions/clipped_ratio": float(lengths[:, 2].float().mean()),
    }
