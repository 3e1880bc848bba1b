"""`guard classify --ray` as it is typed: a worker and the program killed, gone on with, and what it refuses."""

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import micro_guard
import program
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from program import Running, refusal_line, safereason

from safereason.cli import errors
from safereason.cli.app import app
from safereason.runs.records import Record, read_records

ROWS, BLOCK = 448, 64


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a guard, its policy, and the same rows as JSONL and, in two files, as parquet."""
    work = tmp_path_factory.mktemp("bulk")
    micro_guard.save_guard(work / "guard")
    (work / "house.yaml").write_text(micro_guard.POLICY)
    rows = [{"prompt": f"question {i}", "id": f"r{i}"} for i in range(ROWS)]
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (work / "rows").mkdir()
    for name, part in (("a", rows[:100]), ("b", rows[100:])):
        pq.write_table(pa.Table.from_pylist(part), work / "rows" / f"{name}.parquet", row_group_size=70)
    return work


def on_ray(work: Path, out: Path, workers: int = 2) -> list[str]:
    words = ("--model", work / "guard", "--policy", work / "house.yaml", "--ray", "--workers", workers)
    words += ("--batch-rows", BLOCK)
    return ["guard", "classify", str(work / "rows"), *map(str, words), "--out", str(out)]


def started(*command: str) -> Running:
    """The command in a process that the test sends signals to; skips where Ray is not installed."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'safereason[cluster]'")
    return program.started(*command)


def wait_until(running: Running, what: Callable[[], object]) -> None:
    while not what():
        assert running.poll() is None, running.communicate()[1]
        time.sleep(0.02)


def parts_of(out: Path) -> dict[str, int]:
    """Finished blocks, by name the time they were written."""
    return {file.name: file.stat().st_mtime_ns for file in out.glob("part-*.parquet")}


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    workers = []
    for child in process.children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::MapWorker"):
                workers.append(child)
        except psutil.Error:
            continue  # it has ended since
    return workers


def read(out: Path) -> list[Record]:
    rows: list[Record] = pq.read_table(out).to_pylist()
    return sorted(rows, key=lambda row: row["row"])


def test_a_folder_for_temporary_files_whose_name_is_too_long_is_one_line(work: Path, tmp_path: Path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'safereason[cluster]'")
    long = tmp_path / ("long" * 20)
    long.mkdir()
    done = safereason(*on_ray(work, tmp_path / "out"), TMPDIR=str(long))
    assert done.returncode == 2
    assert refusal_line(done) == (
        f"error: {long}: the name of this folder for temporary files is too long for Ray's sockets; set TMPDIR to a "
        "shorter one"
    )


@pytest.mark.slow
def test_sigterm_ends_it_as_any_command(work: Path, tmp_path: Path):
    out = tmp_path / "out"
    running = started(*on_ray(work, out, workers=1))
    wait_until(running, lambda: parts_of(out))
    running.send_signal(signal.SIGTERM)
    _, stderr = running.communicate(timeout=120)
    assert (running.returncode, stderr.splitlines()[-1]) == (143, "interrupted by SIGTERM"), stderr
    assert len(parts_of(out)) < ROWS // BLOCK


@pytest.mark.slow
def test_killed_workers_and_a_killed_program_lose_nothing(work: Path, tmp_path: Path):
    out, command = tmp_path / "out", on_ray(work, tmp_path / "out")
    running = started(*on_ray(work, out, workers=1))
    wait_until(running, lambda: parts_of(out))
    orphans = workers_of(psutil.Process(running.pid))
    running.kill()
    running.wait()
    assert not psutil.wait_procs(orphans, timeout=60)[1], "they may write on for a moment"
    before = parts_of(out)
    assert 0 < len(before) < ROWS // BLOCK

    running = started(*command, "--resume")
    wait_until(running, lambda: len(parts_of(out)) > len(before))
    victim = workers_of(psutil.Process(running.pid))[0]
    victim.send_signal(signal.SIGKILL)
    assert len(parts_of(out)) < ROWS // BLOCK
    _, stderr = running.communicate()
    assert running.returncode == 0, stderr
    assert not victim.is_running()
    assert {name: parts_of(out)[name] for name in before} == before

    plain = safereason(
        "guard", "classify", work / "rows.jsonl", *command[3:7], "--out", tmp_path / "plain.jsonl", OMP_NUM_THREADS="1"
    )
    assert plain.returncode == 0, plain.stderr
    expected = list(read_records(tmp_path / "plain.jsonl"))
    rows = read(out)
    assert [{key: row[key] for key in record} for row, record in zip(rows, expected, strict=True)] == expected
    unsafe = sum(record["label"] == "unsafe" for record in expected)
    assert f"{ROWS} rows ({len(before) * BLOCK} from before): {unsafe} unsafe, {ROWS - unsafe} safe" in stderr
    assert not [file for file in out.iterdir() if file.name.startswith(".part-")]


def test_without_ray_one_line_says_how_to_get_it_and_nothing_is_written(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = on_ray(work, tmp_path / "out")
    assert errors.guarded(lambda: app(words, standalone_mode=False)) == 2
    assert capsys.readouterr().err == "error: --ray: Ray is not installed; pip install 'safereason[cluster]'\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--workers", "2"], "--workers 2: is for --ray"),
        (["--gpus-per-worker", "0.5"], "--gpus-per-worker 0.5: is for --ray"),
        (["--ray", "--gpus-per-worker", "0"], "--gpus-per-worker 0: is no number of GPUs"),
        (["--ray", "--gpus-per-worker", "1.5"], "--gpus-per-worker 1.5: is no number of GPUs"),
        (["--ray", "--gpus-per-worker", "nan"], "--gpus-per-worker nan: is no number of GPUs"),
        (["--ray", "--gpus-per-worker", "2"], "only vLLM spreads a model over several GPUs; pass --model vllm/"),
        (["--model", "openai/x", "--precision", "bf16"], "--precision bf16: openai/x computes on its server"),
        (
            ["--ray", "--model", "openai/x", "--gpus-per-worker", "1"],
            "1: openai/x runs on its server",
        ),
        (["--ray", "--format", "csv"], "--format csv: --ray reads parquet"),
        (["--ray", "--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
    ],
)
def test_options_that_do_not_go_together_are_refused(work: Path, words: list[str], error: str):
    done = safereason("guard", "classify", work / "rows", "--model", work / "guard", *words)
    assert done.returncode == 2
    assert error in refusal_line(done)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ([], "--ray: writes to a folder; name it with --out"),
        (["--out", "{work}/rows.jsonl"], "is a file; --ray writes to a folder"),
        (["--out", "{work}/rows/out"], "lies in what is read"),
        (["--out", "{work}/new", "--batch-rows", "100"], "give a multiple of 64"),
        (["--out", "{work}/new", "--field", "prompt=question"], "has no `question`"),
    ],
)
def test_what_ray_cannot_write_or_read_is_refused(
    work: Path, words: list[str], error: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("safereason.guard.bulk.check_installed", lambda: None)
    arguments = ["guard", "classify", str(work / "rows"), "--model", str(work / "guard"), "--ray"]
    words = arguments + [word.format(work=work) for word in words]
    assert errors.guarded(lambda: app(words, standalone_mode=False)) == 2
    assert error in capsys.readouterr().err
    assert not (work / "new").exists()
