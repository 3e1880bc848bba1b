"""Which engine runs a model, and that one model is one engine however many parts it has."""

import gc
import weakref
from pathlib import Path

import fake_gpu
import fake_vllm
import micro
import pytest

from safereason.engines import vllm
from safereason.engines.engine_spec import DeferredEngine, EngineSpec, choose_engine
from safereason.engines.open import load_tokenizer, open_engine
from safereason.engines.place import VISIBLE, Place, names_of, shown_to_children
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.recipe.schema import Sampling
from safereason.text.chat import user


@pytest.fixture
def gpu_with_vllm(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    fake_gpu.install(monkeypatch)
    monkeypatch.setattr(vllm, "is_installed", lambda: True)
    return monkeypatch


def chosen(text: str, **options) -> tuple[str | None, str]:
    spec = choose_engine(ModelSpec.parse(text), **options)
    return spec.model.engine, spec.precision


def test_without_a_gpu_transformers_runs_a_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vllm, "is_installed", lambda: True)
    assert chosen("org/name") == ("hf", "fp32")
    assert chosen("org/name", precision="bf16") == ("hf", "bf16")
    assert chosen("org/name", engine="vllm") == ("vllm", "fp32")
    assert chosen("vllm/org/name") == ("vllm", "fp32")
    assert chosen("openai/gpt", engine="vllm") == ("openai", "fp32")


def test_on_a_gpu_vllm_does_where_it_is_installed(gpu_with_vllm: pytest.MonkeyPatch):
    assert chosen("org/name") == ("vllm", "bf16")
    assert chosen("hf/org/name") == ("hf", "bf16")
    assert chosen("org/name", engine="hf") == ("hf", "bf16")
    # vLLM is slow in fp32, and shows neither weights nor states.
    assert chosen("org/name", precision="fp32") == ("hf", "fp32")
    assert chosen("org/name", by_transformers=True) == ("hf", "bf16")
    assert chosen("org/name", by_transformers=True, engine="vllm") == ("hf", "bf16")
    gpu_with_vllm.setattr(vllm, "is_installed", lambda: False)
    assert chosen("org/name") == ("hf", "bf16")


def test_on_an_old_gpu_models_are_in_fp32(monkeypatch: pytest.MonkeyPatch):
    fake_gpu.install(monkeypatch, capability=(7, 0))
    monkeypatch.setattr(vllm, "is_installed", lambda: True)
    assert chosen("org/name") == ("hf", "fp32")
    with pytest.raises(InputError, match="bf16 is only emulated by this GPU"):
        choose_engine(ModelSpec.parse("org/name"), precision="bf16")


def test_a_model_that_is_open_is_not_loaded_again(micro_model: Path, tmp_path: Path):
    spec = ModelSpec.parse(str(micro_model))
    engine = open_engine(spec)
    assert open_engine(spec) is engine
    assert open_engine(ModelSpec.parse(f"hf/{micro_model}")) is engine
    # A copy of its tokenizer reads alike; another chat template does not.
    tokenizer = load_tokenizer(spec)
    assert open_engine(spec, tokenizer=tokenizer) is engine
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    assert open_engine(spec, tokenizer=tokenizer) is not engine
    assert open_engine(spec, precision="bf16") is not engine
    other = micro.save_model(tmp_path / "other", seed=1)
    assert open_engine(ModelSpec.parse(str(other))) is not engine


def test_a_model_that_nobody_uses_is_let_go(micro_model: Path):
    engine = open_engine(ModelSpec.parse(str(micro_model)), precision="bf16")
    model = weakref.ref(engine.model)
    del engine
    gc.collect()
    assert model() is None


def test_a_folder_that_holds_another_model_by_now_is_loaded(tmp_path: Path):
    folder = micro.save_model(tmp_path / "model")
    spec = ModelSpec.parse(str(folder))
    before = open_engine(spec)
    micro.save_model(folder, seed=1)
    after = open_engine(spec)
    assert after is not before
    sampling = Sampling(max_new_tokens=5)
    assert after.generate([user("x")], sampling) != before.generate([user("x")], sampling)


def test_a_deferred_engine_loads_its_model_at_its_first_use(micro_model: Path, monkeypatch: pytest.MonkeyPatch):
    spec = EngineSpec(ModelSpec.parse(str(micro_model)))
    loaded = []
    monkeypatch.setattr(EngineSpec, "open_here", lambda *given: loaded.append(given) or open_engine(given[0].model))
    deferred = DeferredEngine(spec)
    assert deferred.tokenizer.name_or_path == str(micro_model)
    assert loaded == []
    same = open_engine(spec.model)
    sampling = Sampling(temperature=0.0, max_new_tokens=5)
    assert deferred.generate([user("x")], sampling) == same.generate([user("x")], sampling)
    assert deferred.room(user("x")) == same.room(user("x"))
    assert deferred.loglikelihood([user("x")], ["y"]) == same.loglikelihood([user("x")], ["y"])
    assert deferred.local is same
    assert len(loaded) == 1


@pytest.mark.parametrize("name", ["nothing", "vllm/nothing"])
def test_a_deferred_engine_refuses_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such model"):
        DeferredEngine(EngineSpec(ModelSpec.parse(name)))


def test_a_deferred_engine_of_vllm_needs_it(micro_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(vllm, "is_installed", lambda: False)
    with pytest.raises(InputError, match="vLLM is not installed"):
        DeferredEngine(EngineSpec(ModelSpec(str(micro_model), "vllm")))


def test_vllm_gets_the_gpus_and_the_memory_of_its_place(micro_model: Path, monkeypatch: pytest.MonkeyPatch):
    spec = EngineSpec(ModelSpec(str(micro_model), "vllm"), place=Place((1, 2), 0.4))
    with fake_vllm.installed() as loaded:
        spec.open()
        assert (loaded[-1]["gpu_memory_utilization"], loaded[-1]["tensor_parallel_size"]) == (0.4, 2)
        # The variable goes before.
        monkeypatch.setenv("SAFEREASON_VLLM", '{"gpu_memory_utilization": 0.2}')
        EngineSpec(spec.model, "bf16", place=spec.place).open()
        assert (loaded[-1]["gpu_memory_utilization"], loaded[-1]["tensor_parallel_size"]) == (0.2, 2)


@pytest.mark.parametrize(("visible", "names"), [(None, "1,2"), ("4,5,6", "5,6"), ("GPU-a, GPU-b,GPU-c", "GPU-b,GPU-c")])
def test_gpus_are_named_as_the_process_sees_them(visible: str | None, names: str, monkeypatch: pytest.MonkeyPatch):
    if visible is None:
        monkeypatch.delenv(VISIBLE, raising=False)
    else:
        monkeypatch.setenv(VISIBLE, visible)
    assert names_of((1, 2)) == names
    import os

    with shown_to_children(Place((1, 2), 0.9)):
        assert os.environ[VISIBLE] == names
    assert os.environ.get(VISIBLE) == visible
    with shown_to_children(None):
        assert os.environ.get(VISIBLE) == visible
