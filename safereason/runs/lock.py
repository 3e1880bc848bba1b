"""One process at a time at a file that a person named."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from safereason.errors import InputError, StageFailed


@contextmanager
def locked(path: Path, what: str = "file") -> Iterator[None]:
    """Holds `.NAME.lock` beside a file or folder, by whichever name it was reached, and takes it away at the end.

    Args:
        path: What is written; its folder is made where there is none.
        what: What messages call it.

    Raises:
        StageFailed: Another process holds it.
        InputError: Nothing can be written there.
    """
    place = path.resolve()
    beside = place.with_name(f".{place.name}.lock")
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
        beside.unlink(missing_ok=True)  # while it is held: whoever opened it in between holds a file without a name
        lock.release()
