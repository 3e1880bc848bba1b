"""Output of `guard classify --ray`: a folder with one parquet file of verdicts for each block of the input."""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from safereason.errors import InputError
from safereason.guard.classify import StatusCounts
from safereason.guard.parquet_input import AT_ONCE, Block, resolve_uri
from safereason.guard.rows import replace_surrogates
from safereason.runs.directory import OnExisting, differing_keys
from safereason.runs.records import Record

IDENTITY = "_guard.json"
"""File with the identity of the verdicts. Readers of parquet folders skip names that begin with `_`."""
INPUT_HASH = "safereason_input"
"""Key in a part's metadata of the hash of its block's contents."""


@dataclass(frozen=True)
class Parts:
    """A folder with `part-NNNNNN.parquet` for each finished block."""

    uri: str
    identity: Mapping[str, object]
    """Everything that the verdicts depend on, as JSON."""
    id_type: pa.DataType | None
    """Arrow type of the rows' ids; None without ids."""

    def finished(self, blocks: Sequence[Block]) -> StatusCounts | None:
        """The counts of all rows; None unless all these blocks were written with this identity."""
        system, path = resolve_uri(self.uri)
        file = f"{path}/{IDENTITY}"
        if system.get_file_info(file).type != fs.FileType.File or self._differing_keys(system, file):
            return None
        total = StatusCounts()
        # The parts themselves say what is finished. A separate list could disagree with them after a crash.
        for tally in self.tallies(blocks):
            if tally is None:
                return None
            total.merge(tally)
        return total

    def prepare(self, on_existing: OnExisting) -> None:
        """Makes the folder ready to resume, or empty.

        Raises:
            InputError: It exists and must not, or it belongs to another guard, other settings or another input.
        """
        system, path = resolve_uri(self.uri)
        entries = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        paths = [entry.path for entry in entries]
        leftovers = [name for name in paths if _is_leftover(name)]
        # A folder with nothing but leftovers holds no work: its process died before the identity was written.
        is_begun = len(leftovers) < len(paths)
        if is_begun:
            self._check_existing(system, f"{path}/{IDENTITY}", on_existing)
        for name in leftovers:
            system.delete_file(name)
        if is_begun and on_existing == "resume":
            return
        if is_begun:
            system.delete_dir_contents(path)
        system.create_dir(path)
        self._put(IDENTITY, json.dumps(self.identity, indent=2).encode())

    def _check_existing(self, system: fs.FileSystem, file: str, on_existing: OnExisting) -> None:
        if on_existing == "refuse":
            raise InputError(f"{self.uri}: exists already; pass --resume to go on or --overwrite to start anew")
        # Even `--overwrite` deletes only what this command wrote.
        if system.get_file_info(file).type != fs.FileType.File:
            raise InputError(f"{self.uri}: has no {IDENTITY}, so it is not of `--ray`; name another --out")
        differing = self._differing_keys(system, file)
        if differing and on_existing == "resume":
            raise InputError(
                f"{self.uri}: was written otherwise ({', '.join(differing)}); use --overwrite or another --out"
            )

    def _differing_keys(self, system: fs.FileSystem, file: str) -> list[str]:
        """The keys at which the identity in a file differs from this one."""
        with system.open_input_stream(file) as stream:
            content = stream.read()
        try:
            saved = json.loads(content)
        except ValueError as error:
            raise InputError(f"{self.uri}: its {IDENTITY} is not JSON ({error}); name another --out") from error
        # Through JSON and back, because tuples are lists there.
        return differing_keys(saved, json.loads(json.dumps(self.identity)))

    def write(self, block: Block, records: Iterable[Record]) -> None:
        """Writes the records of a block as one file, whole or not at all."""
        rows: list[Record] = []
        for record in records:
            rows.append({key: _encodable(value) for key, value in record.items()})
        # In memory first, so that an error in a record leaves no file.
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pylist(rows, schema=self._schema())
        pq.write_table(table.replace_schema_metadata({INPUT_HASH: block.contents}), sink)
        self._put(_part_name(block), sink.getvalue())

    def tally(self, block: Block) -> StatusCounts | None:
        """The counts of a block, from its file; None if it is not finished, or its input changed since."""
        system, path = resolve_uri(self.uri)
        try:
            with system.open_input_file(f"{path}/{_part_name(block)}") as file:
                # Only the columns that `StatusCounts.add` reads. Texts and reasoning are most of the bytes.
                table = pq.read_table(file, columns=["row", "label", "failed", "reason"])
        # A part that cannot be read is made again, like one that is missing.
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        metadata = table.schema.metadata or {}
        if metadata.get(INPUT_HASH.encode()) != block.contents.encode():
            return None
        tally = StatusCounts()
        for record in table.to_pylist():
            tally.add(record)
        return tally if tally.rows == block.rows else None

    def tallies(self, blocks: Sequence[Block]) -> list[StatusCounts | None]:
        """`tally` of each block, in order."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self.tally, blocks))

    def _put(self, name: str, content: bytes | pa.Buffer) -> None:
        """Writes a file under a temporary name and renames it.

        A worker that is killed leaves no half file under the name, and neither do two workers at the same block.
        """
        system, path = resolve_uri(self.uri)
        temporary = f"{path}/.{name}.{uuid4().hex}"
        with system.open_output_stream(temporary) as stream:
            stream.write(content)
        system.move(temporary, f"{path}/{name}")

    def _schema(self) -> pa.Schema:
        """Columns for the keys of `classify.record_of_row`; a key that a row does not have is null."""
        text = pa.string()
        columns = [("row", pa.int64())]
        if self.id_type is not None:
            columns.append(("id", self.id_type))
        columns += [
            ("label", text),
            ("score", pa.float64()),
            ("categories", pa.list_(text)),
            ("reasoning", text),
            ("unparsed", pa.bool_()),
            ("reason", text),
            ("text", text),
            ("failed", pa.bool_()),
            ("votes", pa.list_(text)),
        ]
        return pa.schema(columns)


def _part_name(block: Block) -> str:
    return f"part-{block.number:06d}.parquet"


def _is_leftover(path: str) -> bool:
    """Whether a file is the temporary one of a process that was killed in the middle of a write."""
    name = path.rpartition("/")[2]
    return name.startswith((".part-", f".{IDENTITY}."))


def _encodable(value: object) -> object:
    """The value itself; a text without lone surrogates, which Arrow's UTF-8 cannot encode."""
    if isinstance(value, str):
        return replace_surrogates(value)
    return value
