"""API keys of the server, and the check of the key that a caller sends."""

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
    """Digests of the accepted keys. There is no repr, so that no log shows them."""

    digests: tuple[bytes, ...] = ()
    """Replaced as a whole by `reread`, so that no request sees half of a change."""

    def __bool__(self) -> bool:
        return bool(self.digests)

    def admit(self, shown: bytes) -> bool:
        """Whether a caller's key is one of these. The time does not depend on which key matches, or how much of one."""
        digest = _digest(shown)
        # A sum, because `any` would stop at the first that fits.
        return sum(hmac.compare_digest(digest, known) for known in self.digests) > 0


def read(file: Path | None) -> Keys:
    """The keys of `$SAFEREASON_API_KEYS`, separated by commas, and those of a file, one per line.

    Raises:
        InputError: The file cannot be read, or one of the two is given and holds no key, or a malformed one.
    """
    keys: list[str] = []
    if (value := os.environ.get(VARIABLE)) is not None:
        keys += _valid_keys(value.split(","), VARIABLE)
    if file is not None:
        # Only a line feed ends a line: a key with another control character is refused and not cut in two.
        keys += _valid_keys(text_of(file).split("\n"), str(file))
    return Keys(tuple(_digest(key.encode()) for key in keys))


def reread(keys: Keys, file: Path) -> str:
    """Reads the keys again for all later requests, and returns the outcome in one line.

    A file that cannot be read changes nothing: a server with keys never becomes one without.
    """
    try:
        new = read(file)
    except InputError as error:
        return f"the keys stay as they were: {error}"
    keys.digests = new.digests
    return f"{file}: read anew, {len(new.digests)} keys in all"


def _valid_keys(texts: list[str], where: str) -> list[str]:
    """The keys without surrounding blanks; blank texts are left out.

    Raises:
        InputError: There is no key, or one that no HTTP header can carry.
    """
    keys = [text.strip(_BLANKS) for text in texts if text.strip(_BLANKS)]
    if not keys:
        raise InputError(f"{where}: holds no key; write one, or leave it away")
    for number, key in enumerate(keys, start=1):
        if not (key.isascii() and key.isprintable()) or " " in key:  # the key itself is not for the screen
            problem = "a space, a control character or what is not ASCII"
            raise InputError(f"{where}: key {number} holds {problem}; a caller could not send it")
    return keys


def _digest(key: bytes) -> bytes:
    # All digests have the same length, so a comparison does not give away the length of a key.
    return hashlib.sha256(key).digest()
