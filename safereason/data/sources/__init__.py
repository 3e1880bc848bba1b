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
    rainbow,
    safeedit,
    sample,
    sample_brief,
    sample_verdicts,
    simplesafetytests,
    sorry_bench,
    star1,
    strongreject,
    toxicchat,
    ultrafeedback,
    wildchat,
    wildguard,
    wildjailbreak,
    xstest,
    xstest_response,
)
from safereason.data.sources.base import Source, Split
from safereason.errors import InputError

__all__ = ["SOURCES", "Source", "Split", "get"]

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
        jailbreakbench.BENIGN,
        advbench.SOURCE,
        advbench.FULL,
        strongreject.SOURCE,
        strongreject.SMALL_SOURCE,
        sorry_bench.SOURCE,
        wildjailbreak.SOURCE,
        wildjailbreak.BENIGN,
        wildjailbreak.EVAL,
        safeedit.SOURCE,
        rainbow.SOURCE,
        ultrafeedback.SOURCE,
        wildchat.SOURCE,
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


def get(name: str) -> Source:
    """The source of this name, or a person's own at this path: a file of examples, or a description of a file.

    Raises:
        InputError: There is no such source, or the description has a mistake in it.
    """
    if name in SOURCES:
        return SOURCES[name]
    if name.endswith(files.SUFFIXES):
        return files.source(name)
    available = ", ".join(SOURCES)
    close = get_close_matches(name, SOURCES, n=1)
    own = "a path to a .jsonl, .json, .csv, .tsv, .parquet or .yaml file"
    hint = f"did you mean {close[0]}?" if close else f"use {available} or {own}"
    raise InputError(f"source {name}: is not known; {hint}")
