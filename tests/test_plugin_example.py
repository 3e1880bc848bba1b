"""The example package of docs/examples/plugin: installed, it is listed and runs; not installed, its dotted paths do."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai_server
import pytest
from program import COMMAND, offline, refusal_line, safereason

from safereason.runs.records import read_records

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "docs" / "examples" / "plugin"
PACKAGE = "safereason_manners"


def path_with(folder: Path) -> str:
    """A `PYTHONPATH` with this folder after those that are there already."""
    return os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(folder)])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A `PYTHONPATH` under which the example is installed, as pip installs it."""
    folder = tmp_path_factory.mktemp("installed")
    words = ("install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", folder, EXAMPLE)
    subprocess.run([sys.executable, "-m", "pip", *map(str, words)], check=True, capture_output=True, timeout=120)
    assert list(folder.glob("*.dist-info"))
    return path_with(folder)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A `PYTHONPATH` with the example's modules alone, without the metadata of an installation."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copytree(EXAMPLE / PACKAGE, folder / PACKAGE)
    return path_with(folder)


@pytest.fixture(scope="module")
def polite() -> Iterator[tuple[str, ...]]:
    """A model behind a server that always says please, as options of a command."""
    with openai_server.serve(engine=None) as server:
        message = {"role": "assistant", "content": "Could you please say more?"}
        server.choice = lambda body: {"message": message, "finish_reason": "stop"}
        yield "--model", "openai/polite", "--base-url", server.url, "eval.prefix=''"


def result_of(*words: object, path: str) -> dict:
    done = safereason(*words, "--json", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_listings_show_what_is_installed(installed: str):
    cold = subprocess.run(
        [COMMAND, "eval", "ls", "--json"], env={**offline(), "PYTHONPATH": installed}, capture_output=True, text=True
    )
    kinds = json.loads(cold.stdout)
    assert result_of("eval", "ls", path=installed) == kinds
    listed = {(kind, entry["name"]): entry["summary"] for kind, entries in kinds.items() for entry in entries}
    assert listed["evals", "manners"] == "Share of answers that say please"
    assert listed["judges", "mentions"] == "Whether an answer has a word in it: mentions:WORD"
    assert listed["guards", "yes-no"] == "A model that is asked whether a text is rude"
    (attack,) = [entry for entry in result_of("attack", "ls", path=installed) if entry["name"] == "courtesy"]
    word = {"default": "Please", "about": "Word at the beginning of the prompt."}
    assert attack == {
        "name": "courtesy",
        "summary": "The behavior, asked for politely",
        "needs": [],
        "uses": [],
        "settings": {"word": word},
    }
    (source,) = [entry for entry in result_of("data", "ls", path=installed) if entry["name"] == "manners"]
    assert (source["size"], source["serves"], source["recipes"]) == (4, ["test"], [])
    assert "manners/3" in safereason("data", "show", "manners", PYTHONPATH=installed).stdout


@pytest.mark.parametrize("by_path", [False, True], ids=["installed", "dotted path"])
def test_the_attack_runs_and_its_records_know_it_by_its_own_name(
    installed: str, copied: str, tmp_path: Path, by_path: bool
):
    name, source, path = "courtesy", "manners", installed
    if by_path:
        name, source, path = f"{PACKAGE}.attack:COURTESY", f"{PACKAGE}.source:PROMPTS", copied
    arguments = ("attack", name, "courtesy.word=Kindly", "--prompts", source, "--root", tmp_path)
    result = result_of(*arguments, path=path)
    run = Path(result["run"])
    assert run.parent == tmp_path / "attack" / "courtesy"
    assert [(record["attack"], record["prompt"]) for record in read_records(run / "cases.jsonl")] == [
        ("courtesy", "Kindly: A request about other people's locks."),
        ("courtesy", "Kindly: A request about other people's letters."),
    ]
    # The same run, by whichever name it was found: it is not searched again.
    assert result_of("attack", "courtesy", *arguments[2:4], "manners", *arguments[5:], path=installed)["run"] == str(
        run
    )


@pytest.mark.parametrize("by_path", [False, True], ids=["installed", "dotted path"])
def test_the_evaluation_runs_by_the_judge(
    installed: str, copied: str, polite: tuple[str, ...], tmp_path: Path, by_path: bool
):
    name, judge, path = "manners", "mentions:More", installed
    words = ["--root", tmp_path, *polite]
    if by_path:
        name, judge, path = f"{PACKAGE}.evaluation:MANNERS", f"{PACKAGE}.judge:MENTIONS:More", copied
        words += ["--prompts", f"{PACKAGE}.source:PROMPTS"]
    result = result_of("eval", name, "--judge", judge, *words, path=path)
    assert Path(result["run"]).parent == tmp_path / "eval" / "manners"
    metrics = result["metrics"]
    assert (metrics["eval"], metrics["judge"], metrics["source"]) == ("manners", "mentions:More", "manners")
    (figure, *_) = metrics["figures"]
    assert (figure["name"], figure["value"], figure["n"]) == ("polite", 1.0, 4)
    report = safereason("report", result["run"], "--out", tmp_path / "report", PYTHONPATH=path)
    assert report.returncode == 0, report.stderr
    page = (tmp_path / "report" / "report.html").read_text("utf-8")
    # Without the metadata of an installation nothing leads from a record to the module, and a report imports none.
    assert ("Manners" in page) == ("Answers that say please" in page) == (not by_path)


def test_the_evaluation_is_a_task_of_inspect(installed: str, tmp_path: Path):
    pytest.importorskip("inspect_ai", reason="the extra `inspect` is not installed")
    program = """
from inspect_ai import eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from safereason.evals import inspect
reply = ModelOutput.from_content("mock", "Could you please say more?")
# Without a usage inspect counts the tokens itself, by a table that it downloads.
reply.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
model = get_model("mockllm/model", custom_outputs=lambda *_: reply, memoize=False)
[log] = eval("safereason/manners", model=model, task_args={"prompts": "manners"}, log_dir="logs", display="none")
print(log.status, log.results.scores[0].metrics["polite"].value)
"""
    words = [sys.executable, "-c", program]
    env = {**offline(), "PYTHONPATH": installed}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["success", "1.0"]


@pytest.mark.parametrize("by_path", [False, True], ids=["installed", "dotted path"])
def test_a_benchmark_is_measured_under_the_attack(
    installed: str, copied: str, polite: tuple[str, ...], tmp_path: Path, by_path: bool
):
    attack, source, path = "courtesy", "manners", installed
    if by_path:
        attack, source, path = f"{PACKAGE}.attack:COURTESY", f"{PACKAGE}.source:PROMPTS", copied
    arguments = ("--attacks", f"direct,{attack}", "--prompts", source, "--judge", "refusal", *polite)
    result = result_of("eval", "harmbench", *arguments, "courtesy.word=Kindly", "--root", tmp_path, path=path)
    assert result["metrics"]["attacks"] == ["direct", "courtesy"]
    prompts = [record["prompt"] for record in read_records(Path(result["run"]) / "completions.jsonl")]
    assert sum(prompt.startswith("Kindly: ") for prompt in prompts) == 2


@pytest.mark.parametrize("by_path", [False, True], ids=["installed", "dotted path"])
def test_the_guard_is_measured(installed: str, copied: str, micro_model: Path, tmp_path: Path, by_path: bool):
    guard, source, path = "yes-no", "manners", installed
    if by_path:
        guard, source, path = f"{PACKAGE}.guard:YES_NO", f"{PACKAGE}.source:PROMPTS", copied
    arguments = (
        "eval",
        "guard",
        "--guard",
        f"{guard}:{micro_model}",
        "--prompts",
        source,
        "--root",
        tmp_path,
        "--json",
    )
    done = safereason(*arguments, PYTHONPATH=path)
    # The micro model writes noise, so that no row has a verdict and the command says that it measured nothing.
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert f"yes-no:{micro_model}" in result["metrics"]["model"]
    predictions = list(read_records(Path(result["run"]) / "predictions.jsonl"))
    assert [prediction["set"] for prediction in predictions] == ["manners"] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("attack", "no.such:THING"), "error: attack no.such:THING: no.such:THING cannot be imported"),
        (("attack", f"{PACKAGE}.attack:search"), "is of type function; it has to be of safereason.attacks.base.Attack"),
        (("eval", f"{PACKAGE}.attack:COURTESY", "--model", "m"), "it has to be of safereason.evals.base.Eval"),
        (("eval", "manners", "--model", "m"), "No such command 'manners'"),
        (("eval", "xstest", "--model", "m", "--judge", f"{PACKAGE}.judge:MENTIONS"), "needs an argument"),
    ],
)
def test_what_cannot_be_found_is_one_line(copied: str, words: tuple[str, ...], message: str):
    done = safereason(*words, PYTHONPATH=copied)
    assert done.returncode == 2
    assert message in refusal_line(done)


def test_help_and_built_in_names_read_no_metadata(tmp_path: Path):
    program = """
from importlib import metadata
from safereason.cli.app import app
read = metadata.entry_points
def only_of_libraries(group):
    assert not group.startswith("safereason"), group
    return read(group=group)
metadata.entry_points = only_of_libraries
for argv in (["attack", "--help"], ["eval", "--help"], ["attack", "direct", "--help"], ["eval", "xstest", "--help"],
             ["attack", "direct", "--prompts", "sample", "--dry-run"]):
    app(argv, standalone_mode=False)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
