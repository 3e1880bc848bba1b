"""PAIR and TAP as installed, against a server in a process of its own, with the micro model as target."""

import json
from pathlib import Path

import micro
import pytest
from program import python_started, safereason

from safereason.runs.records import read_records

TESTS = Path(__file__).parent.parent
SERVER = """
import sys, threading
sys.path[:0] = sys.argv[2:]
import openai_server, scripted
from safereason.engines.open import open_engine
from safereason.engines.spec import ModelSpec
engine = open_engine(ModelSpec.parse(sys.argv[1]))
with openai_server.serve(engine) as server:
    def choice(body):
        return server._generated({**body, "max_tokens": 24}) if body["model"] == "micro" else scripted.reply(body)
    server.choice = choice
    print(server.url, flush=True)
    threading.Event().wait()
"""
"""Attacker `a` and judge `j` answer by rule; `micro` writes what the micro model writes, and no more than a line."""


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    model = micro.save_model(tmp_path_factory.mktemp("micro"))
    with python_started(SERVER, model, TESTS, TESTS / "attacks") as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("attack", "settings", "most_queries"),
    [
        ("pair", ("pair.streams=2", "pair.iterations=2"), 4),
        ("tap", ("tap.depth=2", "tap.width=2", "tap.branching=2"), 6),
    ],
)
def test_a_model_attacks_another_over_the_wire(url, tmp_path, attack, settings, most_queries):
    models = ("--model", "openai/micro", "--attacker", "openai/a", "--judge-model", "openai/j", "--base-url", url)
    asked_for = ("--prompts", "sample", "--limit", 2, "--root", tmp_path, "--json")
    done = safereason("attack", attack, *models, *asked_for, *settings, NO_PROXY="127.0.0.1")
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    (run,) = (tmp_path / "attack" / attack).iterdir()
    records = list(read_records(run / "cases.jsonl"))
    assert len(records) == 2
    assert metrics["queries"] == sum(record["queries"] for record in records)
    assert 2 <= records[0]["queries"] <= most_queries
    assert all(record["prompt"].startswith("Harbour") for record in records)
    assert all(record["details"]["score"] == record["value"] for record in records)
    assert metrics["tokens_written"] > 0
