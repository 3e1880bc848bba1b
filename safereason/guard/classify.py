"""Rows to verdicts: a guard asked row by row of an input of any length, its findings written in the input's order.

Rows are read and asked in chunks, each with a seed of its own. A chunk is asked as a whole even where some of its rows
are finished, so that a run that goes on writes what one run would have written.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from safereason.engines import weights
from safereason.engines.open import REMOTE, model_location, open_engine
from safereason.errors import BarNotMet, InputError, StageFailed
from safereason.files import json_type
from safereason.guard.base import Finding, Guard
from safereason.guard.guide import Guide
from safereason.guard.reasoning import ReasoningGuard
from safereason.guard.rows import Row, count_lines
from safereason.runs.directory import OnExisting, differing_keys
from safereason.runs.lock import locked
from safereason.runs.manifest import going_on
from safereason.runs.records import Record, RecordLog, cut_torn_line, read_json, read_records, write_json, write_records

CHUNK = 64
"""Rows that are read and asked together."""
NAMED = 5
"""Rows of a kind whose numbers are kept."""

CUT = "before its token limit"
"""How the reason of a verdict ends that was not written to its end."""
INPUT, FINISHED = "input", "finished"
"""Keys of a target's notes: the rows that were read, and whether these were all."""

Kind = Literal["safe", "unsafe", "unparsed", "failed", "cut"]
"""What a row can be; `failed` and `cut` ones are `unparsed` too."""


@dataclass(frozen=True)
class Asked:
    """Which guard is asked about rows, and how."""

    model: str
    base_url: str | None
    guide: Guide
    samples: int
    threshold: float | None
    seed: int
    fields: dict[str, str]

    def open(self) -> Guard:
        """The guard.

        Raises:
            InputError: Its model is not to be had.
        """
        return ReasoningGuard(open_engine(self.model, base_url=self.base_url), self.guide, samples=self.samples)

    def identity(self) -> dict[str, Any]:
        """All that the records depend on but the input, as JSON has it.

        Raises:
            InputError: A file of the model cannot be read.
        """
        return {
            **model_identity(self.model),
            "guide": self.guide.document(),
            "samples": self.samples,
            "threshold": self.threshold,
            "seed": self.seed,
            "fields": self.fields,
            "rows_a_chunk": CHUNK,
        }


def model_identity(model: str) -> dict[str, Any]:
    """What the verdicts of a model depend on: what its folder holds, wherever that lies, or its name elsewhere.

    Raises:
        InputError: There is no such model, or a file of it cannot be read.
    """
    engine = next((name for name in ("openai", "vllm") if model.startswith(f"{name}/")), "transformers")
    location = None if model.startswith(REMOTE) else model_location(model)
    if location is None or not Path(location).is_dir():
        return {"engine": engine, "model": model}
    return {"engine": engine, "model_contents": weights.of_folder(Path(location))}


@dataclass
class Tally:
    """How many rows of each kind there are, and the numbers of the first of them."""

    rows: int = 0
    counts: Counter[Kind] = field(default_factory=Counter)
    first: dict[Kind, list[int]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    """How many rows have no verdict for which reason; those that differ in their numbers alone count together."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first of the reasons that count together."""
    is_written: bool = False
    """Whether the guard wrote anything in which no verdict can be read."""

    def add(self, record: Record) -> None:
        """Counts a row by what was written of it."""
        self.rows += 1
        kinds: list[Kind] = [record["label"] or "unparsed"]
        if record["label"] is None:
            reason = str(record.get("reason"))
            kind = re.sub(r"\d+", "0", reason)
            self.reasons[kind] += 1
            self.examples.setdefault(kind, reason)
            self.is_written = self.is_written or bool(record.get("text"))
        if record.get("failed"):
            kinds.append("failed")
        elif (record.get("reason") or "").endswith(CUT):
            kinds.append("cut")
        for kind in kinds:
            self.counts[kind] += 1
            if self.counts[kind] <= NAMED:
                self.first.setdefault(kind, []).append(record["row"])

    def merge(self, other: "Tally") -> None:
        """Adds the count of other rows."""
        self.rows += other.rows
        self.counts.update(other.counts)
        self.reasons.update(other.reasons)
        self.examples = {**other.examples, **self.examples}
        self.is_written = self.is_written or other.is_written
        for kind, numbers in other.first.items():
            self.first[kind] = sorted([*self.first.get(kind, ()), *numbers])[:NAMED]

    def check(self, fail_on: Sequence[Kind], *, can_resume: bool = False) -> None:
        """What the rows come to, once all are written.

        Args:
            fail_on: Kinds of which there may be no row.
            can_resume: Whether the command may be told to go on, because its rows are in a file.

        Raises:
            BarNotMet: Rows are of a kind in `fail_on`.
            StageFailed: The guard could not be asked about some, or gave no verdict on any.
        """
        met = [kind for kind in dict.fromkeys(fail_on) if self.counts[kind]]
        if met:
            raise BarNotMet("; ".join(f"--fail-on {kind}: {self._said(kind)}" for kind in met))
        if self.counts["failed"]:
            advice = going_on() if can_resume else "`reason` says why"
            raise StageFailed(f"the guard could not be asked about {self._said('failed')}; {advice}")
        if self.rows and self.counts["unparsed"] == self.rows:
            (kind, count), *_ = self.reasons.most_common(1)
            reason = self.examples[kind]
            advice = "name a model that was trained as a guard" if self.is_written else "change the rows or the guard"
            raise StageFailed(
                f"no verdict on any of {self.rows} rows; the commonest reason, {count} times: {reason}; {advice}"
            )

    def _said(self, kind: Kind) -> str:
        numbers = ", ".join(map(str, sorted(self.first[kind])))
        more = ", ..." if self.counts[kind] > NAMED else ""
        return f"{self.counts[kind]} of {self.rows} rows ({numbers}{more})"


def classify(
    guard: Guard,
    rows: Iterator[Row],
    write: Callable[[Record], None],
    *,
    seed: int = 0,
    threshold: float | None = None,
    held: Iterable[Record] = (),
    mend: Callable[[Record], None] | None = None,
    on_chunk: Callable[[Sequence[Row]], None] | None = None,
    first_chunk: int = 0,
) -> Tally:
    """Asks a guard about rows and writes a record of each, in order and as soon as its turn has come.

    Args:
        guard: What is asked.
        rows: Read a chunk at a time.
        write: Takes the records that are new.
        seed: Of the draws.
        threshold: Score from which on a row is unsafe, whatever the guard's own verdict.
        held: The records of the first rows that an earlier call wrote.
        mend: Takes the new records of held rows that the guard could not be asked about; without it these stay.
        on_chunk: Told the rows of a chunk before they are asked about.
        first_chunk: Whole chunks of the input that lie before these rows.

    Raises:
        InputError: A row cannot be read; those before it are written first. Or `held` is of other rows.
    """
    tally, earlier = Tally(), iter(held)

    def emit(row: Row, finding: Finding, put: Callable[[Record], None] = write) -> None:
        record = record_of(row, finding, threshold)
        put(record)
        tally.add(record)

    for number, chunk in enumerate(_chunks(rows), start=first_chunk):
        if on_chunk is not None:
            on_chunk(chunk)
        before = _held_of(chunk, earlier)
        again = {i for i, record in enumerate(before) if mend is not None and record.get("failed")}
        done = set(range(len(before))) - again
        for i in sorted(done):
            tally.add(before[i])
        if len(done) < len(chunk):
            in_turn = _InTurn(chunk, len(before), emit)
            guard.classify(
                [row.question for row in chunk],
                seed=chunk_seed(seed, number),
                done=sorted(done),
                on_finding=_Mending(chunk, again, in_turn, emit, mend) if mend else in_turn,
            )
    if next(earlier, None) is not None:
        raise InputError(f"more rows are finished than there are ({tally.rows}); name the input they are of")
    return tally


def chunk_seed(seed: int, chunk: int) -> int:
    """The seed of one chunk, 63 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{chunk}".encode()).digest()[:8], "big") >> 1


def record_of(row: Row, finding: Finding, threshold: float | None = None) -> Record:
    """What is written of a row; with a threshold a score decides, and the guard's verdict where there is none."""
    label = finding.label
    if threshold is not None and finding.score is not None:
        label = "unsafe" if finding.score >= threshold else "safe"
    record: Record = {
        "row": row.number,
        "id": row.id,
        "label": label,
        "score": finding.score,
        "categories": list(finding.categories) if label == "unsafe" else [],
        "reasoning": finding.reasoning,
        "unparsed": label is None,
    }
    if row.id is None:
        del record["id"]
    if label is None:
        record |= {"reason": finding.reason, "text": finding.text}
    if finding.failed:
        record["failed"] = True
    if finding.votes:
        record["votes"] = list(finding.votes)
    return record


class _InTurn:
    """Passes findings on in the order of their rows, from index `first` on."""

    def __init__(self, rows: Sequence[Row], first: int, emit: Callable[[Row, Finding], None]) -> None:
        self._rows = rows
        self._next = first
        self._emit = emit
        self._waiting: dict[int, Finding] = {}

    def __call__(self, index: int, finding: Finding) -> None:
        self._waiting[index] = finding
        while self._next in self._waiting:
            self._emit(self._rows[self._next], self._waiting.pop(self._next))
            self._next += 1


class _Mending:
    """Passes findings of rows that are asked about again to another place, whenever they come."""

    def __init__(
        self,
        rows: Sequence[Row],
        again: set[int],
        in_turn: _InTurn,
        emit: Callable[..., None],
        mend: Callable[[Record], None],
    ) -> None:
        self._rows = rows
        self._again = again
        self._in_turn = in_turn
        self._emit = emit
        self._mend = mend

    def __call__(self, index: int, finding: Finding) -> None:
        if index in self._again:
            self._emit(self._rows[index], finding, self._mend)
        else:
            self._in_turn(index, finding)


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows by the chunk; what is wrong with one is raised once those before it are through."""
    while True:
        chunk: list[Row] = []
        try:
            for row in islice(rows, CHUNK):
                chunk.append(row)  # one by one, to keep those before an error
        except InputError:
            if chunk:
                yield chunk
            raise
        if not chunk:
            return
        yield chunk


def _held_of(chunk: Sequence[Row], earlier: Iterator[Record]) -> list[Record]:
    """The records that are held of the first rows of a chunk."""
    found: list[Record] = []
    for row, record in zip(chunk, earlier):  # noqa: B905 - the order matters: the last row takes no record too many
        if (record.get("row"), record.get("id")) != (row.number, row.id) or "label" not in record:
            raise InputError(f"row {row.number}: the one that is finished is another; name the input it is of")
        found.append(record)
    return found


class RowHash:
    """The hash of rows as they are read: of their ids and texts, whatever file or pipe they come from."""

    def __init__(self) -> None:
        self.rows = 0
        self._hash = hashlib.sha256()

    def add(self, row: Row) -> None:
        """Takes in one more row."""
        text = json.dumps([row.id, row.question.prompt, row.question.response])
        self._hash.update(f"{text}\n".encode())
        self.rows += 1

    def document(self) -> dict[str, Any]:
        """How many rows there were, and their hash, as JSON has it."""
        return {"rows": self.rows, "sha256": self._hash.hexdigest()[:32]}


@dataclass(frozen=True)
class Target:
    """A file that records are written to; `FILE.meta.json` beside it says by which guard, how asked, and of what."""

    path: Path
    identity: dict[str, Any]
    """All that the records depend on but the input, as JSON has it."""
    on_existing: OnExisting = "refuse"

    @property
    def meta(self) -> Path:
        """The file with the identity."""
        return self.path.with_name(f"{self.path.name}.meta.json")

    def locked(self) -> AbstractContextManager[None]:
        """Keeps other processes from the file, from `check` to its end."""
        return locked(self.path)

    def finished(self, rows: Iterator[Row], limit: int | None) -> Tally | None:
        """The count of its rows, where all rows of this input, or its first `limit` ones, were judged alike before.

        None too where rows are left that a resume asks about again. What a crash left behind the last one is cut off.
        """
        if self.on_existing == "overwrite" or not (self.path.is_file() and self.meta.is_file()):
            return None
        before = self._noted()
        tally = Tally()
        for record in self.held():
            tally.add(record)
        is_whole = before.get(FINISHED) == {"rows": tally.rows, "limit": limit} and not self._differing(before)
        is_to_mend = self.on_existing == "resume" and tally.counts["failed"]
        if not is_whole or is_to_mend or _hash_of(islice(rows, tally.rows)) != before.get(INPUT):
            return None
        if limit is None and next(rows, None) is not None:
            return None
        cut_torn_line(self.path)
        return tally

    def check_input(self, rows: Iterator[Row]) -> None:
        """Refuses to go on with an input whose first rows are not those that were read before.

        Raises:
            InputError: They are not.
        """
        before = self._read_before() if self.on_existing == "resume" else None
        if before and _hash_of(islice(rows, before["rows"])) != before:
            raise self._other_input(before["rows"])

    def noting(self) -> Callable[[Sequence[Row]], None]:
        """Takes chunks as they are read and notes them, so that a later resume knows what was judged.

        It refuses rows that are not those of before, too, for a pipe is read only once.
        """
        before, read = self._read_before(), RowHash()

        def note(chunk: Sequence[Row]) -> None:
            for row in chunk:
                read.add(row)
                if before and read.rows == before["rows"] and read.document() != before:
                    raise self._other_input(read.rows)
            if not before or read.rows > before["rows"]:
                write_json(self.meta, {**self.identity, INPUT: read.document()})

        return note

    def check(self) -> None:
        """Refuses what `open` would refuse, before anything is loaded.

        Raises:
            InputError: The file is there and is not to be, or is of another guard or input.
        """
        if self.path.is_dir():
            raise InputError(f"{self.path}: is a directory; name a file")
        if not self.path.exists() or self.on_existing == "overwrite":
            return
        if self.on_existing == "refuse":
            raise InputError(f"{self.path}: exists already; pass --resume to go on or --overwrite to start anew")
        if not self.meta.exists():
            raise InputError(f"{self.path}: has no {self.meta.name}, so it cannot be resumed; name another --out")
        differing = self._differing(self._noted())
        if differing:
            raise InputError(
                f"{self.path}: was written otherwise ({', '.join(differing)}); use --overwrite or another --out"
            )

    def open(self) -> RecordLog:
        """The log, after its last whole record; emptied where it is to be."""
        self.check()
        if self.on_existing == "overwrite":
            self.path.unlink(missing_ok=True)
        if not self.path.exists():
            write_json(self.meta, self.identity)
        return RecordLog(self.path)

    def held(self) -> Iterator[Record]:
        """The records that are there."""
        return read_records(self.path)

    def count(self) -> int:
        """How many records are there."""
        return count_lines(self.path)

    def mend(self, records: Mapping[int, Record]) -> None:
        """Puts new records in the place of those with the same row, all of them at once."""
        if records:
            write_records(self.path, (records.get(record["row"], record) for record in self.held()))

    def finish(self, rows: int, limit: int | None) -> None:
        """Notes that the input was read to its end, or to the limit."""
        write_json(self.meta, {**self._noted(), FINISHED: {"rows": rows, "limit": limit}})

    def _noted(self) -> dict[str, Any]:
        """What stands beside the output."""
        noted = read_json(self.meta)
        if not isinstance(noted, dict):
            raise InputError(
                f"{self.meta}: is damaged: {json_type(noted)} in place of an object; use --overwrite or another --out"
            )
        return noted

    def _read_before(self) -> dict[str, Any] | None:
        """What is noted of the rows that were read, where there are any."""
        if not self.path.is_file() or not self.meta.is_file():
            return None
        noted = self._noted().get(INPUT)
        return noted if isinstance(noted, dict) and isinstance(noted.get("rows"), int) else None

    def _other_input(self, rows: int) -> InputError:
        return InputError(
            f"{self.path}: the input changed since: its first {rows} rows are not those that were judged; "
            "use --overwrite or another --out"
        )

    def _differing(self, before: dict[str, Any]) -> list[str]:
        """The keys at which what is there was made otherwise."""
        return differing_keys({key: before[key] for key in before if key not in (INPUT, FINISHED)}, self.identity)


def _hash_of(rows: Iterable[Row]) -> dict[str, Any]:
    found = RowHash()
    for row in rows:
        found.add(row)
    return found.document()
