"""The vLLM engine: on vLLM itself where it is installed (`make test-vllm`), else on a stand-in with its signatures."""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
import vllm_signatures
from engine_contract import GREEDY, PROMPTS, SAMPLED, EngineContract, save_model, texts_of
from transformers import AutoModelForCausalLM

from safereason.engines.base import Engine, GenerateOptions
from safereason.engines.open import load_tokenizer, open_engine
from safereason.engines.spec import ModelSpec
from safereason.engines.transformers import TransformersEngine
from safereason.errors import InputError, StageFailed
from safereason.runs.directory import RunDirectory

REAL = importlib.util.find_spec("vllm") is not None
on_stand_in = pytest.mark.skipif(REAL, reason="looks into the stand-in")
ON_A_CPU = {"enforce_eager": True, "max_num_seqs": 16}


@pytest.fixture(scope="module", autouse=True)
def loaded() -> Iterator[list[dict[str, Any]]]:
    """What each `vllm.LLM` was made with, on the stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("SAFEREASON_VLLM", json.dumps(ON_A_CPU) if REAL else "")
        if REAL:
            yield []
            return
        with fake_vllm.installed() as calls:
            yield calls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("contract"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> TransformersEngine:
    opened = open_engine(ModelSpec.parse(str(folder)))
    assert isinstance(opened, TransformersEngine)
    return opened


@pytest.fixture(scope="module")
def engine(folder: Path, loaded: list[dict[str, Any]]) -> Engine:
    return open_engine(ModelSpec.parse(f"vllm/{folder}"))


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """The model in a folder of its own: one that is open in this process is not loaded again."""
    return shutil.copytree(folder, tmp_path / "copied")


class TestContract(EngineContract):
    """What every engine keeps."""


@pytest.mark.skipif(not REAL, reason="vLLM is not installed")
def test_the_recorded_signatures_are_those_of_the_installed_vllm():
    assert vllm_signatures.live() == vllm_signatures.recorded(), "run tests/vllm_signatures.py, and see what changed"


def test_what_is_drawn_hangs_on_no_neighbour(engine: Engine):
    whole = texts_of(engine.generate(PROMPTS, SAMPLED, GenerateOptions(n=2, seed=3)))
    for i in range(len(PROMPTS)):
        some = texts_of(
            engine.generate(PROMPTS, SAMPLED, GenerateOptions(n=2, seed=3, done={*range(len(PROMPTS))} - {i}))
        )
        assert some[i] == whole[i]


def test_what_vllm_refuses_is_an_error_of_its_completion(engine: Engine):
    completions = engine.generate(PROMPTS[:2], GREEDY, GenerateOptions(choices=21))
    assert [row[0].finish_reason for row in completions] == ["error", "error"]
    assert all("logprobs" in row[0].error for row in completions)


def test_room_is_what_the_context_leaves(engine: Any, reference: TransformersEngine):
    assert [engine.room(prompt) for prompt in PROMPTS] == [reference.room(prompt) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that holds adapters alone, of a rank that vLLM has no room of its own for, and no tokenizer."""
    import torch
    from peft import LoraConfig, get_peft_model

    path = tmp_path_factory.mktemp("runs") / "adapted"
    torch.manual_seed(3)
    wrapped = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder),
        LoraConfig(r=5, lora_alpha=20, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False),
    )
    with RunDirectory(path, "sft", "adapted", "name: adapted\n", {"seed": 0}) as run:
        wrapped.save_pretrained(path / "model")
        run.finish({})
    return path


def test_an_adapter_is_loaded_beside_its_base(adapter: Path, reference: TransformersEngine, loaded: list[Any]):
    adapted, expected = open_engine(ModelSpec.parse(f"vllm/{adapter}")), open_engine(ModelSpec.parse(str(adapter)))
    texts = texts_of(adapted.generate(PROMPTS, GREEDY))
    assert texts == texts_of(expected.generate(PROMPTS, GREEDY)) != texts_of(reference.generate(PROMPTS, GREEDY))
    with pytest.raises(InputError, match=r"likelihoods under an adapter are wrong .*put `hf/` in place of `vllm/`"):
        adapted.loglikelihood(PROMPTS, ["Sure"] * 5)
    if not REAL:
        assert (loaded[-1]["enable_lora"], loaded[-1]["max_lora_rank"]) == (True, 8)


def test_an_adapter_that_is_too_large_or_has_no_base_is_refused(adapter: Path):
    file = adapter / "model" / "adapter_config.json"
    whole = file.read_text()
    try:
        file.write_text(json.dumps({**json.loads(whole), "r": 1000}))
        with pytest.raises(InputError, match="an adapter of rank 1000 is more than vLLM takes"):
            open_engine(ModelSpec.parse(f"vllm/{adapter}"))
        file.write_text(json.dumps({**json.loads(whole), "base_model_name_or_path": None}))
        with pytest.raises(InputError, match="does not say which model the adapter belongs to"):
            open_engine(ModelSpec.parse(f"vllm/{adapter}"))
    finally:
        file.write_text(whole)


@on_stand_in
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_what_vllm_is_made_with(copied: Path, loaded: list[Any], monkeypatch, precision: str, dtype: str):
    monkeypatch.setenv("SAFEREASON_VLLM", '{"tensor_parallel_size": 4, "gpu_memory_utilization": 0.5}')
    open_engine(ModelSpec.parse(f"vllm/{copied}"), precision=precision)
    assert loaded[-1] == {
        "model": str(copied),
        "tokenizer": str(copied),
        "dtype": dtype,
        "enable_prefix_caching": True,
        "seed": 0,
        "trust_remote_code": False,
        "tensor_parallel_size": 4,
        "gpu_memory_utilization": 0.5,
    }


@on_stand_in
def test_a_tokenizer_is_taken_in_place_of_the_models_own(folder: Path, reference: TransformersEngine):
    plain = load_tokenizer(ModelSpec.parse(str(folder)))
    plain.chat_template = "{{ messages[0]['content'] }}"
    completions, expected = (
        open_engine(ModelSpec.parse(f"{engine}{folder}"), tokenizer=plain).generate(PROMPTS, GREEDY)
        for engine in ("vllm/", "")
    )
    assert texts_of(completions) == texts_of(expected) != texts_of(reference.generate(PROMPTS, GREEDY))


@on_stand_in
@pytest.mark.parametrize("value", ["4", "[1]", "{", '{"dtype": "half"}', '{"logprobs_mode": "processed_logprobs"}'])
def test_settings_that_cannot_be_are_refused(copied: Path, monkeypatch, value: str):
    monkeypatch.setenv("SAFEREASON_VLLM", value)
    with pytest.raises(InputError, match=r"SAFEREASON_VLLM(: \w+ is decided| is no JSON object)") as raised:
        open_engine(ModelSpec.parse(f"vllm/{copied}"))
    assert "\n" not in str(raised.value)


@on_stand_in
def test_a_setting_that_vllm_does_not_know_is_said_on_one_line(copied: Path, monkeypatch):
    monkeypatch.setenv("SAFEREASON_VLLM", '{"tensor_parallel": 4}')
    with pytest.raises(InputError, match=r"vLLM cannot open it \(TypeError: .*'tensor_parallel'") as raised:
        open_engine(ModelSpec.parse(f"vllm/{copied}"))
    assert "\n" not in str(raised.value)


@on_stand_in
def test_vllm_that_ends_fails_the_stage_and_is_left_empty(copied: Path):
    opened: Any = open_engine(ModelSpec.parse(f"vllm/{copied}"))
    opened.llm.llm_engine.broken = RuntimeError("the engine's process\nis gone")
    with pytest.raises(StageFailed, match=r"vLLM ended \(RuntimeError: the engine's process is gone\)"):
        opened.generate(PROMPTS, GREEDY)
    assert opened.llm.llm_engine.waiting == []
