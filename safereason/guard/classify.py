"""Classification of rows: a guard judges an input of any length, and its verdicts are written in the input's order.

Rows are read and judged in chunks, each with a seed of its own. The guard gets a chunk as a whole even if some of its
rows are finished, so that a resumed run writes the same records as an uninterrupted one. Several workers, each with a
guard of its own, judge several chunks at a time.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from safereason import workers
from safereason.engines import weights
from safereason.engines.engine_spec import Loading
from safereason.engines.place import Place
from safereason.engines.spec import ModelSpec
from safereason.errors import BarNotMet, InputError, StageFailed
from safereason.guard.base import CUT, Guard, GuardVerdict, OnVerdict, Question
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.open import open_with_prompt
from safereason.guard.rows import InputRow
from safereason.recipe.schema import Precision
from safereason.runs.manifest import going_on
from safereason.runs.records import Record

# Part of the identity of an output, because chunks have seeds: another size would give other samples.
CHUNK_ROWS = 64
"""Rows that are read and judged together."""
NAMED = 5
"""Row numbers that are kept per status, for messages."""

RowStatus = Literal["safe", "unsafe", "unparsed", "failed", "cut"]
"""Status of a row. `failed` and `cut` rows are `unparsed` too."""


@dataclass(frozen=True)
class ClassifySettings:
    """A guard and the settings under which it judges rows."""

    model: ModelSpec
    base_url: str | None
    guard_prompt: GuardPrompt
    samples: int
    threshold: float | None
    seed: int
    fields: dict[str, str]
    precision: Precision | None = None
    """Arithmetic of a model that runs here; None is the best of the machine that opens it."""
    place: Place | None = None
    """GPUs of a model that runs here; None is the first one. The verdicts do not depend on it."""

    def open(self) -> Guard:
        """The guard, with its model loaded.

        Raises:
            InputError: The model cannot be opened.
            StageFailed: It does not fit in memory.
        """
        return open_with_prompt(
            self.model,
            self.guard_prompt,
            base_url=self.base_url,
            samples=self.samples,
            loading=Loading(self.precision, self.place),
        )

    def identity(self) -> dict[str, object]:
        """Everything but the input that the records depend on, as JSON.

        Raises:
            InputError: A file of the model cannot be read.
        """
        identity = {
            **_guard_model_identity(self.model),
            # The key is older than the class's name. Outputs that were written under it must still resume.
            "guide": self.guard_prompt.document(),
            "samples": self.samples,
            "threshold": self.threshold,
            "seed": self.seed,
            "fields": self.fields,
            "rows_a_chunk": CHUNK_ROWS,
        }
        # Unset, it depends on the machine, which is no part of an output: a resume may be on another one.
        if self.precision is not None:
            identity["precision"] = self.precision
        return identity


def _guard_model_identity(model: ModelSpec) -> dict[str, object]:
    """The identity of a model: the contents of its folder, independent of the path, or else its name.

    Raises:
        InputError: There is no such model, or one of its files cannot be read.
    """
    engine: str = model.engine or "hf"
    if engine == "hf":
        engine = "transformers"  # as the records of earlier versions have it
    if not model.is_remote:
        # A folder counts by its contents, so a copy of it at another path is the same model.
        folder = Path(model.location)
        if folder.is_dir():
            return {"engine": engine, "model_contents": weights.of_folder(folder)}
    return {"engine": engine, "model": str(model)}


@dataclass
class StatusCounts:
    """Counts of rows by status, with the numbers of the first rows of each status."""

    rows: int = 0
    counts: Counter[RowStatus] = field(default_factory=Counter)
    first: dict[RowStatus, list[int]] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    """Rows without a verdict by reason. Reasons that differ only in their numbers count together."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first full reason for each key of `reasons`."""
    is_written: bool = False
    """Whether the guard generated any text that holds no verdict."""

    def add(self, record: Record) -> None:
        """Counts the row of a record."""
        self.rows += 1
        statuses: list[RowStatus] = [record["label"] or "unparsed"]
        if record["label"] is None:
            self._add_reason(record)
        if record.get("failed"):
            statuses.append("failed")
        elif (record.get("reason") or "").endswith(CUT):
            statuses.append("cut")
        for status in statuses:
            self.counts[status] += 1
            if self.counts[status] <= NAMED:
                self.first.setdefault(status, []).append(record["row"])

    def _add_reason(self, record: Record) -> None:
        reason = str(record.get("reason"))
        # "a prompt has 5012 tokens" and "a prompt has 4999 tokens" are one reason.
        key = re.sub(r"\d+", "0", reason)
        self.reasons[key] += 1
        self.examples.setdefault(key, reason)
        if record.get("text"):
            self.is_written = True

    def merge(self, other: "StatusCounts") -> None:
        """Adds the counts of other rows."""
        self.rows += other.rows
        self.counts.update(other.counts)
        self.reasons.update(other.reasons)
        self.examples = {**other.examples, **self.examples}
        self.is_written = self.is_written or other.is_written
        for status, numbers in other.first.items():
            # Blocks end in any order, so the first rows are found by their numbers.
            self.first[status] = sorted([*self.first.get(status, ()), *numbers])[:NAMED]

    def check(self, fail_on: Sequence[RowStatus], *, can_resume: bool = False) -> None:
        """Raises the error that the counts call for, once all records are written.

        Args:
            fail_on: Statuses that no row may have.
            can_resume: Whether the records are in a file, so that the error may advise to resume.

        Raises:
            BarNotMet: Rows have a status in `fail_on`.
            StageFailed: The engine failed on some rows, or no row has a verdict.
        """
        # The caller's own bars come first, because scripts look at their exit code.
        failing = [status for status in dict.fromkeys(fail_on) if self.counts[status]]
        if failing:
            raise BarNotMet("; ".join(f"--fail-on {status}: {self._rows_with(status)}" for status in failing))
        # A failed row may succeed on a resume, so the message names that way out.
        if self.counts["failed"]:
            advice = going_on() if can_resume else "`reason` says why"
            raise StageFailed(f"the guard could not be asked about {self._rows_with('failed')}; {advice}")
        if self.rows and self.counts["unparsed"] == self.rows:
            raise StageFailed(self._no_verdict_message())

    def _rows_with(self, status: RowStatus) -> str:
        numbers = ", ".join(map(str, sorted(self.first[status])))
        if self.counts[status] > NAMED:
            numbers += ", ..."
        return f"{self.counts[status]} of {self.rows} rows ({numbers})"

    def _no_verdict_message(self) -> str:
        key, count = self.reasons.most_common(1)[0]
        advice = "change the rows or the guard"
        # Text without a verdict is how a chat model answers a prompt that it was not trained on.
        if self.is_written:
            advice = "name a model that was trained as a guard"
        return (
            f"no verdict on any of {self.rows} rows; "
            f"the commonest reason, {count} times: {self.examples[key]}; {advice}"
        )


@dataclass(frozen=True)
class ClassifyOutput:
    """The output of a classification: functions that take its records, and the records that it holds already."""

    write: Callable[[Record], None]
    """Takes each new record, in the order of the rows."""
    earlier_records: Iterable[Record] = ()
    """Records of the first rows, as an earlier call wrote them."""
    on_replaced: Callable[[Record], None] | None = None
    """Takes the new record of each row whose earlier record is of a failure. If None, these rows keep their records."""
    on_chunk: Callable[[Sequence[InputRow]], None] | None = None
    """Called with the rows of each chunk before they are judged."""


def classify(
    guard: Guard | ClassifySettings,
    rows: Iterator[InputRow],
    output: ClassifyOutput,
    *,
    seed: int = 0,
    threshold: float | None = None,
    first_chunk: int = 0,
    environments: Sequence[Mapping[str, str]] = (),
) -> StatusCounts:
    """Judges rows and writes one record per row, in order and as early as the order allows.

    Args:
        guard: The guard, or the settings that open it, which workers need.
        rows: The input, read one chunk at a time.
        output: Takes the records, and gives those of an earlier call.
        seed: Seed of the sampling.
        threshold: Score from which a row is unsafe, independent of the guard's own label.
        first_chunk: Number of whole chunks of the input in front of these rows.
        environments: Variables of each worker; without several, this process judges.

    Returns:
        The counts over all rows, those of earlier records included.

    Raises:
        InputError: A row cannot be read, after the records of all rows before it are written; or the earlier records
            belong to another input.
    """
    tally = StatusCounts()
    remaining_records = iter(output.earlier_records)
    on_replaced = output.on_replaced

    def write_counted(row: InputRow, verdict: GuardVerdict, put: Callable[[Record], None] = output.write) -> None:
        record = record_of_row(row, verdict, threshold)
        put(record)
        tally.add(record)

    turns = _Turns()

    def open_chunks() -> Iterator[_Chunk]:
        for number, chunk in enumerate(_chunks_of(rows), start=first_chunk):
            if output.on_chunk is not None:
                # Before the guard, so that a changed input is refused without the cost of a verdict.
                output.on_chunk(chunk)
            finished = _take_records(chunk, remaining_records)
            retried = _failed_indices(finished) if on_replaced is not None else set()
            done = [i for i in range(len(finished)) if i not in retried]
            for i in done:
                tally.add(finished[i])
            # Nothing is left to judge, so a finished chunk costs no call.
            if len(done) == len(chunk):
                continue
            on_verdict: OnVerdict = _InOrder(chunk, len(finished), write_counted)
            if on_replaced is not None:
                on_verdict = _Retries(chunk, retried, on_verdict, write_counted, on_replaced)
            turns.add(number, len(chunk) - len(done), on_verdict)
            yield _Chunk(number, [row.question for row in chunk], chunk_seed(seed, number), done)

    # Chunks that are under way when a row cannot be read are of rows before it. Their records are written first.
    errors: list[InputError] = []
    chunks = _until_error(open_chunks(), errors)
    workers.work(_begin_classifying, guard, chunks, turns.take, environments)
    if errors:
        raise errors[0]
    # Every row took its record. Records that are left over belong to rows that the input no longer has.
    if next(remaining_records, None) is not None:
        raise InputError(f"more rows are finished than there are ({tally.rows}); name the input they are of")
    return tally


@dataclass(frozen=True)
class _Chunk:
    """A chunk of rows that is to be judged."""

    number: int
    questions: list[Question]
    seed: int
    done: list[int]
    """Indices of the questions that have a verdict already."""


_ChunkVerdict = tuple[int, GuardVerdict]
"""The index of a question in its chunk, and the verdict on it."""


def _begin_classifying(guard: Guard | ClassifySettings) -> workers.Handle[_Chunk, _ChunkVerdict]:
    opened = guard
    if isinstance(opened, ClassifySettings):
        opened = opened.open()
    judge: Guard = opened

    def judge_chunk(chunk: _Chunk, send: Callable[[_ChunkVerdict], None]) -> None:
        judge.classify(
            chunk.questions,
            seed=chunk.seed,
            done=chunk.done,
            on_verdict=lambda index, verdict: send((index, verdict)),
        )

    return judge_chunk


def _until_error(chunks: Iterator[_Chunk], errors: list[InputError]) -> Iterator[_Chunk]:
    """The chunks before an error, which is put into the list."""
    try:
        yield from chunks
    except InputError as error:
        errors.append(error)


class _Turns:
    """Verdicts of several chunks that are judged at a time; a chunk's are passed on when all before it are complete."""

    def __init__(self) -> None:
        self._passing_on: dict[int, OnVerdict] = {}
        self._missing: dict[int, int] = {}
        self._waiting: dict[int, list[_ChunkVerdict]] = {}

    def add(self, number: int, missing: int, pass_on: OnVerdict) -> None:
        """Opens the next chunk, which takes so many verdicts."""
        self._passing_on[number] = pass_on
        self._missing[number] = missing
        self._waiting[number] = []

    def take(self, chunk: _Chunk, verdict: _ChunkVerdict) -> None:
        """Takes a verdict on a row of a chunk."""
        self._waiting[chunk.number].append(verdict)
        for number in list(self._missing):
            for index, guard_verdict in self._waiting[number]:
                self._passing_on[number](index, guard_verdict)
            self._missing[number] -= len(self._waiting[number])
            self._waiting[number].clear()
            if self._missing[number]:
                return
            del self._passing_on[number], self._missing[number], self._waiting[number]


def _failed_indices(records: Sequence[Record]) -> set[int]:
    return {i for i, record in enumerate(records) if record.get("failed")}


def chunk_seed(seed: int, chunk: int) -> int:
    """The seed of one chunk, 63 bits."""
    digest = hashlib.sha256(f"{seed}/{chunk}".encode()).digest()
    # One bit less than 64, so that the seed fits into a signed integer.
    return int.from_bytes(digest[:8], "big") >> 1


def record_of_row(row: InputRow, verdict: GuardVerdict, threshold: float | None = None) -> Record:
    """The record of a row.

    Args:
        row: The row.
        verdict: The guard's verdict on it.
        threshold: Score from which the row is unsafe. A verdict without a score keeps its own label.
    """
    label = verdict.label
    if threshold is not None and verdict.score is not None:
        label = "unsafe" if verdict.score >= threshold else "safe"
    # The keys of all records have one order, and a key without a value is left out.
    record: Record = {"row": row.number}
    if row.id is not None:
        record["id"] = row.id
    record |= {
        "label": label,
        "score": verdict.score,
        # A threshold can turn an unsafe verdict into a safe row, which violates no category.
        "categories": list(verdict.categories) if label == "unsafe" else [],
        "reasoning": verdict.reasoning,
        "unparsed": label is None,
    }
    if label is None:
        record |= {"reason": verdict.reason, "text": verdict.text}
    if verdict.failed:
        record["failed"] = True
    if verdict.votes:
        record["votes"] = list(verdict.votes)
    return record


class _InOrder:
    """A callback that holds verdicts back until all rows before theirs are written."""

    def __init__(self, rows: Sequence[InputRow], first: int, write: Callable[[InputRow, GuardVerdict], None]) -> None:
        """A callback for one chunk.

        Args:
            rows: Rows of the chunk.
            first: Index of the first row that is not written yet.
            write: Takes each row with its verdict.
        """
        self._rows = rows
        self._next = first
        self._write = write
        self._waiting: dict[int, GuardVerdict] = {}

    def __call__(self, index: int, verdict: GuardVerdict) -> None:
        self._waiting[index] = verdict
        while self._next in self._waiting:
            self._write(self._rows[self._next], self._waiting.pop(self._next))
            self._next += 1


class _Retries:
    """A callback that sends verdicts of retried rows to `on_replaced` at once, and all others to another callback.

    Retried rows have a place in the output already, so they need not wait for their turn.
    """

    def __init__(
        self,
        rows: Sequence[InputRow],
        retried: set[int],
        on_verdict: OnVerdict,
        write: Callable[[InputRow, GuardVerdict, Callable[[Record], None]], None],
        on_replaced: Callable[[Record], None],
    ) -> None:
        self._rows = rows
        self._retried = retried
        self._on_verdict = on_verdict
        self._write = write
        self._on_replaced = on_replaced

    def __call__(self, index: int, verdict: GuardVerdict) -> None:
        if index in self._retried:
            self._write(self._rows[index], verdict, self._on_replaced)
        else:
            self._on_verdict(index, verdict)


def _chunks_of(rows: Iterator[InputRow]) -> Iterator[list[InputRow]]:
    """The rows in chunks. An error in a row is raised after the chunk with the rows before it."""
    while True:
        chunk: list[InputRow] = []
        try:
            for row in islice(rows, CHUNK_ROWS):
                chunk.append(row)  # one by one, to keep those before an error
        except InputError:
            if chunk:
                yield chunk
            raise
        if not chunk:
            return
        yield chunk


def _take_records(chunk: Sequence[InputRow], earlier: Iterator[Record]) -> list[Record]:
    """The next records of an earlier output, one for each of the first rows of a chunk.

    Raises:
        InputError: A record belongs to another row.
    """
    records: list[Record] = []
    for row, record in zip(chunk, earlier):  # noqa: B905 - the order matters: the last row takes no record too many
        if (record.get("row"), record.get("id")) != (row.number, row.id) or "label" not in record:
            raise InputError(f"row {row.number}: the one that is finished is another; name the input it is of")
        records.append(record)
    return records
