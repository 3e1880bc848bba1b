"""A run directory: created, refused, resumed or overwritten as a whole.

A run's *identity* is what its result depends on: the recipe's sections that the stage reads, the model it starts
from and its seed. The directory's name ends in eight hexadecimal digits of it, and `--resume` refuses another one.
Where several processes share a stage, the first one alone does all this, and the others go on when it has.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from filelock import FileLock, Timeout

from safereason import processes
from safereason.errors import InputError, StageFailed, interruption_behind, redacted
from safereason.files import JSONRow, json_rows, json_type
from safereason.runs import manifest, private
from safereason.runs.asides import clear, is_aside
from safereason.runs.records import Record, RecordLog, Unwritten, read_json, read_records, write_json, write_text

OnExisting = Literal["refuse", "resume", "overwrite"]
Metrics = Record
"""The content of a run's `metrics.json`."""
MANIFEST = "manifest.json"
METRICS = "metrics.json"
CONTENTS = "contents"
"""Key of an identity: hashes of the local models and files that the result depends on, by their names."""
CHECKPOINTS = "checkpoints"
"""Folder of a training's checkpoints, from which it is resumed."""


def run_path(root: Path, stage: str, recipe: str, model: str, identity: Mapping[str, object]) -> Path:
    """`root/stage/recipe--model--hash`, the directory of a run with this identity."""
    return root / stage / f"{_slug(recipe)}--{_slug(model)}--{digest(identity)}"


def digest(identity: Mapping[str, object]) -> str:
    """Eight hexadecimal digits of an identity."""
    # Sorted, so that the order in which a stage names its settings does not change the directory.
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


@dataclass
class RunDirectory:
    """One run, locked while it is open. Use as a context manager; `finish` marks it done."""

    path: Path
    stage: str
    recipe_name: str
    recipe_yaml: str
    identity: Record
    on_existing: OnExisting = "refuse"
    inputs: dict[str, str] = field(default_factory=dict)
    """Hashes of the files that the stage read, by path."""

    def __enter__(self) -> "RunDirectory":
        if processes.is_main():
            self._open()
        processes.wait()
        return self

    def _open(self) -> None:
        existing = self._exists()
        if existing and self.on_existing == "refuse":
            raise self._refusal()
        self._acquire()
        # Known before anything is written: `_close` removes only a directory that this call has made.
        self._is_new = not existing
        try:
            # The lock is ours, so that an aside with our own number is of an earlier process, too.
            clear(self.path, own=True)
            if existing and self.on_existing == "overwrite":
                self._empty()
            elif existing:
                self._check_resumable()
            self._begin()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if processes.is_main():
            self._close(error)
        # What a person got wrong, every process finds; the first one may remove the run for it.
        elif error is not None and not isinstance(error, InputError):
            self._end(error)

    def _close(self, error: BaseException | None) -> None:
        if error is not None:
            self._end(error)
        logging.getLogger("safereason").removeHandler(self._log)
        self._log.close()
        # A run that ended with a mistake of the user's before any work is removed: it could not be resumed, and
        # would only refuse the corrected command.
        is_void = isinstance(error, InputError) and self._is_new and not self._holds_work()
        if is_void:
            self._empty()
        self._lock.release()
        if is_void:
            (self.path / ".lock").unlink(missing_ok=True)
            # Another process may have begun here since the release; its files keep the folder.
            with suppress(OSError):
                self.path.rmdir()

    def _holds_work(self) -> bool:
        """Whether anything was recorded or made, beside what every run begins with."""
        begun = {MANIFEST, "recipe.yaml", "log.txt", ".lock"}
        return any(p.name not in begun and (p.is_dir() or p.stat().st_size > 0) for p in self.path.iterdir())

    def is_done(self) -> bool:
        """Whether this run finished before, so that its result is there to be read and it need not be entered.

        A directory that entering would refuse is refused here, before a stage loads or asks anything.

        Raises:
            InputError: The directory holds something else, or a run that did not finish and is not resumed.
        """
        if self.on_existing == "overwrite":
            return False
        # A finished run of the same identity is the result, with or without `--resume`.
        if is_finished(self.path) and (self.on_existing == "resume" or not self._differing()):
            self._check_resumable()
            self._let_go()
            return True
        self.check_free()
        return False

    def check_free(self) -> None:
        """Refuses what entering would refuse, where nothing is to be resumed or overwritten.

        Raises:
            InputError: The directory is not empty, or a file.
        """
        if processes.is_main() and self.on_existing == "refuse" and self._exists():
            raise self._refusal()

    def _exists(self) -> bool:
        """Whether anything is there, beside what a killed process left before its run began."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; name a directory for the run")
        if not self.path.exists():
            return False
        return not all(_is_left_over(path) for path in self.path.iterdir())

    def _refusal(self) -> InputError:
        """The error for an existing directory, with the options that fit its content."""
        if not (self.path / MANIFEST).exists():
            return InputError(
                f"{self.path}: exists and is not empty, and holds no run (no {MANIFEST}); name another --out"
            )
        if differing := self._differing():
            return InputError(
                f"{self.path}: exists and is not empty: it holds another run (differing in {', '.join(differing)}); "
                "pass --overwrite to start anew, or name another --out"
            )
        return InputError(f"{self.path}: exists and is not empty; pass --resume to go on or --overwrite to start anew")

    def _differing(self) -> list[str]:
        """Keys at which the run that is there has another identity."""
        return differing_keys((read_manifest(self.path) or {}).get("identity", {}), self.identity)

    def records(self, name: str) -> RecordLog:
        """An append-only log `name.jsonl` in this run; every process asks for it."""
        path = self.path / f"{name}.jsonl"
        log: RecordLog = Unwritten(path)
        if processes.is_main():
            log = RecordLog(path)
        # Opening cuts a torn line off, which must be over before other processes read the file.
        processes.wait()
        return log

    def finish(self, metrics: Record) -> None:
        """Writes the metrics and marks the run finished: the last thing a stage does."""
        if processes.is_main():
            # The metrics come first: a run is never marked as finished without them.
            write_json(self.path / METRICS, metrics)
            self._update(status="finished", finished=manifest.now(), inputs=self.inputs)
            self._let_go()
        processes.wait()

    def _let_go(self) -> None:
        """Removes what only an unfinished run is resumed from: a model with its optimizer several times over.

        A process that was killed once its run had finished may have left it.
        """
        if processes.is_main():
            shutil.rmtree(self.path / CHECKPOINTS, ignore_errors=True)

    def _acquire(self) -> None:
        try:
            self.path.mkdir(mode=0o777 & ~private.umask(), parents=True, exist_ok=True)
            self._lock = FileLock(self.path / ".lock")
            # No waiting: the other process may write for days, and its run is most likely the same one.
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise StageFailed(
                f"{self.path}: another process is writing this run; wait for it, or name another --out"
            ) from error
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); choose another --out") from error

    def _empty(self) -> None:
        if not (self.path / MANIFEST).exists():
            raise InputError(
                f"{self.path}: holds files but no {MANIFEST}, so it is no run; --overwrite will not delete it"
            )
        # The manifest goes last: without it, what an interruption leaves would be no run that can be overwritten.
        for child in sorted(self.path.iterdir(), key=lambda p: p.name == MANIFEST):
            if child.name == ".lock":
                continue
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()

    def _check_resumable(self) -> None:
        if not (self.path / MANIFEST).exists():
            raise InputError(f"{self.path}: holds files but no {MANIFEST}, so it cannot be resumed; name another --out")
        if differing := self._differing():
            raise InputError(f"{self.path}: {_what_changed(differing)}; use --overwrite or another --out")

    def _begin(self) -> None:
        started = (read_manifest(self.path) or {}).get("started") or manifest.now()
        document = {
            "stage": self.stage,
            "recipe": self.recipe_name,
            "status": "running",
            "started": started,
            "identity": self.identity,
            **manifest.describe(),
        }
        try:
            write_json(self.path / MANIFEST, document)
            write_text(self.path / "recipe.yaml", redacted(self.recipe_yaml))
            self._log = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
        except BaseException as error:
            # `__exit__` does not run for a `with` that was never entered.
            self._end(error)
            raise
        self._log.setFormatter(_Redacted("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("safereason").addHandler(self._log)
        # `-v` has set a finer level already, which stays.
        if not logging.getLogger("safereason").isEnabledFor(logging.INFO):
            logging.getLogger("safereason").setLevel(logging.INFO)

    def _end(self, error: BaseException) -> None:
        """Writes how the run ended, unless that is written.

        Of several processes the first one that ends writes it: to the others its end is a broken connection, or a
        signal by which the launcher ends them, too.
        """
        status = "failed"
        interruption = interruption_behind(error)
        if interruption is not None:  # by Ctrl-C or by a signal
            status, error = "interrupted", interruption
        # The disk may be full. The error that ended the run must not be hidden by this one.
        with suppress(OSError):
            if (read_manifest(self.path) or {}).get("status") == "running":
                self._update(status=status, error=redacted(str(error)))

    def _update(self, **changes: object) -> None:
        write_json(self.path / MANIFEST, {**(read_manifest(self.path) or {}), **changes})


class _Redacted(logging.Formatter):
    """Writes no secret, in a traceback either."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def read_manifest(path: Path) -> Record | None:
    """The manifest of a run directory, or None where `path` is none.

    Raises:
        InputError: It is damaged.
    """
    file = path / MANIFEST
    if not os.path.isfile(file):  # unlike Path.is_file, False for any name that cannot be read
        return None
    document = read_json(file)
    if not isinstance(document, dict) or "stage" not in document:
        return None
    whole = {"recipe": "unnamed", "status": "unknown", "identity": {}, **document}
    for key, kind in (("stage", str), ("recipe", str), ("status", str), ("identity", dict)):
        if not isinstance(whole[key], kind):
            raise InputError(f"{file}: `{key}` is {whole[key]!r:.60}; the run is damaged, make it anew")
    return whole


def read_metrics(path: Path) -> Metrics:
    """The metrics of a run, as it wrote them.

    Raises:
        InputError: The file is missing or damaged.
    """
    metrics = read_json(path / METRICS)
    if not isinstance(metrics, dict):
        raise InputError(f"{path / METRICS}: an object is expected, not {json_type(metrics)}; the run is damaged")
    return metrics


def rows_of(path: Path) -> Iterator[JSONRow]:
    """The rows of a JSONL file: the log of a run, whose torn last line is passed over, or a person's own, all of it.

    Raises:
        InputError: The file cannot be read, or a line of it is no JSON object.
    """
    if read_manifest(path.parent) is None:
        return json_rows(path)
    return read_records(path)


def is_finished(path: Path) -> bool:
    """Whether `path` holds a run that ended well."""
    return (read_manifest(path) or {}).get("status") == "finished"


def finished_runs(root: Path, stage: str, recipe: str) -> list[Path]:
    """The finished runs of a stage of a recipe, oldest first."""
    return finished(root, stage, f"{_slug(recipe)}--*")


def finished(root: Path, stage: str, pattern: str = "*") -> list[Path]:
    """The finished runs of a stage whose directories' names match a pattern, oldest first."""

    def end_of(run: Path) -> tuple[str, int]:
        manifest = read_manifest(run) or {}
        # The manifest gives seconds; the file's own time tells runs of one second apart.
        return str(manifest.get("finished")), (run / MANIFEST).stat().st_mtime_ns

    return sorted((path for path in (root / stage).glob(pattern) if is_finished(path)), key=end_of)


def differing_keys(before: object, after: object, prefix: str = "") -> list[str]:
    """Dotted keys at which two nested mappings differ."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        if before == after:
            return []
        return [prefix.rstrip(".")]
    missing = object()  # a key that is there with null differs from one that is not there
    differing: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        differing += differing_keys(before.get(key, missing), after.get(key, missing), f"{prefix}{key}.")
    return differing


def _what_changed(differing: Sequence[str]) -> str:
    """A message about the keys of an identity that differ: the recipe's, and the contents of models and files."""
    settings: list[str] = []
    contents: list[str] = []
    for key in differing:
        if key.startswith(CONTENTS):
            contents.append(key.removeprefix(f"{CONTENTS}."))
        else:
            settings.append(key)
    parts: list[str] = []
    if settings:
        parts.append(f"the recipe changed since ({', '.join(settings)})")
    if contents:
        parts.append(f"other contents since ({', '.join(contents)})")
    return ", and ".join(parts)


def _is_left_over(path: Path) -> bool:
    """Whether a file may be there before a run has begun: its lock, or the aside of a process that was killed."""
    return path.name == ".lock" or is_aside(path)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_.") or "run"
