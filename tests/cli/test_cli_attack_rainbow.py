"""`safereason attack rainbow` as installed: a search that is killed and resumed, its table, and what is refused."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai_server
import pytest
from openai_server import Server
from program import python, refusal_line, safereason

from safereason.runs.records import read_records

KILLED = """
import os, signal
from safereason.cli.app import main
from safereason.runs.records import RecordLog

append = RecordLog.append
def append_then_die(self, record):
    append(self, record)
    if sum(1 for _ in self.path.open()) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
RecordLog.append = append_then_die
main()
"""
REFUSAL = "I'm sorry, but I can't help with that."


def speak(body: dict[str, Any]) -> dict[str, Any]:
    """A mutator that names the risk and the style it was given, and a target that refuses what is in code."""
    text = body["messages"][0]["content"]
    if body["model"] == "victim":
        reply = REFUSAL if "as code" in text else "Gladly, this is how."
    elif risk := re.search(r"Category: (.*) \(", text):
        reply = f"Number {body['seed']} on {risk[1]}"
    elif "Rate how far" in text:
        reply = f"Because. Rating: [[{10 if 'Gladly' in text else 1}]]"
    else:
        request = re.search(r"<begin request>\n(.*)\n<end request>", text)
        style = re.search(r"Style: (.*) \(", text)
        reply = f"{request[1] if request else ''} as {style[1] if style else ''}"
    return {"message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with openai_server.serve(None) as started:
        started.choice = speak
        yield started


def rainbow_command(server: Server, *more: object) -> list[str]:
    common = (
        "--recipe",
        "tars-smoke",
        "--model",
        "openai/victim",
        "--mutator",
        "openai/writer",
        "--base-url",
        server.url,
        "rainbow.near_copy=1.0",
        "--iterations",
        6,
        "attack.judge=refusal",
    )
    return ["attack", "rainbow", *map(str, (*common, *more))]


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    run = tmp_path_factory.mktemp("rainbow") / "run"
    done = safereason(*rainbow_command(server, "--out", run), NO_PROXY="127.0.0.1", OPENAI_API_KEY="none")
    assert done.returncode == 0, done.stderr
    return run, done


def test_it_prints_what_it_found_risk_by_style(whole):
    run, done = whole
    metrics = json.loads((run / "metrics.json").read_text())
    lines = done.stdout.splitlines()
    grid = lines[lines.index(next(line for line in lines if line.startswith("best score, %"))) :]
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in grid[1:11])
    assert next(iter(rows)) == "violence and hate"
    cells = [cell for row in rows.values() for cell in row.split()]
    assert len(cells) == 120
    assert set(cells) == {".", "0", "100"}
    assert 1 - cells.count(".") / 120 == pytest.approx(metrics["coverage"])
    assert cells.count("100") / 120 == pytest.approx(metrics["attack_success_by_cell"])
    assert grid[-1] == "l  code"
    assert {row.split()[-1] for row in rows.values()} <= {".", "0"}
    assert re.search(r"^rainbow: \d+ distinct prompts, \d+% of the cells covered", done.stderr, re.M)
    assert f"prompts                   {metrics['prompts']}" in done.stdout


def test_it_is_killed_and_resumed(server, whole, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    run = tmp_path / "run"
    command = rainbow_command(server, "--out", run)
    assert python(KILLED, *command).returncode == -signal.SIGKILL
    assert len(list(read_records(run / "iterations.jsonl"))) == 3
    refused = safereason(*command)
    assert refused.returncode == 2
    assert "pass --resume to go on" in refusal_line(refused)
    resumed = safereason(*command, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    document = json.loads(resumed.stdout)
    for name in ("iterations.jsonl", "archive.jsonl", "cells.json", "metrics.json"):
        assert (run / name).read_bytes() == (whole[0] / name).read_bytes()
    assert document == {"run": str(run), "metrics": json.loads((run / "metrics.json").read_text())}


def test_what_it_wrote_is_a_pool_of_a_recipe(whole, tmp_path):
    run, _ = whole
    pool = f"data.harmful=[{{source: {run}/archive.jsonl, prompts: 20}}, {{source: sample, prompts: 60}}]"
    done = safereason("data", "build", "--recipe", "tars-smoke", pool, "--root", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"]["by_kind"]["harmful"] == 24
    listing = safereason("data", "show", run / "archive.jsonl", "--limit", 2)
    assert listing.returncode == 0, listing.stderr


@pytest.mark.parametrize("option", ["--count", "--prompts"])
def test_a_dry_run_says_how_much_is_asked_and_asks_nobody(tmp_path, option):
    # `--prompts N` is the name that the option had before.
    done = safereason(
        "attack",
        "rainbow",
        "--recipe",
        "tars-smoke",
        "--mutator",
        "openai/none",
        option,
        800,
        "--archives",
        2,
        "rainbow.batch=16",
        "--dry-run",
        "--json",
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)["plan"]
    assert (plan["prompts wanted"], plan["archives, at most"], plan["iterations an archive"]) == (800, 2, 1000)
    assert plan["queries to the target, at most"] == 2 * 1000 * 16
    assert (plan["cells"], plan["judge"]) == ("10 risks x 12 styles", "refusal-learned")
    assert plan["target"] == "the sft run of this recipe"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "which model writes the prompts? name one with --mutator"),
        (("--count", 8, "--prompts", 8), "--count and --prompts are the same option; pass --count only"),
        (("--mutator", "openai/none", "--prompts", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--mutator", "openai/none", "rainbow.bach=3"), "attack.settings.rainbow.bach"),
        (("--mutator", "openai/none"), "no finished sft run of tars-smoke under runs/; run `safereason sft"),
    ],
)
def test_what_cannot_be_done_is_one_line(tmp_path, arguments, problem):
    done = safereason("attack", "rainbow", "--recipe", "tars-smoke", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert problem in refusal_line(done)
    assert not list(tmp_path.iterdir())


def test_a_chat_model_may_rate_the_answers_as_in_the_papers_recipe(server, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    done = safereason(*rainbow_command(server, "attack.judge=rating:openai/rater", "--root", tmp_path, "--json"))
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["judge"] == "rating:openai/rater"
    (run,) = (tmp_path / "attack" / "rainbow").iterdir()
    tried = [row for record in read_records(run / "iterations.jsonl") for row in record["candidates"]]
    assert {row["score"] for row in tried} == {0.0, 1.0}  # ratings of 1 and 10


def test_the_papers_recipe_names_all_that_the_search_needs():
    done = safereason("attack", "rainbow", "--recipe", "tars-1.5b", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)["plan"]
    assert plan["judge"].startswith("rating:")
    assert plan["mutator"]
