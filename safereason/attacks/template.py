"""Prompts with places to fill in: those that are shipped, and those of a file."""

from collections.abc import Sequence
from pathlib import Path

from safereason.errors import InputError
from safereason.files import read_text

_SHIPPED = Path(__file__).parent / "prompts"


def check(template: str, places: Sequence[str], where: str) -> str:
    """The template, if each place is in it.

    Raises:
        InputError: One is not.
    """
    missing = [place for place in places if place not in template]
    if missing:
        raise InputError(f"{where}: this prompt has no {missing[0]}; put it where the text is to stand")
    return template


def read_all(shipped: str, given: str | None, places: Sequence[str], where: str) -> list[str]:
    """Prompts of a file, or of a folder's `.txt` files by name; where none is given, those of a shipped folder.

    Raises:
        InputError: They cannot be read, there are none, or one lacks a place.
    """
    source = Path(given) if given else _SHIPPED / shipped
    try:
        files = sorted(source.glob("*.txt")) if source.is_dir() else [source]
        found = [check(read_text(file).strip(), places, str(file)) for file in files]
    except (OSError, ValueError, InputError) as error:
        raise InputError(f"{where}: {error}; give a text file or a folder of them") from error
    if not found:
        raise InputError(f"{where}: {source} holds no .txt file; give a text file or a folder of them")
    return found
