"""Hashes of the user's own models and files that a stage's result depends on, for its identity.

A name is not enough: another model may have been written to the same folder, and a file may have been edited. Published
data, the Hub's models, servers and runs are known by their names, and have no hash here.
"""

from collections.abc import Iterable
from pathlib import Path

from safereason.data.sources import files
from safereason.engines.spec import ModelSpec
from safereason.runs.directory import CONTENTS
from safereason.runs.manifest import sha256
from safereason.runs.records import Record
from safereason.stages.scorer import ScorerSpec


def contents(
    *,
    models: Iterable[ModelSpec | None] = (),
    judges: Iterable[ScorerSpec | None] = (),
    sources: Iterable[str | None] = (),
) -> Record:
    """The part of an identity with a hash for each local model and own file; empty where there is none.

    Args:
        models: Models; None is left out.
        judges: Judges, or what scores in their place; their models count.
        sources: Names of data sources.

    Raises:
        InputError: A description of data, or a judge's file, has a mistake in it.
    """
    specs = [model for model in models if model is not None]
    for judge in judges:
        # A judge may name its model in its argument, in a file of its own, or not at all.
        if judge is not None and (model := judge.model) is not None:
            specs.append(model)
    hashes: dict[str, str] = {}
    for spec in specs:
        content = spec.contents()
        # Only a local folder has a content; no request goes to the Hub for one.
        if content is not None:
            hashes[spec.recorded_name] = content
    for source in sources:
        if source:
            hashes |= file_hashes(files.inputs(source))
    # Without own files the key is left out, as in identities from before it was there.
    if not hashes:
        return {}
    return {CONTENTS: hashes}


def file_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Hashes of files by path. Missing files are left out: the stage that reads them has the better message."""
    return {str(path): sha256(path) for path in paths if path.is_file()}
