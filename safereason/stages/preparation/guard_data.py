"""The parts of a guard's data besides its mix: the guard prompt, whose tokens count for limits, and its test sets."""

from dataclasses import replace
from typing import TYPE_CHECKING

from safereason.data import rsafe_mix, sources
from safereason.data.example import Example
from safereason.data.filters import Refuse
from safereason.data.prompt_builder import PromptBuilder
from safereason.data.sampling import Mixture
from safereason.engines.open import load_tokenizer
from safereason.errors import InputError
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard.prompt import Question
from safereason.recipe.schema import Recipe, RSafeMix
from safereason.stages.base import Identity, base_model
from safereason.stages.preparation.training_sources import training_sources
from safereason.text import chat
from safereason.text.chat import prompt_ids
from safereason.text.inert import special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def guard_data_identity(recipe: Recipe) -> Identity:
    """A guard's part of the data's identity: its prompt, its tokenizer's model, and its test sets."""
    section = recipe.guard
    if section is None:
        return {}
    # The prompt counts, since its tokens decide which rows are too long. How verdicts are drawn does not.
    sets = []
    if section.eval is not None:
        sets = [guard_set.model_dump(mode="json") for guard_set in section.eval.sets]
    return {
        "model": recipe.model,
        "asked": guard_prompts.of_section(section).prompt_settings(),
        "sets": sets,
        "sft": section.sft is not None,
    }


def check_traces(recipe: Recipe) -> None:
    """Refuses a guard whose SFT has no rows to train on.

    Raises:
        InputError: It is to reason, and no rows with reasoning are named.
    """
    section = recipe.guard
    if section is not None and section.sft is not None and section.reasoning and not recipe.data.traces:
        raise InputError(
            f"recipe {recipe.name}: guard.sft trains a guard that reasons, and data.traces names no rows "
            "with reasoning; name some, or set guard.reasoning=false"
        )


def with_verdicts(recipe: Recipe, mixture: Mixture) -> Mixture:
    """The mixture of a guard, with verdicts to train on for the SFT of one that does not reason."""
    section = recipe.guard
    if section is None or section.sft is None or section.reasoning:
        return mixture
    # A guard that does not reason needs no traces: the label alone is the completion.
    verdicts = [replace(row, answer=rf"\boxed{{{row.label}}}") for row in mixture.prompts]
    return replace(mixture, traces=tuple(verdicts))


def prompt_builder(recipe: Recipe, tokenizer: "PreTrainedTokenizerBase | None" = None) -> PromptBuilder:
    """A function that makes a row's conversation: the recipe's guard prompt, or the row's prompt alone.

    Args:
        recipe: Recipe with or without a guard.
        tokenizer: Tokenizer of the guard, whose special tokens are made inert in a row's text; None leaves them as
            they are.
    """
    if recipe.guard is None:
        return lambda row: chat.user(row.prompt)
    # A row could hold the text of an end-of-turn token and speak as the policy. Such text is made inert.
    special = special_tokens(tokenizer)
    # The policy's file is read once, and not for each row.
    guard_prompt = guard_prompts.of_section(recipe.guard)
    return lambda row: guard_prompt.conversation(Question(row.prompt, row.response), special)


def too_long(recipe: Recipe) -> Refuse:
    """The filter of rows whose guard prompt has more tokens than the mix allows; it passes all rows without a guard."""
    mix = recipe.data
    if recipe.guard is None or not isinstance(mix, RSafeMix):
        return lambda row: None
    tokenizer = load_tokenizer(base_model(recipe))
    build_prompt = prompt_builder(recipe, tokenizer)

    def refuse_long_row(row: Example) -> str | None:
        limit = mix.max_response_task_tokens
        if row.response is None:
            limit = mix.max_prompt_task_tokens
        # The limit includes the policy and the chat template, since the guard reads them with each row.
        if len(prompt_ids(tokenizer, build_prompt(row))) > limit:
            return "longer than its limit of tokens"
        return None

    return refuse_long_row


def rows_by_source(recipe: Recipe) -> dict[str, str]:
    """The number of safe and unsafe training rows of each source of the mix, or the reason why it cannot be had."""
    counts = {}
    for name in training_sources(recipe):
        try:
            rows = rsafe_mix.labelled(sources.get(name).load("train"))
        except InputError as error:
            counts[name] = f"cannot be had: {error}"
            continue
        unsafe = sum(row.label == "unsafe" for row in rows)
        counts[name] = f"{len(rows) - unsafe} safe, {unsafe} unsafe"
    return counts
