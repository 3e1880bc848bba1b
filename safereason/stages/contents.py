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


def contents(
    *, models: Iterable[str | None] = (), judges: Iterable[str | None] = (), sources: Iterable[str | None] = ()
) -> Record:
    """The part of an identity with a hash for each local model and own file; empty where there is none.

    Args:
        models: Names of models; None is left out.
        judges: Names of judges; the models of `NAME:MODEL` count.
        sources: Names of data sources.

    Raises:
        InputError: A description of data has a mistake in it.
    """
    model_names = list(models)
    for judge in judges:
        if judge:
            model_names.append(_judged_by(judge))
    hashes: dict[str, str] = {}
    for name in model_names:
        if not name:
            continue
        content = ModelSpec.parse(name).contents()
        # Only a local folder has a content; the Hub is not asked for one.
        if content is not None:
            hashes[name] = content
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


def _judged_by(judge: str) -> str:
    """The model of a judge: the part after its name, and after the file of a rubric; empty where there is none."""
    argument = judge.partition(":")[2]
    if judge.startswith("rubric:"):
        return argument.partition("@")[2]
    return argument
