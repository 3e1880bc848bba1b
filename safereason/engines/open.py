"""Opening of engines: from a model's name to a loaded model.

`ModelSpec` says how a model is named. A folder or a run may hold adapters alone, with `adapter_config.json` naming the
model they belong to. A model that is open in this process is not loaded again: whoever opens it gets the same engine.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from safereason.engines import hub
from safereason.engines.base import Engine, TokenizerEngine
from safereason.engines.memory import held_by_others, is_out_of_memory
from safereason.engines.place import Place
from safereason.engines.spec import ModelSpec, check_architecture
from safereason.errors import InputError, StageFailed, first_line
from safereason.recipe.schema import Precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BF16_FROM = (8, 0)
"""Compute capability from which on a GPU has bf16 arithmetic. Before it, torch emulates it, many times slower."""
# The engines of this process's models, as long as something refers to them. Two copies of one model, such as one that
# is both the attacker and the judge, would take twice the memory.
_open_engines: "WeakValueDictionary[tuple[object, ...], TokenizerEngine]" = WeakValueDictionary()


def open_engine(
    spec: ModelSpec,
    *,
    base_url: str | None = None,
    precision: Precision = "fp32",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    place: Place | None = None,
) -> Engine:
    """The engine that runs a model, with the model loaded.

    Args:
        spec: The model; without a named engine, transformers runs it.
        base_url: Address of the server, for `openai/…`.
        precision: Arithmetic of a model that runs here.
        tokenizer: In place of the model's own, for a model that runs here.
        place: The GPUs of a model that runs here; by default the first one.

    Raises:
        InputError: The model or the engine is missing, or the GPU has no such arithmetic; the message says what to do.
        StageFailed: The model does not fit in memory.
    """
    if spec.is_remote:
        from safereason.engines.openai import OpenAIEngine

        return OpenAIEngine(spec.name, base_url=base_url)
    return open_engine_here(spec, precision=precision, tokenizer=tokenizer, place=place)


def open_engine_here(
    spec: ModelSpec,
    *,
    precision: Precision = "fp32",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    place: Place | None = None,
) -> TokenizerEngine:
    """The engine that runs a model on this machine, with the model loaded; see `open_engine`.

    Raises:
        InputError: A server runs it, or it cannot be had, or the GPU has no such arithmetic.
        StageFailed: It does not fit in memory.
    """
    spec.check()
    check_precision(precision)
    if tokenizer is None:
        tokenizer = load_tokenizer(spec)
    # Equal tokenizers are often copies. A caller that brings one of its own changes the chat template alone.
    reads = (tokenizer.name_or_path, str(tokenizer.chat_template))
    # A folder counts by its contents: another model may have been written to it since.
    key = (spec.recorded_name, spec.contents(), precision, reads, place)
    engine = _open_engines.get(key)
    if engine is None:
        engine = _load_engine(spec, precision, tokenizer, place)
        _open_engines[key] = engine
    return engine


def _load_engine(
    spec: ModelSpec, precision: Precision, tokenizer: "PreTrainedTokenizerBase", place: Place | None
) -> TokenizerEngine:
    if spec.engine == "vllm":
        from safereason.engines.vllm import open_vllm

        base = spec.base
        # vLLM loads the base model and adds the adapters to it; only the base has a vocabulary.
        whole = base or spec
        _check_vocabulary(tokenizer, _config_vocabulary(whole.location), spec.location)
        base_location = None
        if base is not None:
            base_location = base.location
        return open_vllm(spec.location, tokenizer, name=str(spec), precision=precision, base=base_location, place=place)
    from safereason.engines.transformers import TransformersEngine

    model = load_model(spec.location, precision, tokenizer=tokenizer, place=place)
    return TransformersEngine(model, tokenizer, name=spec.recorded_name)


def load_model(
    location: str,
    precision: Precision = "fp32",
    device: str | None = None,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    place: Place | None = None,
) -> "PreTrainedModel":
    """A causal language model, loaded from safetensors onto the GPU where there is one and no device is named.

    Args:
        location: Folder or hub id.
        precision: Arithmetic of its weights.
        device: As torch names it.
        tokenizer: What it will read texts with, which may have no more ids than the model has embeddings.
        place: The GPUs it lies on, where there are any and no device is named.

    Raises:
        InputError: It cannot be found or read, its architecture cannot be run here, it does not fit the tokenizer, or
            the GPU has no such arithmetic.
        StageFailed: It does not fit in memory.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    if device is None or device.startswith("cuda"):
        check_precision(precision)
    hub.check(location)
    # Before the loader, whose own message advises to allow the code.
    _check_code(location)
    ModelSpec(location).check_architecture()
    # Progress bars in a log file are thousands of lines.
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    memory: dict[int, int] | None = None
    if device is None and torch.cuda.is_available():
        device = "cuda"
        if place is not None:
            device = f"cuda:{place.gpus[0]}"
            memory = _memory_of(place.gpus)
    elif device is None:
        # On a Mac, too: Apple's GPU rounds in other ways, and was never tried.
        device = "cpu"
    try:
        # A folder was checked above; a Hub id's configuration is there only after this download.
        if not Path(location).is_dir():
            config = AutoConfig.from_pretrained(location, trust_remote_code=False)
            check_architecture(location, config.to_dict())
        with report_full_memory(location):
            model = AutoModelForCausalLM.from_pretrained(
                location,
                dtype=torch_dtype(precision),
                use_safetensors=True,
                trust_remote_code=False,
                device_map=memory and "balanced",
                max_memory=memory,
            )
    except (OSError, ValueError, SafetensorError) as error:
        raise not_loaded(location, error) from error
    if tokenizer is not None:
        check_embeddings(model, tokenizer, location)
    if memory:
        # Its layers lie on their GPUs already, and their inputs follow them.
        spread: PreTrainedModel = model
        return spread
    with report_full_memory(location):
        loaded: PreTrainedModel = model.to(torch.device(device))  # type: ignore[arg-type]  # stub of a wrapped method
    return loaded


def _memory_of(gpus: tuple[int, ...]) -> dict[int, int] | None:
    """Bytes of each GPU that a model's layers are spread over; None where it lies on a single one."""
    import torch

    if len(gpus) < 2:
        return None
    return {gpu: torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus}


@contextmanager
def report_full_memory(location: str) -> Iterator[None]:
    """Turns a lack of memory while a model is loaded into an error that names the model.

    Raises:
        StageFailed: The model does not fit.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        advice = held_by_others() or (
            "take a smaller model or a larger GPU; where nothing is trained, precision bf16 (--precision, or the "
            "section's key) needs half of what fp32 does"
        )
        raise StageFailed(f"{location}: does not fit in memory ({first_line(error)[:120]}); {advice}") from error


def torch_dtype(precision: Precision) -> "torch.dtype":
    """A recipe's precision as torch names it."""
    import torch

    if precision == "bf16":
        return torch.bfloat16
    return torch.float32


def precision_here(preferred: Precision = "bf16") -> Precision:
    """The preferred arithmetic on a GPU that has it; fp32 on any other, and on a CPU, where bf16 is slower."""
    if preferred == "bf16" and has_bf16():
        return preferred
    return "fp32"


def check_precision(precision: Precision, key: str = "") -> None:
    """Refuses bf16 on a GPU that only emulates it, such as V100 and T4, before a model is loaded.

    Args:
        precision: The arithmetic that is wanted; a CPU has both.
        key: The recipe's key that sets it, where there is one.

    Raises:
        InputError: It is bf16, and this process's GPU is older than that.
    """
    import torch

    if precision != "bf16" or not torch.cuda.is_available() or has_bf16():
        return
    major, minor = torch.cuda.get_device_capability()
    advice = "pass --precision fp32, or precision=fp32 of the recipe's section"
    if key:
        advice = f"pass {key}=fp32"
    raise InputError(
        f"{key or 'precision'}: bf16 is only emulated by this GPU, {torch.cuda.get_device_name()} (compute capability "
        f"{major}.{minor}; {BF16_FROM[0]}.{BF16_FROM[1]} has it), and would crawl; {advice}"
    )


def has_bf16() -> bool:
    """Whether this process has a GPU with bf16 arithmetic."""
    import torch

    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= BF16_FROM


def load_tokenizer(spec: ModelSpec) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model, padded on the left, as generation needs it.

    Raises:
        InputError: It cannot be found or read.
    """
    from transformers import AutoTokenizer

    location = spec.location
    has_tokenizer = (Path(location) / "tokenizer_config.json").is_file()
    # Adapters may be saved without a tokenizer.
    if not has_tokenizer and spec.base is not None:
        location = spec.base.location
    hub.check(location)
    _check_code(location)
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, padding_side="left", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise not_loaded(location, error) from error
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{location}: its tokenizer names no end-of-turn token; set eos_token in tokenizer_config.json"
        )
    # Llama's tokenizers have no pad token; padding is masked, so that any token will do.
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_embeddings(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", location: str) -> None:
    """Refuses a tokenizer with ids that the model has no embedding for; more embeddings than ids are padding.

    Where the pad token alone has none, the end-of-turn token pads in its place.

    Raises:
        InputError: It has such ids.
    """
    table = model.get_input_embeddings()
    # Sharded while it is loaded, the weight itself may be empty.
    embeddings = int(getattr(table, "num_embeddings", 0))
    if not embeddings:
        weight: Tensor = table.get_parameter("weight")
        embeddings = weight.shape[0]
    _check_vocabulary(tokenizer, embeddings, location)


def _check_vocabulary(tokenizer: "PreTrainedTokenizerBase", embeddings: int, location: str) -> None:
    beyond: dict[str, int] = {}
    for token, i in tokenizer.get_vocab().items():
        if i >= embeddings:
            beyond[token] = i
    if not beyond:
        return
    # Padding is masked, so that any other token pads as well as one that was added for it.
    if beyond.keys() == {tokenizer.pad_token}:
        tokenizer.pad_token = tokenizer.eos_token
        return
    first = min(beyond, key=beyond.__getitem__)
    largest = max(beyond.values())
    raise InputError(
        f"{location}: its tokenizer has ids up to {largest} and the model {embeddings} embeddings, so that "
        f"{first!r} has none; resize the model's embeddings, or take the tokens out of the tokenizer's files"
    )


def _config_vocabulary(location: str) -> int:
    """Embeddings of a model that is not loaded here, by its config.

    Raises:
        InputError: It cannot be read.
    """
    from transformers import AutoConfig

    _check_code(location)
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise not_loaded(location, error) from error
    return int(config.get_text_config().vocab_size)


def _check_code(location: str) -> None:
    """Refuses a model whose architecture is its own Python, before transformers says anything about it.

    Raises:
        InputError: It is.
    """
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    try:
        config, _ = PreTrainedConfig.get_config_dict(location)
    except (OSError, ValueError):
        # The load itself says what is wrong.
        return
    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING:
        raise _wants_code(location)


def _wants_code(location: str) -> InputError:
    return InputError(
        f"{location}: this model wants to run its own code (auto_map in its files), which safereason never does; "
        "name a model of an architecture that transformers has"
    )


def not_loaded(location: str, error: Exception, what: str = "") -> InputError:
    """The error of a model that cannot be loaded, with advice; `what` says what it was loaded as."""
    if "trust_remote_code" in str(error):
        return _wants_code(location)
    advice = "check the name, the network and HF_TOKEN"
    if Path(location).is_dir():
        advice = "a folder holds config.json, a tokenizer and weights as safetensors; save or get it again"
    return InputError(f"{location}: cannot be loaded{what} ({first_line(error)[:200]}); {advice}")
