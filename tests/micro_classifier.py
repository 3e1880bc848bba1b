"""A real model that answers a classifier's prompt with one token, as HarmBench's does: ` Yes`, ` No` or another.

It does not matter what it reads. What it writes next depends on the last byte of the prompt alone: attention and MLP
add nothing, and the head maps the bytes that end a prompt to the answers.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import micro
import torch
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SURE = 30.0
"""Logit of an answer of probability 1; all that is no answer has 0."""
BEGIN, UNKNOWN = "<s>", "<unk>"


def tokenizer() -> PreTrainedTokenizerFast:
    """The bytes, ` Yes` and ` No`, and Llama's special tokens; a text begins with `<s>`."""
    result = micro.tokenizer()
    result.add_special_tokens({"bos_token": BEGIN, "unk_token": UNKNOWN})
    result.add_tokens([AddedToken(word, normalized=False) for word in ("Yes", "No")])
    result.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, result.convert_tokens_to_ids(BEGIN))]
    )
    result.chat_template = None
    return result


def save_classifier(path: Path, after: str, answers: Mapping[str, float], context: int = 8192) -> Path:
    """Writes it with its tokenizer.

    Args:
        path: An empty folder.
        after: The last character of its prompts.
        answers: Probabilities by token.
        context: Tokens it reads.
    """
    tokens = tokenizer()
    torch.manual_seed(0)
    settings = micro.config(tie_word_embeddings=False, max_position_embeddings=context, vocab_size=len(tokens))
    model = LlamaForCausalLM(settings)
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight[tokens(after, add_special_tokens=False)["input_ids"][0], 0] = 1.0
        for answer, probability in answers.items():
            # The norm makes of a unit vector one of length sqrt(64).
            logit = (SURE + math.log(probability)) / math.sqrt(settings.hidden_size)
            model.lm_head.weight[tokens(answer, add_special_tokens=False)["input_ids"][0], 0] = logit
    model.save_pretrained(path)
    tokens.save_pretrained(path)
    return path
