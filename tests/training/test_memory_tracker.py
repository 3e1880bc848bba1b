"""The arithmetic of memory against torch's own tracker for FSDP2: true shapes, fake tensors, four fake processes."""

import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from safereason.training import memory
from safereason.training.shapes import KNOWN_SHAPES

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "sharded_memory.py"))
BAND = 0.1
"""How far the arithmetic may be from the tracker."""


@pytest.fixture(scope="module", autouse=True)
def four_processes() -> Iterator[None]:
    with BENCHMARK["four_processes"]():
        yield


@pytest.mark.parametrize("name", BENCHMARK["CASES"])
def test_weights_gradients_optimizer_and_activations_are_those_that_torch_tracks(name):
    rows = BENCHMARK["CASES"][name]
    tracked = BENCHMARK["tracked"](KNOWN_SHAPES[name], rows)
    for part, size in BENCHMARK["worked_out"](KNOWN_SHAPES[name], rows).items():
        assert size == pytest.approx(tracked[part], rel=BAND), part


def test_what_a_layer_keeps_without_checkpoints_is_what_torch_tracks():
    shape = KNOWN_SHAPES["Qwen/Qwen2.5-1.5B-Instruct"]
    kept = [BENCHMARK["activations"](replace(shape, layers=layers), 2, 128, 1024) for layers in (2, 4)]
    layer = 2 * (128 + 1024) * memory.per_token(shape, memory.BF16, 128 + 1024)
    assert (kept[1] - kept[0]) / 2 == pytest.approx(layer, rel=BAND)
