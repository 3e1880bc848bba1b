"""The limit on the length of the prompts that RL trains on."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from safereason.data.example import Example
from safereason.data.prompt_builder import PromptBuilder, user_turn
from safereason.text.chat import prompt_ids
from safereason.training.arguments import check_left

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


def short_enough(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    limit: int,
    key: str,
    *,
    batch: int = 1,
    prompt_builder: PromptBuilder = user_turn,
) -> list[Example]:
    """The examples whose prompts are within a limit, in their order.

    Args:
        examples: All prompts.
        tokenizer: The tokenizer of the model being trained, with its chat template.
        limit: Most tokens of a prompt, chat template included.
        key: Dotted key of the section, whose `max_prompt_tokens` the limit is.
        batch: Prompts of a training step.
        prompt_builder: Builds the conversation of an example.

    Raises:
        InputError: The short prompts fill no batch.
    """
    kept = []
    for example in examples:
        # Long prompts are dropped and not cut: a cut prompt asks something else.
        if len(prompt_ids(tokenizer, prompt_builder(example))) <= limit:
            kept.append(example)
    logger.info("%d prompts, %d too long", len(kept), len(examples) - len(kept))
    check_left(len(kept), len(examples), limit, f"{key}.max_prompt_tokens", batch)
    return kept
