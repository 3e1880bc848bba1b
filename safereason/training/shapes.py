"""The shape of a model by its name: from its `config.json`, or from a table of what well-known ones publish."""

from pathlib import Path
from typing import Any

from safereason.engines import architectures
from safereason.engines.embedded import NAME as EMBEDDED
from safereason.errors import InputError
from safereason.runs.directory import read_manifest
from safereason.runs.records import read_json
from safereason.training.memory import Shape

_LLAMA3 = Shape(4096, 32, 32, 8, 128, 14336, 128256)
_QWEN7 = Shape(3584, 28, 28, 4, 128, 18944, 152064, qkv_bias=True)
KNOWN = {
    EMBEDDED: Shape(576, 30, 9, 3, 64, 1536, 49152, tied=True),
    "Qwen/Qwen2.5-0.5B-Instruct": Shape(896, 24, 14, 2, 64, 4864, 151936, tied=True, qkv_bias=True),
    "Qwen/Qwen2.5-1.5B-Instruct": Shape(1536, 28, 12, 2, 128, 8960, 151936, tied=True, qkv_bias=True),
    "Qwen/Qwen2.5-3B-Instruct": Shape(2048, 36, 16, 2, 128, 11008, 151936, tied=True, qkv_bias=True),
    "Qwen/Qwen2.5-7B-Instruct": _QWEN7,
    "Qwen/Qwen2.5-14B-Instruct": Shape(5120, 48, 40, 8, 128, 13824, 152064, qkv_bias=True),
    "Qwen/Qwen2.5-32B-Instruct": Shape(5120, 64, 40, 8, 128, 27648, 152064, qkv_bias=True),
    "meta-llama/Llama-3.2-1B-Instruct": Shape(2048, 16, 32, 8, 64, 8192, 128256, tied=True),
    "meta-llama/Llama-3.2-3B-Instruct": Shape(3072, 28, 24, 8, 128, 8192, 128256, tied=True),
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA3,
    "meta-llama/Llama-Guard-3-8B": _LLAMA3,
    "mistralai/Mistral-7B-Instruct-v0.3": Shape(4096, 32, 32, 8, 128, 14336, 32768),
    # Models that rewards and judges ask.
    "Ray2333/GRM-llama3-8B-distill": _LLAMA3,
    "cais/HarmBench-Llama-2-13b-cls": Shape(5120, 40, 40, 40, 128, 13824, 32000),
    "qylu4156/strongreject-15k-v1": Shape(2048, 18, 8, 1, 256, 16384, 256000, tied=True),
    "Nannanzi/RSafe": _QWEN7,
}
"""As their makers' `config.json` has them."""

STATES = ("linear_", "mamba_", "ssm_", "conv_", "lru_", "state_size")
"""What the keys of layers with a state begin with."""
_NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


def shape_of(spec: str) -> Shape:
    """The shape of a model: of a run or folder, of the Hub's cache, or of `KNOWN`; nothing is downloaded.

    Raises:
        InputError: It is not known, or is no decoder of the kind that `training.memory` counts.
    """
    name = spec.removeprefix("hf/").removeprefix("vllm/")
    file = _config(name)
    if file is not None:
        return from_config(read_json(file), str(file))
    if name in KNOWN:
        return KNOWN[name]
    raise InputError(
        f"{spec}: its shape is not known here; download its config.json "
        f"(`hf download {name} config.json`) or name a folder that holds one"
    )


def _config(name: str) -> Path | None:
    """Its `config.json`, where one is at hand."""
    path = Path(name)
    for folder in (path / "model", path) if read_manifest(path) else (path,):
        if (folder / "config.json").is_file():
            return folder / "config.json"
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/")) or name == EMBEDDED:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found) if isinstance(found, str) else None


def from_config(config: dict[str, Any], where: str) -> Shape:
    """The shape that a `config.json` tells of.

    Raises:
        InputError: It lacks a figure, or tells of a mixture of experts or of layers with a state.
    """
    text = config.get("text_config") or config
    missing = [key for key in _NEEDED if not isinstance(text.get(key), int)]
    others = [key for key in text if ("experts" in key or key.startswith(STATES)) and text[key]]
    if missing or others:
        reason = f"has no {missing[0]}" if missing else f"has {others[0]}"
        raise InputError(
            f"{where}: {reason}; only decoders with attention and gated MLPs are counted, without experts or states"
        )
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
        qkv_bias=bool(text.get("attention_bias") or text.get("model_type") == "qwen2"),
        shares=architectures.shares_layers(str(config.get("model_type")), text),
    )
