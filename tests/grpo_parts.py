"""GRPO on the micro model with fixed rollouts and rewards, and their log-probabilities worked out plainly."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from training_parts import training_run
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from safereason.engines.open import load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.recipe.schema import GRPO
from safereason.runs.records import RecordLog
from safereason.text.chat import prompt_ids, user
from safereason.training import grpo
from safereason.training.advantage import group_advantages, uniform_groups
from safereason.training.logprobs import Rows

ROLLOUTS = {
    "Why?": ["<think>\na\n</think>\n\nno", "yes", "<think>", "maybe so", "a", "I will not say"],
    "How many eggs do I need?": ["two", "three eggs, I think", "", "</think>", "four", "xyzzy"],
}
"""Six texts for each of two prompts, of uneven lengths."""
REWARDS = {"Why?": [1.0, 0.0, 0.25, 0.0, 0.5, 1.0], "How many eggs do I need?": [0.0, 0.125, 0.0, 1.0, 0.0, 0.0]}


def section(**changes) -> GRPO:
    """Two prompts a step, six rollouts each, a gradient that is not clipped."""
    values = {
        "epochs": 1,
        "learning_rate": 1e-3,
        "prompts_per_step": 2,
        "rollouts_per_prompt": 6,
        "micro_batch_size": 12,
        "kl_coef": 0.0,
        "max_grad_norm": 1e9,
        "max_prompt_tokens": 64,
        "precision": "fp32",
        "sampling": {"temperature": 0.7, "max_new_tokens": 40},
        "max_steps": 1,
        "reward": {"name": "tars", "safety": "refusal", "task": "compliance"},
    }
    return GRPO(**{**values, **changes})


class Fixed:
    """The token ids of the fixed rollouts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.prompts = {prompt: prompt_ids(tokenizer, user(prompt)) for prompt in ROLLOUTS}
        self.completions = {
            prompt: [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
            for prompt, texts in ROLLOUTS.items()
        }

    def rows(self) -> Rows:
        """All of them, the rollouts of a prompt side by side."""
        prompts = [self.prompts[prompt] for prompt, group in self.completions.items() for _ in group]
        return Rows(prompts, [ids for group in self.completions.values() for ids in group])


@dataclass(frozen=True)
class Training:
    """A model being trained, with the fixed rollouts of one optimizer step."""

    section: GRPO
    trained: grpo.TrainedModel
    fixed: Fixed
    rewards: dict[str, list[float | None]]

    @property
    def batch(self) -> grpo.RolloutBatch:
        """The rollouts with their advantages, as the loop makes them."""
        rewards_in_order = chain.from_iterable(self.rewards.values())
        rewards = torch.tensor([torch.nan if reward is None else reward for reward in rewards_in_order])
        counted = torch.ones(len(rewards), dtype=torch.bool)
        if self.section.drop_uniform_groups:
            counted = ~uniform_groups(rewards, self.section.rollouts_per_prompt)
        advantages = group_advantages(rewards, self.section.rollouts_per_prompt, self.section.advantage_epsilon)
        return grpo.RolloutBatch(self.fixed.rows(), advantages, counted)


def open_training(model: Path, folder: Path, chosen: GRPO, rewards=REWARDS, steps: int = 1) -> Training:
    """The model being trained by a recipe's section, for a training of so many steps."""
    with RecordLog(folder / "metrics.jsonl") as metrics:
        trained = grpo.open_trained_model(training_run(chosen, model, folder, metrics), steps)
    return Training(chosen, trained, Fixed(load_tokenizer(ModelSpec.parse(str(model)))), rewards)


def one_step(training: Training) -> tuple[float, dict[str, Tensor]]:
    """The loss of the fixed step, and its gradients."""
    metrics = grpo.backward(training.trained, training.batch, training.section, training.section.micro_batch_size)
    parameters = training.trained.model.named_parameters()
    return metrics["loss"], {name: p.grad.clone() for name, p in parameters if p.grad is not None}


def perturb(model, seed: int = 1, scale: float = 0.02) -> None:
    """Moves every weight, so that the model is no longer the reference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def exact(source) -> LlamaForCausalLM:
    """A copy in float64 of its own class, whose forward pass nothing wraps."""
    model = LlamaForCausalLM(source.config)
    model.load_state_dict(source.state_dict())
    return model.double().eval()


def plain(model, fixed: Fixed, temperature: float) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probabilities and entropies of each rollout's tokens, a row at a time, without padding, cache or packing."""
    logps, entropies = [], []
    for prompt, completions in fixed.completions.items():
        for completion in completions:
            ids = torch.tensor([*fixed.prompts[prompt], *completion])
            scores = model(input_ids=ids[None], use_cache=False).logits[0] / temperature
            scores = scores.log_softmax(-1)[len(fixed.prompts[prompt]) - 1 : -1]
            logps.append(scores[torch.arange(len(completion)), torch.tensor(completion)])
            entropies.append(-(scores.exp() * scores).sum(-1))
    return logps, entropies


def padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """[B, C] with its mask."""
    values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return values, mask
