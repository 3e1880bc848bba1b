"""From a model's name to an engine.

A model is `org/name` on the Hub, a folder, a run directory, `embedded/smollm2-135m`, or one of these behind an engine:
`hf/…` (transformers, the default), `vllm/…` (vLLM in the process), `openai/…` (any server of that API). A folder or a
run may hold adapters alone, with `adapter_config.json` naming the model they belong to.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safereason.engines import architectures, embedded, hub
from safereason.engines.base import Engine
from safereason.engines.weights import ADAPTER
from safereason.errors import InputError
from safereason.files import read_json
from safereason.runs.directory import read_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REMOTE = ("openai/",)
"""Models that no folder or hub id stands for here."""
OPAQUE = (*REMOTE, "vllm/")
"""Models whose weights and states are not at hand, wherever they run."""


def open_engine(
    spec: str,
    *,
    base_url: str | None = None,
    precision: str = "fp32",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> Engine:
    """Opens the engine a model is named with.

    Args:
        spec: The model, optionally after `hf/`, `vllm/` or `openai/`.
        base_url: Address of the server, for `openai/…`.
        precision: `fp32` or `bf16`, for a model that runs here.
        tokenizer: In place of the model's own, for a model that runs here.

    Raises:
        InputError: The model or the engine is not to be had; the message says how to get it.
    """
    engine, _, name = spec.partition("/")
    if engine == "openai":
        from safereason.engines.openai import OpenAIEngine

        server: Engine = OpenAIEngine(name, base_url=base_url)
        return server
    check_name(spec)
    location = model_location(spec)
    if engine == "vllm":
        from safereason.engines.vllm import open_vllm

        chosen = tokenizer or load_tokenizer(location)
        base = _base_of(location)
        _check_vocabulary(chosen, _config_vocabulary(base or location), location)
        inside: Engine = open_vllm(location, chosen, name=spec, precision=precision, base=base)
        return inside
    from safereason.engines.transformers import TransformersEngine

    chosen = tokenizer or load_tokenizer(location)
    return TransformersEngine(load_model(location, precision, tokenizer=chosen), chosen, name=spec)


def check_name(spec: str) -> None:
    """Refuses a model that cannot be one or cannot be had, without loading anything.

    Raises:
        InputError: As `model_location` and `hub.check` do, or its architecture cannot be run here.
    """
    if not spec.startswith(REMOTE):
        location = model_location(spec)
        hub.check(location)
        if not spec.startswith(OPAQUE):
            _check_folder(location)


def _check_folder(location: str) -> None:
    """Reads the configuration of a folder, or of what its adapters belong to; the Hub is not asked."""
    file = Path(_base_of(location) or location) / "config.json"
    if file.is_file():
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return  # loading it says what is wrong with it
        _check_architecture(location, config)


def _check_architecture(location: str, config: Any) -> None:
    if isinstance(config, dict) and (reason := architectures.refusal(config)):
        raise InputError(f"{location}: {reason}; name a causal language model, such as one of Qwen3 or Llama")


def model_location(spec: str) -> str:
    """A local folder, or a hub id as it is.

    Raises:
        InputError: A run holds no model, or a path does not exist.
    """
    name = spec.removeprefix("hf/").removeprefix("vllm/")
    if name == embedded.NAME:
        return str(embedded.model_folder())
    if name.startswith("embedded/"):
        raise InputError(f"{name}: the embedded model is called {embedded.NAME}")
    path = Path(name)
    if read_manifest(path) is not None:
        if not any((path / "model" / name).is_file() for name in ("config.json", ADAPTER)):
            raise InputError(f"{path}: this run holds no model; name an sft or rl run that finished")
        return str(path / "model")
    if path.is_dir():
        return str(path)
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise InputError(f"{name}: no such model; give a folder, a run directory, {embedded.NAME} or a hub id org/name")
    return name


def _base_of(location: str) -> str | None:
    """Where a folder holds adapters alone, the model they belong to; None for a whole model.

    Raises:
        InputError: They do not say which one, or there is no such model.
    """
    file = Path(location) / ADAPTER
    if not file.is_file():
        return None
    config = read_json(file)
    named = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not named:
        raise InputError(f"{file}: does not say which model the adapter belongs to; set base_model_name_or_path")
    return model_location(named)


def load_model(
    location: str,
    precision: str = "fp32",
    device: str | None = None,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> Any:
    """Loads a causal language model from safetensors, on the GPU where there is one and no device is named.

    Args:
        location: Folder or hub id.
        precision: `fp32` or `bf16`.
        device: As torch names it.
        tokenizer: What it will read texts with, which may have no more ids than the model has embeddings.

    Raises:
        InputError: It cannot be found or read, its architecture cannot be run here, or it does not fit the tokenizer.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    hub.check(location)
    _check_code(location)
    _check_folder(location)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    try:
        if not Path(location).is_dir():
            config = AutoConfig.from_pretrained(location, trust_remote_code=False)
            _check_architecture(location, config.to_dict())
        model = AutoModelForCausalLM.from_pretrained(
            location, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise not_loaded(location, error) from error
    if tokenizer is not None:
        check_embeddings(model, tokenizer, location)
    return model.to(torch.device(device))  # type: ignore[arg-type]  # the stub of a wrapped method


def load_tokenizer(spec: str) -> "PreTrainedTokenizerBase":
    """Loads the tokenizer of a model; padded on the left, as generation needs it.

    Raises:
        InputError: It cannot be found or read.
    """
    from transformers import AutoTokenizer

    location = model_location(spec)
    if not (Path(location) / "tokenizer_config.json").is_file():
        location = _base_of(location) or location  # adapters may come without one
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
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_embeddings(model: Any, tokenizer: "PreTrainedTokenizerBase", location: str) -> None:
    """Refuses a tokenizer with ids that the model has no embedding for; more embeddings than ids are padding.

    Where the pad token alone has none, the end-of-turn token pads in its place.

    Raises:
        InputError: It has such ids.
    """
    table = model.get_input_embeddings()
    # Sharded while it is loaded, the weight itself may be empty.
    _check_vocabulary(tokenizer, int(getattr(table, "num_embeddings", 0) or table.weight.shape[0]), location)


def _check_vocabulary(tokenizer: "PreTrainedTokenizerBase", embeddings: int, location: str) -> None:
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= embeddings}
    if not beyond:
        return
    if beyond.keys() == {tokenizer.pad_token}:  # added for padding alone, where any other token does as well
        tokenizer.pad_token = tokenizer.eos_token
        return
    first, largest = min(beyond, key=beyond.__getitem__), max(beyond.values())
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
        return  # the load itself says what is wrong
    if "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING:
        raise _wants_code(location)


def _wants_code(location: str) -> InputError:
    return InputError(
        f"{location}: this model wants to run its own code (auto_map in its files), which safereason never does; "
        "name a model of an architecture that transformers has"
    )


def not_loaded(location: str, error: Exception, what: str = "") -> InputError:
    """Why a model cannot be loaded, and what to do; `what` is what it was to be loaded as."""
    if "trust_remote_code" in str(error):
        return _wants_code(location)
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    advice = "check the name, the network and HF_TOKEN"
    if Path(location).is_dir():
        advice = "a folder holds config.json, a tokenizer and weights as safetensors; save or get it again"
    return InputError(f"{location}: cannot be loaded{what} ({reason[:200]}); {advice}")
