"""What training takes of a device, worked out: shapes against published counts, and parts against counted tensors."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.engines import transformers
from safereason.engines.open import load_model
from safereason.errors import InputError
from safereason.training import memory, shared_prefix
from safereason.training.memory import DRAW, HEAD, LAYERS, SCORE, UPDATE, MemoryPart, OptimizerStep, Shape
from safereason.training.shapes import KNOWN_SHAPES, from_config, shape_of

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "memory.py"))
BAND = 0.25
"""How far the formula may be from the tensors counted, on the micro model."""


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("embedded/smollm2-135m", 134_515_008),
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
        ("Qwen/Qwen2.5-3B-Instruct", 3_085_938_688),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen2.5-14B-Instruct", 14_770_033_664),
        ("Qwen/Qwen2.5-32B-Instruct", 32_763_876_352),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7_248_023_552),
        ("cais/HarmBench-Llama-2-13b-cls", 13_015_864_320),
    ],
)
def test_known_shapes_have_the_weights_their_makers_count(name, parameters):
    assert KNOWN_SHAPES[name].parameters == parameters


def test_a_shape_read_from_a_folder_has_the_models_weights(micro_model):
    model = load_model(str(micro_model))
    assert shape_of(str(micro_model)).parameters == sum(p.numel() for p in model.parameters())


def test_adapters_are_as_many_as_peft_makes(micro_model):
    from peft import get_peft_model

    from safereason.recipe.schema import LoRA
    from safereason.training.model import lora_config

    adapted = get_peft_model(load_model(str(micro_model)), lora_config(LoRA(rank=4)))
    assert shape_of(str(micro_model)).adapters(4) == adapted.get_nb_trainable_parameters()[0]


def test_an_unknown_shape_is_refused_in_a_line():
    with pytest.raises(InputError, match=r"^org/none: its shape is not known here; .*config\.json"):
        shape_of("org/none")
    with pytest.raises(InputError, match=r"has no hidden_size"):
        from_config({"vocab_size": 9}, "config.json")
    full = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
    with pytest.raises(InputError, match=r"has num_experts"):
        from_config({**full, "num_experts": 4}, "config.json")


@pytest.mark.parametrize("case", [name for name in BENCHMARK["CASES"] if name.startswith("micro-")])
def test_the_formula_is_near_the_tensors_counted(case, tmp_path, monkeypatch):
    # TRL's buffer is 128 times as wide as this vocabulary, and would hide the rest.
    monkeypatch.setattr(memory, "TILE_WORDS", 259)
    monkeypatch.setattr("trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE", 259)
    monkeypatch.setattr(transformers, "end_of_turn_ids", transformers.end_of_turn_ids)  # the benchmark replaces it
    sizes = BENCHMARK["run_case"](BENCHMARK["CASES"][case], tmp_path)
    assert 1 - BAND <= sizes["formula"] / sizes["tensors"] <= 1 + BAND, sizes


def test_the_meter_counts_what_is_alive():
    import torch

    meter = BENCHMARK["Live"]()
    with meter:
        first = torch.zeros(1000)
        second = first + 1
        view = second[:10]
        assert meter.now == 8000
        del second
        assert meter.now == 8000
        del view
        assert (meter.now, meter.peak) == (4000, 8000)


SHAPE = Shape(64, 2, 4, 2, 16, 128, 259)
STEP = OptimizerStep(SHAPE, rows=4, tokens=64, trained=32)


@given(st.sampled_from(["rows", "tokens", "drawn", "judges", "reward_model", "vllm"]), st.integers(1, 50))
def test_more_of_anything_takes_no_less(field, more):
    bigger = replace(STEP, **{field: getattr(STEP, field) + more})
    assert memory.peak(memory.parts(bigger))[0] >= memory.peak(memory.parts(STEP))[0]


def size(parts: dict[str, MemoryPart], name: str) -> int:
    return parts[name].size


def test_sharding_shares_out_what_each_device_would_hold():
    step = replace(STEP, devices=4, reference=True)
    whole, sharded = memory.parts(step), memory.parts(replace(step, sharded=True))
    for part in ("weights", "optimizer", "reference", "gradients"):
        assert size(whole, part) == 4 * size(sharded, part)
    assert size(whole, "DDP's buckets") == size(whole, "gradients")
    assert "DDP's buckets" not in sharded
    assert whole["activations"] == sharded["activations"]


def test_our_own_loop_has_its_gradients_in_ddps_buckets():
    step = replace(STEP, devices=4)
    theirs, ours = memory.parts(step), memory.parts(replace(step, projected=True))
    assert size(ours, "gradients") == size(theirs, "gradients")
    assert "DDP's buckets" not in ours
    assert theirs["DDP's buckets"].phases == ours["gradients"].phases == memory.PHASES


def test_parts_of_one_phase_are_added_and_phases_are_not():
    parts = {
        "weights": MemoryPart(10),
        "gradients": MemoryPart(5, (HEAD, LAYERS, UPDATE)),
        "activations": MemoryPart(7, (HEAD, LAYERS)),
        "KV cache": MemoryPart(11, (DRAW,)),
    }
    assert memory.peak(parts) == (22, HEAD)
    assert memory.peak({**parts, "KV cache": MemoryPart(13, (DRAW,))}) == (23, DRAW)
    assert memory.peak({**parts, "a layer again": MemoryPart(1, (LAYERS,))}) == (23, LAYERS)
    assert memory.phase_sizes(parts) == {DRAW: 21, SCORE: 10, HEAD: 22, LAYERS: 22, UPDATE: 15}


def test_vllm_asleep_leaves_the_loss_all_but_its_own_memory():
    share = 10 * memory.VLLM_OWN
    awake, asleep = (memory.phase_sizes(memory.parts(replace(STEP, vllm=share, sleeps=s))) for s in (False, True))
    assert awake[DRAW] == asleep[DRAW]
    for phase in (SCORE, HEAD, LAYERS, UPDATE):
        assert awake[phase] - asleep[phase] == share - memory.VLLM_OWN


def test_the_reward_model_is_there_while_it_scores():
    without, scored = (memory.phase_sizes(memory.parts(replace(STEP, reward_model=n))) for n in (0, 1000))
    assert {phase for phase in memory.PHASES if scored[phase] != without[phase]} == {SCORE}
    stays = memory.phase_sizes(memory.parts(replace(STEP, judges=1000)))
    assert {stays[phase] - without[phase] for phase in memory.PHASES} == {1000}


@pytest.mark.parametrize("rank", [None, 4])
def test_what_is_offloaded_is_not_on_the_device(rank):
    step = replace(STEP, devices=4, sharded=True, reference=rank is None, rank=rank, projected=True)
    sizes = {}
    for offload in ("none", "optimizer", "all"):
        sizes[offload] = memory.phase_sizes(memory.parts(replace(step, offload=offload)))
    optimizer = size(memory.parts(step), "optimizer")
    for phase in memory.PHASES:
        gone = 0 if phase == UPDATE else optimizer
        assert sizes["none"][phase] - sizes["optimizer"][phase] == gone
    assert sizes["all"][UPDATE] == 0
    assert 0 < sizes["all"][LAYERS] < sizes["optimizer"][LAYERS]


def test_what_is_offloaded_is_in_the_machines_own_memory():
    step = replace(STEP, devices=4, sharded=True, reference=True, reward_model=7)
    weights = memory.FP32 * SHAPE.parameters
    # Each process loads all of the model.
    assert memory.host_size(step) == 4 * (weights + 7)
    # Afterwards weights, gradients, reference and two moments stay, beside the copy that is saved.
    assert memory.host_size(replace(step, offload="all")) == 6 * weights + 4 * 7
    whole = replace(step, sharded=False, offload="optimizer")
    assert memory.host_size(whole) == 3 * weights + 4 * 7


def test_figures_of_other_modules_are_theirs():
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    from safereason.training import fit, logprobs

    assert (memory.TILE_TOKENS, memory.TILE_WORDS) == (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)
    assert memory.PACKED_TOKENS == shared_prefix.CHUNK_TOKENS
    assert (fit.ENGINE_TOKENS, fit.PROMPT_SHARE) == (transformers.BATCH_TOKENS, logprobs.PROMPT_SHARE)
