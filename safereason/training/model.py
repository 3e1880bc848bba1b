"""The model that is trained: loaded, given adapters, and saved."""

import copy
import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from safereason import processes
from safereason.engines.open import load_model
from safereason.engines.transformers import end_of_turn_ids
from safereason.errors import StageFailed
from safereason.recipe.schema import LoRA
from safereason.runs.asides import aside_of, clear
from safereason.text import chat

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where no more can be written."""
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


def load_trainable(location: str, tokenizer: Any) -> Any:
    """The model with fp32 weights, whatever the precision of the arithmetic: bf16 weights do not feel small updates.

    What is to be sharded stays off the GPU, where it might not fit as a whole. Its generation settings end a completion
    where training does, so that its checkpoints, TRL's figures and the saved model do so too.

    Raises:
        InputError: It cannot be loaded, or the tokenizer has more ids than it has embeddings.
    """
    model = load_model(location, "fp32", "cpu" if processes.shards_model() else None, tokenizer=tokenizer)
    _set_ends(model, tokenizer)
    return model


def merged_adapter(model: Any, folder: Path) -> Any:
    """The model with the adapter of a folder merged in; as it is where there is no such folder."""
    if not folder.is_dir():
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder), trust_remote_code=False).merge_and_unload()


def save_trained(trainer: Any, tokenizer: Any, folder: Path, precision: str) -> None:
    """Writes what a trainer has trained, as `save_whole` does; every process calls it, and the first one writes."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if processes.shards_model():
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        model = _assembled(model, weights) if processes.is_main() else None
    if processes.is_main():
        save_whole(model, tokenizer, folder, precision)
    processes.wait()


def save_copy(model: Any, tokenizer: Any, folder: Path, precision: str) -> None:
    """Writes the model as `save_whole` does while it goes on training; every process calls it, the first one writes."""
    merges = hasattr(model, "peft_config")  # into the very weights, if they were not copied
    weights = {name: _whole(tensor, merges) for name, tensor in model.state_dict().items()}
    if processes.is_main():
        save_whole(_assembled(model, weights), tokenizer, folder, precision)


def _whole(tensor: Any, copied: bool) -> Any:
    """The tensor on the CPU, put together where each process holds a part of it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).to("cpu", copy=copied)


def _assembled(model: Any, weights: dict[str, Any]) -> Any:
    """A plain model of these weights, with the adapters of `model`; there is no second one beside it on the way."""
    with torch.device("meta"):
        config = copy.deepcopy(model.config)
        found: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
        if hasattr(model, "peft_config"):
            from peft import get_peft_model

            found = get_peft_model(found, model.peft_config["default"])
    found.load_state_dict(weights, assign=True)
    plain = found.get_base_model() if hasattr(found, "get_base_model") else found
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return found


@contextmanager
def unsharded(model: Any) -> Iterator[None]:
    """Every process holds all of an FSDP2 model, and may run it as often as it likes; other models are as they were."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in shards:
        module.unshard()
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in shards:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def _set_ends(model: Any, tokenizer: Any) -> None:
    """Puts what ends a completion into the model's generation settings, the chat template's own token first."""
    first = chat.end_of_turn(tokenizer)
    others = sorted(end_of_turn_ids(model, tokenizer) - {first})
    model.generation_config.eos_token_id = [first, *others] if others else first


def save_whole(model: Any, tokenizer: Any, folder: Path, precision: str) -> None:
    """Writes model and tokenizer as safetensors in this precision, adapters merged in, aside and then renamed.

    Its generation settings end a completion where training did: at the chat template's end of a turn too.
    """
    aside = aside_of(folder)
    clear(folder.parent)
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    _set_ends(merged, tokenizer)
    try:
        with told_where(folder):
            merged.to(DTYPES[precision]).save_pretrained(aside)
            tokenizer.save_pretrained(aside)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def told_where(folder: Path) -> Iterator[None]:
    """Inside it, weights that cannot be written, as on a full disk, are said with their folder.

    Raises:
        StageFailed: They cannot be.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch has no class of its own for this; its message names the part of it that writes.
        is_torchs = isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error)
        if not (is_torchs or isinstance(error, SafetensorError) or getattr(error, "errno", None) in FULL):
            raise
        said = " ".join(str(error).split())[:160]
        raise StageFailed(f"{folder}: cannot be written ({said}); make room, and pass --resume") from error
