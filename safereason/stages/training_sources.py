"""The sources that a recipe's data comes from: which of them can be had, and the traces that a teacher wrote."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safereason.console import say
from safereason.data import card, sources, tars_mix
from safereason.data.example import Example, read_examples
from safereason.data.sources import files
from safereason.errors import InputError
from safereason.recipe.schema import Recipe, TarsMix
from safereason.runs.directory import finished_runs, read_manifest
from safereason.stages.base import Options, advice, source_run

TEACHER_STAGE = "data/traces"
"""The stage that has a teacher write traces."""
TRACES = "traces.parquet"
RAINBOW = "rainbow"
"""The source that each recipe has an archive of its own for."""
RAINBOW_STAGE = "attack/rainbow"
"""The stage that makes an archive of prompts against the recipe's SFT model."""


def needed(recipe: Recipe) -> list[str]:
    """The sources that the mix reads, each once."""
    mix = recipe.data
    if isinstance(mix, TarsMix):
        pools = [getattr(mix, kind) for kind, wanted in tars_mix.counts(mix).items() if wanted]
        names = [share.source for pool in (*pools, mix.traces) for share in pool]
    else:
        names = card.source_names(recipe)
    return [name for name in dict.fromkeys(names) if name not in mix.without_sources]


def taught(recipe: Recipe) -> list[str]:
    """The sources of the recipe's traces that have none of their own, so that a teacher writes them."""
    mix = recipe.data
    of_mix = needed(recipe) if isinstance(mix, TarsMix) and mix.trace_prompts else ()
    named = dict.fromkeys((*of_mix, *(share.source for share in mix.traces)))
    return [n for n in named if n not in recipe.data.without_sources and not _has_traces(n)]


def _has_traces(name: str) -> bool:
    """Whether a source has traces of its own; a person's file does where one of its rows is a trace."""
    source = sources.get(name)
    if source.reasoned is None or not files.inputs(name):
        return source.reasoned is not None
    try:
        return next(iter(source.reasoned("train")), None) is not None
    except InputError:  # said where the file is read
        return True


def located(recipe: Recipe, options: Options, name: str) -> str:
    """What a source is read from: of `rainbow`, the newest archive that was made for this recipe, if there is one."""
    runs = finished_runs(options.root, RAINBOW_STAGE, recipe.name) if name == RAINBOW else []
    return str(runs[-1] / "archive.jsonl") if runs else name


def status(recipe: Recipe, options: Options) -> dict[str, str]:
    """What the mix reads, with `there` or why it cannot be had."""
    lost = _lost(recipe, options)
    return {what: lost.get(what, "there") for what in _read(recipe)}


def _read(recipe: Recipe) -> list[str]:
    """All that the mix reads, by what it is called."""
    return [*needed(recipe), *_of_teacher(recipe)]


def available(recipe: Recipe, options: Options, allow_missing: bool) -> tuple[Recipe, list[str]]:
    """The recipe with what can be had, and a note on what cannot.

    Raises:
        InputError: Something cannot be had, each of which a line says how to get, and going on is not allowed.
    """
    lost = _lost(recipe, options)
    if not lost:
        return recipe, []
    if not allow_missing:
        raise _missing(lost, len(_read(recipe)), ", and --allow-missing goes on without them")
    gone = [name for name in needed(recipe) if name in lost]
    untaught = taught(recipe) if lost.keys() & set(_of_teacher(recipe)) else []
    changes = {
        "without_sources": (*recipe.data.without_sources, *gone),
        "traces": tuple(share for share in recipe.data.traces if share.source not in untaught),
    }
    notes = [f"went on without {what}, which cannot be had: {why}" for what, why in lost.items()]
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changes)}), notes


def _of_teacher(recipe: Recipe) -> list[str]:
    """What the traces of a teacher are called, where there are to be some."""
    return [f"traces of {', '.join(names)}"] if (names := taught(recipe)) else []


def _lost(recipe: Recipe, options: Options) -> dict[str, str]:
    """What cannot be had, and why."""
    found = {name: _why_not_for(recipe, options, name) for name in needed(recipe)}
    found |= {what: _why(lambda: teacher_run(recipe, options)) for what in _of_teacher(recipe)}
    return {what: why for what, why in found.items() if why is not None}


def _why_not_for(recipe: Recipe, options: Options, name: str) -> str | None:
    """Why a source cannot be read for training by this recipe, with the command that makes it, where there is one."""
    why = why_not(located(recipe, options, name))
    return None if why is None else f"{why}{makes(recipe, options, name)}"


def makes(recipe: Recipe, options: Options, name: str) -> str:
    """The end of a message about a source that is not there: which command makes it; empty where none does."""
    return f"; {advice('attack rainbow', recipe.reference, options)} makes it" if name == RAINBOW else ""


def check(names: Sequence[str]) -> None:
    """Refuses where a source cannot be read for training.

    Raises:
        InputError: Some cannot be had, each of which a line says how to get.
    """
    lost = {name: why for name in names if (why := why_not(name)) is not None}
    if lost:
        raise _missing(lost, len(names))


def _missing(lost: Mapping[str, str], of: int, otherwise: str = "") -> InputError:
    for why in lost.values():
        say(f"data: {why}")
    return InputError(
        f"data: {len(lost)} of {of} sources cannot be had ({'; '.join(lost)}); "
        f"the lines above say how to get each{otherwise}"
    )


def why_not(name: str) -> str | None:
    """Why a source cannot be read for training, or None where it can.

    Raises:
        InputError: There is no source of this name, or nobody is to train on it.
    """
    source = sources.get(name)
    source.check("train")
    return _why(lambda: next(source.stream("train"), None))


def teacher_run(recipe: Recipe, options: Options) -> Path:
    """The newest run in which a teacher wrote traces for this recipe, one of all prompts before one of some.

    Raises:
        InputError: There is none; the message says which command makes it.
    """
    newest = source_run(TEACHER_STAGE, recipe, options, {})
    runs = finished_runs(options.root, TEACHER_STAGE, recipe.name)
    whole = [run for run in runs if (read_manifest(run) or {})["identity"].get("limit") is None]
    return whole[-1] if whole else newest


def written(recipe: Recipe, options: Options) -> list[Example]:
    """The traces that a teacher wrote; none where every source has its own."""
    return read_examples(teacher_run(recipe, options) / TRACES) if taught(recipe) else []


def _why(get: Callable[[], Any]) -> str | None:
    try:
        get()
    except InputError as error:
        return str(error)
    return None
