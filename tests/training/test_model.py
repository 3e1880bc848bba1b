"""A model that is saved: while it goes on training as at its end."""

import copy
from pathlib import Path

import fake_gpu
import micro
import pytest
import torch
from peft import get_peft_model
from test_knobs import BASE_DPO, BASE_GRPO
from training_parts import training_run
from transformers import LlamaForCausalLM

from safereason.engines.open import load_model
from safereason.errors import StageFailed
from safereason.recipe.schema import DPO, GRPO, SFT, LoRA
from safereason.runs.records import RecordLog
from safereason.training import sft
from safereason.training.model import load_trainable, lora_config, report_full_memory, save_copy, save_whole


def untied() -> LlamaForCausalLM:
    torch.manual_seed(3)
    return LlamaForCausalLM(micro.config(tie_word_embeddings=False))


def adapted(location: Path):
    """With adapters that do something: fresh ones add nothing."""
    model = get_peft_model(load_trainable(str(location), micro.tokenizer()), lora_config(LoRA(rank=2)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    return model


MODELS = {
    "tied": lambda location: load_trainable(str(location), micro.tokenizer()),
    "untied": lambda location: untied(),
    "adapters": adapted,
}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_a_copy_is_what_the_model_is_saved_as_in_the_end(micro_model, tmp_path, make, precision):
    model = make(micro_model)
    save_copy(model, micro.tokenizer(), tmp_path / "copy", precision)
    save_whole(model, micro.tokenizer(), tmp_path / "whole", precision)
    copied, saved = files(tmp_path / "copy"), files(tmp_path / "whole")
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= saved.keys()
    assert [name for name in saved.keys() | copied.keys() if copied.get(name) != saved.get(name)] == []
    assert {path.name for path in tmp_path.iterdir()} == {"copy", "whole"}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_a_copy_leaves_the_model_as_it_is(micro_model, tmp_path, make):
    model = make(micro_model).train()
    before = {name: (copy.deepcopy(p.data), p.requires_grad, p.data_ptr()) for name, p in model.named_parameters()}
    save_copy(model, micro.tokenizer(), tmp_path / "copy", "bf16")
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    for name, (values, trains, place) in before.items():
        assert torch.equal(after[name], values)
        assert (after[name].requires_grad, after[name].data_ptr(), after[name].dtype) == (trains, place, torch.float32)
    assert model.training
    assert model.config.dtype in (None, torch.float32)
    ids = torch.tensor([[1, 2, 3]])
    model(input_ids=ids, labels=ids).loss.backward()
    assert any(bool(p.grad.any()) for p in after.values() if p.grad is not None)


def test_a_copy_says_what_the_trained_model_says(micro_model, tmp_path):
    model = adapted(micro_model)
    save_copy(model, micro.tokenizer(), tmp_path / "copy", "fp32")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        models = (model, load_model(str(tmp_path / "copy")), load_model(str(micro_model)))
        mine, copied, start = (m.eval()(input_ids=ids).logits for m in models)
    torch.testing.assert_close(copied, mine, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(start, mine, rtol=1e-2, atol=1e-2)


def test_what_is_trained_has_fp32_weights_whatever_it_was_saved_in(micro_model, tmp_path):
    save_copy(load_trainable(str(micro_model), micro.tokenizer()), micro.tokenizer(), tmp_path / "half", "bf16")
    assert {p.dtype for p in load_trainable(str(tmp_path / "half"), micro.tokenizer()).parameters()} == {torch.float32}


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]
SECTIONS = {
    "sft": SFT(epochs=1, learning_rate=1e-3, batch_size=4, micro_batch_size=4),
    "rl": DPO(**{**BASE_DPO, "micro_batch_size": 4}),
    "guard.train": GRPO(**{**BASE_GRPO, "micro_batch_size": 4}),
}


@pytest.mark.parametrize("error", FULL, ids=["torch", "cuda", "cublas", "python"])
@pytest.mark.parametrize("key", SECTIONS)
def test_a_lack_of_memory_in_training_names_the_keys_of_its_section(key: str, error: Exception):
    with pytest.raises(StageFailed) as failure, report_full_memory(SECTIONS[key], key):
        raise error
    line = str(failure.value)
    assert line.startswith(f"{key}: out of memory (")
    assert (
        f"pass {key}.micro_batch_size=2 or {key}.activation_checkpointing=true, which begins a run of its own" in line
    )
    assert line.endswith("; where more memory is free, --resume goes on")
    assert "\n" not in line


def test_what_is_left_where_both_keys_are_at_their_least(monkeypatch: pytest.MonkeyPatch):
    least = SECTIONS["sft"].model_copy(update={"micro_batch_size": 1, "activation_checkpointing": True})
    with (
        pytest.raises(StageFailed, match=r"--launch accelerate:fsdp2\) or sft\.lora\.rank=16"),
        report_full_memory(least, "sft"),
    ):
        raise MemoryError
    monkeypatch.setattr("sys.argv", ["/bin/safereason", "sft", "--recipe", "tars-1.5b", "--overwrite"])
    fake_gpu.install(monkeypatch, free=1)
    with (
        pytest.raises(StageFailed, match=r"other processes hold 45\.0 of 48\.0 GiB .*; else pass ") as failure,
        report_full_memory(SECTIONS["sft"], "sft"),
    ):
        raise torch.OutOfMemoryError
    assert str(failure.value).endswith("is free, `safereason sft --recipe tars-1.5b --resume` goes on")


def test_other_errors_of_training_pass_as_they_are():
    with pytest.raises(RuntimeError, match="shapes differ"), report_full_memory(SECTIONS["sft"], "sft"):
        raise RuntimeError("shapes differ")


def test_a_step_of_sft_that_does_not_fit_is_that_line(micro_model, tmp_path, monkeypatch: pytest.MonkeyPatch):
    def full(self: object, *arguments: object, **named: object) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(sft.TracesTrainer, "compute_loss", full)
    section = SECTIONS["sft"].model_copy(update={"precision": "fp32"})
    rows = [{"input_ids": [1, 2, 3, 4], "completion_mask": [0, 0, 1, 1]}] * 8
    with (
        RecordLog(tmp_path / "metrics.jsonl") as log,
        pytest.raises(
            StageFailed, match=r"^sft: out of memory \(CUDA error: out of memory\); pass sft\.micro_batch_size=2"
        ),
    ):
        sft.train(training_run(section, micro_model, tmp_path, log, key="sft"), rows)
