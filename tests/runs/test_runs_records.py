"""Append-only records and files that are whole or absent."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from peak import peak

from safereason.errors import InputError
from safereason.runs.records import (
    Record,
    RecordLog,
    keep_records,
    line_of,
    read_json,
    read_records,
    sort_records,
    write_bytes,
    write_json,
    write_text,
)

VALUES = st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=8), st.just('{"id": 1}\n'))
RECORDS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), min_size=1, max_size=4)


def write(path: Path, records: list[Record]) -> None:
    with RecordLog(path) as log:
        for record in records:
            log.append(record)


@pytest.fixture(scope="module")
def log_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records") / "log.jsonl"


@settings(max_examples=50)
@given(records=RECORDS)
def test_what_is_appended_is_read_back(log_path: Path, records: list[Record]):
    log_path.unlink(missing_ok=True)
    write(log_path, records)
    assert list(read_records(log_path)) == records
    assert log_path.read_bytes().count(b"\n") == len(records)


def cut_and_go_on(path: Path, records: list[Record], more: list[Record], cut: int) -> None:
    """What holds of a log of `records` that is cut at a byte, read, opened again and given `more`."""
    whole = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()[:cut]
    path.write_bytes(whole)
    read = list(read_records(path))
    assert read == records[: len(read)]
    assert len(read) >= whole.count(b"\n")
    write(path, more)
    assert list(read_records(path)) == [*read, *more]


def test_a_log_cut_at_every_byte_goes_on_from_its_whole_records(tmp_path: Path):
    records = [{"id": 1, "text": "é\n"}, {}, {"deep": {"list": ["}", 2]}}]
    for cut in range(len(json.dumps(records))):
        cut_and_go_on(tmp_path / "log.jsonl", records, [{"id": 9}], cut)
    assert list(read_records(tmp_path / "log.jsonl")) == [*records, {"id": 9}]


@settings(max_examples=50)
@given(records=RECORDS, more=RECORDS, cut=st.integers(0, 150))
def test_a_log_cut_anywhere_goes_on_from_its_whole_records(
    log_path: Path, records: list[Record], more: list[Record], cut: int
):
    cut_and_go_on(log_path, records, more, cut)


def test_a_whole_record_that_lacks_its_newline_is_kept(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"id": 1}\n{"id": 2}')
    assert list(read_records(path)) == [{"id": 1}, {"id": 2}]
    write(path, [{"id": 3}])
    assert path.read_bytes() == b'{"id": 1}\n{"id": 2}\n{"id": 3}\n'


@pytest.mark.parametrize("torn", [b'{"id": ', b'{"id": "\xc3', b"2", b'"x"', b"\x00\x00\x00\x00", b"\xff\xfe{"])
def test_a_torn_last_line_is_passed_over_and_then_cut_off(tmp_path: Path, torn: bytes):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"id": 1}\n' + torn)
    assert list(read_records(path)) == [{"id": 1}]
    RecordLog(path).close()
    assert path.read_bytes() == b'{"id": 1}\n'


KILLED = """
import os, signal, sys
from pathlib import Path
from safereason.runs.records import RecordLog

log = RecordLog(Path(sys.argv[1]))
for i in range(3):
    log.append({"id": i})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_record_is_kept_once_append_returned_even_if_the_process_is_killed(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode == -signal.SIGKILL
    assert list(read_records(path)) == [{"id": i} for i in range(3)]


def test_a_log_makes_its_folder_and_may_be_closed_twice(tmp_path: Path):
    log = RecordLog(tmp_path / "a" / "b" / "log.jsonl")
    log.append({"text": "naïve"})
    log.close()
    log.close()
    assert (tmp_path / "a" / "b" / "log.jsonl").read_bytes() == '{"text": "naïve"}\n'.encode()


def test_a_folder_cannot_be_read_as_records(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot be read .*check the path"):
        list(read_records(tmp_path))


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b'{"id": 1}\n{"id": \n{"id": 3}\n', ":2: not JSON"),
        (b'{"id": 1}\nid: 2\n', ":2: not JSON"),
        (b"\n\n[1, 2]\n", ":3: a JSON object is expected, not a list"),
        (b'"x"\n{"id": 2}\n', ":1: a JSON object is expected, not a text"),
        (b'{"id": "\xff"}\n{"id": 2}\n', ":1: not JSON"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, content: bytes, where: str):
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        list(read_records(path))
    assert str(error.value).startswith(f"{path}{where}")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"none.jsonl: cannot be read \(No such file"):
        list(read_records(tmp_path / "none.jsonl"))


def test_blank_lines_are_passed_over(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'\n{"id": 1}\n  \n{"id": 2}\n\n')
    assert list(read_records(path)) == [{"id": 1}, {"id": 2}]


@settings(max_examples=50)
@given(records=RECORDS, numbers=st.sets(st.integers(0, 3)))
def test_only_the_records_asked_for_are_kept(log_path: Path, records: list[Record], numbers: set[int]):
    log_path.unlink(missing_ok=True)
    write(log_path, [{**record, "n": n} for n, record in enumerate(records)])
    before = list(read_records(log_path))
    keep_records(log_path, lambda record: record["n"] in numbers)
    assert list(read_records(log_path)) == [record for n, record in enumerate(before) if n in numbers]


def test_keeping_records_holds_one_at_a_time(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    write(path, [{"n": n, "text": "é" * 5000} for n in range(400)])
    size = path.stat().st_size
    assert peak(lambda: keep_records(path, lambda record: record["n"] < 399)) < size / 10
    assert [record["n"] for record in read_records(path)] == list(range(399))


@settings(max_examples=50)
@given(order=st.permutations(range(5)))
def test_records_are_put_in_order_whichever_came_first(log_path: Path, order: list[int]):
    log_path.unlink(missing_ok=True)
    write(log_path, [{"n": n, "text": "\u2028ä"} for n in range(5)])
    expected = log_path.read_bytes()
    log_path.unlink()
    write(log_path, [{"n": n, "text": "\u2028ä"} for n in order])
    sort_records(log_path, lambda record: int(record["n"]))
    assert log_path.read_bytes() == expected


def test_keeping_records_of_a_file_that_is_not_there_makes_none(tmp_path: Path):
    keep_records(tmp_path / "log.jsonl", lambda record: True)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=30)
@given(content=st.binary(max_size=64))
def test_files_are_written_byte_for_byte(log_path: Path, content: bytes):
    write_bytes(log_path, content)
    assert log_path.read_bytes() == content
    assert [p.name for p in log_path.parent.iterdir()] == [log_path.name]


def test_a_file_that_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(OSError, match="directory"):
        write_text(tmp_path / "taken", "text")
    assert [p.name for p in tmp_path.rglob("*")] == ["taken", "file"]


def test_a_failed_write_leaves_the_old_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file.json"
    write_json(path, {"old": True})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"new": True})
    assert read_json(path) == {"old": True}
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_encoded_writes_nothing(tmp_path: Path):
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "file", "half a pair: \ud83d")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("document", [{"a": [1, None, "é"]}, [], "x", 1.5])
def test_json_is_written_and_read_back(tmp_path: Path, document: Any):
    write_json(tmp_path / "deep" / "file.json", document)
    text = (tmp_path / "deep" / "file.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "deep" / "file.json") == json.loads(text) == document
    assert text.endswith("\n")


def test_json_that_is_missing_or_broken_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"none.json: cannot be read"):
        read_json(tmp_path / "none.json")
    (tmp_path / "broken.json").write_bytes(b"\xff{")
    with pytest.raises(InputError, match=r"broken.json: not JSON"):
        read_json(tmp_path / "broken.json")


@given(st.text(max_size=8))
@example("\ud800\u2028\u2029\x85\x9b\x7f\x00\n")
def test_a_line_is_one_for_every_reader_and_holds_any_text(text: str):
    line = line_of({"id": text})
    assert len(line.decode("utf-8").splitlines()) == 1
    assert not {"\x7f", "\x9b", "\x1b"} & set(line.decode("utf-8"))
    assert json.loads(line) == {"id": text}


def test_a_torn_line_longer_than_a_block_is_cut(log_path: Path):
    log_path.unlink(missing_ok=True)
    long = {"text": "a" * 200_000}
    cut_and_go_on(log_path, [long, long], [{"id": 1}], 350_000)
    assert list(read_records(log_path)) == [long, {"id": 1}]
