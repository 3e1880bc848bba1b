"""A lock on a file that a person named, for one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from safereason.errors import InputError, StageFailed


@contextmanager
def locked(path: Path, what: str = "file") -> Iterator[None]:
    """Locks a file or folder by `.NAME.lock` beside it, and removes that file at the end.

    Args:
        path: The file or folder to be written; its parent folder is made where there is none.
        what: The noun for it in messages.

    Raises:
        StageFailed: Another process holds it.
        InputError: Nothing can be written there.
    """
    # Two names of one file, such as a link and its target, lead to the same lock.
    target = path.resolve()
    beside = target.with_name(f".{target.name}.lock")
    lock = FileLock(beside)
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StageFailed(
            f"{path}: another process is writing this {what}; wait for it, or name another --out"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
    try:
        yield
    finally:
        # Before the release: a process that opened the file meanwhile then locks a file without a name, and
        # cannot keep out those that come later by the name.
        beside.unlink(missing_ok=True)
        lock.release()
