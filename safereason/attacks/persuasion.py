"""Techniques of persuasion by name: the taxonomy of PAP (Zeng et al., arXiv 2401.06373)."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from safereason.data.fetch import File
from safereason.data.sources.base import rows
from safereason.errors import InputError

TAXONOMY = File(
    source="pap",
    name="persuasion_taxonomy.jsonl",
    url="https://raw.githubusercontent.com/CHATS-lab/persuasive_jailbreaker/"
    "8a8288d1cc2468e3c9ce67fbfe9b45cab0b0415b/persuasion_taxonomy.jsonl",
    sha256="6e93588c34e56d8f1add32a6a24d7adc390ec45de9d30b85cb7242c5278d2b17",
)
ALL = "all"
"""In place of names."""


@dataclass(frozen=True)
class Technique:
    """One way to persuade."""

    name: str
    definition: str
    example: str
    """On giving up smoking."""


def techniques(names: Sequence[str]) -> list[Technique]:
    """The techniques of these names, in any case of letters, in their order; of the one name `all`, each of the 40.

    Raises:
        InputError: The taxonomy cannot be had, no technique is named, or there is none of a name.
    """
    every = [Technique(row["ss_technique"], row["ss_definition"], row["ss_example"]) for row in rows(TAXONOMY)]
    if tuple(names) == (ALL,):
        return every
    if not names:
        raise InputError("attack pap: no technique is named; name some, or all")
    there = {technique.name.casefold(): technique for technique in every}
    for name in names:
        if name.casefold() not in there:
            close = get_close_matches(name.casefold(), there, n=1)
            known = ", ".join(technique.name for technique in every)
            hint = f"did you mean {there[close[0]].name}?" if close else f"there are {known}"
            raise InputError(f"attack pap: no technique is called {name!r}; {hint}")
    return [there[name.casefold()] for name in names]
