"""API keys: where they come from, and how one that a caller shows is compared."""

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from safereason.errors import InputError
from safereason.recipe.load import text_of

VARIABLE = "SAFEREASON_API_KEYS"
_BLANKS = " \t\r\n"


@dataclass(repr=False)
class Keys:
    """Digests of the keys that are let in."""

    digests: tuple[bytes, ...] = ()
    """Replaced as a whole, so that no request meets half of a change."""

    def __bool__(self) -> bool:
        return bool(self.digests)

    def admit(self, shown: bytes) -> bool:
        """Whether it is one of the keys; it takes as long whichever it is, and however much of it is right."""
        digest = _digest(shown)
        # A sum, because `any` would stop at the first that fits.
        return sum(hmac.compare_digest(digest, known) for known in self.digests) > 0


def read(file: Path | None) -> Keys:
    """The keys of `$SAFEREASON_API_KEYS`, with commas between them, and those of a file, one a line.

    Raises:
        InputError: The file cannot be read, or one of the two is there and holds no key, or something that is none.
    """
    given: list[str] = []
    if (value := os.environ.get(VARIABLE)) is not None:
        given += _checked(value.split(","), VARIABLE)
    if file is not None:
        # Only a line feed ends a line: a key with another control character is refused and not cut in two.
        given += _checked(text_of(file).split("\n"), str(file))
    return Keys(tuple(_digest(key.encode()) for key in given))


def reread(keys: Keys, file: Path) -> str:
    """Reads the keys anew, which the next request then meets; says in one line what came of it.

    What cannot be read changes nothing: a server with keys never becomes one without.
    """
    try:
        found = read(file)
    except InputError as error:
        return f"the keys stay as they were: {error}"
    keys.digests = found.digests
    return f"{file}: read anew, {len(found.digests)} keys in all"


def _checked(texts: list[str], where: str) -> list[str]:
    """Keys without the blanks around them; a blank line is none."""
    keys = [text.strip(_BLANKS) for text in texts if text.strip(_BLANKS)]
    if not keys:
        raise InputError(f"{where}: holds no key; write one, or leave it away")
    for number, key in enumerate(keys, start=1):
        if not (key.isascii() and key.isprintable()) or " " in key:  # the key itself is not for the screen
            said = "a space, a control character or what is not ASCII"
            raise InputError(f"{where}: key {number} holds {said}; a caller could not send it")
    return keys


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
