"""The demo on the embedded model, as `make demo` runs it but shorter."""

import hashlib
import json
from pathlib import Path

import pytest
from program import safereason

from safereason.engines.embedded import INSTALL, gguf_file

SHORTER = ("sft.max_steps=1", "rl.max_steps=1", "rl.prompts_per_step=2", "rl.micro_batch_size=8", "eval.limit=2")
HOUR = 3600

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(gguf_file() is None, reason=f"the embedded model is not installed: {INSTALL}"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("demo") / "runs"


@pytest.fixture(scope="module")
def result(root) -> dict:
    done = safereason("run", "--recipe", "tars-smoke", *SHORTER, "--root", root, "--json", timeout=HOUR)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


def contents(root: Path) -> dict[str, str]:
    files = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_demo_ends_with_a_report(result):
    page = Path(result["metrics"]["report"]).read_text()
    assert page.startswith("<!doctype html>")
    assert "tars-smoke" in page
    assert list(result["metrics"]["changes"]) == ["base", "sft", "rl"]
    for figures in result["metrics"]["changes"].values():
        assert {figure["name"] for figure in figures} == {"well_formed", "dsr", "compliance_safe"}
        assert all(figure["n"] + figure["unscored"] <= 2 for figure in figures)


def test_a_second_demo_does_no_work_again(result, root):
    runs = {path: contents(Path(path)) for step, path in result["metrics"]["runs"].items()}
    again = safereason("run", "--recipe", "tars-smoke", *SHORTER, "--root", root, "--json", timeout=HOUR)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("finished before, skipped") == len(runs)
    assert {path: contents(Path(path)) for path in runs} == runs
    assert json.loads(again.stdout)["metrics"]["changes"] == result["metrics"]["changes"]
