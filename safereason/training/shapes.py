"""The shape of a model by its name: from its `config.json`, or from a table of well-known models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safereason.engines import architectures
from safereason.engines.embedded import NAME as EMBEDDED
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.runs.directory import read_manifest
from safereason.runs.records import read_record
from safereason.training.memory import Shape

_LLAMA3 = Shape(4096, 32, 32, 8, 128, 14336, 128256)
_QWEN1 = Shape(1536, 28, 12, 2, 128, 8960, 151936, tied=True, qkv_bias=True)
_QWEN7 = Shape(3584, 28, 28, 4, 128, 18944, 152064, qkv_bias=True)
KNOWN_SHAPES = {
    EMBEDDED: Shape(576, 30, 9, 3, 64, 1536, 49152, tied=True),
    "Qwen/Qwen2.5-0.5B-Instruct": Shape(896, 24, 14, 2, 64, 4864, 151936, tied=True, qkv_bias=True),
    "Qwen/Qwen2.5-1.5B-Instruct": _QWEN1,
    "Qwen/Qwen2.5-3B-Instruct": Shape(2048, 36, 16, 2, 128, 11008, 151936, tied=True, qkv_bias=True),
    "Qwen/Qwen2.5-7B-Instruct": _QWEN7,
    "Qwen/Qwen2.5-14B-Instruct": Shape(5120, 48, 40, 8, 128, 13824, 152064, qkv_bias=True),
    "Qwen/Qwen2.5-32B-Instruct": Shape(5120, 64, 40, 8, 128, 27648, 152064, qkv_bias=True),
    "meta-llama/Llama-3.2-1B-Instruct": Shape(2048, 16, 32, 8, 64, 8192, 128256, tied=True),
    "meta-llama/Llama-3.2-3B-Instruct": Shape(3072, 28, 24, 8, 128, 8192, 128256, tied=True),
    "huihui-ai/Qwen2.5-7B-Instruct-abliterated-v3": _QWEN7,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA3,
    "meta-llama/Llama-Guard-3-8B": _LLAMA3,
    "mistralai/Mistral-7B-Instruct-v0.3": Shape(4096, 32, 32, 8, 128, 14336, 32768),
    # Models of rewards and judges.
    "Ray2333/GRM-llama3-8B-distill": _LLAMA3,
    "cais/HarmBench-Llama-2-13b-cls": Shape(5120, 40, 40, 40, 128, 13824, 32000),
    "qylu4156/strongreject-15k-v1": Shape(2048, 18, 8, 1, 256, 16384, 256000, tied=True),
    # What the papers released: trained from two of the above.
    "danielkty22/TARS-SFT-1.5B": _QWEN1,
    "CMU-AIRe/TARS-1.5B": _QWEN1,
    "CMU-AIRe/TARS-7B": _QWEN7,
    "Nannanzi/RSafe": _QWEN7,
}
"""Shapes by the makers' `config.json`."""

STATES = ("linear_", "mamba_", "ssm_", "conv_", "lru_", "state_size")
"""Beginnings of the keys that belong to layers with a state."""
_REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


def shape_of(spec: str) -> Shape:
    """The shape of a model: of a run or folder, of the Hub's cache, or of `KNOWN_SHAPES`; nothing is downloaded.

    Raises:
        InputError: The shape is not known, or the model is no decoder of the kind that `training.memory` counts.
    """
    name = ModelSpec.parse(spec).name
    file = _find_config(name)
    if file is not None:
        return from_config(read_record(file), str(file))
    if name in KNOWN_SHAPES:
        return KNOWN_SHAPES[name]
    raise InputError(
        f"{spec}: its shape is not known here; download its config.json "
        f"(`hf download {name} config.json`) or name a folder that holds one"
    )


def _find_config(name: str) -> Path | None:
    """The `config.json` of a run, a folder, or a model in the Hub's cache; None if there is none on this machine."""
    path = Path(name)
    folders = [path]
    if read_manifest(path):
        folders.insert(0, path / "model")
    for folder in folders:
        if (folder / "config.json").is_file():
            return folder / "config.json"
    is_hub_id = name.count("/") == 1 and not name.startswith((".", "/")) and name != EMBEDDED
    if path.exists() or not is_hub_id:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json")
    # The cache can also know that the file does not exist, which is an object of its own.
    return Path(cached) if isinstance(cached, str) else None


def from_config(config: Mapping[str, Any], where: str) -> Shape:
    """The shape in a `config.json`; `where` names the file in errors.

    Raises:
        InputError: A figure is missing, or it is a mixture of experts, or has layers with a state.
    """
    # Models that read images too keep the decoder's figures apart.
    text = config.get("text_config") or config
    _check_decoder(text, where)
    heads = text["num_attention_heads"]
    return Shape(
        hidden=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_dim=text.get("head_dim") or text["hidden_size"] // heads,
        intermediate=text["intermediate_size"],
        vocab=text["vocab_size"],
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        # Qwen2's configuration does not say that its attention has biases.
        qkv_bias=bool(text.get("attention_bias") or text.get("model_type") == "qwen2"),
        shares=architectures.shares_layers(str(config.get("model_type")), text),
    )


def _check_decoder(config: Mapping[str, object], where: str) -> None:
    """Refuses a configuration that `training.memory` has no formula for.

    Raises:
        InputError: It is one.
    """
    reason = ""
    missing = [key for key in _REQUIRED if not isinstance(config.get(key), int)]
    if missing:
        reason = f"has no {missing[0]}"
    else:
        for key, value in config.items():
            if value and ("experts" in key or key.startswith(STATES)):
                reason = f"has {key}"
                break
    if reason:
        raise InputError(
            f"{where}: {reason}; only decoders with attention and gated MLPs are counted, without experts or states"
        )
