"""Exit codes, and one line on stderr whatever goes wrong."""

import errno
import logging
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from program import COMMAND, refusal_line, safereason

from safereason.cli import errors, signals
from safereason.errors import BarNotMet, InputError, StageFailed


def fails(error: BaseException):
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["frobnicate"], "error: No such command 'frobnicate'; see `safereason --help`"),
        (["evla"], "error: No such command 'evla'. Did you mean 'eval'?; see `safereason --help`"),
        (["sft"], "error: Missing option '--recipe'; see `safereason sft --help`"),
        (
            ["sft", "--recipe", "tars-smoke", "--resume", "--overwrite"],
            "error: --resume and --overwrite exclude each other",
        ),
        (["sft", "--recipe", "tars-smok"], "error: tars-smok: no such recipe; did you mean tars-smoke?"),
        (
            ["rl", "--recipe", "tars-smoke", "rl.kl_coeff=1"],
            "error: override 'rl.kl_coeff=1': rl.kl_coeff: unknown key",
        ),
        (["eval", "harmbench"], "error: which model? name one with --model, or a recipe with --recipe"),
        (["eval", "harmbench", "--limit", "0"], "error: Invalid value for '--limit'"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(arguments, line):
    done = safereason(*arguments)
    assert done.returncode == 2
    assert refusal_line(done).startswith(line)


def test_a_group_without_a_command_shows_its_help():
    done = safereason("recipe")
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: safereason recipe")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("rows.jsonl:3: bad"), 2, "error: rows.jsonl:3: bad"),
        (StageFailed("out of memory\nat step 3"), 1, "error: out of memory at step 3"),
        (BarNotMet("dsr is 0.1"), 3, "error: dsr is 0.1"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/out"),
            2,
            "error: /out: permission denied; choose a place",
        ),
        (OSError(errno.EROFS, "Read-only file system", "/out"), 1, "error: /out: read-only file system"),
        (ZeroDivisionError("by zero"), 1, "error: unexpected ZeroDivisionError: by zero; -v shows the traceback"),
        (MemoryError(), 1, "error: out of memory (no more can be had); take fewer tokens or rows at a time"),
        (
            RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
            1,
            "error: out of memory (CUDA error: out of memory Compile",
        ),
        (
            RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors"),
            1,
            "error: the GPU is busy (CUDA error: all CUDA-capable devices are busy or unavailable); wait",
        ),
        (InputError("evil \x1b[2J name"), 2, "error: evil \\x1b[2J name"),
    ],
)
def test_each_kind_of_error_has_its_line_and_code(error, code, line, capsys):
    assert errors.guarded(fails(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_an_interruption_is_told_whatever_fails_on_the_way_out(capsys):
    def call() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("Connection closed by peer")

    assert errors.guarded(call) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_process_of_a_launcher_leaves_it_to_that_to_tell_of_an_interruption(capsys, monkeypatch):
    for name, value in {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert errors.guarded(fails(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == ""


def test_a_traceback_is_shown_only_when_verbose(capsys, monkeypatch):
    monkeypatch.setattr(errors.LOGGER, "level", logging.DEBUG)
    errors.LOGGER.manager._clear_cache()
    assert errors.guarded(fails(ZeroDivisionError("by zero"))) == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.undo()
    errors.LOGGER.manager._clear_cache()
    assert not errors.LOGGER.isEnabledFor(logging.DEBUG)


def test_verbose_shows_the_traceback_of_the_installed_command():
    done = safereason("recipe", "show", "nope", "-v")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("error: nope: no such recipe")


def test_a_closed_pipe_is_silent():
    shell = f"{COMMAND} recipe show tars-1.5b | head -c 1; {COMMAND} data ls | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    assert (len(done.stdout), done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not there")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run([COMMAND, "recipe", "ls"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "error: output: no space left on device\n")


@pytest.mark.parametrize(
    ("line", "code", "stderr"),
    [
        ("recipe ls >&-", 1, b"error: output: it is closed\n"),
        ("recipe ls >&- 2>&-", 1, b""),
        ("recipe ls <&- >&- 2>&-", 1, b""),
        ("recipe ls 2>&- >/dev/null", 0, b""),
    ],
)
def test_results_are_not_lost_to_a_closed_stream_without_a_word(line, code, stderr):
    done = subprocess.run(["bash", "-c", f"{COMMAND} {line}"], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", stderr)


HANG_UP = """
import os, signal
from safereason.cli import signals
signals.take()
os.kill(os.getpid(), signal.SIGHUP)
print("went on")
"""
TWICE = """
import os, signal
from safereason.cli import signals
signals.take()
try:
    os.kill(os.getpid(), signal.SIGTERM)
except signals.Signalled:
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGHUP)
    print("ended in peace")
signals.ECHO = 0.0
try:
    os.kill(os.getpid(), signal.SIGTERM)
except signals.Signalled:
    print("ended again")
"""
FORKED = """
import os, signal, time
from safereason.cli import signals
signals.take()
told, tells = os.pipe()
child = os.fork()
if child == 0:
    os.write(tells, b"!")
    time.sleep(30)
    os._exit(1)
os.read(told, 1)
os.kill(child, signal.SIGTERM)
print(-os.WTERMSIG(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
@pytest.mark.parametrize(
    ("sent", "code", "last"),
    [
        (signal.SIGINT, 130, "interrupted\n"),
        (signal.SIGTERM, 143, "interrupted by SIGTERM\n"),
        (signal.SIGHUP, 129, "interrupted by SIGHUP\n"),
    ],
)
def test_a_signal_ends_with_128_and_its_number(tmp_path, sent, code, last):
    fifo = tmp_path / "rows.jsonl"
    os.mkfifo(fifo)
    process = subprocess.Popen(
        [COMMAND, "data", "verify", fifo], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with fifo.open("w"):  # opens once the command reads, and then keeps it waiting
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", last)


def test_a_hang_up_that_is_ignored_stays_ignored():
    script = f"trap '' HUP; exec {sys.executable} -c '{HANG_UP}'"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr


def test_a_signal_that_comes_twice_at_once_does_not_break_into_the_end():
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("ended in peace\nended again\n", "")


def test_an_interruption_reaches_other_processes_as_it_is():
    got = pickle.loads(pickle.dumps(signals.Signalled(signal.SIGTERM)))
    assert isinstance(got, KeyboardInterrupt)
    assert (got.number, str(got)) == (signal.SIGTERM, "SIGTERM")


def test_a_process_that_is_forked_off_ends_by_the_signal_itself():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("-15\n", "")


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "safereason", "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == safereason("--version").stdout
