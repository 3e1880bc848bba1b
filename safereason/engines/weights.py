"""Hashes of local models, computed without reading all of their files.

A hash says whether a folder holds the same model as before, on this machine or another: times and paths do not count.
Small files count whole: the configuration, the tokenizer, the chat template, the index of the weights. Of large ones
count their size, the header of a safetensors file, and blocks spread over it. Training changes nearly every block; who
edits a few numbers of one tensor by hand may not be noticed.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from safereason.files import read_json
from safereason.runs.directory import read_manifest

WHOLE = 1 << 25
"""Bytes up to which a file is read whole."""
BLOCKS, BLOCK = 64, 1 << 16
"""The number of blocks that are read of a larger file, and the bytes of each."""
HEADER = 1 << 24
"""Bytes that are read of the header of a safetensors file, which gives names, types, shapes and offsets."""
READ = (".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".bin", ".gguf")
"""Suffixes of the files that a model is loaded from."""
UNREAD = ("trainer_state.json", "training_args.bin")
"""Files of a checkpoint that a model is not loaded from."""
ADAPTER = "adapter_config.json"
"""File of peft's configuration, in the folder of the adapters."""
DIGITS = 16


def contents_of(folder: Path) -> str | None:
    """The hash of a folder's model, in hexadecimal; None for what is no folder, and for a run, which has an identity.

    Raises:
        InputError: The folder's configuration of adapters cannot be read.
    """
    # Unlike Path.is_dir, this is False for any name that cannot be a path, such as one of 5000 characters.
    if not os.path.isdir(folder) or read_manifest(folder) is not None:
        return None
    return of_folder(folder)


def of_folder(folder: Path) -> str:
    """The hash of the model that a folder holds, in hexadecimal.

    Raises:
        InputError: The folder's configuration of adapters cannot be read.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in READ and path.name not in UNREAD)
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
    own_hash = _hash(folder.resolve(), tuple(states))
    # Adapters mean nothing without the model that they change.
    base_hash = _base_of(folder)
    if base_hash is None:
        return own_hash
    return hashlib.sha256(f"{own_hash} {base_hash}".encode()).hexdigest()[:DIGITS]


def _base_of(folder: Path) -> str | None:
    """The hash of the local model that a folder's adapters belong to."""
    if not (folder / ADAPTER).is_file():
        return None
    config = read_json(folder / ADAPTER)
    if not isinstance(config, dict):
        return None
    named = config.get("base_model_name_or_path")
    # A folder that names itself would be hashed without end.
    if not isinstance(named, str) or Path(named).resolve() == folder.resolve():
        return None
    return contents_of(Path(named))


@lru_cache(maxsize=32)
def _hash(folder: Path, states: Sequence[tuple[str, int, int]]) -> str:
    """The hash of these files; their times only tell whether one that was worked out before still holds."""
    digest = hashlib.sha256()
    for name, size, _ in states:
        # The zero bytes keep name and size apart from what follows.
        digest.update(f"{name}\0{size}\0".encode())
        with (folder / name).open("rb") as file:
            for part in _parts(file, size, name.endswith(".safetensors")):
                digest.update(part)
    return digest.hexdigest()[:DIGITS]


def _parts(file: BinaryIO, size: int, has_header: bool) -> list[bytes]:
    if size <= WHOLE:
        return [file.read()]
    parts = []
    if has_header:
        # A safetensors file begins with its header's length in 8 bytes, little-endian.
        length = int.from_bytes(file.read(8), "little")
        parts.append(file.read(min(length, HEADER)))
    # The first block begins at 0, and the last one ends with the file.
    for number in range(BLOCKS):
        file.seek((size - BLOCK) * number // (BLOCKS - 1))
        parts.append(file.read(BLOCK))
    return parts
