"""A real model small enough for every test: byte-level tokenizer with a ChatML template, Llama of two layers."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """259 entries: the bytes and three special tokens. `<|im_end|>` ends a turn."""
    return PreTrainedTokenizerFast(
        tokenizer_object=core(SPECIAL), eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )


def core(special: Sequence[str]) -> Tokenizer:
    """The bytes, and these special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    result = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    result.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens(list(special))
    return result


def config(**changes: int | None) -> LlamaConfig:
    """Two layers of width 64."""
    settings = {
        "vocab_size": 259,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": 257,
        "eos_token_id": 258,
        "pad_token_id": 256,
    }
    return LlamaConfig(**{**settings, **changes})


def save_model(path: Path, seed: int = 0) -> Path:
    """Writes the causal model with its tokenizer."""
    torch.manual_seed(seed)
    LlamaForCausalLM(config()).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def save_classifier(path: Path, seed: int = 0) -> Path:
    """Writes a sequence classifier with one label: a reward model."""
    torch.manual_seed(seed)
    LlamaForSequenceClassification(config(num_labels=1)).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path
