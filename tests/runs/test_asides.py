"""What killed processes left half written is cleared away, and never what a living one writes."""

import os
import subprocess
import sys
from pathlib import Path

from safereason.runs import asides
from safereason.runs.directory import RunDirectory
from safereason.runs.records import write_text


def gone() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left(folder: Path, number: int, name: str = "report.html") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}.{number}.part"
    path.write_text("half")
    return path


def test_only_what_a_process_left_that_is_gone_is_cleared(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        living = [left(tmp_path, other.pid), left(tmp_path, os.getpid()), left(tmp_path, 1)]
        dead = [left(tmp_path / "inner" / "deep", gone()), left(tmp_path, gone(), "a b.json")]
        folder = tmp_path / f".model.{gone()}.part"
        left(folder, os.getpid())
        kept = [tmp_path / name for name in (".part", ".x.part", "x.1.part", f".x.{gone()}.parts", ".x.12a.part")]
        for path in kept:
            path.write_text("mine")
        asides.clear(tmp_path)
        assert all(path.exists() for path in (*living, *kept))
        assert not any(path.exists() for path in (*dead, folder))
    finally:
        other.communicate(b"\n")


def test_numbers_repeat_in_a_container_so_a_new_run_clears_its_own(tmp_path):
    mine = left(tmp_path, os.getpid())
    with RunDirectory(tmp_path, "eval/xstest", "r", "", {}) as run:
        assert not mine.exists()
        assert run.path == tmp_path


def test_a_resumed_run_clears_what_was_left_in_all_of_it(tmp_path):
    with RunDirectory(tmp_path / "run", "rl", "r", "", {}) as run:
        write_text(run.path / "rows.txt", "whole")
    halves = [
        left(run.path, gone(), "manifest.json"),
        left(run.path / "checkpoints", gone(), "x"),
        left(run.path / f".model.{gone()}.part", 7),
    ]
    with RunDirectory(tmp_path / "run", "rl", "r", "", {}, on_existing="resume"):
        assert not any(half.exists() for half in halves)
        assert (run.path / "rows.txt").read_text() == "whole"


def test_a_file_that_is_written_again_clears_what_was_left_of_it_and_of_no_other(tmp_path):
    number = gone()
    mine, deeper = left(tmp_path, number), left(tmp_path, number, "old.report.html")
    living, other = left(tmp_path, os.getppid()), left(tmp_path, number, "table.csv")
    write_text(tmp_path / "report.html", "whole")
    assert not mine.exists()
    assert all(path.exists() for path in (deeper, living, other))
    assert (tmp_path / "report.html").read_text() == "whole"
