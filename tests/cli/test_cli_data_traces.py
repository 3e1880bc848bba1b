"""`safereason data traces` as installed: a plan with its cost, a run that is killed, and what is refused."""

import json
import signal
from pathlib import Path

import micro_guard
import pytest
from program import python, refusal_line, safereason

from safereason.data.example import read_examples
from safereason.runs.records import read_records

RECIPE = """
extends: tars-smoke
data:
  traces: [{{source: sample-harmless, prompts: 12}}]
  teacher:
    model: {model}
    samples: 2
    prefix: "<think>\\nhm\\n</think>\\n\\n"
    sampling: {{temperature: 1.0, max_new_tokens: 24}}
"""

KILLED = """
import os, signal
from safereason.cli.app import main
from safereason.runs.records import RecordLog

append = RecordLog.append
def append_then_die(self, record):
    append(self, record)
    if sum(1 for _ in self.path.open()) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
RecordLog.append = append_then_die
main()
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    path = folder / "taught.yaml"
    path.write_text(RECIPE.format(model=micro_guard.save_guard(folder / "teacher", unsafe=0.5)))
    return path


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory) -> dict:
    done = safereason("data", "traces", "--recipe", recipe, "--root", tmp_path_factory.mktemp("whole"), "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        f"traces: {json.loads(done.stdout)['metrics']['kept']} of 24 replies"
    )
    return json.loads(done.stdout)


def test_a_teacher_writes_traces(whole):
    run, metrics = Path(whole["run"]), whole["metrics"]
    assert run.parts[-3:-1] == ("data", "traces")
    assert (metrics["prompts"], metrics["replies"], metrics["prompts_without_trace"]) == (12, 24, 0)
    assert metrics["kept"] == len(read_examples(run / "traces.parquet")) >= 12
    rows = json.loads(safereason("data", "show", run / "replies.jsonl", "--json", "--limit", 24).stdout)
    assert sum(row["outcome"] == "kept" for row in rows) == metrics["kept"]


def test_it_is_killed_and_resumed(recipe, whole, tmp_path):
    run = tmp_path / "data" / "traces" / Path(whole["run"]).name
    command = ("data", "traces", "--recipe", recipe, "--root", tmp_path)
    assert python(KILLED, *command).returncode == -signal.SIGKILL
    assert len(list(read_records(run / "replies.jsonl"))) == 7
    assert not (run / "traces.parquet").exists()
    refused = safereason("data", "traces", "--recipe", recipe, "--root", tmp_path)
    assert refused.returncode == 2
    assert "pass --resume to go on" in refusal_line(refused)
    done = safereason("data", "traces", "--recipe", recipe, "--root", tmp_path, "--resume")
    assert done.returncode == 0, done.stderr
    for name in ("replies.jsonl", "traces.parquet", "metrics.json"):
        assert (run / name).read_bytes() == (Path(whole["run"]) / name).read_bytes()


def test_a_dry_run_says_what_it_comes_to_and_asks_nobody(recipe, tmp_path):
    done = safereason(
        "data",
        "traces",
        "--recipe",
        recipe,
        "--model",
        "openai/none",
        "--base-url",
        "http://127.0.0.1:9/v1",
        "--limit",
        5,
        "--price",
        "1000000,2000000",
        "--dry-run",
        "--json",
        "data.teacher.samples=3",
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)["plan"]
    assert (plan["teacher"], plan["prompts"], plan["replies"]) == ("openai/none", 5, 15)
    assert plan["tokens written, at most"] == 15 * 24
    assert plan["USD, at most about"] == plan["tokens read, about"] + 2 * 15 * 24
    assert sum(size["replies"] for size in plan["sources"].values()) == 15
    assert not list(tmp_path.iterdir())


def test_a_dry_run_on_a_terminal_of_a_recipe_without_a_teacher(tmp_path):
    text = safereason(
        "data",
        "traces",
        "--recipe",
        "tars-smoke",
        "--model",
        "openai/none",
        "--dry-run",
        "data.traces=[{source: sample-harmless, prompts: 7}]",
        cwd=tmp_path,
    ).stdout
    assert {("prompts", "7"), ("teacher", "openai/none")} <= {tuple(line.split()[:2]) for line in text.splitlines()}


@pytest.mark.parametrize("price", ["1", "1,2,3", "a,b", "-1,2", "1,nan", "1,inf"])
def test_a_price_that_is_none_is_one_line(recipe, price):
    done = safereason("data", "traces", "--recipe", recipe, f"--price={price}", "--dry-run")
    assert done.returncode == 2
    assert refusal_line(done).startswith(f"error: --price {price}: two amounts in USD per million tokens")


def test_nothing_to_answer_and_no_teacher_are_one_line(tmp_path):
    for arguments, problem in (
        (("--model", "openai/none"), "data.traces leaves no prompt for a teacher to answer"),
        ((), "it names no teacher; pass --model, or set data.teacher.model"),
    ):
        done = safereason("data", "traces", "--recipe", "tars-smoke", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert problem in refusal_line(done)
    assert not list(tmp_path.iterdir())
