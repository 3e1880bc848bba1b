"""What the data of a guard needs besides its mix: its prompt, for the token limits, and its test sets."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from safereason.data import rsafe_mix, sources
from safereason.data.draw import Mixture
from safereason.data.example import Example
from safereason.data.lengths import Ask
from safereason.data.screen import Refuse
from safereason.engines.open import load_tokenizer
from safereason.errors import InputError
from safereason.guard import guide as guides
from safereason.guard.prompt import Question
from safereason.recipe.schema import Recipe, RSafeMix
from safereason.stages.training_sources import needed
from safereason.text import chat
from safereason.text.chat import prompt_ids
from safereason.text.inert import special_tokens


def identity_of(recipe: Recipe) -> dict[str, Any]:
    """What a guard's data depends on besides the mix: what it is asked with, the tokenizer, and its test sets."""
    section = recipe.guard
    if section is None:
        return {}
    sets = [chosen.model_dump(mode="json") for chosen in section.eval.sets] if section.eval else []
    return {
        "model": recipe.model,
        "asked": guides.of_section(section).asked(),
        "sets": sets,
        "sft": section.sft is not None,
    }


def check(recipe: Recipe) -> None:
    """Refuses a guard whose SFT has nothing to train on.

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
    """The mixture of a guard; the SFT of one that does not reason is taught the labels of the mix."""
    section = recipe.guard
    if section is None or section.sft is None or section.reasoning:
        return mixture
    return replace(mixture, traces=tuple(replace(e, answer=rf"\boxed{{{e.label}}}") for e in mixture.prompts))


def asked(recipe: Recipe, special: Sequence[str] = ()) -> Ask:
    """The conversation that a row stands for: what the recipe's guard is asked, or the prompt alone.

    Args:
        recipe: Of a guard or not.
        special: Special tokens of the guard's tokenizer.
    """
    if recipe.guard is None:
        return lambda row: chat.user(row.prompt)
    guide = guides.of_section(recipe.guard)
    return lambda row: guide.conversation(Question(row.prompt, row.response), special)


def too_long(recipe: Recipe) -> Refuse:
    """Refuses rows about which the recipe's guard is asked with more tokens than the mix allows."""
    mix = recipe.data
    if recipe.guard is None or not isinstance(mix, RSafeMix):
        return lambda row: None
    tokenizer = load_tokenizer(recipe.model)
    ask = asked(recipe, special_tokens(tokenizer))

    def refuse(row: Example) -> str | None:
        limit = mix.max_prompt_task_tokens if row.response is None else mix.max_response_task_tokens
        return "longer than its limit of tokens" if len(prompt_ids(tokenizer, ask(row))) > limit else None

    return refuse


def reachable(recipe: Recipe) -> dict[str, str]:
    """Each source of the mix with the number of its training rows by label, or why it cannot be had."""
    found = {}
    for name in needed(recipe):
        try:
            rows = rsafe_mix.labelled(sources.get(name).load("train"))
            unsafe = sum(row.label == "unsafe" for row in rows)
            found[name] = f"{len(rows) - unsafe} safe, {unsafe} unsafe"
        except InputError as error:
            found[name] = f"cannot be had: {error}"
    return found
