"""The campaign's own tools: a fault comes when it is to, and every kind of damage to a result is counted."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from campaign import damage, records
from campaign.faults import Fault
from campaign.tally import Tally, table
from hypothesis import given
from hypothesis import strategies as st

TESTS = Path(__file__).parent
WRITES = """
import os, sys
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "a.part").write_text("1")
(folder / "a.part").replace(folder / "a")
(folder / "b").write_text("2")
"""


def attacked(folder: Path, fault: Fault) -> "subprocess.CompletedProcess[str]":
    """A process that makes a file aside, renames it and makes another one, with a fault."""
    path = f"{TESTS / 'campaign' / 'site'}:{TESTS}"
    environment = {"PYTHONPATH": path, "CAMPAIGN_FAULT": fault.to_json()}
    command = [sys.executable, "-c", WRITES, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("kind", "at", "code", "left"),
    [
        ("none", 0, 0, {"a", "b"}),
        ("kill", 0, -signal.SIGKILL, set()),
        ("kill", 1, -signal.SIGKILL, {"a.part"}),
        ("kill", 2, -signal.SIGKILL, {"a"}),
        ("kill", 3, 0, {"a", "b"}),
        ("terminate", 1, -signal.SIGTERM, {"a.part"}),
        ("disk", 2, 1, {"a"}),
        ("memory", 1, 1, {"a.part"}),
        ("size", 0, 1, {"a.part"}),
    ],
)
def test_a_fault_comes_at_the_write_it_is_told(kind: str, at: int, code: int, left: set[str], tmp_path: Path):
    work = tmp_path / "work"
    work.mkdir()
    log = str(tmp_path / "log") if kind == "none" else ""
    done = attacked(work, Fault(kind, str(work), at, log))  # type: ignore[arg-type]
    assert done.returncode == code, done.stderr
    assert {path.name for path in work.iterdir()} == left
    if kind == "none":
        lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
        assert [event for event, _ in lines] == ["open", "os.rename", "open"]
    if kind in ("disk", "memory", "size"):
        assert {"disk": "No space left", "memory": "MemoryError", "size": "File too large"}[kind] in done.stderr


GOOD = [{"id": "1", "text": "a"}, {"id": "2", "text": "b"}, {"id": "3", "text": "c"}]


def folder_of(path: Path, rows: list[dict[str, str]], **files: str) -> Path:
    path.mkdir()
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, content in files.items():
        (path / name.replace("_", ".")).write_text(content)
    return path


@pytest.mark.parametrize(
    ("rows", "files", "expected_counts"),
    [
        (GOOD, {}, {}),
        (GOOD[:2], {}, {"lost": 1}),
        ([*GOOD, GOOD[0]], {}, {"doubled": 1}),
        ([*GOOD[:2], {"id": "3", "text": "d"}], {}, {"different": 1}),
        (GOOD[::-1], {}, {"different": 1}),
        (GOOD, {"metrics_json": '{"n": 2, "seconds": 5}'}, {"different": 1}),
        (GOOD, {"metrics_json": '{"n": 1, "seconds": 9}'}, {}),
        (GOOD, {"_x.1.part": ""}, {"partial_files": 1}),
        (GOOD, {"more_txt": ""}, {"different": 1}),
    ],
)
def test_what_went_wrong_with_a_result_is_counted(rows, files, expected_counts, tmp_path: Path):
    expected = folder_of(tmp_path / "expected", GOOD, metrics_json='{"n": 1, "seconds": 3}')
    result = folder_of(tmp_path / "result", rows, **{"metrics_json": '{"n": 1, "seconds": 4}', **files})
    tally = Tally("test", tmp_path / "keep")
    records.compare(tally, result, expected, records.files_under(expected), {"command": "x"})
    counts = {key: value for key, value in vars(tally.counts).items() if value}
    assert counts == expected_counts
    assert tally.counts.faults() == sum(expected_counts.values())
    assert bool(list((tmp_path).glob("keep/test/*/fault.json"))) == bool(expected_counts)


def test_a_missing_file_is_lost_and_a_broken_one_is_damaged(tmp_path: Path):
    expected = folder_of(tmp_path / "expected", GOOD, metrics_json="{}")
    result = folder_of(tmp_path / "result", GOOD)
    tally = Tally("test", tmp_path / "keep")
    records.compare(tally, result, expected, records.files_under(expected), {"command": "x"})
    assert tally.counts.lost == 1
    (result / "metrics.json").write_text('{"cut')
    assert list(records.damaged(result)) == ["metrics.json: JSONDecodeError"]


def test_the_table_sums_up(tmp_path: Path):
    tallies = [Tally(name, tmp_path) for name in ("kills", "fuzz")]
    tallies[0].counts.tried, tallies[1].counts.tried, tallies[1].counts.lost = 3, 4, 2
    *_, last = table(tallies).splitlines()
    assert last.split() == ["|", "all", "|", "7", "|", "2", *("|", "0") * 5, "|"]


@given(st.integers(0, 2**32))
def test_the_same_seed_does_the_same_damage(seed: int):
    damaged = [
        (
            damage.as_json({"a": [1, {"b": "c"}]}, random.Random(seed)),
            damage.rows(GOOD, random.Random(seed)),
            damage.as_yaml("a: 1\nb: [x, y]\nc:\n  d: e\n", random.Random(seed)),
        )
        for _ in range(2)
    ]
    assert damaged[0] == damaged[1]
