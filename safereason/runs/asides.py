"""Where a file or a folder is written before it is whole: beside its place, under a name that says by whom.

`.NAME.PID.part` of a process that was killed stays behind until NAME is written again, or `clear` looks where it lies.
"""

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_ASIDE = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.part")


def aside_of(path: Path) -> Path:
    """Where this process writes what is renamed to `path` once it is whole; what is left there of others goes."""
    with suppress(OSError):
        mine = (n for n in os.listdir(path.parent) if (m := _ASIDE.fullmatch(n)) and m["name"] == path.name)
        for name in _gone(mine, own=False):
            _delete(path.parent / name)
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def is_aside(path: Path) -> bool:
    """Whether a file or folder was being written when its process ended, or is being written now."""
    return _ASIDE.fullmatch(path.name) is not None


def clear(folder: Path, *, own: bool = False) -> None:
    """Deletes what processes that are gone left in a folder and those below it.

    Args:
        folder: Where to look; it may be missing.
        own: Whether what has this process's number is an earlier one's too, as in a container, where numbers repeat.
    """
    for parent, folders, files in os.walk(folder):
        for name in _gone((*folders, *files), own):
            _delete(Path(parent) / name)
        folders[:] = [name for name in folders if not _ASIDE.fullmatch(name)]


def _delete(left: Path) -> None:
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        with suppress(OSError):
            left.unlink()


def _gone(names: Iterable[str], own: bool) -> list[str]:
    found = []
    for name in names:
        match = _ASIDE.fullmatch(name)
        if match is not None and not _is_alive(int(match["process"]), own):
            found.append(name)
    return found


def _is_alive(number: int, own: bool) -> bool:
    if number == os.getpid():
        return not own
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's; or a number that no process can have
        return number < 1 << 31
    return True
