"""Lengths of rows in tokens of a model."""

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from safereason.data.example import Example
from safereason.data.prompt_builder import PromptBuilder
from safereason.text.chat import trace_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TokenSummary = dict[str, float]
"""Statistics of a list of lengths, by name."""
# A sample keeps `data build` fast on large mixes, and its quantiles are exact enough for choosing a limit.
MOST = 10_000
"""Rows of a file that are measured at most, evenly spread over it."""


def of_file(
    rows: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    prompt_builder: PromptBuilder,
    *,
    prompt_limit: int | None = None,
    text_limit: int | None = None,
) -> dict[str, int | TokenSummary]:
    """Token counts of prompts, with the chat template, and of the traces after them.

    Args:
        rows: Rows of one file.
        tokenizer: Tokenizer of the model.
        prompt_builder: Makes the conversation of a row.
        prompt_limit: Tokens of a prompt above which a later stage drops a row.
        text_limit: Tokens of prompt and trace together above which a later stage drops a row.

    Returns:
        `measured` (number of rows), `prompt` and, for traces, `completion` and `text`. Each has min, median, p95 and
        max, and `over` with the `limit` where one is given.
    """
    # Rounded up, so that at most MOST rows are left; at least 1 for a file without rows.
    step = -(-len(rows) // MOST) or 1
    measured = rows[::step]
    prompts = []
    completions = []
    texts = []
    for row in measured:
        prompt_ids, completion_ids = trace_ids(tokenizer, prompt_builder(row), row.reasoning, row.answer or "")
        prompts.append(len(prompt_ids))
        completions.append(len(completion_ids))
        texts.append(len(prompt_ids) + len(completion_ids))
    summary: dict[str, int | TokenSummary] = {
        "measured": len(measured),
        "prompt": _token_summary(prompts, prompt_limit),
    }
    if any(row.answer for row in measured):
        # A row is dropped for its prompt or for its whole text, so the completion alone has no limit.
        summary["completion"] = _token_summary(completions, None)
        summary["text"] = _token_summary(texts, text_limit)
    return summary


def _token_summary(lengths: Sequence[int], limit: int | None) -> TokenSummary:
    ranked = sorted(lengths)
    if not ranked:
        return {}
    summary: TokenSummary = {
        "min": ranked[0],
        "median": median(ranked),
        "p95": ranked[int(0.95 * (len(ranked) - 1))],
        "max": ranked[-1],
    }
    if limit is not None:
        summary["limit"] = limit
        summary["over"] = sum(length > limit for length in ranked)
    return summary
