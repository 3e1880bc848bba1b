"""Results of calls on disk, so that no call is paid for twice.

Judges keep their verdicts here, and a Moderation API its scores. What one entry holds is up to the class that keeps it.
"""

import hashlib
import json
import os
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

from safereason import console, processes
from safereason.errors import InputError
from safereason.runs.cache import cache_home

SECONDS_TO_WAIT = 60.0
"""Patience of a process with another one that is writing."""
KEYS_A_QUERY = 500
"""Keys in one statement: SQLite allows 999 variables in a statement on old builds."""
CLAIM_SECONDS = 60.0
"""Life of a claim that nobody renews; the claim of a process of this machine ends with the process."""
POLL_SECONDS = 0.2
"""Pause between two looks for a result that another process has claimed."""
SECONDS_TO_NOTICE = 10.0
"""Seconds of waiting, after which a line on stderr explains it."""

_TABLES = (
    "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL, host TEXT NOT NULL, "
    "process INTEGER NOT NULL, until REAL NOT NULL)",
)

R = TypeVar("R")
Keep = Callable[[int, R], None]
"""Takes the index of a call and its result."""


def cache_key(*parts: str) -> str:
    """The key of a result: SHA-256 of judge, model, address and text, in hexadecimal."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class ResultCache(Generic[R]):
    """A table from key to result in one SQLite file; several threads and processes may use it at once.

    A connection is opened for each operation, which is cheap beside a call and survives forks. A second table holds
    claims: of several processes that need the same result, one makes the call, and the others wait for it.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Opens or makes the file; by default `judges.sqlite3` in the cache folder.

        Raises:
            InputError: It cannot be written, or is no SQLite file.
        """
        self.path = path or cache_home() / "judges.sqlite3"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{self.path}: the cache of verdicts cannot be used ({error}); set SAFEREASON_CACHE"
            ) from error
        with self._connected() as db:
            # With a write-ahead log, readers do not wait for a writer.
            db.execute("PRAGMA journal_mode=WAL")
            for table in _TABLES:
                db.execute(table)

    def to_text(self, result: R) -> str | None:
        """The result as the file holds it; None for one that is not kept, so that its call is made again."""
        raise NotImplementedError

    def from_text(self, text: str) -> R:
        """The result that `to_text` wrote.

        Raises:
            ValueError: The text holds none.
            TypeError: It has other fields, as another version writes them.
        """
        raise NotImplementedError

    def get(self, keys: Sequence[str]) -> dict[str, R]:
        """The results in the table, by key."""
        results: dict[str, R] = {}
        with self._connected() as db:
            for part in _parts(keys):
                marks = ",".join("?" * len(part))
                rows = db.execute(f"SELECT key, verdict FROM verdicts WHERE key IN ({marks})", part)
                for key, text in rows:
                    # The call of a damaged row, or of one with another version's fields, is made again.
                    with suppress(ValueError, TypeError):
                        results[key] = self.from_text(text)
        return results

    def put(self, key: str, result: R) -> None:
        """Keeps a result, unless `to_text` leaves it out."""
        text = self.to_text(result)
        if text is None:
            return
        with self._connected() as db:
            db.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, text))

    def through(self, keys: Sequence[str], call: Callable[[Sequence[int], Keep[R]], None]) -> list[R]:
        """The result of each key: from the table, or from `call`, whose results are kept as they come.

        Args:
            keys: One for each text; the call of equal keys is made once.
            call: Takes the indices of keys that have no result yet, each key once, and a function that it calls with
                an index and its result. It may be called several times: a result that another process or thread has
                claimed is waited for, and had here if the other one gets none.
        """
        first_index: dict[str, int] = {}
        # Equal keys are one request: the call of the first index is for all of them.
        for index, key in enumerate(keys):
            first_index.setdefault(key, index)
        results: dict[str, R] = {}
        waiting = _Waiting(self.path)

        def keep(index: int, result: R) -> None:
            results[keys[index]] = result
            self.put(keys[index], result)

        while len(results) < len(first_index):
            missing = [key for key in first_index if key not in results]
            results.update(self.get(missing))
            missing = [key for key in missing if key not in results]
            with self._claimed(missing) as ours:
                # Another process may have made the call between the look and the claim.
                results.update(self.get(ours))
                left = [first_index[key] for key in ours if key not in results]
                if left:
                    call(left, keep)
            # With a key of our own done, the next look may already find the others.
            if missing and not ours:
                waiting.wait(len(missing))
        return [results[key] for key in keys]

    @contextmanager
    def _claimed(self, keys: Sequence[str]) -> Iterator[list[str]]:
        """The keys that nobody else has claimed: they are claimed here until the block ends."""
        owner = uuid.uuid4().hex
        ours: list[str] = []
        if keys:
            ours = self._claim(keys, owner)
        if not ours:
            yield []
            return
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(CLAIM_SECONDS / 4):
                with self._connected() as db:
                    db.execute("UPDATE claims SET until = ? WHERE owner = ?", (time.time() + CLAIM_SECONDS, owner))

        # The calls may take an hour. Renewing from a thread keeps the claim short, so that a crash on
        # another machine blocks nobody for long.
        threading.Thread(target=renew, daemon=True).start()
        try:
            yield ours
        finally:
            ended.set()
            with self._connected() as db:
                db.execute("DELETE FROM claims WHERE owner = ?", (owner,))

    def _claim(self, keys: Sequence[str], owner: str) -> list[str]:
        """Claims keys that are free, or whose claim has ended with its process, in one transaction."""
        now = time.time()
        host = socket.gethostname()
        process = os.getpid()
        ours: list[str] = []
        with self._connected() as db:
            # The write lock is taken before the look: two processes cannot both see a key as free.
            db.execute("BEGIN IMMEDIATE")
            claims: dict[str, tuple[str, int, float]] = {}
            for part in _parts(keys):
                marks = ",".join("?" * len(part))
                rows = db.execute(f"SELECT key, host, process, until FROM claims WHERE key IN ({marks})", part)
                for key, claim_host, claim_process, until in rows:
                    claims[key] = (claim_host, claim_process, until)
            for key in keys:
                claim_host, claim_process, until = claims.get(key, ("", 0, 0.0))
                # Only of its own machine can a process be seen to have ended; elsewhere the claim has to run out.
                if until < now or (claim_host == host and not processes.is_alive(claim_process)):
                    row = (key, owner, host, process, now + CLAIM_SECONDS)
                    db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", row)
                    ours.append(key)
            db.execute("COMMIT")
        return ours

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        # Without an isolation level Python opens no transactions of its own around the statements here.
        db = sqlite3.connect(self.path, timeout=SECONDS_TO_WAIT, isolation_level=None)
        try:
            yield db
        except sqlite3.Error as error:
            raise InputError(
                f"{self.path}: the cache of verdicts cannot be used ({error}); delete it, or set SAFEREASON_CACHE"
            ) from error
        finally:
            db.close()


class _Waiting:
    """The wait for results that others have claimed; it is reported once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun: float | None = None
        self._is_reported = False

    def wait(self, count: int) -> None:
        """Sleeps for one pause between two looks at the cache."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = now
        if not self._is_reported and now - self._begun > SECONDS_TO_NOTICE:
            self._is_reported = True
            console.say(f"{count} verdicts are being judged by another run; waiting for it ({self._path})")
        time.sleep(POLL_SECONDS)


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), KEYS_A_QUERY):
        yield keys[start : start + KEYS_A_QUERY]
