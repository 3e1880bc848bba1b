"""Conversations to token ids, through the model's own chat template."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from safereason.errors import InputError
from safereason.text import reasoning as reasoning_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
"""`{"role": "system" | "user" | "assistant", "content": text}`."""
Conversation = Sequence[Message]


def user(prompt: str) -> list[Message]:
    """A conversation of one user turn."""
    return [{"role": "user", "content": prompt}]


def rendered(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, prefix: str = "") -> str:
    """The text up to where the model writes: the rendered conversation, the generation prompt, then `prefix`.

    Raises:
        InputError: The tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        name = tokenizer.name_or_path or "this model"
        raise InputError(
            f"{name}: its tokenizer has no chat template; use an instruction-tuned model or add chat_template.jinja"
        )
    text = tokenizer.apply_chat_template(list(conversation), tokenize=False, add_generation_prompt=True)
    return f"{text}{prefix}"


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, prefix: str = "") -> list[int]:
    """Token ids of what `rendered` gives.

    Raises:
        InputError: The tokenizer has no chat template.
    """
    return list(tokenizer(rendered(tokenizer, conversation, prefix), add_special_tokens=False)["input_ids"])


def trace_ids(
    tokenizer: "PreTrainedTokenizerBase", conversation: Conversation, reasoning: str | None, answer: str
) -> tuple[list[int], list[int]]:
    """A training text as (prompt ids, completion ids); the completion ends with the end-of-turn token.

    The two are tokenized apart, as they are when the model writes the completion itself. Without reasoning the
    completion is the answer alone.
    """
    text = answer if reasoning is None else reasoning_text.join(reasoning, answer)
    completion = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return prompt_ids(tokenizer, conversation), [*completion, int(tokenizer.eos_token_id)]
