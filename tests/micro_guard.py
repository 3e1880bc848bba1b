r"""A real model that writes verdicts: `\boxed{unsafE}` with a chosen probability, else `\boxed{safE}`.

It does not matter what it reads. What it writes next depends on the last byte alone: attention and MLP add nothing,
and the head maps each letter to its successor. `E` stands where a second `e` would have two successors; a verdict
counts whatever its case.
"""

import math
from itertools import pairwise
from pathlib import Path

import micro
import torch
from transformers import LlamaForCausalLM

END = "<|im_end|>"
CHAINS = ("\n\\boxed{", "safE}", "un", "ns")
"""Bytes that follow each other; the first follows the generation prompt."""
SURE = 30.0
"""Logit of the only successor; all others have 0."""
POLICY = "title: House rules\ncategories:\n  - {id: A1, name: Rudeness}\n  - {id: A2, name: Spoilers}\n"
"""A policy short enough for the micro model's context."""


def save_guard(path: Path, unsafe: float = 0.6) -> Path:
    """Writes it with its tokenizer."""
    tokenizer = micro.tokenizer()
    follow = {a: [(b, SURE)] for chain in CHAINS for a, b in pairwise(chain)}
    follow["}"] = [(END, SURE)]
    follow["{"] = [("u", SURE + math.log(unsafe)), ("s", SURE + math.log(1 - unsafe))]
    ids = {text: tokenizer.encode(text, add_special_tokens=False)[0] for text in (*follow, END)}
    model = LlamaForCausalLM(micro.config(tie_word_embeddings=False, max_position_embeddings=4096))
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.model.norm.weight.fill_(1.0)
        for place, (text, successors) in enumerate(follow.items()):
            model.model.embed_tokens.weight[ids[text], place] = 1.0
            for successor, logit in successors:
                # The norm makes of a unit vector one of length sqrt(64).
                model.lm_head.weight[ids[successor], place] = logit / math.sqrt(model.config.hidden_size)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
