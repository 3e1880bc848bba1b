"""What the models and files of a person hold that a stage's result depends on, as its identity says it.

A name alone does not do: another model may have been written to the same folder, and a file may have been edited. What
is known by its name has no part in it: published data, the Hub's models, servers, and runs, which have an identity.
"""

from collections.abc import Iterable
from typing import Any

from safereason.data.sources import files
from safereason.engines.weights import content_of
from safereason.runs.directory import CONTENTS
from safereason.runs.manifest import sha256


def contents(
    *, models: Iterable[str | None] = (), judges: Iterable[str | None] = (), sources: Iterable[str | None] = ()
) -> dict[str, Any]:
    """The part of an identity with a hash for each local model and own file; empty where there is none.

    Args:
        models: Models as they are named; None stands for none.
        judges: Judges as they are named; that of `NAME:MODEL` counts.
        sources: Data sources as they are named.

    Raises:
        InputError: A description of data has a mistake in it.
    """
    asked = [*models, *(_model_of(judge) for judge in judges if judge)]
    found = {name: content_of(name) for name in asked if name}
    for name in filter(None, sources):
        found |= {str(path): sha256(path) for path in files.inputs(name) if path.is_file()}
    held = {name: content for name, content in found.items() if content is not None}
    return {CONTENTS: held} if held else {}


def _model_of(judge: str) -> str:
    """The model that a judge asks: what stands after its name, and of a rubric after its file."""
    argument = judge.partition(":")[2]
    return argument.partition("@")[2] if judge.startswith("rubric:") else argument
