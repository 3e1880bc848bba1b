"""`safereason attack convert`, as a command of its own."""

import json
from pathlib import Path

import pytest
import typer

from safereason.cli import errors
from safereason.cli.attack_convert import EXAMPLES, convert

PAIR = Path("jailbreakbench/attack-artifacts/PAIR/black_box/llama-2-7b-chat-hf.json")


@pytest.fixture
def run(capfdbinary: pytest.CaptureFixture[bytes]):
    """Runs the command in this process; gives the exit code, stdout and stderr."""
    app = typer.Typer()
    app.command("convert", epilog=EXAMPLES)(convert)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = errors.guarded(lambda: app([*map(str, arguments)], standalone_mode=False))
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    file = tmp_path / "cases.jsonl"
    rows = [
        {"behavior": "harmbench/a", "attack": "prefill", "prompt": "p", "prefix": "Sure, é", "label": True},
        {"behavior": "harmbench/b", "attack": "prefill", "prompt": "q", "prefix": "Sure", "label": False},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_stdout_has_the_file_and_stderr_what_was_left_out(run, ours: Path):
    code, out, stderr = run(ours, "--to", "harmbench")
    assert code == 0
    assert json.loads(out) == {"a": [{"test_case": "p", "label": 1}], "b": [{"test_case": "q", "label": 0}]}
    assert stderr == "harmbench: left out, as HarmBench's files have no place for it: attack (2), prefix (2)\n"


def test_there_and_back_by_files(run, ours: Path, tmp_path: Path):
    there, back = tmp_path / "prefill.json", tmp_path / "back.jsonl"
    code, out, stderr = run(ours, "--to", "harmbench", "--out", there)
    assert (code, out) == (0, f"2 rows in {there}; attack success rate 0.500\n")
    assert stderr.startswith("harmbench: left out")
    assert run(there, "--to", "jsonl", "--out", back) == (0, f"2 rows in {back}; attack success rate 0.500\n", "")
    rows = [json.loads(line) for line in back.read_text().splitlines()]
    assert [(r["behavior"], r["attack"], r["prompt"], r["prefix"], r["label"]) for r in rows] == [
        ("harmbench/a", "prefill", "p", None, True),
        ("harmbench/b", "prefill", "q", None, False),
    ]


def test_the_published_artifact(run, data_home: Path, tmp_path: Path):
    out = tmp_path / "PAIR.json"
    code, printed, stderr = run(data_home / PAIR, "--to", "harmbench", "--out", out)
    assert (code, printed) == (0, f"100 rows in {out}; attack success rate 0.000\n")
    assert stderr.endswith("without a prompt, so that their list is empty: 96\n")
    document = json.loads(out.read_text())
    assert sum(map(len, document.values())) == 4
    assert len(document) == 100


def test_a_file_is_not_overwritten_unasked_nor_by_itself(run, ours: Path, tmp_path: Path):
    before, other = ours.read_bytes(), tmp_path / "other"
    other.write_text("kept")
    code, _, stderr = run(ours, "--to", "harmbench", "--out", other)
    assert (code, other.read_text()) == (2, "kept")
    assert "exists already" in stderr
    assert "is the file that is read" in run(ours, "--to", "harmbench", "--out", ours, "--overwrite")[2]
    assert ours.read_bytes() == before
    assert run(ours, "--to", "harmbench", "--out", other, "--overwrite")[0] == 0
    assert set(json.loads(other.read_text())) == {"a", "b"}


def test_a_form_that_is_not_known_is_refused_in_one_line(run, ours: Path):
    code, out, stderr = run(ours, "--to", "csv")
    assert (code, out, stderr.count("\n")) == (2, "", 1)
    assert "jsonl" in stderr


def test_behaviors_that_are_not_jailbreakbenchs_are_refused_in_one_line(run, ours: Path, data_home: Path):
    code, out, stderr = run(ours, "--to", "jailbreakbench")
    assert (code, out, stderr.count("\n")) == (2, "", 1)
    assert "harmbench/a: is none of JailbreakBench's" in stderr


def test_a_missing_file_is_said(run, tmp_path: Path):
    out = tmp_path / "out"
    out.write_text("")
    code, _, stderr = run(tmp_path / "none", "--to", "jsonl", "--out", out, "--overwrite")
    assert (code, stderr.count("\n")) == (2, 1)
    assert "none: cannot be read" in stderr
