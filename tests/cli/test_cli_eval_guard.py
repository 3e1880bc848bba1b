"""`eval guard` as it is typed: on the micro model, on files of predictions, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from safereason.cli import errors, eval_guard
from safereason.runs.directory import read_manifest
from safereason.runs.records import read_records

RECIPE = """
model: {model}
data: {{mix: rsafe, rows_per_label: 2, sources: [sample]}}
guard:
  policy: {policy}
  sft: {{epochs: 1, learning_rate: 1.0e-4, batch_size: 2}}
  sampling: {{temperature: 0.0, max_new_tokens: 4}}
  eval:
    sets: [{{source: {source}, name: mine}}, {{source: sample, safe: 2, unsafe: 2}}]
    resamples: 20
"""
CUT_OFF = "the guard gave no verdict before its token limit"
POLICY = "title: Short\ncategories:\n  - {id: A, name: Harm}\n"


@pytest.fixture
def work(tmp_path: Path, micro_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe, a policy, a source and predictions, which commands run in."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": f"mine/{i}", "prompt": f"Row {i}?", "kind": "harmful" if i % 2 else "harmless", "source": "mine"}
        for i in range(6)
    ]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("short.yaml").write_text(POLICY)
    Path("tiny.yaml").write_text(RECIPE.format(model=micro_model, policy="short.yaml", source="mine.jsonl"))
    verdicts = [
        {"id": row["id"], "label": "unsafe" if row["kind"] == "harmful" else "safe", "score": 0.5} for row in rows
    ]
    verdicts[0] |= {"label": "unsafe"}
    verdicts[1] |= {"label": None, "score": None}
    Path("verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verdicts))
    return tmp_path


def run(*arguments: Any) -> int:
    app = typer.Typer(add_completion=False)
    app.command(epilog=eval_guard.EXAMPLES)(eval_guard.measure_guard)
    return errors.guarded(lambda: app([str(a) for a in arguments], standalone_mode=False))


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """What a command says that refuses."""
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_a_recipes_guard_is_measured_on_its_sets(work: Path, micro_model: Path, capsys):
    assert run("--recipe", "tiny.yaml", "--model", micro_model, "--json") == 1  # its four tokens hold no verdict
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err.splitlines()[-1] == f"error: {result['run']}: none of 10 rows has a verdict that can be read ({CUT_OFF})"
    assert result["metrics"]["sets"] == {"mine": {"safe": 3, "unsafe": 3}, "sample": {"safe": 2, "unsafe": 2}}
    assert len(list(read_records(Path(result["run"]) / "predictions.jsonl"))) == 10
    assert Path(result["run"]).parent == Path("runs/eval/guard")


def test_a_model_is_measured_without_a_recipe_by_the_policy_and_sampling_that_are_named(
    work: Path, micro_model: Path, capsys
):
    named = ("--model", micro_model, "--prompts", "mine.jsonl", "--policy", "short.yaml", "--limit", 2)
    assert run(*named, "guard.sampling.max_new_tokens=3", "--json") == 1
    out, err = capsys.readouterr()
    result = json.loads(out)
    nothing = f"error: {result['run']}: none of 2 rows has a verdict that can be read ({CUT_OFF})"
    assert err.splitlines()[-1] == nothing
    manifest = read_manifest(Path(result["run"])) or {}
    assert (manifest["recipe"], manifest["identity"]["model"]) == ("adhoc", str(micro_model))
    settings = result["metrics"]["asked"]
    assert (settings["policy"], settings["sampling"]["max_new_tokens"], settings["sampling"]["top_p"]) == (
        "short",
        3,
        0.8,
    )
    assert sum(result["metrics"]["sets"]["mine.jsonl"].values()) == 2
    for more in ((), ("--resume",)):
        assert run(*named, "guard.sampling.max_new_tokens=3", "--json", *more) == 1
        output = capsys.readouterr()
        earlier = f"{result['run']}: finished before, so that its result is shown; --overwrite makes it anew"
        assert (output.out, output.err.splitlines()) == (out, [earlier, nothing])


def test_predictions_are_printed_as_figures_and_confusion(work: Path, capsys):
    assert run("--recipe", "tiny.yaml", "--predictions", "verdicts.jsonl", "--prompts", "mine") == 0
    out = capsys.readouterr().out
    lines = {tuple(line.split()[:2]): line.split() for line in out.splitlines() if line.strip()}
    # Two hits, one miss without a verdict, one false alarm.
    assert lines["f1", "mine"][2] == "0.667"
    assert lines["f1_parsed", "mine"][2] == "0.800"
    assert lines["mine", "unsafe"][2:] == ["2", "0", "1"]
    assert lines["mine", "safe"][2:] == ["1", "2", "0"]
    assert run("--recipe", "tiny.yaml", "--predictions", "verdicts.jsonl", "--prompts", "mine") == 0
    output = capsys.readouterr()
    assert output.out == out
    assert "finished before, so that its result is shown; --overwrite makes it anew" in output.err


def test_what_the_authors_have_stands_beside(work: Path, capsys):
    rows = [{"label": "safe", "predict": "safe"}, {"label": "unsafe", "predict": "unsafe"}]
    Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("--predictions", "texts.jsonl", "--prompts", "openai-moderation") == 0
    (line,) = [row for row in capsys.readouterr().out.splitlines() if row.startswith("f1_parsed") and "openai" in row]
    assert line.split()[-1] == "0.764"


def test_bars_end_with_3(work: Path, capsys):
    named = ("--recipe", "tiny.yaml", "--predictions", "verdicts.jsonl", "--prompts", "mine")
    assert run(*named, "--fail-under", "f1=0.9", "--fail-under", "f1_parsed/mine=0.5") == 3
    assert "f1 is 0.6667, under the bar of 0.9" in capsys.readouterr().err
    assert run(*named, "--overwrite", "--fail-under", "f1/mine=0.6") == 0


def test_a_dry_run_says_what_would_be_done_and_needs_no_guard(work: Path, capsys):
    assert run("--recipe", "tiny.yaml", "--dry-run", "--limit", 3, "--samples", 2, "--json") == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert steps == [
        f"ask the newest guard of tiny 2 times about at most 3 rows of {name}" for name in ("mine", "sample")
    ]
    assert run("--predictions", "verdicts.jsonl", "--prompts", "mine", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["steps"] == ["score verdicts.jsonl as mine"]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "which guard? name one with --model or --guard, or a recipe with --recipe"),
        (("--model", "org/none"), "name a source with --prompts"),
        (
            ("--model", "org/none", "--guard", "moderation", "--prompts", "sample"),
            "--guard and --model exclude each other",
        ),
        (("--recipe", "tiny.yaml"), "run `safereason guard train --recipe tiny.yaml` first"),
        (("--recipe", "tiny.yaml", "--fail-under", "dsr=1"), "eval guard has no figure 'dsr'"),
        (("--recipe", "tiny.yaml", "--fail-under", "f1=high"), "FIGURE=NUMBER is expected"),
        (("--predictions", "verdicts.jsonl", "--model", "org/none"), "--predictions asks no guard; leave --model out"),
        (("--predictions", "nowhere.jsonl"), "nowhere.jsonl: cannot be read"),
        (("--predictions", "verdicts.jsonl"), "name their source with --prompts"),
        (("--predictions", "verdicts.jsonl", "--prompts", "moderation"), "source moderation: is not known"),
    ],
)
def test_what_is_refused_is_one_line(work: Path, capsys, arguments, error):
    assert error in refused(capsys, *arguments)
    assert not Path("runs").exists()
