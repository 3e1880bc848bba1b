"""Stage `data`: draws a recipe's mix and writes it with a data card.

The run holds `train.parquet` (prompts for RL, or a guard's labelled rows), `traces.parquet` (for SFT),
`validation.parquet` (a guard's rows to watch the training by), `card.json` and `card.md`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safereason.console import say
from safereason.data import card, lengths
from safereason.data.example import Example, write_parquet
from safereason.data.sources import files
from safereason.errors import InputError
from safereason.recipe.schema import Recipe
from safereason.runs.directory import CONTENTS, RunDirectory, read_manifest, read_metrics
from safereason.runs.manifest import sha256
from safereason.runs.records import Record, read_record, write_json, write_text
from safereason.stages.base import (
    Identity,
    Metrics,
    Options,
    Result,
    advice,
    base_model,
    open_run,
    run_identity,
    source_run,
)
from safereason.stages.contents import contents
from safereason.stages.own_names import DATA_SECTIONS, with_own_names
from safereason.stages.preparation import guard_data
from safereason.stages.preparation.contamination import ContaminationCheck
from safereason.stages.preparation.mixture import draw_mixture
from safereason.stages.preparation.training_sources import (
    TRACES,
    located,
    teacher_run,
    trace_sources,
    training_sources,
    without_missing_sources,
)

TRAIN = "train.parquet"
VALIDATION = "validation.parquet"
__all__ = ["TRACES", "TRAIN", "VALIDATION", "build_data", "built_data", "data_identity"]


def data_identity(recipe: Recipe) -> Identity:
    """The identity of a recipe's data. Test sets count, since rows are compared with them."""
    recipe = with_own_names(recipe, DATA_SECTIONS)
    hashes = contents(sources=(*training_sources(recipe), *ContaminationCheck.sources(recipe)))
    guard = guard_data.guard_data_identity(recipe)
    return run_identity(recipe, "data", tests=ContaminationCheck.names(recipe), **guard, **hashes)


def build_data(recipe: Recipe, options: Options, *, allow_missing: bool = False) -> Result:
    """Draws, checks and writes the data. A finished run is returned as it is if none of its input files changed.

    Args:
        recipe: Recipe with the mix and the test sets.
        options: Where to write.
        allow_missing: Go on without the sources that cannot be had, which the card then names.

    Raises:
        InputError: A source cannot be had or is too small, a row to train on is also one to test on, or a finished run
            that is not resumed read other contents of its files.
    """
    as_typed, missing_notes = without_missing_sources(recipe, options, allow_missing)
    # Rows are drawn and the card is written by the same names as the identity's.
    recipe = with_own_names(as_typed, DATA_SECTIONS)
    run_directory = open_run("data", as_typed, options, base_model(recipe).label(), data_identity(recipe))
    run_directory.inputs.update(_input_hashes(recipe, options))
    if options.on_existing != "overwrite" and _is_current(run_directory):
        return Result(run_directory.path, read_metrics(run_directory.path), is_earlier=True)
    _check_inputs(run_directory)
    # Drawing a large mix takes minutes, so a directory that is in the way is refused before it.
    run_directory.check_free()
    # The mix drops test rows while it draws, if the recipe says so; the report then finds what is left.
    contamination = ContaminationCheck.of(recipe)
    mixture = draw_mixture(recipe, options, contamination)
    overlap = contamination.report((*mixture.prompts, *mixture.traces, *mixture.validation))
    rows: dict[str, Sequence[Example]] = {TRAIN: mixture.prompts}
    if mixture.traces:
        rows[TRACES] = mixture.traces
    if mixture.validation:
        rows[VALIDATION] = mixture.validation
    tokens, token_notes = _token_lengths(recipe, rows)
    notes = (*missing_notes, *mixture.notes, *contamination.notes, *token_notes)
    document = card.describe(recipe, rows, mixture.drops, overlap=overlap, tokens=tokens, notes=notes)
    with run_directory as opened:
        metrics = _write_data(opened.path, document, rows)
        opened.finish(metrics)
    return Result(opened.path, metrics)


def built_data(recipe: Recipe, options: Options) -> Path:
    """The finished data run that a later stage of this recipe reads.

    Raises:
        InputError: There is none, one of its input files has changed since, or it was not compared with a test set of
            this recipe.
    """
    expected = data_identity(recipe)
    build = advice("data build", recipe.reference, options)
    folder = source_run("data", recipe, options, expected)
    built_from = _hashes_under(CONTENTS, (read_manifest(folder) or {}).get("identity", {}))
    current = _hashes_under(CONTENTS, expected)
    # The run may be of other settings, which is allowed. Only files that both of them read can have changed.
    changed = [path for path in built_from.keys() & current.keys() if built_from[path] != current[path]]
    if changed:
        raise InputError(
            f"{folder}: was built from other contents of {', '.join(sorted(changed))}; "
            f"run {build} with the same overrides"
        )
    # A run of other settings may have been compared with other test sets, or with none.
    compared = read_record(folder / "card.json").get("overlap", {}).get("sets", {})
    tests = ContaminationCheck.names(with_own_names(recipe, DATA_SECTIONS))
    not_compared = [name for name in tests if name not in compared]
    if not_compared:
        raise InputError(
            f"{folder}: was not compared with {', '.join(not_compared)}, which this recipe tests on; "
            f"run {build} with the same overrides"
        )
    return folder


def _token_lengths(recipe: Recipe, rows: Mapping[str, Sequence[Example]]) -> tuple[Record, list[str]]:
    """Lengths of each file's rows in tokens, or a note on why they are not known."""
    from safereason.engines.open import load_tokenizer

    # A recipe trains a reasoning model or a guard, and the limits are those of its trainings.
    sft = recipe.sft
    rl = recipe.rl
    if recipe.guard is not None:
        sft = recipe.guard.sft
        rl = recipe.guard.train
    if sft is None and rl is None:
        return {}, []
    try:
        tokenizer = load_tokenizer(base_model(recipe))
    except InputError as error:
        # The data is as good without its lengths, and may be built on a machine without the model.
        return {}, [f"lengths in tokens are not known: {error}"]
    prompt_limit = None
    if rl is not None:
        prompt_limit = rl.max_prompt_tokens
    text_limit = None
    if sft is not None:
        text_limit = sft.max_tokens
    build_prompt = guard_data.prompt_builder(recipe)
    by_file: Record = {}
    for name, examples in rows.items():
        if examples:
            by_file[name] = lengths.of_file(
                examples, tokenizer, build_prompt, prompt_limit=prompt_limit, text_limit=text_limit
            )
    return by_file, []


def _write_data(path: Path, document: card.Card, rows: Mapping[str, Sequence[Example]]) -> Metrics:
    """Writes the rows and the card, and returns the metrics."""
    for name, examples in rows.items():
        write_parquet(path / name, examples)
        document["files"][name]["sha256"] = sha256(path / name)
    write_json(path / "card.json", document)
    write_text(path / "card.md", card.to_markdown(document))
    # The notes are in the card too, but few people open it.
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


def _input_hashes(recipe: Recipe, options: Options) -> dict[str, str]:
    """Hashes of the user's own files and of the teacher's traces, by path. Published sources do not change."""
    names = [located(recipe, options, name) for name in training_sources(recipe)]
    names += ContaminationCheck.sources(recipe)
    paths: list[Path] = []
    for name in names:
        paths += files.inputs(name)
    if trace_sources(recipe):
        paths.append(teacher_run(recipe, options) / TRACES)
    return {str(path): sha256(path) for path in paths if path.is_file()}


def _is_current(run_directory: RunDirectory) -> bool:
    """Whether the existing run is finished and would read the same files again."""
    # The identity holds no hash of a teacher's traces or of an archive, which are runs. So the inputs are compared too.
    return _is_finished(run_directory) and not _changed_inputs(run_directory)


def _check_inputs(run_directory: RunDirectory) -> None:
    """Refuses a finished run of this identity that read other contents of its files, unless it is to be made again."""
    if run_directory.on_existing == "refuse" and _is_finished(run_directory):
        raise InputError(
            f"{run_directory.path}: finished before, with other contents of "
            f"{', '.join(_changed_inputs(run_directory))}; pass --resume to build it again, or name another --out"
        )


def _is_finished(run_directory: RunDirectory) -> bool:
    """Whether the directory holds a finished run of the same identity."""
    manifest = read_manifest(run_directory.path) or {}
    return manifest.get("status") == "finished" and manifest["identity"] == run_directory.identity


def _changed_inputs(run_directory: RunDirectory) -> list[str]:
    """Files that differ from what the existing run read, or that only one of the two reads."""
    before = _hashes_under("inputs", read_manifest(run_directory.path) or {})
    now = run_directory.inputs
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def _hashes_under(key: str, document: Mapping[str, object]) -> dict[str, object]:
    """Hashes by path under a key of a manifest; empty where there are none, or the manifest is damaged."""
    # A manifest that a person edited is treated as one without hashes, so that the run is built again.
    hashes = document.get(key)
    if not isinstance(hashes, dict):
        return {}
    return hashes
