"""What a local model holds, told from its files without reading all of them.

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

from safereason.engines import embedded
from safereason.files import read_json
from safereason.runs.directory import read_manifest

WHOLE = 1 << 25
"""Bytes up to which a file is read whole."""
BLOCKS, BLOCK = 64, 1 << 16
"""How many blocks are read of a larger file, and their bytes."""
HEADER = 1 << 24
"""Bytes that are read of the header of a safetensors file, which gives names, types, shapes and places."""
READ = (".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".bin", ".gguf")
"""How the names of files end that a model is loaded from."""
UNREAD = ("trainer_state.json", "training_args.bin")
"""Files of a checkpoint that a model is not loaded from."""
ADAPTER = "adapter_config.json"
"""What peft says about adapters, in the folder beside them."""
DIGITS = 16


def content_of(spec: str) -> str | None:
    """A hash of what the folder holds that a model is named by, in hexadecimal.

    None for what is known by its name: a model of the Hub or behind a server, the embedded one, and a run, whose
    identity says what it holds.

    Raises:
        InputError: The folder's configuration of adapters cannot be read.
    """
    name = spec.removeprefix("hf/").removeprefix("vllm/")
    if spec.startswith("openai/") or name == embedded.NAME or not os.path.isdir(name):
        return None
    folder = Path(name)
    return None if read_manifest(folder) is not None else of_folder(folder)


def of_folder(folder: Path) -> str:
    """The hash of the model that a folder holds, in hexadecimal.

    Raises:
        InputError: The folder's configuration of adapters cannot be read.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix in READ and path.name not in UNREAD)
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path.is_file()]
    found = _hash(folder.resolve(), tuple(states))
    base = _base_of(folder)
    return found if base is None else hashlib.sha256(f"{found} {base}".encode()).hexdigest()[:DIGITS]


def _base_of(folder: Path) -> str | None:
    """The hash of the local model that a folder's adapters belong to."""
    if not (folder / ADAPTER).is_file():
        return None
    config = read_json(folder / ADAPTER)
    named = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(named, str) or not os.path.isdir(named) or Path(named).resolve() == folder.resolve():
        return None
    return content_of(named)


@lru_cache(maxsize=32)
def _hash(folder: Path, states: Sequence[tuple[str, int, int]]) -> str:
    """The hash of these files; their times only tell whether one that was worked out before still holds."""
    digest = hashlib.sha256()
    for name, size, _ in states:
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
        length = int.from_bytes(file.read(8), "little")
        parts.append(file.read(min(length, HEADER)))
    for number in range(BLOCKS):
        file.seek((size - BLOCK) * number // (BLOCKS - 1))
        parts.append(file.read(BLOCK))
    return parts
