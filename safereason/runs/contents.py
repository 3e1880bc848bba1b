"""What files hold, in a few bytes: the same wherever they lie and whenever they were copied there."""

import hashlib
import os
from pathlib import Path

from safereason.errors import InputError

WHOLE = 64 * 2**20
"""Bytes up to which a file of a model is read whole."""
SAMPLES = 512
"""Places at which a larger one is read."""
SAMPLE = 8192
"""Bytes read at each of them."""
_BLOCK = 1 << 20


def of_file(path: Path) -> str:
    """The hash of all that a file holds.

    Raises:
        InputError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return digest.hexdigest()[:32]


def of_folder(folder: Path) -> dict[str, str]:
    """A hash by name of the files of a model's folder, but for hidden ones and what is for people to read.

    Raises:
        InputError: One cannot be read.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and not _is_aside(path.name))
    return {path.name: of_weights(path) for path in files}


def of_weights(path: Path) -> str:
    """The hash of a file's size and contents; of a large one at its ends and at places spread evenly over it.

    Training moves nearly all weights, so that these places tell two trainings apart; one weight that was changed by
    hand they need not.

    Raises:
        InputError: It cannot be read.
    """
    try:
        size = path.stat().st_size
        if size <= WHOLE:
            return of_file(path)
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as file:
            digest.update(file.read(_BLOCK))  # the header of safetensors, which names and places the tensors
            for number in range(SAMPLES):
                file.seek(number * (size - SAMPLE) // (SAMPLES - 1), os.SEEK_SET)
                digest.update(file.read(SAMPLE))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return digest.hexdigest()[:32]


def _is_aside(name: str) -> bool:
    return name.startswith(".") or name.endswith(".md")
