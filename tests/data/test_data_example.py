"""Examples on disk: read row by row, written whole or not at all."""

import json
from dataclasses import asdict, fields

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.data import example
from safereason.data.example import (
    KINDS,
    LABELS,
    Example,
    from_row,
    parquet_rows,
    read_examples,
    read_parquet,
    stream_examples,
    write_parquet,
)
from safereason.errors import InputError

ROW = {"id": "own/1", "prompt": "hello", "kind": "harmless", "source": "own"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
EXAMPLES = st.builds(
    Example,
    id=TEXT,
    prompt=TEXT.filter(lambda text: text.strip()),
    kind=st.sampled_from(KINDS),
    source=TEXT,
    category=st.none() | TEXT,
    reasoning=st.none() | TEXT,
    answer=st.none() | TEXT,
    response=st.none() | TEXT,
    label=st.none() | st.sampled_from(LABELS),
    target=st.none() | TEXT,
)


@given(rows=st.lists(EXAMPLES, max_size=6))
def test_examples_come_back_from_both_formats(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("rows")
    write_parquet(folder / "rows.parquet", iter(rows))
    (folder / "rows.jsonl").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    assert read_examples(folder / "rows.parquet") == read_examples(folder / "rows.jsonl") == rows


@given(
    row=st.dictionaries(
        st.sampled_from([*(f.name for f in fields(Example)), "more"]),
        st.none() | TEXT | st.sampled_from([*KINDS, *LABELS]) | st.integers(),
        max_size=11,
    )
)
def test_a_row_is_an_example_or_one_line_says_why_not(row):
    parsed, error = outcome(row)
    if parsed is None:
        assert error.startswith("here: ")
    else:
        assert {name: value for name, value in asdict(parsed).items() if name in row} == row


def outcome(row):
    try:
        return from_row(row, "here"), ""
    except InputError as error:
        return None, str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "unknown column 'colour'; an example has id, prompt, kind, source, category, "),
        ({"prompt": None}, "`prompt` is null; text is expected"),
        ({"answer": 3}, "`answer` is a number; text is expected"),
        ({"prompt": " \n"}, "`prompt` is empty"),
        ({"kind": "evil"}, "`kind` is 'evil'; one of harmful, harmless, ambiguous is expected"),
        ({"label": "maybe"}, "`label` is 'maybe'; `safe`, `unsafe` or null is expected"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(change, message):
    with pytest.raises(InputError) as error:
        from_row({**ROW, **change}, "here")
    assert str(error.value).startswith(f"here: {message}")


def test_a_column_that_is_missing_is_named():
    with pytest.raises(InputError, match="here: no column 'kind'; an example has id, "):
        from_row({"id": "own/1", "prompt": "hello", "source": "own"}, "here")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_before_a_bad_one_are_given_first(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    rows = [ROW, ROW, {**ROW, "kind": "evil"}]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = stream_examples(path)
    assert [next(examples).id, next(examples).id] == ["own/1", "own/1"]
    with pytest.raises(InputError, match=rf"rows\.{suffix}: row 3: `kind` is 'evil'"):
        next(examples)


def test_examples_are_written_as_they_come_and_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(example, "_ROW_GROUP", 2)
    path = tmp_path / "rows.parquet"

    def rows(bad):
        for n in range(5):
            yield Example(f"own/{n}", "hello", "harmless", "own")
        if bad:
            raise InputError("row 6 is bad")

    with pytest.raises(InputError, match="row 6 is bad"):
        write_parquet(path, rows(bad=True))
    assert list(tmp_path.iterdir()) == []
    write_parquet(path, rows(bad=False))
    assert [row["id"] for row in read_parquet(path)] == [f"own/{n}" for n in range(5)]
    with pq.ParquetFile(path) as file:
        assert [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] == [2, 2, 1]


def test_no_examples_are_a_file_too(tmp_path):
    write_parquet(tmp_path / "none.parquet", [])
    assert read_examples(tmp_path / "none.parquet") == []


def test_a_batch_of_a_parquet_file_is_read_when_it_is_asked_for(tmp_path, monkeypatch):
    """The second batch holds no UTF-8, and nobody has come to it yet."""
    monkeypatch.setattr(example, "_BATCH", 2)
    raw = pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"ab\xff"))
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": raw}), path)
    rows = parquet_rows(path)
    assert [next(rows), next(rows)] == [{"prompt": "a"}, {"prompt": "b"}]
    with pytest.raises(UnicodeDecodeError):
        next(rows)
    with pytest.raises(InputError, match="not a parquet file"):
        read_parquet(path)


def test_columns_that_are_not_named_are_not_read(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "large": ["b" * 1000]}), path)
    assert list(parquet_rows(path, ["prompt"])) == [{"prompt": "a"}]
    with pytest.raises(ValueError, match="no column `answer`, only prompt, large"):
        list(parquet_rows(path, ["answer"]))


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.parquet", "broken.parquet", "rows.txt"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name):
    (tmp_path / "broken.parquet").write_text("no parquet")
    with pytest.raises(InputError) as error:
        read_examples(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(error.value)
