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

from safereason import console
from safereason.engines.embedded import cache_home
from safereason.errors import InputError
from safereason.judges.base import Verdict

SECONDS_TO_WAIT = 60.0
"""How long one process waits for another that is writing."""
KEYS_A_QUERY = 500
"""SQLite allows 999 variables in a statement on old builds."""
CLAIM_SECONDS = 60.0
"""A claim that nobody renewed for so long holds no more; one of a process that ended on this machine ends with it."""
POLL_SECONDS = 0.2
"""Between two looks at what another one was asked for."""
SECONDS_UNSAID = 10.0
"""Of waiting, before the person watching is told of it."""

_TABLES = (
    "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL, host TEXT NOT NULL, "
    "process INTEGER NOT NULL, until REAL NOT NULL)",
)

Keep = Callable[[int, Verdict], None]


def cache_key(*parts: str) -> str:
    """SHA-256 of what a verdict depends on: judge, model, address and text, in hexadecimal."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class VerdictCache:
    """A table from key to verdict in one SQLite file; several threads and processes may use it at once.

    A connection is opened for each operation, which is cheap beside a judge's call and survives forks. A second table
    says who is asking for which verdict right now, so that of several that want the same one asks, and the others wait.
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
            db.execute("PRAGMA journal_mode=WAL")
            for table in _TABLES:
                db.execute(table)

    def get(self, keys: Sequence[str]) -> dict[str, Verdict]:
        """The verdicts that are held, by key."""
        found: dict[str, Verdict] = {}
        with self._connected() as db:
            for part in _parts(keys):
                marks = ",".join("?" * len(part))
                rows = db.execute(f"SELECT key, verdict FROM verdicts WHERE key IN ({marks})", part)
                for key, verdict in rows:
                    with suppress(ValueError, TypeError):  # a damaged one is asked for again
                        found[key] = Verdict(**json.loads(verdict))
        return found

    def put(self, key: str, verdict: Verdict) -> None:
        """Keeps a verdict. An unscored one is not kept, so that it is tried again."""
        if verdict.score is None:
            return
        with self._connected() as db:
            db.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, json.dumps(asdict(verdict))))

    def through(self, keys: Sequence[str], ask: Callable[[Sequence[int], Keep], None]) -> list[Verdict]:
        """The verdicts of these keys: those held, and those that `ask` tells, kept as they come.

        `ask` is given the index of one of each key that is not held, and what to tell a verdict to. It may be called
        several times: what another process or thread is asking for is waited for, and asked for here if it gets none.
        """
        first = {key: i for i, key in reversed([*enumerate(keys)])}
        found: dict[str, Verdict] = {}
        waiting = _Waiting(self.path)

        def keep(index: int, verdict: Verdict) -> None:
            found[keys[index]] = verdict
            self.put(keys[index], verdict)

        while missing := [key for key in sorted(first, key=first.__getitem__) if key not in found]:
            found.update(self.get(missing))
            missing = [key for key in missing if key not in found]
            with self._claimed(missing) as ours:
                # Another may have asked between the look and the claim.
                found.update(self.get(ours))
                mine = [first[key] for key in ours if key not in found]
                if mine:
                    ask(mine, keep)
            if missing and not ours:
                waiting.wait(len(missing))
        return [found[key] for key in keys]

    @contextmanager
    def _claimed(self, keys: Sequence[str]) -> Iterator[list[str]]:
        """Those of the keys that nobody else is asking for: they are ours until the block ends."""
        owner = uuid.uuid4().hex
        ours = self._claim(keys, owner) if keys else []
        if not ours:
            yield []
            return
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(CLAIM_SECONDS / 4):
                with self._connected() as db:
                    db.execute("UPDATE claims SET until = ? WHERE owner = ?", (time.time() + CLAIM_SECONDS, owner))

        threading.Thread(target=renew, daemon=True).start()
        try:
            yield ours
        finally:
            ended.set()
            with self._connected() as db:
                db.execute("DELETE FROM claims WHERE owner = ?", (owner,))

    def _claim(self, keys: Sequence[str], owner: str) -> list[str]:
        """Claims what is free, or was claimed by one that is gone, in one transaction."""
        now, host, process = time.time(), socket.gethostname(), os.getpid()
        ours: list[str] = []
        with self._connected() as db:
            db.execute("BEGIN IMMEDIATE")
            held: dict[str, tuple[str, int, float]] = {}
            for part in _parts(keys):
                marks = ",".join("?" * len(part))
                rows = db.execute(f"SELECT key, host, process, until FROM claims WHERE key IN ({marks})", part)
                held.update({key: (where, number, until) for key, where, number, until in rows})
            for key in keys:
                where, number, until = held.get(key, ("", 0, 0.0))
                if until < now or (where == host and not _is_alive(number)):
                    row = (key, owner, host, process, now + CLAIM_SECONDS)
                    db.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?)", row)
                    ours.append(key)
            db.execute("COMMIT")
        return ours

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
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
    """Waits for what others ask for, and says so once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun: float | None = None
        self._is_said = False

    def wait(self, count: int) -> None:
        """A little while."""
        now = time.monotonic()
        self._begun = now if self._begun is None else self._begun
        if not self._is_said and now - self._begun > SECONDS_UNSAID:
            self._is_said = True
            console.say(f"{count} verdicts are being asked for by another run; waiting for it ({self._path})")
        time.sleep(POLL_SECONDS)


def _parts(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), KEYS_A_QUERY):
        yield keys[start : start + KEYS_A_QUERY]


def _is_alive(process: int) -> bool:
    """Whether a process of this machine still runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of somebody else
        return True
    return True
