"""Techniques of persuasion by name: the taxonomy of PAP (Zeng et al., arXiv 2401.06373)."""

from collections.abc import Sequence
from dataclasses import dataclass

from safereason.data.fetch import File
from safereason.data.sources.base import published_rows
from safereason.errors import InputError, did_you_mean

TAXONOMY = File(
    source="pap",
    name="persuasion_taxonomy.jsonl",
    url="https://raw.githubusercontent.com/CHATS-lab/persuasive_jailbreaker/"
    "8a8288d1cc2468e3c9ce67fbfe9b45cab0b0415b/persuasion_taxonomy.jsonl",
    sha256="6e93588c34e56d8f1add32a6a24d7adc390ec45de9d30b85cb7242c5278d2b17",
)
ALL = "all"
"""Name that selects all techniques."""


@dataclass(frozen=True)
class Technique:
    """One way to persuade."""

    name: str
    definition: str
    example: str
    """An example prompt, about giving up smoking."""


def find_techniques(names: Sequence[str]) -> list[Technique]:
    """The techniques of these names, in upper or lower case, in their order; for the one name `all`, each of the 40.

    Raises:
        InputError: The taxonomy is not available, no technique is named, or a name is unknown.
    """
    taxonomy = [
        Technique(row["ss_technique"], row["ss_definition"], row["ss_example"]) for row in published_rows(TAXONOMY)
    ]
    if tuple(names) == (ALL,):
        return taxonomy
    if not names:
        raise InputError("attack pap: no technique is named; name some, or all")
    # Case is ignored: people type these names.
    by_name = {technique.name.casefold(): technique for technique in taxonomy}
    for name in names:
        if name.casefold() not in by_name:
            raise InputError(f"attack pap: no technique is called {name!r}; {_hint(name, by_name)}")
    return [by_name[name.casefold()] for name in names]


def _hint(name: str, by_name: dict[str, Technique]) -> str:
    """The most similar name, or all names if none is similar."""
    known = ", ".join(technique.name for technique in by_name.values())
    return did_you_mean(name.casefold(), by_name, f"there are {known}", lambda folded: by_name[folded].name)
