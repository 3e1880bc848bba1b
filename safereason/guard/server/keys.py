"""API keys: where they come from, and how one that a caller shows is compared."""

import hashlib
import hmac
import os
from dataclasses import dataclass
from pathlib import Path

from safereason.errors import InputError
from safereason.recipe.load import text_of

VARIABLE = "SAFEREASON_API_KEYS"


@dataclass(frozen=True, repr=False)
class Keys:
    """Digests of the keys that are let in."""

    digests: tuple[bytes, ...] = ()

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
        given += _checked(text_of(file).splitlines(), str(file))
    return Keys(tuple(_digest(key.encode()) for key in given))


def _checked(texts: list[str], where: str) -> list[str]:
    keys = [text.strip() for text in texts if text.strip()]
    if not keys:
        raise InputError(f"{where}: holds no key; write one, or leave it away")
    for number, key in enumerate(keys, start=1):
        if not (key.isascii() and key.isprintable()) or " " in key:  # the key itself is not for the screen
            raise InputError(f"{where}: key {number} holds a space or what is not ASCII; a caller could not send it")
    return keys


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
