"""The data stage: draws a recipe's mix and writes it with a card.

The run holds `train.parquet` (prompts for RL, or a guard's labelled rows), `traces.parquet` (for SFT),
`validation.parquet` (a guard's rows to watch the training by), `card.json` and `card.md`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safereason.console import say
from safereason.data import card, sources, tars_mix
from safereason.data.draw import Mixture, fold
from safereason.data.example import Example, write_parquet
from safereason.data.sources import files
from safereason.errors import InputError
from safereason.recipe.schema import Recipe, RSafeMix
from safereason.runs.directory import RunDirectory, read_manifest
from safereason.runs.manifest import sha256
from safereason.runs.records import read_json, write_json, write_text
from safereason.stages import guard_data
from safereason.stages.base import Options, Result, identity, model_label, open_run

TRAIN = "train.parquet"
TRACES = "traces.parquet"
VALIDATION = "validation.parquet"


def identity_of(recipe: Recipe) -> dict[str, Any]:
    """What the data of a recipe depends on."""
    return identity(recipe, "data", **guard_data.identity_of(recipe))


def run(recipe: Recipe, options: Options) -> Result:
    """Draws, checks and writes the data; a finished run that is resumed is returned as it is.

    Raises:
        InputError: A source cannot be had or is too small, or a prompt to train on is also one to evaluate on.
    """
    run_directory = open_run("data", recipe, options, model_label(recipe.model), identity_of(recipe))
    run_directory.inputs.update(_own_files(recipe))
    if options.on_existing == "resume" and _is_done(run_directory):
        return Result(run_directory.path, read_json(run_directory.path / "metrics.json"))
    mixture = _draw(recipe)
    notes = (*mixture.notes, *_check_unseen(recipe, (*mixture.prompts, *mixture.traces)))
    with run_directory as opened:
        metrics = _write(opened.path, recipe, mixture, notes)
        opened.finish(metrics)
    return Result(opened.path, metrics)


def to_trace(recipe: Recipe) -> list[Example]:
    """The prompts of the recipe's traces whose source has none of its own: what its teacher is to answer, in order.

    For a guard these are labelled rows, which a teacher is asked about as the guard is.

    Raises:
        InputError: A source cannot be had.
    """
    mix = recipe.data
    shares = [s for s in mix.traces if s.source not in mix.without_sources and sources.get(s.source).reasoned is None]
    return [e for share in shares for e in sources.get(share.source).load("train")[share.skip :][: share.prompts]]


def _draw(recipe: Recipe) -> Mixture:
    def prompts(name: str) -> list[Example]:
        return sources.get(name).load("train")

    def traces(name: str) -> list[Example]:
        return sources.get(name).traces("train")

    if isinstance(recipe.data, RSafeMix):
        return guard_data.draw(recipe, recipe.data, prompts, traces)
    return tars_mix.build(recipe.data, recipe.seed, prompts, traces)


def _check_unseen(recipe: Recipe, training: Sequence[Example]) -> list[str]:
    """Refuses to train on the prompts the same recipe evaluates on; says which sources could not be compared."""
    notes = []
    by_prompt = {fold(example.prompt): example.id for example in training}
    named = (recipe.eval.behaviors, recipe.eval.benign) if recipe.eval else ()
    for source in [sources.get(name) for name in named if name]:
        try:
            evaluation = source.load("test")
        except InputError as error:
            notes.append(f"not compared with the evaluation prompts of {source.name}: {error}")
            continue
        shared = [(e.id, by_prompt[fold(e.prompt)]) for e in evaluation if fold(e.prompt) in by_prompt]
        if shared:
            raise InputError(f"data: the training mix holds {len(shared)} prompts that eval tests on "
                             f"({shared[0][0]} is {shared[0][1]}); train or evaluate on another source")  # fmt: skip
    return notes


def _write(path: Path, recipe: Recipe, mixture: Mixture, notes: Sequence[str]) -> dict[str, Any]:
    files = {TRAIN: mixture.prompts, TRACES: mixture.traces, VALIDATION: mixture.validation}
    rows = {name: examples for name, examples in files.items() if examples or name == TRAIN}
    document = card.describe(recipe, rows, mixture.drops, notes)
    for name, examples in rows.items():
        write_parquet(path / name, examples)
        document["files"][name]["sha256"] = sha256(path / name)
    write_json(path / "card.json", document)
    write_text(path / "card.md", card.to_markdown(document))
    for note in notes:
        say(f"data: {note}")
    return {
        "prompts": len(mixture.prompts),
        "traces": len(mixture.traces),
        "validation": len(mixture.validation),
        "by_kind": document["files"][TRAIN]["by_kind"],
        "by_label": document["files"][TRAIN]["by_label"],
        "dropped": sum(document["drops"].values()),
    }


def _own_files(recipe: Recipe) -> dict[str, str]:
    """Hashes of the recipe's own files, which can change where a published one cannot."""
    own = [Path(name) for name in card.source_names(recipe) if name.endswith(files.SUFFIXES)]
    return {str(path): sha256(path) for path in own if path.is_file()}


def _is_done(run_directory: RunDirectory) -> bool:
    done = read_manifest(run_directory.path) or {}
    expected = {"status": "finished", "identity": run_directory.identity, "inputs": run_directory.inputs}
    return all(done.get(key) == value for key, value in expected.items())
