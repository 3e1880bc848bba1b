"""Verdicts on disk, so that no call is paid for twice."""

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from safereason.engines.embedded import cache_home
from safereason.errors import InputError
from safereason.judges.base import Verdict

SECONDS_TO_WAIT = 60.0
"""How long one process waits for another that is writing."""
KEYS_A_QUERY = 500
"""SQLite allows 999 variables in a statement on old builds."""


def cache_key(*parts: str) -> str:
    """SHA-256 of what a verdict depends on: judge, model, address and text, in hexadecimal."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class VerdictCache:
    """A table from key to verdict in one SQLite file; several threads and processes may use it at once.

    A connection is opened for each operation, which is cheap beside a judge's call and survives forks.
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
            db.execute("CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL)")

    def get(self, keys: Sequence[str]) -> dict[str, Verdict]:
        """The verdicts that are held, by key."""
        found: dict[str, Verdict] = {}
        with self._connected() as db:
            for start in range(0, len(keys), KEYS_A_QUERY):
                part = keys[start : start + KEYS_A_QUERY]
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

    def through(
        self, keys: Sequence[str], ask: Callable[[Sequence[int], Callable[[int, Verdict], None]], None]
    ) -> list[Verdict]:
        """The verdicts of these keys: those held, and those that `ask` tells, kept as they come.

        `ask` is given the index of one of each key that is not held, and what to tell a verdict to.
        """
        found = self.get(list(dict.fromkeys(keys)))

        def keep(index: int, verdict: Verdict) -> None:
            found[keys[index]] = verdict
            self.put(keys[index], verdict)

        first = {key: i for i, key in reversed([*enumerate(keys)])}
        if missing := sorted(i for key, i in first.items() if key not in found):
            ask(missing, keep)
        return [found[key] for key in keys]

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
