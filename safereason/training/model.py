"""The model that is trained: loaded, given adapters, and saved."""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch

from safereason.engines.open import load_model
from safereason.recipe.schema import LoRA

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def lora_config(lora: LoRA | None) -> Any:
    """The recipe's adapters as peft names them, or None."""
    if lora is None:
        return None
    from peft import LoraConfig

    modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=modules, task_type="CAUSAL_LM"
    )


def load_trainable(location: str) -> Any:
    """The model with fp32 weights, whatever the precision of the arithmetic: bf16 weights do not feel small updates."""
    return load_model(location, "fp32")


def save_copy(model: Any, tokenizer: Any, folder: Path, precision: str) -> None:
    """Writes the model as `save_whole` does while it goes on training: it is left as it is."""
    if hasattr(model, "merge_and_unload"):
        save_whole(copy.deepcopy(model), tokenizer, folder, precision)
        return
    with torch.device("meta"):  # no second model beside the first one: its weights go through the CPU
        copied = type(model)(copy.deepcopy(model.config))
    copied.load_state_dict({name: tensor.cpu() for name, tensor in model.state_dict().items()}, assign=True)
    copied.tie_weights()
    copied.generation_config = model.generation_config
    save_whole(copied, tokenizer, folder, precision)


def save_whole(model: Any, tokenizer: Any, folder: Path, precision: str) -> None:
    """Writes model and tokenizer as safetensors in this precision, adapters merged in, aside and then renamed."""
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    merged.to(DTYPES[precision]).save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
