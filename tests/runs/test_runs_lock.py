"""One process at a time at a file, and what files hold."""

import multiprocessing
from pathlib import Path

import pytest

from safereason.errors import InputError, StageFailed
from safereason.runs.lock import locked


def test_a_file_is_held_by_one_under_all_its_names_and_no_lock_is_left(tmp_path: Path):
    file, other = tmp_path / "deep" / "out", tmp_path / "other"
    with locked(file):
        other.symlink_to(file)
        for name in (file, other, tmp_path / "deep" / ".." / "deep" / "out"):
            with (
                pytest.raises(StageFailed, match="another process is writing this folder; wait for it"),
                locked(name, "folder"),
            ):
                pass
    with locked(file):
        pass
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_place_where_nothing_can_be_written_is_said(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        with pytest.raises(InputError, match="cannot be written"), locked(path):
            pass


def _append(path: Path, start: "multiprocessing.synchronize.Event") -> None:
    start.wait()
    for _ in range(30):
        try:
            with locked(path):
                text = path.read_text() if path.exists() else ""
                path.write_text(text + "x")
        except StageFailed:
            continue


def test_those_that_hold_it_never_overlap(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    start, path = context.Event(), tmp_path / "out"
    processes = [context.Process(target=_append, args=(path, start)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert set(path.read_text()) == {"x"}
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
