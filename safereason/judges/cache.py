"""Verdicts on disk, so that no call is paid for twice."""

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
from dataclasses import asdict
from pathlib import Path

from safereason import console, processes
from safereason.errors import InputError
from safereason.judges.base import Verdict
from safereason.runs.cache import cache_home

SECONDS_TO_WAIT = 60.0
"""Patience of a process with another one that is writing."""
KEYS_A_QUERY = 500
"""Keys in one statement: SQLite allows 999 variables in a statement on old builds."""
CLAIM_SECONDS = 60.0
"""Life of a claim that nobody renews; the claim of a process of this machine ends with the process."""
POLL_SECONDS = 0.2
"""Pause between two looks for a verdict that another process has claimed."""
SECONDS_TO_NOTICE = 10.0
"""Seconds of waiting, after which a line on stderr explains it."""

_TABLES = (
    "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL, host TEXT NOT NULL, "
    "process INTEGER NOT NULL, until REAL NOT NULL)",
)

Keep = Callable[[int, Verdict], None]


def cache_key(*parts: str) -> str:
    """The key of a verdict: SHA-256 of judge, model, address and text, in hexadecimal."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class VerdictCache:
    """A table from key to verdict in one SQLite file; several threads and processes may use it at once.

    A connection is opened for each operation, which is cheap beside a judge's call and survives forks. A second table
    holds claims: of several processes that need the same verdict, one has it judged, and the others wait for it.
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

    def get(self, keys: Sequence[str]) -> dict[str, Verdict]:
        """The verdicts in the table, by key."""
        verdicts: dict[str, Verdict] = {}
        with self._connected() as db:
            for part in _parts(keys):
                marks = ",".join("?" * len(part))
                rows = db.execute(f"SELECT key, verdict FROM verdicts WHERE key IN ({marks})", part)
                for key, verdict in rows:
                    # A damaged row, or one of another version's fields, is judged again.
                    with suppress(ValueError, TypeError):
                        verdicts[key] = Verdict(**json.loads(verdict))
        return verdicts

    def put(self, key: str, verdict: Verdict) -> None:
        """Keeps a verdict. An unscored one is not kept, so that it is tried again."""
        if verdict.score is None:
            return
        with self._connected() as db:
            db.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, json.dumps(asdict(verdict))))

    def through(self, keys: Sequence[str], judge: Callable[[Sequence[int], Keep], None]) -> list[Verdict]:
        """The verdict of each key: from the table, or from `judge`, whose verdicts are kept as they come.

        Args:
            keys: One for each text; equal keys are judged once.
            judge: Takes the indices of keys that have no verdict yet, each key once, and a function that it calls with
                an index and its verdict. It may be called several times: a verdict that another process or thread has
                claimed is waited for, and judged here if the other one gets none.
        """
        first_index: dict[str, int] = {}
        # Equal keys are one request: the first index is judged for all of them.
        for index, key in enumerate(keys):
            first_index.setdefault(key, index)
        verdicts: dict[str, Verdict] = {}
        waiting = _Waiting(self.path)

        def keep(index: int, verdict: Verdict) -> None:
            verdicts[keys[index]] = verdict
            self.put(keys[index], verdict)

        while len(verdicts) < len(first_index):
            missing = [key for key in first_index if key not in verdicts]
            verdicts.update(self.get(missing))
            missing = [key for key in missing if key not in verdicts]
            with self._claimed(missing) as ours:
                # Another process may have judged between the look and the claim.
                verdicts.update(self.get(ours))
                unjudged = [first_index[key] for key in ours if key not in verdicts]
                if unjudged:
                    judge(unjudged, keep)
            # With a key of our own judged, the next look may already find the others.
            if missing and not ours:
                waiting.wait(len(missing))
        return [verdicts[key] for key in keys]

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

        # A judge may take an hour for these keys. Renewing from a thread keeps the claim short, so that a crash on
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
    """The wait for verdicts that others have claimed; it is reported once."""

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
