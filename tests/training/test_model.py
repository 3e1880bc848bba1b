"""A model that is saved: while it goes on training as at its end."""

import copy
from pathlib import Path

import micro
import pytest
import torch
from peft import get_peft_model
from transformers import LlamaForCausalLM

from safereason.engines.open import load_model
from safereason.recipe.schema import LoRA
from safereason.training.model import load_trainable, lora_config, save_copy, save_whole


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
