"""How long rows are in tokens, as a model reads them."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from safereason.data.example import Example
from safereason.text.chat import Conversation, trace_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ask = Callable[[Example], Conversation]
"""The conversation that a row stands for."""
MOST = 10_000
"""Rows of a file that are measured, evenly spread, where it has more."""


def of_file(
    rows: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    ask: Ask,
    *,
    prompt_limit: int | None = None,
    text_limit: int | None = None,
) -> dict[str, Any]:
    """Tokens of prompts, with the chat template, and of what is trained on after them.

    Args:
        rows: Of one file.
        tokenizer: The model's.
        ask: What the model is asked.
        prompt_limit: Tokens of a prompt from beyond which on a later stage drops a row.
        text_limit: Tokens of prompt and trace together from beyond which on it does.

    Returns:
        `measured` (rows), `prompt` and, for traces, `completion` and `text`: each with min, median, p95 and max, and
        `over` with the limit where there is one.
    """
    step = -(-len(rows) // MOST) or 1
    looked = rows[::step]
    pairs = [trace_ids(tokenizer, ask(row), row.reasoning, row.answer or "") for row in looked]
    prompts = [len(prompt) for prompt, _ in pairs]
    found: dict[str, Any] = {"measured": len(looked), "prompt": _spread(prompts, prompt_limit)}
    if any(row.answer for row in looked):
        found["completion"] = _spread([len(completion) for _, completion in pairs], None)
        found["text"] = _spread([len(prompt) + len(completion) for prompt, completion in pairs], text_limit)
    return found


def _spread(lengths: list[int], limit: int | None) -> dict[str, Any]:
    ranked = sorted(lengths)
    if not ranked:
        return {}
    of = {"min": ranked[0], "median": median(ranked), "p95": ranked[int(0.95 * (len(ranked) - 1))], "max": ranked[-1]}
    return of if limit is None else {**of, "limit": limit, "over": sum(length > limit for length in ranked)}
