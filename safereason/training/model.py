"""The model that is trained: loaded, given adapters, and saved."""

import copy
import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from safereason import processes
from safereason.engines.memory import held_by_others, is_out_of_memory
from safereason.engines.open import load_model, torch_dtype
from safereason.engines.transformers import end_of_turn_ids
from safereason.errors import StageFailed, first_line, message_of
from safereason.recipe.schema import DPO, GRPO, SFT, LoRA, Precision
from safereason.runs.asides import aside_of, clear
from safereason.runs.manifest import going_on
from safereason.text import chat

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import Trainer

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's error numbers where no more can be written."""


class _CausalOutput(Protocol):
    """The output of a causal language model of transformers."""

    logits: Tensor


Forward = Callable[..., _CausalOutput]
"""The forward pass of a causal language model."""


def lora_config(lora: LoRA | None) -> "LoraConfig | None":
    """The recipe's adapters as a configuration of peft's, or None."""
    if lora is None:
        return None
    from peft import LoraConfig

    # A string is a name of peft's for several modules, such as "all-linear".
    modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=modules, task_type="CAUSAL_LM"
    )


def add_adapters(model: PreTrainedModel, lora: LoRA | None) -> PreTrainedModel:
    """The model with the recipe's adapters, which alone are trained; without any, the model as it is."""
    config = lora_config(lora)
    if config is None:
        return model
    from peft import get_peft_model

    adapted: PreTrainedModel = get_peft_model(model, config)
    return adapted


def without_dropout(model: PreTrainedModel) -> None:
    """Turns off dropout for good, in adapters too, whatever mode the model is in."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        # Attention drops out by a number of its own.
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def load_trainable(location: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A model with fp32 weights, in any precision of the arithmetic: small updates are lost in bf16 weights.

    Its generation settings end a completion where training does, so that its checkpoints, TRL's figures and the saved
    model do so too.

    Raises:
        InputError: It cannot be loaded, or the tokenizer has more ids than it has embeddings.
    """
    # A model that is to be sharded stays off the GPU, where it might not fit as a whole.
    device = "cpu" if processes.shards_model() else None
    model: PreTrainedModel = load_model(location, "fp32", device, tokenizer=tokenizer)
    _set_end_tokens(model, tokenizer)
    return model


def without_adapters(model: "PreTrainedModel | PeftModel") -> PreTrainedModel:
    """The model of transformers that peft has put adapters into; a model without adapters is returned as it is."""
    get_base_model = getattr(model, "get_base_model", None)
    if get_base_model is None:
        return model
    base: PreTrainedModel = get_base_model()
    return base


def merged_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with the adapter of a folder merged in; the same model if there is no such folder."""
    if not folder.is_dir():
        return model
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, str(folder), trust_remote_code=False)
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def save_trainer(trainer: "Trainer", tokenizer: PreTrainedTokenizerBase, folder: Path, precision: Precision) -> None:
    """Writes a trainer's model as `save_whole` does; every process calls it, and the first one writes."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if processes.shards_model():
        # Gathering the parts is collective, so that every process takes part in it.
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        if processes.is_main():
            model = _model_with_weights(model, weights)
    if processes.is_main():
        save_whole(model, tokenizer, folder, precision)
    processes.wait()


def save_trained(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, precision: Precision
) -> None:
    """Writes a model at the end of its training, as `save_whole` does; every process calls it, the first one writes."""
    if processes.shards_model():
        save_copy(model, tokenizer, folder, precision)
    elif processes.is_main():
        save_whole(model, tokenizer, folder, precision)
    processes.wait()


def save_copy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, precision: Precision) -> None:
    """Writes a model as `save_whole` does while it goes on training; every process calls it, the first one writes."""
    # Adapters are merged into the very weights, which would change the training if they were not copied.
    has_adapters = hasattr(model, "peft_config")
    weights: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, DTensor):
            # Collective. The copy stays with the first process: of a large model, others would have no memory for it.
            tensor = tensor.full_tensor()
        if processes.is_main():
            weights[name] = tensor.to("cpu", copy=has_adapters)
    if processes.is_main():
        save_whole(_model_with_weights(model, weights), tokenizer, folder, precision)


def _model_with_weights(model: "PreTrainedModel | PeftModel", weights: dict[str, Tensor]) -> PreTrainedModel:
    """A model of the same architecture and adapters with these weights, which are not copied."""
    # On the device "meta" modules have shapes and no storage, so that there is never a second model in memory.
    with torch.device("meta"):
        config = copy.deepcopy(model.config)
        assembled = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
        if hasattr(model, "peft_config"):
            from peft import get_peft_model

            assembled = get_peft_model(assembled, model.peft_config["default"])
    assembled.load_state_dict(weights, assign=True)
    plain = without_adapters(assembled)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    result: PreTrainedModel = assembled
    return result


def _set_end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Sets the tokens that end a completion in the model's generation settings, the chat template's own first."""
    first = chat.end_of_turn(tokenizer)
    others = sorted(end_of_turn_ids(model, tokenizer) - {first})
    ends: int | list[int] = first
    if others:
        ends = [first, *others]
    model.generation_config.eos_token_id = ends


def save_whole(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, precision: Precision) -> None:
    """Writes model and tokenizer as safetensors in this precision, adapters merged in, aside and then renamed.

    Its generation settings end a completion where training did: at the chat template's end of a turn too.
    """
    aside = aside_of(folder)
    clear(folder.parent)  # the asides of processes that were killed
    merge = getattr(model, "merge_and_unload", None)
    if merge is not None:
        model = merge()
    _set_end_tokens(model, tokenizer)
    module: torch.nn.Module = model  # transformers' own `to` has a decorator that hides its arguments
    try:
        with report_full_disk(folder):
            module.to(torch_dtype(precision))
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
        # From here on there is nothing to compute, so that a folder is missing only for a moment.
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def first_failure() -> Iterator[None]:
    """Turns torch's error about a checkpoint into that of the first process which failed at it, or was interrupted.

    Torch's holds an error for each process, says none of them in its own message, and is no `Exception`.
    """
    try:
        yield
    except CheckpointException as error:
        for failure, _ in error.failures.values():
            raise failure from error


@contextmanager
def report_full_disk(folder: Path) -> Iterator[None]:
    """Turns the errors of a full disk, which do not name a folder, into one that does.

    Raises:
        StageFailed: Weights cannot be written.
    """
    try:
        with first_failure():
            yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _is_write_error(error):
            raise
        reason = message_of(error)[:160]
        raise StageFailed(f"{folder}: cannot be written ({reason}); make room, and pass --resume") from error


@contextmanager
def report_full_memory(section: SFT | GRPO | DPO, key: str) -> Iterator[None]:
    """Turns a lack of memory while a model is trained into an error that names the section's keys.

    Raises:
        StageFailed: A forward pass, its gradients or the optimizer do not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise StageFailed(_full_memory_message(section, key, error)) from error


def _full_memory_message(section: SFT | GRPO | DPO, key: str, error: Exception) -> str:
    ways: list[str] = []
    if section.micro_batch_size > 1:
        ways.append(f"{key}.micro_batch_size={section.micro_batch_size // 2}")
    if not section.activation_checkpointing:
        ways.append(f"{key}.activation_checkpointing=true")
    if not ways:
        # Activations are as small as these keys make them: what is left is to hold less beside them.
        ways.append("a launch that shards the model (--launch accelerate:fsdp2)")
        if section.lora is None:
            ways.append(f"{key}.lora.rank=16")
    # Both keys are part of the run's identity, so that `--resume` would refuse them.
    advice = f"pass {' or '.join(ways)}, which begins a run of its own"
    # vLLM's memory in this very process would count among the others'.
    has_vllm = isinstance(section, GRPO) and section.rollouts == "vllm-colocate"
    others = "" if has_vllm else held_by_others()
    if others:
        advice = f"{others}; else {advice}"
    # A launched process does not know the command that started it.
    resume = "--resume goes on"
    if processes.count() == 1:
        resume = going_on("goes on")
    return f"{key}: out of memory ({first_line(error)[:120]}); {advice}; where more memory is free, {resume}"


def _is_write_error(error: Exception) -> bool:
    """Whether an error says that weights cannot be written."""
    if isinstance(error, SafetensorError):
        return True
    if isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error):
        # torch has no class of its own for this; its message names the part of it that writes.
        return True
    return getattr(error, "errno", None) in DISK_FULL
