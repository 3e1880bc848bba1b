"""Data sources by name. To add one, see `docs/how-to/add-a-data-source.md`."""

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
    rainbow_released,
    safeedit,
    sample,
    sample_brief,
    sample_verdicts,
    simplesafetytests,
    sorry_bench,
    star1,
    strongreject,
    tars_released,
    toxicchat,
    ultrafeedback,
    wildchat,
    wildguard,
    wildjailbreak,
    xstest,
    xstest_response,
)
from safereason.data.sources.base import Source, Split
from safereason.errors import InputError, did_you_mean
from safereason.registry import Registry

__all__ = ["SOURCES", "Source", "Split", "get"]

# The order is that of `safereason data ls` and of the tables in the docs.
SOURCES: Registry[Source] = Registry(
    "source",
    Source,
    (
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
        rainbow_released.SOURCE,
        *tars_released.SOURCES,
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
        # Test sets that small studies train on. Their halves have names of their own, so that a figure on a half is
        # never taken for one on the whole set.
        halves.half(openai_moderation.SOURCE),
        halves.half(xstest.SOURCE),
        halves.half(simplesafetytests.SOURCE),
    ),
)


def get(name: str) -> Source:
    """The source of this name, or your own at this path: a file of examples, or a description of a file.

    A dotted path `module:NAME` leads to the source of a module.

    Raises:
        InputError: There is no such source, its package is broken, or the description has a mistake.
    """
    if name in SOURCES:
        return SOURCES[name]
    if name.endswith(files.SOURCE_ENDINGS):
        return files.own_source(name)
    if SOURCES.has(name):
        return SOURCES.find(name)
    paths = "a path to a .jsonl, .json, .csv, .tsv, .parquet or .yaml file"
    hint = did_you_mean(name, SOURCES, f"use {', '.join(SOURCES)} or {paths}")
    raise InputError(f"source {name}: is not known; {hint}")
