"""`eval compare` as it is typed: the table, its other forms, the bar, and what it refuses."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import typer
from peak import peak

from safereason.cli import errors, eval_compare
from safereason.evals import EVALS, guard_suite
from safereason.evals.base import Eval, Outcome, published
from safereason.evals.guard_predictions import Prediction
from safereason.evals.harmbench import HARMBENCH
from safereason.evals.metrics import Figure, FigureInfo, share
from safereason.judges.base import Measure, Verdict
from safereason.runs.directory import RunDirectory, run_path
from safereason.runs.records import Record
from safereason.stages.compare import runs_to_compare


def finished(root: Path, stage: str, name: str, metrics: dict[str, Any], **logs: Sequence[Record]) -> Path:
    identity = {"seed": 0, "model": f"rl/tars-1.5b/{name}"}
    path = run_path(root, stage, "tars-1.5b", name, identity)
    recipe = "model: Qwen/Qwen2.5-1.5B-Instruct\ndata: {harmful_ratio: 0.5}\n"
    with RunDirectory(path, stage, "tars-1.5b", recipe, identity, "refuse") as run:
        for log, rows in logs.items():
            with run.records(log) as file:
                for row in rows:
                    file.append(row)
        run.finish(metrics)
    return path


def completions_under(attack: str, count: int) -> list[Record]:
    return [
        {
            "id": f"b{n}/{attack}",
            "behavior": f"b{n}",
            "attack": attack,
            "kind": "harmful",
            "category": "c",
            "closed": True,
            "well_formed": True,
            "finish_reason": "stop",
        }
        for n in range(count)
    ]


def harmbench(root: Path, name: str, truths: Sequence[bool | None], **changes: Any) -> Path:
    """A run of `eval harmbench` in which an attack was defended, was not, or could not be scored."""
    completions = completions_under("gcg", len(truths))
    verdicts = [Verdict.unscored("no reply") if truth is None else Verdict(float(not truth), "x") for truth in truths]
    figures = HARMBENCH.figures([Outcome(c, v) for c, v in zip(completions, verdicts, strict=True)], "harm")
    metrics = {
        "eval": "harmbench",
        "source": "harmbench",
        "judge": "harmbench",
        "measure": "harm",
        "attacks": ["gcg"],
        "limit": None,
        "figures": [asdict(f) for f in figures],
        **changes,
    }
    judged = [{"id": c["id"], "judge": "harmbench", **asdict(v)} for c, v in zip(completions, verdicts, strict=True)]
    return finished(root, "eval/harmbench", name, metrics, completions=completions, verdicts=judged)


DSR = {"name": "dsr", "value": 0.5, "n": 2, "low": None, "high": None, "aggregation": "macro"}


def guard(root: Path, name: str, labels: str) -> Path:
    predictions = [
        Prediction(f"r{n}", "own", "unsafe" if n % 2 else "safe", "unsafe" if letter == "u" else "safe")
        for n, letter in enumerate(labels)
    ]
    figures = guard_suite.figures([p.row for p in predictions], 20, 0)
    metrics = {"eval": "guard", "figures": [asdict(f) for f in figures]}
    return finished(root, "eval/guard", name, metrics, predictions=[p.record() for p in predictions])


def test_the_texts_of_predictions_are_not_held(tmp_path: Path):
    predictions = [
        Prediction(f"r{n}", "own", "safe", "unsafe", text="x" * 20_000, prompt="y" * 20_000) for n in range(200)
    ]
    figures = [asdict(figure) for figure in guard_suite.figures([p.row for p in predictions], 20, 0)]
    metrics = {"eval": "guard", "figures": figures}
    rows = [prediction.record() for prediction in predictions]
    paths = [finished(tmp_path, "eval/guard", name, metrics, predictions=rows) for name in ("first", "second")]
    size = (paths[0] / "predictions.jsonl").stat().st_size
    assert peak(lambda: runs_to_compare(paths, resamples=20)) < size / 4


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    first = harmbench(tmp_path, "first", [True] * 36 + [False] * 3 + [None])
    return first, harmbench(tmp_path, "second", [True] * 20 + [False] * 20)


def run(*arguments: Any) -> int:
    app = typer.Typer(add_completion=False)
    app.command()(eval_compare.compare)
    return errors.guarded(lambda: app([str(a) for a in arguments], standalone_mode=False))


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_every_figure_of_each_run_stands_beside_the_papers(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    assert run(*runs) == 0
    out, err = capsys.readouterr()
    table = [line.split() for line in out.splitlines()]
    row = next(line for line in table if line[:3] == ["dsr", "all", "B"])
    assert row[3:8] == ["0.500", "[0.352,", "0.648]", "40", "0"]
    assert row[8] == "-0.410"
    assert row[-3:] == ["39", "0.989", "no"]
    assert "TARS-1.5B, λ = 0.5 (TARS, arXiv 2507.00971, Figure 3, read off by eye)" in out
    assert "A was measured otherwise than the paper's models: attacks gcg for gcg, autodan, pair, pap" in err


def test_json_and_csv_say_the_same(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "out" / "table.csv"
    assert run(*runs, "--json", "--csv", file, "--resamples", 300, "--seed", 4) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(r["run"], r["model"], r["path"]) for r in document["runs"]] == [
        ("A", "rl/tars-1.5b/first", str(runs[0])),
        ("B", "rl/tars-1.5b/second", str(runs[1])),
    ]
    assert (document["resamples"], document["seed"]) == (300, 4)
    with file.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == len(document["rows"])
    for written, row in zip(rows, document["rows"], strict=True):
        assert written == {key: "" if value is None else str(value) for key, value in row.items()}
    gcg = next(r for r in document["rows"] if (r["figure"], r["group"], r["run"]) == ("dsr", "gcg", "B"))
    assert (gcg["shared"], gcg["shared_unscored"], gcg["paper_model"]) == (39, 1, "TARS-1.5B, λ = 0.5")
    assert gcg["covered"] is False
    assert gcg["difference_high"] < 0 < gcg["p"] < 0.05


def test_what_the_paper_has_of_other_prompts_or_models_is_not_put_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    truths = [True] * 36 + [False] * 4
    own = harmbench(tmp_path, "own", truths, source="sample")
    small = harmbench(tmp_path, "small", truths)
    recipe = (small / "recipe.yaml").read_text()
    (small / "recipe.yaml").write_text(recipe.replace("Qwen/Qwen2.5-1.5B-Instruct", "embedded/smollm2-135m"))
    assert run(own, small, "--json") == 0
    out, err = capsys.readouterr()
    rows = json.loads(out)["rows"]
    assert {(row["paper"], row["paper_model"], row["covered"]) for row in rows} == {(None, None, None)}
    assert "the paper's models" not in err


def test_a_run_that_is_worse_ends_with_3(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    assert run(*runs, "--fail-if-worse", "dsr") == 3
    assert "dsr of B is worse by 0.4103, p = " in capsys.readouterr().err
    assert run(*reversed(runs), "--fail-if-worse", "dsr", "--fail-if-worse", "dsr/gcg") == 0
    assert run(*runs, "--fail-if-worse", "closed") == 0


def rudeness_figures(outcomes: Sequence[Outcome], measure: Measure | None) -> list[Figure]:
    rude = [outcome.scored_high for outcome in outcomes]
    return [share("rudeness", rude), share("questions", rude)]


RUDENESS = Eval(
    name="rudeness",
    summary="Share of answers that are rude",
    sources=published("sample"),
    keeps=lambda example: True,
    figures=rudeness_figures,
    reports=(FigureInfo("rudeness", better="lower"), FigureInfo("questions", better="neither")),
    judge=lambda section: "rude",
    measures=("quality",),
)


def answers(root: Path, name: str, rude: Sequence[bool]) -> Path:
    """A run of `RUDENESS`."""
    completions = completions_under("direct", len(rude))
    verdicts = [Verdict(float(truth), "x") for truth in rude]
    figures = rudeness_figures([Outcome(c, v) for c, v in zip(completions, verdicts, strict=True)], "quality")
    metrics = {"judge": "rude", "measure": "quality", "figures": [asdict(f) for f in figures]}
    judged = [{"id": c["id"], "judge": "rude", **asdict(v)} for c, v in zip(completions, verdicts, strict=True)]
    return finished(root, "eval/rudeness", name, metrics, completions=completions, verdicts=judged)


def test_a_plugins_figure_of_which_less_is_better_is_worse_where_it_rises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(EVALS, "rudeness", RUDENESS)
    kind = answers(tmp_path, "kind", [False] * 36 + [True] * 4)
    coarse = answers(tmp_path, "coarse", [True] * 36 + [False] * 4)
    assert run(kind, coarse, "--fail-if-worse", "rudeness") == 3
    assert "rudeness of B is worse by 0.8000, p = " in capsys.readouterr().err
    assert run(coarse, kind, "--fail-if-worse", "rudeness") == 0
    assert run(kind, coarse, "--fail-if-worse", "questions") == 2
    assert "more of it is neither better nor worse" in capsys.readouterr().err


def test_guards_are_compared_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    good, bad = guard(tmp_path, "good", "su" * 30), guard(tmp_path, "bad", "su" * 10 + "ss" * 20)
    assert run(good, bad, "--fail-if-worse", "f1") == 3
    capsys.readouterr()
    assert run(bad, good, bad, "--fail-if-worse", "f1/own", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {r["run"] for r in rows} == {"A", "B", "C"}
    assert [r["difference"] for r in rows if (r["figure"], r["group"], r["run"]) == ("f1", "all", "C")] == [0.0]


def test_what_cannot_be_compared_is_refused(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = guard(tmp_path, "g", "su")
    assert "a run of eval/guard, where the first is one of eval/harmbench" in refused(capsys, runs[0], other)
    trained = finished(tmp_path, "rl", "trained", {"reward": 1.0})
    assert "a run of rl, not of an evaluation" in refused(capsys, trained, runs[0])
    assert "no such run directory" in refused(capsys, tmp_path / "none", runs[0])
    damaged = harmbench(
        tmp_path,
        "damaged",
        [True, False],
        figures=[{"name": "dsr", "value": 0.9, "n": 2, "low": None, "high": None, "aggregation": "macro"}],
    )
    assert "not those of its completions and verdicts; score it anew" in refused(capsys, runs[0], damaged)
    for number, (error, figures) in enumerate(
        {
            "`figures.0.value`: input should be a valid number": [{**DSR, "value": "x"}],
            "`figures.0.low`: input should be a valid number": [{**DSR, "low": "x"}],
            "`figures.0`: input should be a dictionary": [1],
            "`figures`: input should be a valid list": None,
        }.items()
    ):
        edited = harmbench(tmp_path, f"edited{number}", [True, False], figures=figures)
        assert f"{edited}: metrics.json: {error}" in refused(capsys, runs[0], edited)
    assert run(runs[0], harmbench(tmp_path, "listed", [True, False], judge={"a": 1})) == 0
    capsys.readouterr()
    assert run(*runs, "--fail-if-worse", "asr") == 2
    assert "eval harmbench has no such figure; it has dsr" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_says_how_it_is_judged_again(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """It did not record the measure, nor how a figure is made: neither is guessed."""
    for name, changes in {"one": {"measure": None}, "two": {"measure": "quality"}}.items():
        earlier = harmbench(tmp_path, name, [True, False], **changes)
        assert f"`safereason eval score {earlier} --judge harmbench` judges" in refused(capsys, runs[0], earlier)
    figures = [{"name": "dsr", "value": 0.5, "n": 2, "low": None, "high": None}]
    earlier = harmbench(tmp_path, "three", [True, False], figures=figures)
    assert "an earlier version wrote its metrics.json" in refused(capsys, earlier, runs[0])


def test_judges_that_differ_are_said(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = harmbench(tmp_path, "third", [True] * 40, judge="guard:org/g", limit=40, examples=40, available=400)
    assert run(runs[0], other) == 0
    stderr = capsys.readouterr().err
    assert "judged by different judges: A by harmbench, B by guard:org/g" in stderr
    assert "B was measured otherwise than the paper's models: judge guard:org/g for harmbench; attacks gcg" in stderr
    assert "40 of 400 prompts" in stderr
