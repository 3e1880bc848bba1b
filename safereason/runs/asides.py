"""Asides: files and folders that are not complete yet, beside their final path and named after their process.

`.NAME.PID.part` of a process that was killed stays behind until NAME is written again, or `clear` is called for its
folder.
"""

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from safereason import processes

_ASIDE = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.part")


def aside_of(path: Path) -> Path:
    """The aside from which this process renames to `path`; asides of `path` whose process has ended are deleted."""
    of_path: list[str] = []
    with suppress(OSError):
        for name in os.listdir(path.parent):
            match = _ASIDE.fullmatch(name)
            if match is not None and match["name"] == path.name:
                of_path.append(name)
    for name in _left_by_dead(of_path, own=False):
        _delete(path.parent / name)
    # In the same folder, because a rename is atomic only within one file system.
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def is_aside(path: Path) -> bool:
    """Whether a file or folder was being written when its process ended, or is being written now."""
    return _ASIDE.fullmatch(path.name) is not None


def clear(folder: Path, *, own: bool = False) -> None:
    """Deletes what processes that are gone left in a folder and those below it.

    Args:
        folder: Where to look; it may be missing.
        own: Whether asides with this process's number are an earlier one's, as in a container, where numbers repeat.
    """
    for parent, folders, files in os.walk(folder):
        for name in _left_by_dead((*folders, *files), own):
            _delete(Path(parent) / name)
        # Assigned in place: `os.walk` then skips asides, which may be deleted or still being filled.
        folders[:] = [name for name in folders if not _ASIDE.fullmatch(name)]


def _delete(left: Path) -> None:
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        with suppress(OSError):
            left.unlink()


def _left_by_dead(names: Iterable[str], own: bool) -> list[str]:
    """The names of asides whose process has ended."""
    left: list[str] = []
    for name in names:
        match = _ASIDE.fullmatch(name)
        if match is not None and not _may_write(int(match["process"]), own):
            left.append(name)
    return left


def _may_write(number: int, own: bool) -> bool:
    """Whether the process of this number may still be writing."""
    if number == os.getpid():
        return not own
    return processes.is_alive(number)
