"""Chat templates as well-known families have them, each on the byte-level tokenizer, and models that write to order."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import micro
import torch
from tokenizers import AddedToken
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

_HEADER = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
_ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
_CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@dataclass(frozen=True)
class Family:
    """A chat template and what is known of it."""

    template: str
    special: tuple[str, ...]
    eos: str
    end: str
    """The token that ends an assistant's turn."""
    system: bool = True
    """Whether it shows a system turn."""
    opens: str = ""
    """The reasoning that its generation prompt opens."""
    closes: bool = False
    """Whether it closes the reasoning at once."""
    alternates: bool = False
    """Whether it refuses two turns of one role in a row."""


FAMILIES = {
    "chatml": Family(
        _CHATML + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        "<|im_end|>",
    ),
    "llama-3": Family(
        "{% for m in messages %}" + _HEADER + "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|end_of_text|>",
        "<|eot_id|>",
    ),
    "gemma": Family(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + _ALTERNATE
        + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<pad>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<eos>",
        "<end_of_turn>",
        system=False,
        alternates=True,
    ),
    "phi-3": Family(
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|endoftext|>",
        "<|end|>",
    ),
    "mistral": Family(
        _ALTERNATE + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}"
        "{% endif %}{% endfor %}",
        ("<pad>", "<s>", "</s>"),
        "</s>",
        "</s>",
        system=False,
        alternates=True,
    ),
    "ignores-system": Family(
        "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|stop|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        ("<|eos|>", "<|user|>", "<|assistant|>", "<|stop|>"),
        "<|eos|>",
        "<|stop|>",
        system=False,
    ),
    "r1": Family(
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}<|User|>{{ m.content }}"
        "{% else %}<|Assistant|>{{ m.content.split('</think>')[-1] }}<|end_of_sentence|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
        ("<|pad|>", "<|User|>", "<|Assistant|>", "<|end_of_sentence|>"),
        "<|end_of_sentence|>",
        "<|end_of_sentence|>",
        opens="<think>\n",
    ),
    "opens-without-break": Family(
        _CHATML + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|endoftext|>",
        "<|im_end|>",
        opens="<think>",
    ),
    "closes-at-once": Family(
        _CHATML + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}",
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|endoftext|>",
        "<|im_end|>",
        closes=True,
    ),
    "shows-no-end": Family(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        ("<pad>", "<eos>"),
        "<eos>",
        "<eos>",
    ),
}


def tokenizer(name: str, tags: str = "text") -> PreTrainedTokenizerFast:
    """The family's tokenizer; its tags of reasoning are `text`, `tokens` of their own, or `special` ones."""
    family = FAMILIES[name]
    result = PreTrainedTokenizerFast(
        tokenizer_object=micro.core(family.special),
        eos_token=family.eos,
        pad_token=family.special[0],
        chat_template=family.template,
    )
    if tags != "text":
        added = [AddedToken(tag, special=tags == "special", normalized=False) for tag in ("<think>", "</think>")]
        result.add_tokens(added, special_tokens=tags == "special")
    return result


def save(folder: Path, tokens: PreTrainedTokenizerFast, chain: list[int] | None = None) -> Path:
    """A random model of this tokenizer; with a chain, one that writes after each of its tokens the next one."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        micro.config(
            vocab_size=len(tokens),
            tie_word_embeddings=False,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
            bos_token_id=None,
        )
    )
    if chain is not None:
        _chain(model, chain)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def ids(tokens: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Its token ids, special tokens read as such."""
    return list(tokens(text, add_special_tokens=False)["input_ids"])


def _chain(model: LlamaForCausalLM, chain: list[int]) -> None:
    assert len(set(chain)) == len(chain), "each token leads to one other"
    with torch.no_grad():
        for layer in model.model.layers:  # what is left is the way from the embedding to the head
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.lm_head.weight.zero_()
        for place, (before, after) in enumerate(pairwise(chain)):
            model.model.embed_tokens.weight[before, place] = 1.0
            model.lm_head.weight[after, place] = 5.0
