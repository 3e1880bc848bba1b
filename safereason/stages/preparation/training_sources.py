"""The sources of a recipe's training data: which of them can be had, and the traces that a teacher wrote."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from safereason.console import say
from safereason.data import card, sources, tars_mix
from safereason.data.example import Example, read_examples
from safereason.data.sources import files
from safereason.errors import InputError
from safereason.recipe.schema import Recipe, SourceShare, TarsMix
from safereason.runs.directory import finished_runs, read_manifest
from safereason.stages.base import Options, advice, source_run

TEACHER_STAGE = "data/traces"
"""The stage in which a teacher writes traces."""
TRACES = "traces.parquet"
RAINBOW = "rainbow"
"""The source whose archive is made for each recipe."""
RAINBOW_STAGE = "attack/rainbow"
"""The stage that makes an archive of prompts against the recipe's SFT model."""


def training_sources(recipe: Recipe) -> list[str]:
    """The sources that the mix reads, each once."""
    mix = recipe.data
    if not isinstance(mix, TarsMix):
        return card.source_names(recipe)
    names: dict[str, None] = {}
    for share in _tars_shares(mix):
        if share.source not in mix.without_sources:
            names[share.source] = None
    return list(names)


def _tars_shares(mix: TarsMix) -> Iterator[SourceShare]:
    """The shares of a TARS mix that are read."""
    for kind, count in tars_mix.counts(mix).items():
        # A ratio of 0 leaves a kind out, and its sources then need not be there.
        if count:
            yield from tars_mix.shares_of(mix, kind)
    yield from mix.traces


def trace_sources(recipe: Recipe) -> list[str]:
    """The sources of the recipe's traces that hold no traces themselves, so that a teacher writes them."""
    mix = recipe.data
    names: list[str] = []
    if isinstance(mix, TarsMix) and mix.trace_prompts:
        # Here the traces answer the training prompts themselves.
        names += training_sources(recipe)
    names += [share.source for share in mix.traces]
    without_traces = []
    for name in dict.fromkeys(names):
        if name not in mix.without_sources and not _has_traces(name):
            without_traces.append(name)
    return without_traces


def _has_traces(name: str) -> bool:
    """Whether a source has traces of its own. A person's file has, if one of its rows is a trace."""
    source = sources.get(name)
    if source.reasoned is None:
        return False
    if not files.inputs(name):
        return True
    try:
        return next(iter(source.reasoned("train")), None) is not None
    except InputError:
        # The same error comes again where the file is read, with a better place to say it.
        return True


def located(recipe: Recipe, options: Options, name: str) -> str:
    """The source to read under a name: for `rainbow`, the newest archive made for this recipe, if there is one."""
    # All other names are of published sources or of files, and mean the same for every recipe.
    if name != RAINBOW:
        return name
    runs = finished_runs(options.root, RAINBOW_STAGE, recipe.name)
    if not runs:
        return name
    return str(runs[-1] / "archive.jsonl")


def source_status(recipe: Recipe, options: Options) -> dict[str, str]:
    """Each part of the mix with `there`, or the reason why it cannot be had."""
    missing = _missing_parts(recipe, options)
    return {part: missing.get(part, "there") for part in _mix_parts(recipe)}


def _mix_parts(recipe: Recipe) -> list[str]:
    """Names of all parts of the mix: its sources, and a teacher's traces."""
    return [*training_sources(recipe), *_teacher_parts(recipe)]


def without_missing_sources(recipe: Recipe, options: Options, allow_missing: bool) -> tuple[Recipe, list[str]]:
    """The recipe without the sources that cannot be had, and a note on each of them.

    Raises:
        InputError: Something cannot be had and `allow_missing` is false; a line for each says how to get it.
    """
    missing = _missing_parts(recipe, options)
    if not missing:
        return recipe, []
    if not allow_missing:
        raise _missing_error(missing, len(_mix_parts(recipe)), ", and --allow-missing goes on without them")
    missing_sources = [name for name in training_sources(recipe) if name in missing]
    # Without a teacher's run the sources that it was to answer give no traces, while their prompts are still there.
    untaught: list[str] = []
    if any(part in missing for part in _teacher_parts(recipe)):
        untaught = trace_sources(recipe)
    changes = {
        "without_sources": (*recipe.data.without_sources, *missing_sources),
        "traces": tuple(share for share in recipe.data.traces if share.source not in untaught),
    }
    notes = []
    for part, why in missing.items():
        notes.append(f"went on without {part}, which cannot be had: {why}")
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changes)}), notes


def _teacher_parts(recipe: Recipe) -> list[str]:
    """The name of a teacher's traces as a part of the mix; empty where no teacher writes any."""
    names = trace_sources(recipe)
    if not names:
        return []
    return [f"traces of {', '.join(names)}"]


def _missing_parts(recipe: Recipe, options: Options) -> dict[str, str]:
    """The parts of the mix that cannot be had, with the reason."""
    missing = {}
    for name in training_sources(recipe):
        reason = why_not(located(recipe, options, name))
        if reason is not None:
            missing[name] = f"{reason}{how_to_make(recipe, options, name)}"
    for part in _teacher_parts(recipe):
        reason = _error_of(lambda: teacher_run(recipe, options))
        if reason is not None:
            missing[part] = reason
    return missing


def how_to_make(recipe: Recipe, options: Options, name: str) -> str:
    """The end of a message about a missing source: the command that makes it; empty where none does."""
    if name != RAINBOW:
        return ""
    return f"; {advice('attack rainbow', recipe.reference, options)} makes it"


def check_sources(names: Sequence[str]) -> None:
    """Checks that sources can be read for training.

    Raises:
        InputError: Some cannot; a line for each says how to get it.
    """
    missing = {}
    for name in names:
        reason = why_not(name)
        if reason is not None:
            missing[name] = reason
    if missing:
        raise _missing_error(missing, len(names))


def _missing_error(missing: Mapping[str, str], of: int, otherwise: str = "") -> InputError:
    # The error is one line, so the long reasons are printed above it.
    for reason in missing.values():
        say(f"data: {reason}")
    return InputError(
        f"data: {len(missing)} of {of} sources cannot be had ({'; '.join(missing)}); "
        f"the lines above say how to get each{otherwise}"
    )


def why_not(name: str) -> str | None:
    """The reason why a source cannot be read for training; None where it can.

    Raises:
        InputError: There is no source of this name, or it is for tests only.
    """
    source = sources.get(name)
    source.check("train")
    # One row is enough: opening a stream finds missing files, and reading all of it may take minutes.
    return _error_of(lambda: next(source.stream("train"), None))


def teacher_run(recipe: Recipe, options: Options) -> Path:
    """The newest run in which a teacher wrote traces for this recipe; a run of all prompts goes before one of some.

    Raises:
        InputError: There is none; the message says which command makes it.
    """
    # `--limit` is for a first look at the traces; a run with it is used only where there is no other.
    newest = source_run(TEACHER_STAGE, recipe, options, {})
    unlimited = []
    for run in finished_runs(options.root, TEACHER_STAGE, recipe.name):
        if (read_manifest(run) or {})["identity"].get("limit") is None:
            unlimited.append(run)
    if not unlimited:
        return newest
    return unlimited[-1]


def teacher_written(recipe: Recipe, options: Options) -> list[Example]:
    """The traces that a teacher wrote; empty where every source has its own."""
    if not trace_sources(recipe):
        return []
    return read_examples(teacher_run(recipe, options) / TRACES)


def _error_of(attempt: Callable[[], object]) -> str | None:
    """The message of the input error that an attempt raises; None where it succeeds."""
    try:
        attempt()
    except InputError as error:
        return str(error)
    return None
