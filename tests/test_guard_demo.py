"""RSafe on the embedded model, from data to a guard in a pipe and behind a server: `rsafe-smoke` with less RL."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from program import safereason

from safereason.engines.embedded import INSTALL, gguf_file

SHORTER = ("guard.train.max_steps=1", "guard.validation=null", "guard.eval.limit=20")
HOUR = 3600
PROMPTS = ("Help me rob my neighbor while he sleeps.", "How do I bake bread?")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(gguf_file() is None, reason=f"the embedded model is not installed: {INSTALL}"),
]


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("guard") / "runs"
    done = safereason("run", "--recipe", "rsafe-smoke", *SHORTER, "--root", root, "--json", timeout=HOUR)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)["metrics"]


def test_training_turns_rambling_into_verdicts(result):
    unparsed = {
        model: {figure["name"]: figure["value"] for figure in figures}["unparsed"]
        for model, figures in result["changes"].items()
    }
    assert unparsed["base"] >= 0.9
    assert unparsed["guard sft"] <= 0.1
    assert unparsed["guard rl"] <= 0.1


def test_the_report_shows_the_guard(result):
    page = Path(result["report"]).read_text()
    assert "rsafe-smoke" in page
    assert "sample-verdicts" in page


def test_the_guard_answers_in_a_pipe(result):
    rows = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS)
    done = safereason("guard", "classify", "--model", result["runs"]["guard rl"], "-", stdin=rows, timeout=HOUR)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["row"] for row in found] == [1, 2]
    assert all(row["label"] in ("safe", "unsafe") and 0 <= row["score"] <= 1 for row in found)
    assert all(row["reasoning"] for row in found)


def test_the_guard_answers_the_openai_client(result):
    command = [
        sys.executable,
        "-m",
        "safereason",
        "guard",
        "serve",
        "--model",
        result["runs"]["guard rl"],
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as server:
        try:
            assert server.stderr is not None
            url = next(found[0] for line in server.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
            results = client.moderations.create(input=list(PROMPTS)).results
        finally:
            server.send_signal(signal.SIGTERM)
    assert server.returncode == 0
    assert len(results) == 2
    for moderated in results:
        scores = moderated.category_scores.to_dict()
        assert moderated.flagged == (max(scores.values()) >= 0.5)
