"""TRL's GRPO trainer on the same rollouts, as an independent peer of our loop."""

from pathlib import Path

import torch
from datasets import Dataset
from grpo_parts import ROLLOUTS, Training
from torch import Tensor
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from safereason.engines.open import load_model, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.text.chat import user
from safereason.training.model import lora_config


class _Peer(GRPOTrainer):
    """With our advantages: TRL divides by the deviation + 1e-4, and knows no groups that are left out."""

    training: Training

    def _generate_and_score_completions(self, inputs):
        output = super()._generate_and_score_completions(inputs)
        batch = self.training.batch
        output["advantages"] = batch.advantages
        output["completion_mask"] = output["completion_mask"] * batch.is_counted[:, None]
        output["num_items_in_batch"] = output["completion_mask"].sum()
        return output


class _Gradients(TrainerCallback):
    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights, self.gradients = weights, {}

    def on_train_begin(self, args, state, control, model=None, **others):
        model.load_state_dict(self.weights)

    def on_pre_optimizer_step(self, args, state, control, model=None, **others):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_step(
    model: Path, folder: Path, training: Training, weights: dict[str, Tensor]
) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradients of TRL's trainer: its policy has these weights, its reference those of the start."""
    chosen, fixed = training.section, training.fixed
    tokenizer = load_tokenizer(ModelSpec.parse(str(model)))

    def rollouts(prompts, trainer):
        named = [prompt[-1]["content"] for prompt in prompts]
        left = {prompt: iter(ids) for prompt, ids in fixed.completions.items()}
        return {
            "prompt_ids": [fixed.prompts[name] for name in named],
            "completion_ids": [next(left[name]) for name in named],
            "logprobs": None,
        }

    arguments = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        max_steps=1,
        per_device_train_batch_size=chosen.micro_batch_size,
        gradient_accumulation_steps=12 // chosen.micro_batch_size,
        num_generations=6,
        learning_rate=0.0,
        max_grad_norm=1e9,
        epsilon=chosen.clip,
        delta=chosen.dual_clip,
        beta=chosen.kl_coef,
        use_bias_correction_kl=False,
        loss_type="dapo",
        scale_rewards="none",
        mask_truncated_completions=False,
        entropy_coef=chosen.entropy_coef,
        temperature=chosen.sampling.temperature,
        max_completion_length=chosen.sampling.max_new_tokens,
        shuffle_dataset=False,
        disable_dropout=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        remove_unused_columns=False,
    )
    peer = _Peer(
        model=load_model(str(model)),
        reward_funcs=[lambda completions, **others: [0.0] * len(completions)],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": user(prompt)} for prompt in ROLLOUTS]),
        processing_class=tokenizer,
        peft_config=lora_config(chosen.lora),
        rollout_func=rollouts,
    )
    peer.training = training
    gradients = _Gradients({name: tensor.clone() for name, tensor in weights.items()})
    peer.add_callback(gradients)
    # In the order of the rows that our batch has.
    peer.shuffle_dataset = False
    peer.train()
    (loss,) = [row["loss"] for row in peer.state.log_history if "loss" in row]
    return loss, gradients.gradients


def advantages(rewards: list[list[float]]) -> Tensor:
    """[B] advantages by TRL's formula: (r - mean) / (std + 1e-4) in each group."""
    groups = [torch.tensor(group) for group in rewards]
    return torch.cat([(group - group.mean()) / (group.std() + 1e-4) for group in groups])
