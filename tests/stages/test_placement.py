"""Which model lies on which GPUs: arithmetic on the shapes of well-known models."""

from dataclasses import replace

import pytest

from safereason.engines.engine_spec import EngineSpec
from safereason.engines.place import VISIBLE
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.stages.placement import Placement, Role, place, size_of
from safereason.training.fit import GIB, parse_gpus

SMALL = EngineSpec(ModelSpec("Qwen/Qwen2.5-1.5B-Instruct", "hf"), "bf16")
MIDDLE = EngineSpec(ModelSpec("Qwen/Qwen2.5-7B-Instruct", "hf"), "bf16")
LARGE = EngineSpec(ModelSpec("Qwen/Qwen2.5-32B-Instruct", "hf"), "bf16")
JUDGE = EngineSpec(ModelSpec("cais/HarmBench-Llama-2-13b-cls", "hf"), "bf16")
UNKNOWN = EngineSpec(ModelSpec("org/unknown", "hf"), "bf16")
SERVED = EngineSpec(ModelSpec("gpt", "openai"))


def placed(engines: dict[str, EngineSpec], gpus: str) -> Placement:
    return place([Role(name, engine) for name, engine in engines.items()], parse_gpus(gpus), "attack pair")


def layout(placement: Placement) -> tuple[int, int, dict[str, tuple[int, ...]]]:
    placed = {}
    for role in placement.roles:
        assert role.engine.place is not None
        placed[role.name] = role.engine.place.gpus
    return placement.shards, placement.gpus_a_shard, placed


def test_weights_are_counted_in_the_precision_of_the_model():
    size = size_of(SMALL)
    assert size is not None
    assert round(size.weights / GIB, 1) == 2.9
    in_fp32 = size_of(replace(SMALL, precision="fp32"))
    assert in_fp32 is not None
    assert in_fp32.weights == 2 * size.weights
    assert size_of(UNKNOWN) is None


@pytest.mark.parametrize(
    ("engines", "gpus", "expected"),
    [
        ({"target": SMALL}, "4x48GB", (4, 1, {"target": (0,)})),
        ({"target": SMALL, "attacker": MIDDLE}, "4x48GB", (4, 1, {"target": (0,), "attacker": (0,)})),
        (
            {"target": SMALL, "attacker": MIDDLE, "judge": JUDGE},
            "4x48GB",
            (2, 2, {"target": (1,), "attacker": (1,), "judge": (0,)}),
        ),
        (
            {"target": SMALL, "attacker": MIDDLE, "judge": JUDGE},
            "4x80GB",
            (4, 1, {"target": (0,), "attacker": (0,), "judge": (0,)}),
        ),
        ({"target": LARGE}, "4x48GB", (2, 2, {"target": (0, 1)})),
        ({"target": LARGE}, "8x24GB", (2, 4, {"target": (0, 1, 2, 3)})),
        # Of three GPUs one is left over.
        ({"target": LARGE}, "3x48GB", (1, 2, {"target": (0, 1)})),
        ({"target": LARGE, "judge": JUDGE}, "4x48GB", (1, 3, {"target": (0, 1), "judge": (2,)})),
        # What is not known has a GPU for itself.
        ({"target": UNKNOWN, "judge": SMALL}, "2x48GB", (1, 2, {"target": (0,), "judge": (1,)})),
        ({"target": UNKNOWN}, "2x48GB", (2, 1, {"target": (0,)})),
        # One model with two parts is there once.
        ({"target": MIDDLE, "attacker": MIDDLE}, "1x24GB", None),
        ({"target": SERVED, "attacker": SMALL}, "2x24GB", (2, 1, {"attacker": (0,)})),
    ],
)
def test_a_shard_takes_as_few_gpus_as_its_models_fit_on(engines, gpus, expected):
    placement = placed(engines, gpus)
    if expected is None:
        assert (placement.shards, placement.gpus_a_shard) == (1, 1)
        assert {role.engine.place for role in placement.roles} == {None}
        return
    assert layout(placement) == expected


def test_where_batches_have_no_room_the_weights_decide():
    size = size_of(JUDGE)
    assert size is not None
    # Keys and values of a whole batch do not fit beside the weights, and smaller batches do.
    assert size.weights < parse_gpus("32GB").room < size.whole
    assert layout(placed({"judge": JUDGE, "target": SMALL}, "32GB"))[:2] == (1, 1)


def test_what_does_not_fit_is_one_line_with_what_is_needed():
    with pytest.raises(InputError) as error:
        placed({"target": LARGE, "attacker": LARGE, "judge": JUDGE}, "2x24GB")
    assert str(error.value) == (
        "attack pair: does not fit 2 x 24GB, of which 22.1 GiB each can be used: target and attacker "
        "Qwen/Qwen2.5-32B-Instruct 61.0 GiB in bf16; judge cais/HarmBench-Llama-2-13b-cls 24.2 GiB in bf16; "
        "take more or larger GPUs, or smaller models"
    )


def test_models_of_vllm_share_what_is_left_of_a_gpu():
    target = replace(SMALL, model=replace(SMALL.model, engine="vllm"))
    attacker = replace(MIDDLE, model=replace(MIDDLE.model, engine="vllm"))
    placement = placed({"target": target, "attacker": attacker, "judge": SMALL}, "2x48GB")
    shares = {}
    for role in placement.roles:
        assert role.engine.place is not None
        shares[role.name] = role.engine.place.share
    size = size_of(SMALL)
    assert size is not None
    taken_by_transformers = size.whole / (48 * GIB)
    assert shares["target"] + shares["attacker"] == pytest.approx(0.9 - taken_by_transformers, abs=0.002)
    assert shares["attacker"] > shares["target"] > taken_by_transformers
    alone = placed({"target": target}, "2x48GB").placed(target)
    assert alone.place is not None
    assert alone.place.share == 0.9


def test_the_split_that_a_person_sets_for_vllm_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAFEREASON_VLLM", '{"tensor_parallel_size": 2}')
    target = replace(SMALL, model=replace(SMALL.model, engine="vllm"))
    assert layout(placed({"target": target}, "4x48GB")) == (2, 2, {"target": (0, 1)})


def test_each_shard_sees_its_own_gpus(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VISIBLE, "3,5,6,7")
    environments = placed({"target": LARGE}, "4x48GB").environments
    assert [variables[VISIBLE] for variables in environments] == ["3,5", "6,7"]
    environments = placed({"target": SMALL}, "2x48GB").environments
    assert [variables[VISIBLE] for variables in environments] == ["3", "5"]
    assert placed({"target": SMALL}, "48GB").environments == []
    assert place([Role("target", SMALL)], None, "eval").environments == []
    assert placed({"target": SERVED}, "4x48GB").environments == []


def test_a_plan_says_where_each_model_lies():
    rows = placed({"target": SMALL, "judge": UNKNOWN}, "4x48GB").rows("searches")
    assert rows == [
        {
            "work": "searches",
            "shards": 2,
            "GPUs a shard": 2,
            "role": "target",
            "model": "Qwen/Qwen2.5-1.5B-Instruct",
            "engine": "transformers",
            "precision": "bf16",
            "GiB": 2.9,
            "on GPU": "1",
        },
        {
            "work": "searches",
            "shards": 2,
            "GPUs a shard": 2,
            "role": "judge",
            "model": "org/unknown",
            "engine": "transformers",
            "precision": "bf16",
            "GiB": None,
            "on GPU": "0",
        },
    ]
