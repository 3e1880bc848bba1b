"""What the data of a guard needs besides its mix: its prompt, for the token limits, and its test sets."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from safereason.console import say
from safereason.data import rsafe_mix, sources
from safereason.data.draw import Mixture, Read, fold
from safereason.data.example import Example
from safereason.engines.open import load_tokenizer
from safereason.errors import InputError
from safereason.guard import guide as guides
from safereason.guard.prompt import Question
from safereason.recipe.schema import Guard, Recipe, RSafeMix
from safereason.text.chat import prompt_ids

Key = tuple[str, str]


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


def draw(recipe: Recipe, mix: RSafeMix, prompts: Read, traces: Read) -> Mixture:
    """Draws the mix of a recipe's guard; without a guard section, whatever its rows' length.

    Raises:
        InputError: Sources cannot be had, each of which is named, or lack rows.
    """
    if recipe.guard is None:
        return rsafe_mix.build(mix, recipe.seed, prompts, traces)
    if recipe.guard.sft is not None and recipe.guard.reasoning and not mix.traces:
        raise InputError(f"recipe {recipe.name}: guard.sft trains a guard that reasons, and data.traces names no rows "
                         "with reasoning; name some, or set guard.reasoning=false")  # fmt: skip
    read = _all_sources(mix, prompts)
    tested, notes = _tested(recipe, recipe.guard)
    too_long = _too_long(recipe, recipe.guard, mix)

    def refuse(example: Example) -> str | None:
        return "in a test set" if _key(example) in tested else too_long(example)

    mixture = rsafe_mix.build(mix, recipe.seed, read, traces, refuse)
    if recipe.guard.sft is not None and not recipe.guard.reasoning:
        verdicts = tuple(replace(e, answer=rf"\boxed{{{e.label}}}") for e in mixture.prompts)
        mixture = replace(mixture, traces=verdicts)
    return replace(mixture, notes=(*mixture.notes, *notes))


def reachable(mix: RSafeMix) -> dict[str, str]:
    """Each source of the mix with the number of its training rows by label, or why it cannot be had."""
    found = {}
    for name in _names(mix):
        try:
            rows = rsafe_mix.labelled(sources.get(name).load("train"))
            unsafe = sum(row.label == "unsafe" for row in rows)
            found[name] = f"{len(rows) - unsafe} safe, {unsafe} unsafe"
        except InputError as error:
            found[name] = f"cannot be had: {error}"
    return found


def _names(mix: RSafeMix) -> list[str]:
    shares = (*mix.safe_only, *mix.unsafe_only)
    return list(dict.fromkeys((*mix.sources, *(share.source for share in shares))))


def _all_sources(mix: RSafeMix, prompts: Read) -> Read:
    """Reads every source before anything is drawn, and names all that cannot be had."""
    rows: dict[str, Any] = {}
    missing = []
    for name in _names(mix):
        try:
            rows[name] = prompts(name)
        except InputError as error:
            say(f"data: {error}")
            missing.append(name)
    if missing:
        raise InputError(f"data: {len(missing)} of {len(missing) + len(rows)} sources cannot be had "
                         f"({', '.join(missing)}); the lines above say how to get them")  # fmt: skip
    return rows.__getitem__


def _tested(recipe: Recipe, section: Guard) -> tuple[Mapping[Key, str], list[str]]:
    """The rows that the recipe tests on, and which sets could not be compared with."""
    tested: dict[Key, str] = {}
    notes = []
    for chosen in section.eval.sets if section.eval else ():
        try:
            rows = rsafe_mix.set_rows(chosen, recipe.seed, sources.get(chosen.source).load(chosen.split))
            tested |= {_key(row): chosen.label for row in rows}
        except InputError as error:
            notes.append(f"not compared with the test set {chosen.label}: {error}")
    return tested, notes


def _key(example: Example) -> Key:
    return fold(example.prompt), fold(example.response or "")


def _too_long(recipe: Recipe, section: Guard, mix: RSafeMix) -> Callable[[Example], str | None]:
    guide, tokenizer = guides.of_section(section), load_tokenizer(recipe.model)

    def check(example: Example) -> str | None:
        limit = mix.max_prompt_task_tokens if example.response is None else mix.max_response_task_tokens
        asked = guide.conversation(Question(example.prompt, example.response))
        return "longer than its limit of tokens" if len(prompt_ids(tokenizer, asked)) > limit else None

    return check
