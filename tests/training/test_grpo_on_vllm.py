"""GRPO on rollouts of vLLM itself, against our engine's: where vLLM is installed (`make test-vllm`)."""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_contract import save_model
from grpo_parts import section
from training_parts import training_run

from safereason.data.example import Example
from safereason.rewards import open_reward
from safereason.runs.records import RecordLog, read_records
from safereason.training import grpo

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")

EXAMPLES = [Example(f"own/{kind}", f"A {kind} thing", kind, "own") for kind in ("harmful", "harmless")]
GREEDY = {"temperature": 1.0, "top_k": 1, "max_new_tokens": 24}
"""Without chance, so that both draw the same: the bonus on entropy moves the weights, since equal rewards do not."""


@pytest.fixture(scope="module", autouse=True)
def on_a_cpu():
    """In 32 bits, of which TRL tells vLLM nothing, and with weights that can be replaced, as on a GPU."""
    from trl.generation import vllm_generation
    from vllm.model_executor.layers import utils

    def keep(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setattr(vllm_generation, "LLM", partial(vllm_generation.LLM, dtype="float32"))
        if not torch.cuda.is_available():
            patch.setattr(utils, "dispatch_cpu_unquantized_gemm", keep)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            patch.setenv(name, "")  # TRL sets them for vLLM and leaves them
            patch.delenv(name)
        yield


def train(model: Path, folder: Path, rollouts: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Four steps on the same two prompts; gives the metrics and the rollouts."""
    chosen = section(
        rollouts=rollouts,
        sampling=GREEDY,
        prompts_per_step=2,
        rollouts_per_prompt=2,
        micro_batch_size=4,
        epochs=4,
        max_steps=4,
        kl_coef=0.1,
        entropy_coef=0.1,
        learning_rate=3e-3,
    )
    with RecordLog(folder / "metrics.jsonl") as metrics, RecordLog(folder / "rollouts.jsonl") as log:
        grpo.train(training_run(chosen, model, folder, metrics), EXAMPLES, open_reward(chosen.reward), log)
    return list(read_records(metrics.path)), list(read_records(log.path))


def test_each_step_draws_with_the_weights_that_are_trained(tmp_path):
    model = save_model(tmp_path / "model")
    (tmp_path / "ours").mkdir()
    (tmp_path / "vllms").mkdir()
    metrics, rollouts = train(model, tmp_path / "ours", "engine")
    vllm_metrics, drawn = train(model, tmp_path / "vllms", "vllm-colocate")
    texts = [(row["step"], row["id"], row["text"], row["tokens"]) for row in rollouts]
    assert [(row["step"], row["id"], row["text"], row["tokens"]) for row in drawn] == texts
    assert {text for step, _, text, _ in texts if step == 1} != {text for step, _, text, _ in texts if step == 4}
    for step, before in zip(vllm_metrics, metrics, strict=True):
        for name in ("loss", "grad_norm", "kl", "entropy", "reward", "num_tokens"):
            assert step[name] == pytest.approx(before[name], abs=1e-4), name
