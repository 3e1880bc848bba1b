"""A GRPO trainer on the micro model with given rollouts and rewards, and their log-probabilities worked out plainly."""

from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaForCausalLM, TrainerCallback
from trl import GRPOConfig

from safereason.engines.open import load_model, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.recipe.schema import GRPO
from safereason.text.chat import prompt_ids, user
from safereason.training.arguments import grpo_arguments
from safereason.training.grpo import GroupTrainer
from safereason.training.model import lora_config

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


class FixedRollouts:
    """Rollouts and rewards that are fixed instead of drawn, as TRL asks for them."""

    __name__ = "fixed"

    def __init__(self, tokenizer, rewards: dict[str, list[float | None]]) -> None:
        self.prompts = {prompt: prompt_ids(tokenizer, user(prompt)) for prompt in ROLLOUTS}
        self.completions = {
            prompt: [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
            for prompt, texts in ROLLOUTS.items()
        }
        self.rewards = rewards

    def rollouts(self, prompts, trainer):
        named = [prompt[-1]["content"] for prompt in prompts]
        left = {prompt: iter(ids) for prompt, ids in self.completions.items()}
        return {
            "prompt_ids": [self.prompts[name] for name in named],
            "completion_ids": [next(left[name]) for name in named],
            "logprobs": None,
        }

    def __call__(self, *, prompts, completion_ids, **named):
        names = [prompt[-1]["content"] for prompt in prompts]
        return [self.reward(name, ids) for name, ids in zip(names, completion_ids, strict=True)]

    def reward(self, prompt: str, ids: list[int]):
        return self.rewards[prompt][self.completions[prompt].index(list(ids))]


def make_trainer(model: Path, folder: Path, chosen: GRPO, rewards=REWARDS, kind=GroupTrainer, **arguments):
    """The trainer of a recipe's section, but for where its rollouts and rewards come from."""
    tokenizer = load_tokenizer(ModelSpec.parse(str(model)))
    fixed = FixedRollouts(tokenizer, rewards)
    settings = grpo_arguments(chosen, prompts=len(ROLLOUTS), seed=0, output_dir=str(folder / "checkpoints"))
    trainer = kind(
        *([chosen] if kind is GroupTrainer else []),
        model=load_model(str(model)),
        reward_funcs=[fixed],
        args=GRPOConfig(**{**settings, **arguments}),
        train_dataset=Dataset.from_list([{"prompt": user(prompt)} for prompt in ROLLOUTS]),
        processing_class=tokenizer,
        peft_config=lora_config(chosen.lora),
        rollout_func=fixed.rollouts if chosen.rollouts == "engine" else None,
    )
    trainer.fixed = fixed
    return trainer


def inputs(trainer) -> list[dict]:
    """One step's prompts, each repeated for its rollouts."""
    return [{"prompt": user(prompt)} for prompt in ROLLOUTS for _ in range(trainer.num_generations)]


def perturb(model, seed: int = 1, scale: float = 0.02) -> None:
    """Moves every weight, so that the model is no longer the reference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


class Gradients(TrainerCallback):
    """Keeps the gradients that the first optimizer step is given."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **named):
        self.by_name = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_step(trainer) -> tuple[float, dict[str, Tensor]]:
    """Trains one step; the loss it logged and the gradients it used."""
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    (loss,) = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return loss, gradients.by_name


def exact(source) -> LlamaForCausalLM:
    """A copy in float64 of its own class: TRL and accelerate wrap the forward pass of the one they train."""
    model = LlamaForCausalLM(source.config)
    model.load_state_dict(source.state_dict())
    return model.double().eval()


def plain(model, fixed: FixedRollouts, temperature: float) -> tuple[list[Tensor], list[Tensor]]:
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
