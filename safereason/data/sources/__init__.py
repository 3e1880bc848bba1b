"""Data sources by name. To add one, see `docs/how-to/add-a-data-source.md`."""

from difflib import get_close_matches

from safereason.data.sources import (
    advbench,
    aegis2,
    beavertails,
    files,
    halves,
    harmbench,
    jailbreakbench,
    openai_moderation,
    or_bench,
    pku_saferlhf,
    sample,
    sample_brief,
    sample_verdicts,
    simplesafetytests,
    star1,
    toxicchat,
    wildguard,
    xstest,
    xstest_response,
)
from safereason.data.sources.base import Source, Split
from safereason.errors import InputError

__all__ = ["PLANNED", "SOURCES", "Source", "Split", "get"]

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        sample.SOURCE,
        sample_brief.SOURCE,
        sample_verdicts.SOURCE,
        sample.HARMLESS,
        star1.SOURCE,
        harmbench.SOURCE,
        harmbench.STANDARD,
        xstest.SOURCE,
        simplesafetytests.SOURCE,
        jailbreakbench.SOURCE,
        advbench.SOURCE,
        toxicchat.SOURCE,
        toxicchat.NOVEMBER,
        aegis2.SOURCE,
        pku_saferlhf.SOURCE,
        beavertails.SOURCE,
        or_bench.SOURCE,
        or_bench.HARD,
        or_bench.TOXIC,
        *wildguard.SOURCES,
        openai_moderation.SOURCE,
        xstest_response.SOURCE,
        *(halves.half(source) for source in (openai_moderation.SOURCE, xstest.SOURCE, simplesafetytests.SOURCE)),
    )
}

PLANNED = frozenset({"rainbow", "safeedit", "ultrafeedback", "wildchat", "wildjailbreak"})
"""Names that the papers' recipes use and that this version cannot read."""


def get(name: str) -> Source:
    """The source of this name, or the file of examples at this path.

    Raises:
        InputError: There is no such source.
    """
    if name in SOURCES:
        return SOURCES[name]
    if name.endswith(files.SUFFIXES):
        return files.source(name)
    available = ", ".join(SOURCES)
    if name in PLANNED:
        raise InputError(f"source {name}: is not part of this version yet; available: {available}")
    close = get_close_matches(name, [*SOURCES, *PLANNED], n=1)
    hint = f"did you mean {close[0]}?" if close else f"use {available} or a path to a .jsonl or .parquet file"
    raise InputError(f"source {name}: is not known; {hint}")
