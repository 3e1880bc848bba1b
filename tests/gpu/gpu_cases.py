"""The cases of all checks: on a GPU with real shapes, and on a CPU with small ones."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import fake_vllm
import pytest
import torch
from gpu_attack_checks import gcg_in_bf16
from gpu_engine_checks import first_tokens_in_bf16, full_memory, greedy_tokens, sampler_logprobs
from gpu_memory_checks import grpo_memory, sft_memory
from gpu_training_checks import resume, training, vllm_rollouts
from gpu_trial import Case
from trl.generation.vllm_generation import VLLMGeneration

from safereason.engines import vllm
from safereason.training import memory

TARS = ("sft.max_tokens=1024", "rl.max_prompt_tokens=1024")
GUARD = ("data.rows_per_label=8", "data.validation_rows_per_label=0", "guard.train.max_prompt_tokens=1900")
"""Longer rows than the recipe's: models with random weights read bytes."""
MICRO_TARS = (*TARS, "data.prompts=24", "sft.batch_size=4", "sft.micro_batch_size=4")
MICRO_RL = ("rl.prompts_per_step=2", "rl.micro_batch_size=8", "rl.sampling.max_new_tokens=16")
MICRO_GUARD = (
    *GUARD,
    "guard.train.prompts_per_step=2",
    "guard.train.micro_batch_size=8",
    "guard.train.sampling.max_new_tokens=16",
)
MICRO_MEMORY = (
    "sft.precision=fp32",
    "sft.max_tokens=288",
    "rl.precision=fp32",
    # As in the recipe, prompts are too short to be shared.
    "rl.max_prompt_tokens=32",
    "rl.sampling.max_new_tokens=256",
    # Of two layers the one that is computed again is half of the model, and never there beside the logits.
    "sft.activation_checkpointing=false",
    "rl.activation_checkpointing=false",
)


@contextmanager
def narrow_tiles() -> Iterator[None]:
    """Tiles of logits as wide as the small vocabulary: TRL's are 128 times as wide, and would hide the rest."""
    width = 259
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "TILE_WORDS", width)
        patch.setattr("trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE", width)
        yield


@contextmanager
def stand_in_for_trl() -> Iterator[None]:
    """In place of TRL's vLLM, its signatures on the very model that is trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm, "is_installed", lambda: True)
        patch.setattr(vllm, "can_sleep", lambda: False)
        patch.setattr("trl.generation.vllm_generation.VLLMGeneration", _Generation)
        yield


class _Generation:
    """TRL's VLLMGeneration as far as it is used here."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        bound = inspect.signature(VLLMGeneration.__init__).bind(self, *positional, **named)
        self._given = SimpleNamespace(**bound.arguments)

    def sync_weights(self) -> None:
        """The model is the one that is trained."""

    def generate(self, *positional: Any, **named: Any) -> tuple[Any, ...]:
        """Prompts, completions and the log-probabilities of their tokens, drawn one prompt after the other."""
        prompts = inspect.signature(VLLMGeneration.generate).bind(self, *positional, **named).arguments["prompts"]
        drawn = [self._draw(prompt) for prompt in prompts]
        return prompts, [ids for ids, _ in drawn], [logprobs for _, logprobs in drawn], None

    @torch.no_grad()
    def _draw(self, prompt: list[int]) -> tuple[list[int], list[list[float]]]:
        ids: list[int] = []
        logprobs: list[list[float]] = []
        ends = self._given.generation_kwargs["stop_token_ids"]
        while len(ids) < self._given.max_completion_length and not (ids and ids[-1] in ends):
            logits = self._given.model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1]
            distribution = (logits.float() / self._given.temperature).log_softmax(-1)
            ids.append(int(torch.multinomial(distribution.exp(), 1)))
            logprobs.append([float(distribution[ids[-1]])])
        return ids, logprobs


ON_GPU = (
    Case(greedy_tokens, {"model": "embedded"}),
    Case(first_tokens_in_bf16, {"model": "embedded"}),
    Case(sampler_logprobs, {"model": "embedded", "precision": "fp32", "engine": "transformers"}),
    Case(sampler_logprobs, {"model": "embedded", "precision": "bf16", "engine": "transformers"}),
    Case(full_memory, {"model": "embedded", "work": "generation", "rows": 96, "words": 60}),
    Case(full_memory, {"model": "embedded", "work": "likelihoods", "rows": 96, "words": 60}),
    Case(resume, {"algorithm": "grpo", "model": "micro"}),
    Case(resume, {"algorithm": "sft", "model": "micro"}),
    Case(gcg_in_bf16, {"model": "embedded", "steps": 4, "width": 512}),
    Case(gcg_in_bf16, {"model": "qwen-1.5b", "steps": 3, "width": 512}),
    Case(grpo_memory, {"model": "qwen-1.5b", "band": 0.15}),
    Case(sft_memory, {"model": "qwen-1.5b", "band": 0.15}),
    Case(training, {"stage": "sft", "model": "micro", "precision": "fp32", "overrides": MICRO_TARS}),
    Case(training, {"stage": "rl", "model": "micro", "precision": "fp32", "overrides": (*MICRO_TARS, *MICRO_RL)}),
    Case(training, {"stage": "guard", "model": "micro", "precision": "fp32", "overrides": MICRO_GUARD}),
    Case(training, {"stage": "sft", "model": "embedded", "precision": "fp32", "overrides": TARS}),
    Case(training, {"stage": "sft", "model": "embedded", "precision": "bf16", "overrides": TARS}),
    Case(training, {"stage": "rl", "model": "embedded", "precision": "fp32", "overrides": TARS}),
    Case(training, {"stage": "rl", "model": "embedded", "precision": "bf16", "overrides": TARS}),
    Case(training, {"stage": "guard", "model": "embedded", "precision": "fp32", "overrides": GUARD}),
    # Last, because TRL keeps its vLLM to the end of the process.
    Case(sampler_logprobs, {"model": "embedded", "precision": "bf16", "engine": "vllm"}),
    Case(vllm_rollouts, {"model": "embedded", "precision": "bf16"}),
)
ON_CPU = (
    Case(greedy_tokens, {"model": "wide"}),
    Case(first_tokens_in_bf16, {"model": "wide"}),
    Case(sampler_logprobs, {"model": "wide", "precision": "fp32", "engine": "transformers"}),
    Case(sampler_logprobs, {"model": "micro", "precision": "bf16", "engine": "transformers"}),
    Case(sampler_logprobs, {"model": "wide", "precision": "fp32", "engine": "vllm"}, fake_vllm.installed),
    Case(full_memory, {"model": "wide", "work": "generation", "rows": 8, "words": 4}),
    Case(full_memory, {"model": "wide", "work": "likelihoods", "rows": 8, "words": 4}),
    Case(resume, {"algorithm": "grpo", "model": "micro"}),
    Case(resume, {"algorithm": "sft", "model": "micro"}),
    Case(gcg_in_bf16, {"model": "qwen-micro", "steps": 2, "width": 16}),
    Case(grpo_memory, {"model": "qwen-micro", "band": 0.25, "overrides": MICRO_MEMORY}),
    Case(sft_memory, {"model": "qwen-micro", "band": 0.25, "overrides": MICRO_MEMORY}, narrow_tiles),
    Case(training, {"stage": "sft", "model": "micro", "precision": "fp32", "overrides": MICRO_TARS}),
    Case(training, {"stage": "rl", "model": "micro", "precision": "fp32", "overrides": (*MICRO_TARS, *MICRO_RL)}),
    Case(training, {"stage": "guard", "model": "micro", "precision": "fp32", "overrides": MICRO_GUARD}),
    Case(vllm_rollouts, {"model": "micro", "precision": "fp32"}, stand_in_for_trl),
)
