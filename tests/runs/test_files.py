"""A person's files are read within bounds, and what is wrong with one is said with its line."""

import gzip
import json
import lzma
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peak import peak

from safereason import files
from safereason.data import example
from safereason.data.example import Example, read_examples, stream_examples, write_parquet
from safereason.data.sources.base import read_rows
from safereason.errors import InputError
from safereason.recipe import strict_yaml
from safereason.runs.directory import rows_of
from safereason.runs.records import RecordLog, read_json, write_json

ROW = {"id": "a/1", "prompt": "Hello?", "kind": "harmless", "source": "a"}
LINE = json.dumps(ROW).encode()
MEMORY = 900 << 20
"""Address space in which a bomb is to be refused: the interpreter with pyarrow needs half of it."""


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        list(files.json_rows(path))
    return str(caught.value)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_every_line_of_a_persons_file_counts(tmp_path):
    whole = written(tmp_path / "whole.jsonl", LINE + b"\n\n" + LINE)  # without its last newline
    assert list(files.json_rows(whole)) == [ROW, ROW]
    torn = written(tmp_path / "torn.jsonl", LINE + b"\n" + LINE[:-5])
    assert refusal(torn).startswith(f"{torn}:2: the file ends inside this row (")
    with pytest.raises(InputError, match=r"torn\.jsonl:2: the file ends inside this row"):
        read_examples(torn)


def test_the_log_of_a_run_may_end_in_a_torn_line(tmp_path):
    write_json(tmp_path / "manifest.json", {"stage": "eval/xstest", "status": "running"})
    log = written(tmp_path / "completions.jsonl", LINE + b"\n" + LINE[:-5])
    assert list(rows_of(log)) == [ROW]
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(InputError, match="jsonl:2: "):
        list(rows_of(log))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" + LINE + b"]", "this is one list in JSON"),
        (b"[\n" + LINE + b"\n]", "this is one list in JSON"),
        (b'{\n "id": 1\n}', "this is one JSON document over several lines"),
        (b"[" * 100_000 + b"\n", "this is one list in JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"\n", "nested too deeply"),
        (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}\n", "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "a whole number has too many digits"),
        (b'{"a": "\xff"}\n', "not UTF-8 at byte 8"),
        (b"7\n", "a JSON object is expected on each line, not a number"),
        (b"\xef\xbb\xbf{]\n", "not JSON"),
        (b'{"a": 1}\r{"b": 2}\r', "its lines end in CR alone"),
        ('{"a": 1}\n'.encode("utf-16-le"), "save it as UTF-8"),
        (b"\0" * 20, "it holds a byte of 0"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(tmp_path, content, message):
    path = written(tmp_path / "rows.jsonl", content)
    refused = refusal(path)
    assert refused.startswith(f"{path}:1: ")
    assert message in refused


def test_a_byte_order_mark_is_passed_over_everywhere(tmp_path):
    mark = b"\xef\xbb\xbf"
    assert list(files.json_rows(written(tmp_path / "a.jsonl", mark + LINE + b"\n"))) == [ROW]
    assert read_json(written(tmp_path / "a.json", mark + b'{"b": 1}')) == {"b": 1}
    assert files.read_text(written(tmp_path / "a.txt", mark + b"hi")) == "hi"
    for name in ("b.json", "b.csv", "c.jsonl"):
        content = {".json": b"[" + LINE + b"]", ".csv": b"prompt\nhi\n", ".jsonl": LINE}[Path(name).suffix]
        (row,) = read_rows(written(tmp_path / name, mark + content), advice="mend it")
        assert "prompt" in row.values


@pytest.mark.parametrize("name", ["is-a-folder.jsonl", "missing.jsonl", "x" * 300 + ".jsonl", "a\0.jsonl"])
def test_a_file_that_cannot_be_opened_is_said(tmp_path, name):
    (tmp_path / "is-a-folder.jsonl").mkdir()
    assert "cannot be read (" in refusal(tmp_path / name)
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path / name)


def test_a_column_that_is_not_there_is_said_with_its_place(tmp_path):
    path = written(tmp_path / "rows.jsonl", b'{"a": 1}\n{"b": 2}\n')
    _, second = files.json_rows(path)
    with pytest.raises(InputError, match=rf"{path}:2: has no `a`"):
        second["a"]
    assert second.get("a") is None
    assert dict(second) == {"b": 2}


BOMB = 600 << 20
"""Bytes that a bomb unpacks to: more than there is memory for."""


def bomb(path: Path, start: bytes) -> None:
    """One row that begins like any and does not end."""
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    block = pack(b"x" * (1 << 20))
    with path.open("wb") as file:
        file.write(pack(start))
        for _ in range(BOMB >> 20):
            file.write(block)


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
@pytest.mark.parametrize("packed", ["", ".gz", ".xz"])
def test_a_row_that_fills_the_memory_is_refused_in_little_memory(tmp_path, form, packed):
    path = tmp_path / f"bomb.{form}{packed}"
    start = {"csv": b'id,prompt,kind,source\na/1,"', "jsonl": b'{"prompt": "', "json": b'[{"prompt": "'}[form]
    bomb(path, start)
    program = textwrap.dedent(f"""
        import resource
        resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
        from pathlib import Path
        from safereason.data.sources.base import read_rows
        from safereason.errors import InputError
        try:
            list(read_rows(Path({str(path)!r}), advice="mend it"))
        except InputError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-500:]
    assert "longer than 16 MiB" in done.stdout
    path.unlink()


def test_a_cell_may_be_as_long_as_a_reasoning_trace(tmp_path):
    long = "x" * 1_000_000
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(f"prompt\n{long}\nshort\n".encode()))
    assert [row["prompt"] for row in read_rows(path, advice="mend it")] == [long, "short"]


def test_a_parquet_file_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "bomb.parquet"
    text = pa.array(["x" * (3 << 20)], pa.large_string())
    pq.write_table(pa.table({"prompt": text}), path, compression="zstd", use_dictionary=False)
    assert len(list(read_rows(path))) == 1
    monkeypatch.setattr(example, "_ALWAYS_ALLOWED_BYTES", 1 << 20)
    with pytest.raises(InputError, match="column `prompt` unpacks to 3 MiB"):
        list(stream_examples(path))


def test_a_long_row_of_a_parquet_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    write_parquet(path, [*[Example(**ROW)] * 100, Example(**{**ROW, "prompt": "x" * 3000})])
    assert len(list(stream_examples(path))) == 101
    monkeypatch.setattr(example, "LONGEST_ROW", 2000)
    with pytest.raises(InputError, match="a row is longer than"):
        list(stream_examples(path))


def test_a_document_that_is_too_large_is_refused_before_it_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_DOCUMENT", 1 << 20)
    path = tmp_path / "large.json"
    path.write_text("[" + "1," * (1 << 20) + "1]")
    with pytest.raises(InputError, match="larger than 1 MiB"):
        read_json(path)


def steps(text: str) -> int:
    """Calls of Python functions that parsing takes, which unlike time are the same each time."""
    count = 0

    def counted(frame, event, argument):
        nonlocal count
        count += event == "call"

    sys.setprofile(counted)
    try:
        with pytest.raises(InputError, match="more than 2000 values"):
            strict_yaml.parse(text, "a.yaml")
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("shape", ["a:\n{}", "a: [{}]"])
def test_yaml_of_many_values_is_refused_as_soon_as_there_are_too_many(shape):
    lines = [
        shape.format("".join(f"  k{i}: 1\n" if "\n" in shape else "1, " for i in range(n))) for n in (10_000, 80_000)
    ]
    few, many = map(steps, lines)
    assert many < 1.1 * few


BEGINNINGS = (b"\x1f\x8b\x08", b"\xfd7zXZ\x00", b"PAR1", b"[", b"{", b'{"a":', b"\xff\xfe{\x00", b"a,b\n1")
NAMES = ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.jsonl.gz", "a.csv.xz", "a.parquet", "a.json.gz")
CONTENT = st.tuples(st.sampled_from((b"", *BEGINNINGS)), st.binary(max_size=200)).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(content=CONTENT, name=st.sampled_from(NAMES), is_packed=st.booleans())
def test_whatever_a_file_holds_it_is_read_or_refused_with_its_name(tmp_path_factory, content, name, is_packed):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(gzip.compress(content)[:-4] if is_packed else content)
    readers = (lambda: read_rows(path, advice="mend it"), lambda: stream_examples(path), lambda: [read_json(path)])
    for read in readers:
        message = str(path)
        try:
            list(read())
        except InputError as error:
            message = str(error)
        assert str(path) in message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=4)
)


@given(value=JSON)
def test_json_is_read_as_json_has_it(value):
    assert files.from_json(json.dumps(value)) == value


def test_a_log_on_a_full_disk_says_which_file_it_was(tmp_path):
    program = textwrap.dedent(f"""
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        from pathlib import Path
        from safereason.runs.records import RecordLog, read_records
        log = RecordLog(Path({str(tmp_path / "log.jsonl")!r}))
        try:
            for number in range(1000):
                log.append({{"number": number}})
        except OSError as error:
            print(error.filename)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{tmp_path / 'log.jsonl'}\n", done.stderr
    with RecordLog(tmp_path / "log.jsonl") as log:
        log.append({"number": "after"})
    numbers = [row["number"] for row in files.json_rows(tmp_path / "log.jsonl")]
    assert numbers == [*range(len(numbers) - 1), "after"]


def test_a_small_document_takes_little_memory(tmp_path):
    write_json(tmp_path / "small.json", {"key": "value"})
    assert peak(lambda: read_json(tmp_path / "small.json")) < 1 << 20
