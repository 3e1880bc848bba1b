"""The data stage: draws a recipe's mix and writes it with a card.

The run holds `train.parquet` (prompts for RL, or a guard's labelled rows), `traces.parquet` (for SFT),
`validation.parquet` (a guard's rows to watch the training by), `card.json` and `card.md`.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safereason.console import say
from safereason.data import card, lengths, rsafe_mix, sources, tars_mix
from safereason.data.draw import Mixture, Read
from safereason.data.example import Example, write_parquet
from safereason.data.screen import Refuse, first_of
from safereason.data.sources import files
from safereason.errors import InputError
from safereason.recipe.schema import Recipe, RSafeMix
from safereason.runs.directory import CONTENTS, RunDirectory, read_manifest, read_metrics
from safereason.runs.manifest import sha256
from safereason.runs.records import read_json, write_json, write_text
from safereason.stages import guard_data
from safereason.stages.base import Options, Result, advice, identity, model_label, open_run, source_run
from safereason.stages.contents import contents
from safereason.stages.training_sources import TRACES, available, check, located, needed, taught, teacher_run, written
from safereason.stages.unseen import Unseen

TRAIN = "train.parquet"
VALIDATION = "validation.parquet"
__all__ = ["TRACES", "TRAIN", "VALIDATION", "built", "draw", "identity_of", "run", "to_trace"]


def identity_of(recipe: Recipe) -> dict[str, Any]:
    """What the data of a recipe depends on."""
    held = contents(sources=(*needed(recipe), *Unseen.sources(recipe)))
    return identity(recipe, "data", tests=Unseen.names(recipe), **guard_data.identity_of(recipe), **held)


def run(recipe: Recipe, options: Options, *, allow_missing: bool = False) -> Result:
    """Draws, checks and writes the data; a finished run is returned as it is where all that it read is as it was.

    Args:
        recipe: Its `data` section, and what it tests on.
        options: Where to write.
        allow_missing: Go on without the sources that cannot be had, which the card then names.

    Raises:
        InputError: A source cannot be had or is too small, a row to train on is also one to test on, or a finished run
            that is not resumed read other contents of its files.
    """
    recipe, missing = available(recipe, options, allow_missing)
    run_directory = open_run("data", recipe, options, model_label(recipe.model), identity_of(recipe))
    run_directory.inputs.update(_own_files(recipe, options))
    if options.on_existing != "overwrite" and _is_done(run_directory):
        return Result(run_directory.path, read_metrics(run_directory.path), is_earlier=True)
    _check_inputs(run_directory)
    run_directory.check_free()
    unseen = Unseen.of(recipe)
    mixture = draw(recipe, options, unseen)
    overlap = unseen.report((*mixture.prompts, *mixture.traces, *mixture.validation))
    parts = {TRAIN: mixture.prompts, TRACES: mixture.traces, VALIDATION: mixture.validation}
    rows = {name: examples for name, examples in parts.items() if examples or name == TRAIN}
    tokens, unmeasured = _tokens(recipe, rows)
    notes = (*missing, *mixture.notes, *unseen.notes, *unmeasured)
    document = card.describe(recipe, rows, mixture.drops, overlap=overlap, tokens=tokens, notes=notes)
    with run_directory as opened:
        metrics = _write(opened.path, document, rows)
        opened.finish(metrics)
    return Result(opened.path, metrics)


def built(recipe: Recipe, options: Options) -> Path:
    """The finished data run that a later stage of this recipe reads.

    Raises:
        InputError: There is none, a file that it read has other contents now, or it was not compared with what this
            recipe tests on.
    """
    expected, build = identity_of(recipe), advice("data build", recipe.reference, options)
    folder = source_run("data", recipe, options, expected)
    before, now = _hashes((read_manifest(folder) or {}).get("identity", {}), CONTENTS), _hashes(expected, CONTENTS)
    if changed := sorted(path for path in before.keys() & now.keys() if before[path] != now[path]):
        raise InputError(
            f"{folder}: was built from other contents of {', '.join(changed)}; run {build} with the same overrides"
        )
    compared = read_json(folder / "card.json").get("overlap", {}).get("sets", {})
    missed = [name for name in Unseen.names(recipe) if name not in compared]
    if missed:
        raise InputError(
            f"{folder}: was not compared with {', '.join(missed)}, which this recipe tests on; "
            f"run {build} with the same overrides"
        )
    return folder


def draw(recipe: Recipe, options: Options, unseen: Unseen) -> Mixture:
    """Draws the mix of a recipe whose sources can all be had.

    Raises:
        InputError: A source is too small, or a guard's SFT has no reasoning to train on.
    """
    guard_data.check(recipe)
    of_teacher, by_teacher = taught(recipe), written(recipe, options)
    traces = _traces(of_teacher, by_teacher)
    prompts, refuse = _prompts(recipe, options), _refuse(recipe, unseen)
    if isinstance(recipe.data, RSafeMix):
        mixture = rsafe_mix.build(recipe.data, recipe.seed, prompts, traces, taught=of_teacher, refuse=refuse)
        return guard_data.with_verdicts(recipe, mixture)
    return tars_mix.build(recipe.data, recipe.seed, prompts, traces, taught=of_teacher, refuse=refuse)


def to_trace(recipe: Recipe) -> list[Example]:
    """The prompts of the recipe's traces whose source has none of its own: what its teacher is to answer, in order.

    For a guard these are labelled rows, which a teacher is asked about as the guard is.

    Raises:
        InputError: Sources cannot be had, each of which a line says how to get.
    """
    of_teacher = taught(recipe)
    check(of_teacher)
    mix, prompts, refuse = recipe.data, _prompts(recipe, Options()), _refuse(recipe, Unseen.of(recipe))
    if isinstance(mix, RSafeMix):
        return rsafe_mix.to_trace(mix, recipe.seed, prompts, of_teacher, refuse=refuse)
    return tars_mix.to_trace(mix, recipe.seed, prompts, _traces(of_teacher, ()), taught=of_teacher, refuse=refuse)


def _prompts(recipe: Recipe, options: Options) -> Read:
    return lambda name: sources.get(located(recipe, options, name)).stream("train")


def _traces(of_teacher: Sequence[str], by_teacher: Iterable[Example]) -> Read:
    return lambda name: by_teacher if name in of_teacher else sources.get(name).traces("train")


def _refuse(recipe: Recipe, unseen: Unseen) -> Refuse:
    return first_of(unseen.refuse(), guard_data.too_long(recipe))


def _tokens(recipe: Recipe, rows: Mapping[str, Sequence[Example]]) -> tuple[dict[str, Any], list[str]]:
    """Lengths of each file in the recipe's tokens, or a note on why they are not known."""
    from safereason.engines.open import load_tokenizer

    sft, rl = (recipe.guard.sft, recipe.guard.train) if recipe.guard else (recipe.sft, recipe.rl)
    if sft is None and rl is None:
        return {}, []
    try:
        tokenizer = load_tokenizer(recipe.model)
    except InputError as error:
        return {}, [f"lengths in tokens are not known: {error}"]
    measure = partial(
        lengths.of_file,
        tokenizer=tokenizer,
        ask=guard_data.asked(recipe),
        prompt_limit=rl.max_prompt_tokens if rl else None,
        text_limit=sft.max_tokens if sft else None,
    )
    return {name: measure(examples) for name, examples in rows.items() if examples}, []


def _write(path: Path, document: card.Card, rows: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    for name, examples in rows.items():
        write_parquet(path / name, examples)
        document["files"][name]["sha256"] = sha256(path / name)
    write_json(path / "card.json", document)
    write_text(path / "card.md", card.to_markdown(document))
    for note in document["notes"]:
        say(f"data: {note}")
    return {
        "prompts": len(rows[TRAIN]),
        "traces": len(rows.get(TRACES, ())),
        "validation": len(rows.get(VALIDATION, ())),
        "by_kind": document["files"][TRAIN]["by_kind"],
        "by_label": document["files"][TRAIN]["by_label"],
        "dropped": sum(document["drops"].values()),
        "in_test_sets": document["overlap"]["rows"],
    }


def _own_files(recipe: Recipe, options: Options) -> dict[str, str]:
    """Hashes of the recipe's own files, which can change where a published one cannot, and of its teacher's traces."""
    named = (*(located(recipe, options, name) for name in needed(recipe)), *Unseen.sources(recipe))
    own = [path for name in named for path in files.inputs(name)]
    own += [teacher_run(recipe, options) / TRACES] if taught(recipe) else []
    return {str(path): sha256(path) for path in own if path.is_file()}


def _is_done(run_directory: RunDirectory) -> bool:
    return _is_finished(run_directory) and not _other_inputs(run_directory)


def _check_inputs(run_directory: RunDirectory) -> None:
    """Refuses a finished run of this identity that read other contents, where it is not to be made again."""
    if run_directory.on_existing == "refuse" and _is_finished(run_directory):
        raise InputError(
            f"{run_directory.path}: finished before, with other contents of {', '.join(_other_inputs(run_directory))}; "
            "pass --resume to build it again, or name another --out"
        )


def _is_finished(run_directory: RunDirectory) -> bool:
    done = read_manifest(run_directory.path) or {}
    return done.get("status") == "finished" and done["identity"] == run_directory.identity


def _other_inputs(run_directory: RunDirectory) -> list[str]:
    """Files of which the run that is there read other contents, or that only one of the two reads."""
    before, now = _hashes(read_manifest(run_directory.path) or {}, "inputs"), run_directory.inputs
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def _hashes(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Hashes by path under a key of a manifest; none where there are none, or the manifest is damaged."""
    found = document.get(key)
    return found if isinstance(found, dict) else {}
