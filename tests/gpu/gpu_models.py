"""Models of the checks of one device: small ones, the embedded one, and random weights of a true shape."""

from pathlib import Path

import engine_contract
import micro
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config

from safereason.engines import embedded
from safereason.training.memory import Shape
from safereason.training.shapes import KNOWN_SHAPES

SHAPES = {
    "embedded": KNOWN_SHAPES[embedded.NAME],
    "qwen-1.5b": KNOWN_SHAPES["Qwen/Qwen2.5-1.5B-Instruct"],
    "qwen-micro": Shape(64, 2, 4, 2, 16, 128, 259, tied=True, qkv_bias=True),
}
"""Shapes of models with random weights. `embedded` is one of them only where the embedded model is not installed."""
CONTEXT = 8192
"""Tokens that these models read."""


class Models:
    """Folders of models by name, each made when it is first asked for; nothing is downloaded."""

    def __init__(self, folder: Path, device: str) -> None:
        """Takes the folder to write them into, and the device that draws their weights."""
        self._folder = folder
        self._device = device

    def __getitem__(self, name: str) -> Path:
        """The folder of `micro`, of `wide`, whose answers hang on all it reads, or of a name in `SHAPES`."""
        if name == "embedded" and embedded.gguf_file() is not None:
            return embedded.model_folder()
        target = self._folder / name
        if target.is_dir():
            return target
        if name == "micro":
            return micro.save_model(target)
        if name == "wide":
            return engine_contract.save_model(target, context=2048)
        return save_random(target, SHAPES[name], self._device)


def config_of(shape: Shape) -> PreTrainedConfig:
    """The configuration of a Qwen2 of this shape, or of a Llama where its attention has no biases."""
    kind = Qwen2Config if shape.qkv_bias else LlamaConfig
    return kind(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=CONTEXT,
        bos_token_id=257,
        eos_token_id=258,
        pad_token_id=256,
    )


def save_random(target: Path, shape: Shape, device: str) -> Path:
    """Writes random weights in bf16, half of fp32's bytes, and the micro model's tokenizer.

    The tokenizer has 259 ids. The other rows of the true vocabulary are padding: they take the same memory and time.
    """
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config_of(shape), dtype=torch.bfloat16)
    model.save_pretrained(target)
    micro.tokenizer().save_pretrained(target)
    return target
