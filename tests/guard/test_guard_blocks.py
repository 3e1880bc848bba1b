"""Parquet cut into blocks, the folder of their verdicts, and a worker on them, without Ray."""

import tempfile
from pathlib import Path
from typing import Any

import micro_guard
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.guard.bulk import BulkJob, Worker
from safereason.guard.classify import CHUNK_ROWS, ClassifyOutput, ClassifySettings, classify
from safereason.guard.open import guard_prompt_of
from safereason.guard.parquet_input import Block, Piece, open_parquet_input
from safereason.guard.parquet_output import Parts
from safereason.guard.rows import InputRow
from safereason.runs.records import Record


def question(number: int) -> dict[str, Any]:
    return {"prompt": f"question {number}", "id": number}


def save(folder: Path, sizes: list[int], row_group: int = 100) -> Path:
    """Files of so many rows, numbered on from one to the next."""
    folder.mkdir(exist_ok=True)
    schema, number = pa.schema([("id", pa.int64()), ("other", pa.string()), ("prompt", pa.string())]), 0
    for index, size in enumerate(sizes):
        rows = [question(number + i + 1) for i in range(size)]
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"f{index:02}.parquet", row_group_size=row_group)
        number += size
    return folder


def records(parts: Path) -> list[Record]:
    rows: list[Record] = pq.read_table(parts).to_pylist()
    return sorted(rows, key=lambda row: row["row"])


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 200), min_size=1, max_size=4).filter(any),
    chunks=st.integers(1, 4),
    limit=st.none() | st.integers(1, 300),
    row_group=st.integers(1, 150),
)
def test_blocks_hold_every_row_once_and_begin_with_a_chunk(
    sizes: list[int], chunks: int, limit: int | None, row_group: int
):
    with tempfile.TemporaryDirectory() as place:
        parquet_input = open_parquet_input(str(save(Path(place) / "in", sizes, row_group)), {})
        blocks = parquet_input.blocks(chunks * CHUNK_ROWS, limit)
        rows = [row for block in blocks for row in parquet_input.read(block, {})]
    total = min(sum(sizes), limit or sum(sizes))
    assert [(row.number, row.id, row.question.prompt) for row in rows] == [
        (n, n, f"question {n}") for n in range(1, total + 1)
    ]
    assert [block.start for block in blocks] == list(range(0, total, chunks * CHUNK_ROWS))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (None, "holds no .parquet file"),
        (b"no parquet", "cannot be read as parquet"),
        ([{"text": "a"}], "has no `prompt`, but text"),
        ([{"text": "a", "id": 1}], "has no `prompt`, but id"),
        ([{"prompt": 5}], "f00.parquet, row 1: `prompt` is to be text, not a number"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused(tmp_path: Path, file: Any, message: str):
    if isinstance(file, bytes):
        (tmp_path / "f00.parquet").write_bytes(file)
    elif file:
        pq.write_table(pa.Table.from_pylist(file), tmp_path / "f00.parquet")
    with pytest.raises(InputError, match=message):
        open_parquet_input(str(tmp_path), {})


def test_files_of_other_columns_are_refused(tmp_path: Path):
    save(tmp_path, [2, 2])
    pq.write_table(pa.Table.from_pylist([{"prompt": "a", "id": "text"}]), tmp_path / "f01.parquet")
    with pytest.raises(InputError, match=r"f01.parquet: its columns \(prompt: string, id: string\) are not those of"):
        open_parquet_input(str(tmp_path), {})


def test_blocks_are_of_whole_chunks(tmp_path: Path):
    parquet_input = open_parquet_input(str(save(tmp_path / "in", [3])), {})
    with pytest.raises(InputError, match="--batch-rows 100: 64 rows are classified together"):
        parquet_input.blocks(100)


def test_hidden_files_are_passed_over_and_a_file_alone_is_read(tmp_path: Path):
    save(tmp_path, [2])
    (tmp_path / "_old").mkdir()
    (tmp_path / "_old" / "x.parquet").write_bytes(b"")
    (tmp_path / ".x.parquet").write_bytes(b"")
    assert open_parquet_input(str(tmp_path), {}).names() == {"f00.parquet": 2}
    assert open_parquet_input(str(tmp_path / "f00.parquet"), {}).names() == {"input": 2}


def test_only_blocks_of_files_that_changed_are_done_again(tmp_path: Path):
    folder = save(tmp_path / "in", [CHUNK_ROWS, CHUNK_ROWS])
    before = open_parquet_input(str(folder), {}).blocks(CHUNK_ROWS)
    parts = Parts(str(tmp_path / "out"), {}, None)
    parts.prepare("refuse")
    for block in before:
        parts.write(block, [VERDICTS[0] | {"row": block.start + i + 1} for i in range(CHUNK_ROWS)])
    assert parts.finished(before) is not None
    rows = pq.read_table(folder / "f01.parquet").to_pylist()
    rows[5]["prompt"] = "quite another text"
    pq.write_table(pa.Table.from_pylist(rows), folder / "f01.parquet")
    after = open_parquet_input(str(folder), {}).blocks(CHUNK_ROWS)
    assert [parts.tally(block) is None for block in after] == [False, True]
    assert parts.finished(after) is None
    assert Parts(parts.uri, {"seed": 1}, None).finished(before) is None


BLOCK = Block(0, 0, (Piece("in.parquet", 0, 2),))
VERDICTS: list[Record] = [
    {"row": 1, "label": "unsafe", "score": 0.5, "categories": ["A1"], "reasoning": "", "unparsed": False},
    {
        "row": 2,
        "label": None,
        "score": None,
        "categories": [],
        "reasoning": "half \ud800",
        "unparsed": True,
        "reason": "why",
        "text": "all",
        "failed": True,
        "votes": ["safe", None],
    },
]


def test_a_part_holds_the_keys_of_records_and_counts_them(tmp_path: Path):
    parts = Parts(str(tmp_path / "out"), {"seed": 0}, None)
    parts.prepare("refuse")
    assert parts.tally(BLOCK) is None
    parts.write(BLOCK, VERDICTS)
    first, second = records(tmp_path / "out")
    assert first == VERDICTS[0] | {"reason": None, "text": None, "failed": None, "votes": None}
    assert second == VERDICTS[1] | {"reasoning": "half \N{REPLACEMENT CHARACTER}"}
    tally = parts.tally(BLOCK)
    assert tally is not None
    assert dict(tally.counts) == {"unsafe": 1, "unparsed": 1, "failed": 1}


def test_a_torn_part_or_one_of_other_rows_is_not_finished(tmp_path: Path):
    parts = Parts(str(tmp_path / "out"), {}, None)
    parts.prepare("refuse")
    parts.write(BLOCK, VERDICTS[:1])
    assert parts.tally(BLOCK) is None
    parts.write(BLOCK, VERDICTS)
    file = tmp_path / "out" / "part-000000.parquet"
    for size in (0, 3, file.stat().st_size - 5):
        file.write_bytes(file.read_bytes()[:size] if size else b"")
        assert parts.tally(BLOCK) is None
        parts.write(BLOCK, VERDICTS)
    assert parts.tally(BLOCK) is not None


def test_a_folder_is_gone_on_with_by_the_same_guard_alone(tmp_path: Path):
    out = tmp_path / "out"
    Parts(str(out), {"seed": 0}, None).prepare("refuse")
    (out / ".part-000000.parquet.abc").write_bytes(b"half")
    with pytest.raises(InputError, match="exists already"):
        Parts(str(out), {"seed": 0}, None).prepare("refuse")
    with pytest.raises(InputError, match=r"was written otherwise \(seed\)"):
        Parts(str(out), {"seed": 1}, None).prepare("resume")
    Parts(str(out), {"seed": 0}, None).prepare("resume")
    assert [file.name for file in out.iterdir()] == ["_guard.json"]
    Parts(str(out), {"seed": 1}, None).prepare("overwrite")
    Parts(str(out), {"seed": 1}, None).prepare("resume")


@pytest.mark.parametrize("how", ["refuse", "resume", "overwrite"])
def test_a_folder_that_a_process_began_and_never_named_is_a_new_one(tmp_path: Path, how: str):
    (tmp_path / "._guard.json.0123abcd").write_text('{"se')
    Parts(str(tmp_path), {"seed": 0}, None).prepare(how)
    assert [file.name for file in tmp_path.iterdir()] == ["_guard.json"]


def test_a_folder_of_other_files_is_never_emptied(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("mine")
    for how in ("resume", "overwrite"):
        with pytest.raises(InputError, match=r"has no _guard\.json"):
            Parts(str(tmp_path), {}, None).prepare(how)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_workers_write_what_one_guard_writes_in_order(tmp_path: Path):
    model, policy = ModelSpec(str(micro_guard.save_guard(tmp_path / "guard"))), tmp_path / "house.yaml"
    policy.write_text(micro_guard.POLICY)
    classify_settings = ClassifySettings(model, None, guard_prompt_of(model, policy=str(policy)), 1, None, 3, {})
    parquet_input = open_parquet_input(str(save(tmp_path / "in", [50, 90, 10])), {})
    blocks, parts = parquet_input.blocks(CHUNK_ROWS), Parts(str(tmp_path / "out"), {}, parquet_input.columns["id"])
    parts.prepare("refuse")
    worker = Worker(BulkJob(classify_settings, parquet_input, parts, blocks))
    for block in reversed(blocks):
        assert worker({"item": block.number}) == {"number": block.number, "error": ""}

    expected: list[Record] = []
    whole: list[InputRow] = list(parquet_input.read(parquet_input.blocks(1024)[0], {}))
    classify(classify_settings.open(), iter(whole), ClassifyOutput(expected.append), seed=3)
    rows = records(tmp_path / "out")
    assert [{key: row[key] for key in record} for row, record in zip(rows, expected, strict=True)] == expected
    assert {row["label"] for row in rows} == {"safe", "unsafe"}


def test_a_worker_says_which_row_is_none_and_writes_nothing_of_its_block(tmp_path: Path):
    model = ModelSpec(str(micro_guard.save_guard(tmp_path / "guard")))
    classify_settings = ClassifySettings(model, None, guard_prompt_of(model), 1, None, 0, {})
    (tmp_path / "in").mkdir()
    rows = [{"prompt": "a"}, {"prompt": " "}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in" / "a.parquet")
    parquet_input, parts = open_parquet_input(str(tmp_path / "in"), {}), Parts(str(tmp_path / "out"), {}, None)
    parts.prepare("refuse")
    result = Worker(BulkJob(classify_settings, parquet_input, parts, parquet_input.blocks(CHUNK_ROWS)))({"item": 0})
    assert result["error"] == f"{tmp_path}/in/a.parquet, row 2: its prompt is empty; fill it in or delete the row"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["_guard.json"]
