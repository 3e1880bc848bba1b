"""Memory of GRPO's loss under FSDP2 as torch's own tracker counts it, beside what `safereason doctor` works out.

    python benchmarks/sharded_memory.py

Qwen2.5-1.5B and 7B in their true shapes, on fake tensors and four fake processes, so that it takes no memory and no
GPU: one pass in bf16 over rows of TARS's length, where gradients and the optimizer's moments are there already.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import AdamW
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen2Config

from safereason.training import logprobs, memory, sharding
from safereason.training.logprobs import Rows
from safereason.training.memory import OptimizerStep, Shape
from safereason.training.shapes import KNOWN_SHAPES

RANKS = 4
CASES = {"Qwen/Qwen2.5-1.5B-Instruct": 2, "Qwen/Qwen2.5-7B-Instruct": 1}
"""Rows of a forward pass, as in the recipes, by model."""
PROMPT, NEW = 512, 4096
"""Tokens of TARS's longest row."""


@contextmanager
def four_processes() -> Iterator[DeviceMesh]:
    """Four processes, of which this is the first, and no other is there; models are sharded over them."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    plain = sharding.fully_shard
    # A mesh has to be made of true tensors, and so before there are fake ones.
    sharding.fully_shard = partial(fully_shard, mesh=init_device_mesh("cpu", (RANKS,)))
    try:
        yield
    finally:
        sharding.fully_shard = plain
        dist.destroy_process_group()


def fake_tensors() -> FakeTensorMode:
    return FakeTensorMode(allow_non_fake_inputs=True)


def sharded_model(shape: Shape, *, checkpointing: bool) -> PreTrainedModel:
    """A model of this shape, ready for GRPO's loss."""
    config = Qwen2Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=32768,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    logprobs.install(model, 1.0)
    sharding.shard(model, bf16=True)
    return model


def rows_of(count: int, prompt: int, new: int) -> Rows:
    return Rows([[1] * prompt] * count, [[2] * new] * count)


def sizes(tracker: FSDPMemTracker, kind: str) -> dict[str, int]:
    """Bytes by category, now (`current`) or when they were most (`peak`)."""
    (snapshot,) = tracker.get_tracker_snapshot(kind).values()
    return {getattr(name, "value", name): size for name, size in snapshot.items()}


def tracked(shape: Shape, rows: int) -> dict[str, int]:
    """Bytes of each process by torch's tracker, under the names of the arithmetic."""
    with fake_tensors():
        model = sharded_model(shape, checkpointing=True)
        optimizer = AdamW(model.parameters(), fused=True)
        # The tracker would book what a step works with as its state, so that this one goes unseen.
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
        tracker = FSDPMemTracker(model, optimizer)
        with tracker, torch.autocast("cpu", torch.bfloat16):
            figures = model(rows=rows_of(rows, PROMPT, NEW))
        kept = sizes(tracker, "current")["Activation"]
        with tracker:
            (figures.logps.sum() + figures.entropies.sum()).backward()
        state = sizes(tracker, "current")
        peak = sizes(tracker, "peak")["Total"]
    return {
        "weights": state["Sharded Param"],
        "gradients": state["Sharded Grad"],
        "optimizer": state["OptState"],
        "activations": kept,
        "peak": peak,
    }


def worked_out(shape: Shape, rows: int) -> dict[str, int]:
    """The same by the arithmetic."""
    step = OptimizerStep(
        shape, rows, PROMPT + NEW, NEW, checkpointing=True, devices=RANKS, sharded=True, projected=True
    )
    parts = memory.parts(step)
    figures = {name: parts[name].size for name in ("weights", "gradients", "optimizer", "activations")}
    return {**figures, "peak": memory.peak(parts)[0]}


def activations(shape: Shape, rows: int, prompt: int, new: int) -> int:
    """Bytes that a forward pass keeps without checkpoints."""
    with fake_tensors():
        model = sharded_model(shape, checkpointing=False)
        tracker = FSDPMemTracker(model, AdamW(model.parameters()))
        with tracker, torch.autocast("cpu", torch.bfloat16):
            figures = model(rows=rows_of(rows, prompt, new))
        kept = sizes(tracker, "current")["Activation"]
        del figures
    return kept


def main() -> None:
    from safereason.cli.output import print_table

    table = []
    with four_processes():
        for name, rows in CASES.items():
            peaks = tracked(KNOWN_SHAPES[name], rows)
            for part, size in worked_out(KNOWN_SHAPES[name], rows).items():
                row = (name, part, f"{size / 2**30:.2f}", f"{peaks[part] / 2**30:.2f}", f"{size / peaks[part]:.2f}")
                table.append(row)
    print_table(("model", "GiB a GPU", "worked out", "tracked", "ratio"), table)


if __name__ == "__main__":
    main()
