"""The page's part on guards, from runs that hold what the evaluation writes."""

import random
from pathlib import Path
from typing import Any

import pytest
import report_runs
from test_report_stage import parsed, write

from safereason.evals.guard_predictions import Prediction
from safereason.report.guard import guard_part
from safereason.report.page import MOST_TRANSCRIPT_CHARS, build_page
from safereason.report.read import measured_models, read_runs
from safereason.report.sample import choose
from safereason.report.transcripts import collect
from safereason.stages.guard_eval_score import scored_predictions

TRAINED = {"seed": 0, "model": report_runs.BASE}
SETS = ("openai-moderation", "mine")


def predictions(skill: float, rows: int = 40) -> list[Prediction]:
    """What a guard of some skill says of rows of two sets, every tenth of them not at all."""
    rng = random.Random(0)
    result = []
    for name in SETS:
        for i in range(rows):
            unsafe = i % 2 == 0
            right = rng.random() < skill
            label = None if i % 10 == 9 else "unsafe" if unsafe == right else "safe"
            result.append(
                Prediction(
                    id=f"{name}/{i}",
                    set=name,
                    expected="unsafe" if unsafe else "safe",
                    label=label,
                    score=None if label is None else rng.uniform(0.5, 1.0) if label == "unsafe" else rng.random() / 2,
                    reasoning="I go through the categories.",
                    text=f"<think>I go through the categories.</think>\n\\boxed{{{label}}}",
                    reason=None if label else "the guard gave no verdict",
                    prompt=f"Row {i} of {name}",
                    response="A reply" if i % 4 == 0 else None,
                    harms=("arson",) if i % 4 == 0 else ("fraud",) if unsafe else (),
                )
            )
    return result


def evaluation(root: Path, model: str, skill: float, **more: Any) -> Path:
    rows = predictions(skill)
    metrics = {"eval": "guard", "model": model, "recipe": "tars-smoke", **scored_predictions(rows, 100, 0), **more}
    identity = {"seed": 0, "model": model, "eval": "guard"}
    return report_runs.make(root, "eval/guard", identity, metrics, predictions=[p.record() for p in rows])


def training(root: Path) -> list[Path]:
    """A guard's SFT and RL."""
    steps = range(1, 6)
    looks = [{"step": s, "f1": 0.5 + 0.05 * s, "unparsed": 0.1, "says_unsafe": 0.6, "n": 20} for s in steps]
    rows = [
        {
            "step": s,
            "reward": 0.1 * s,
            "accuracy": 0.1 * s,
            "format": 0.9,
            "unparsed": 0.2,
            "says_unsafe": 0.5,
            "loss": 1.0 / s,
        }
        for s in steps
    ]
    rollouts = [
        {
            "step": s,
            "id": f"r{s}",
            "prompt": "A row",
            "kind": "harmful",
            "total": 0.5,
            "text": "<think>a</think> b",
            "parts": {"format": 1.0, "accuracy": 0.0},
        }
        for s in steps
    ]
    return [
        report_runs.make(root, "guard/sft", TRAINED, {}, metrics=rows),
        report_runs.make(root, "guard/rl", TRAINED, {}, metrics=rows, validation=looks, rollouts=rollouts),
    ]


def everything(root: Path) -> list[Path]:
    return [
        *training(root),
        evaluation(root, report_runs.BASE, 0.5),
        evaluation(root, report_runs.model_name("guard/rl", TRAINED), 0.9),
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("guards")
    return write(everything(root), root, "A guard")


@pytest.fixture(scope="module")
def page(folder):
    document = parsed(folder)
    assert document.stack == []
    return document


def test_the_guard_has_a_part_of_its_own(page):
    assert {"results", "guard", "training", "transcripts"} <= set(page.attributes("id"))
    assert page.contains("everything called unsafe")
    assert len(page.of("table")) == len(page.of("caption"))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))


def test_each_set_has_f1_with_interval_beside_baseline_and_what_is_known(tmp_path):
    runs = read_runs(everything(tmp_path))
    part = guard_part([run for run in runs if run.stage == "eval/guard"], measured_models(runs))
    assert part is not None
    assert [model.role for model in part.models] == ["Base", "Guard RL"]
    rows = {row.name: row for row in part.scores}
    assert list(rows) == ["all sets, weighted by rows", *SETS]
    row = rows["openai-moderation"]
    weak, strong = row.f1
    assert weak is not None
    assert strong is not None
    assert weak.value < strong.value
    assert strong.low < strong.value < strong.high
    assert row.always_unsafe.value == pytest.approx(2 / 3)
    assert [score.f1 for score in row.known] == [0.764]
    assert rows["mine"].known == ()
    assert len(part.sources) == 1


def test_known_figures_are_shown_with_where_they_come_from(page):
    assert page.contains("76.4 % RSafe-7B, development run")
    assert page.contains("rows without a verdict left out")


def test_confusion_and_recall_are_of_each_model(page):
    captions = [text for text, stack in page.text if stack[-1:] == ("caption",)]
    assert [sum(text.startswith(role) for text in captions) for role in ("Base ·", "Guard RL ·")] == [1, 1]
    assert page.contains("arson openai-moderation")
    assert page.contains("openai-moderation unsafe")


def test_the_reliability_of_scores_is_drawn(folder, page):
    label = next(svg["aria-label"] for svg in page.of("svg") if svg["aria-label"].startswith("Reliability"))
    assert "Base" in label
    assert (folder / "plots" / "reliability.svg").is_file()
    assert page.contains("off by")


def test_curves_of_a_guards_training(folder, page):
    names = {path.stem for path in (folder / "plots").glob("*.svg")}
    kinds = {name.rpartition("-")[2] for name in names if name.startswith("guard-rl")}
    assert {"validation", "verdicts", "reward"} <= kinds
    assert any(name.startswith("guard-sft") for name in names)
    assert page.contains("A guard’s reinforcement learning")
    assert any("F1 of unsafe" in svg["aria-label"] for svg in page.of("svg"))


def test_nothing_is_said_to_miss_but_the_data(page):
    assert page.contains("No data run was given")
    assert not page.contains("No sft run")
    assert not page.contains("trade-off plot")


def drawn(paths, count):
    runs = read_runs(paths)
    return choose(collect(runs, measured_models(runs), MOST_TRANSCRIPT_CHARS, 0).transcripts, count, 0)


def test_wrong_right_and_missing_verdicts_are_among_the_transcripts(tmp_path):
    chosen = [t for exhibit in drawn(everything(tmp_path), 20) for t in exhibit.transcripts]
    assert {t.verdict_group for t in chosen} == {"", "right", "amiss"}
    assert {t.expected for t in chosen} == {"safe", "unsafe"}
    assert all(t.reason for t in chosen if t.is_unscored)
    assert {t.kind for t in chosen} == {"harmful", "harmless"}
    assert any("The agent’s response:\nA reply" in t.prompt for t in chosen)
    assert all(t.reasoning == "I go through the categories." for t in chosen)


def test_a_verdict_without_a_score_is_no_missing_verdict(tmp_path):
    record = Prediction("mine/1", "mine", "safe", "unsafe", prompt="Hm?").record()
    run = report_runs.make(
        tmp_path, "eval/guard", {"seed": 0, "model": "moderation"}, {"figures": []}, predictions=[record]
    )
    ((transcript,),) = [exhibit.transcripts for exhibit in drawn([run], 5)]
    assert (transcript.verdict_group, transcript.is_unscored, transcript.is_folded) == ("amiss", False, False)


def test_what_was_left_out_is_said(tmp_path):
    run = evaluation(
        tmp_path, "moderation", 0.7, missing={"toxicchat": "not there"}, failed=3, predictions="file.jsonl"
    )
    document = parsed(write([run], tmp_path))
    assert document.contains("sets that could not be had were left out: toxicchat")
    assert document.contains("3 rows failed and are left out")
    assert document.contains("scored from a file of predictions")


def test_a_run_that_holds_little_or_something_else_makes_a_page(tmp_path):
    odd = {"figures": "none", "confusion": [], "categories": {"a": 3}, "reliability": {"all": {"bins": [1]}}}
    for number, metrics in enumerate(({}, odd)):
        run = report_runs.make(tmp_path, "eval/guard", {"seed": number, "model": "moderation"}, metrics)
        assert parsed(write([run], tmp_path)).stack == []


def test_without_guards_there_is_no_part_for_them(tmp_path):
    assert build_page(read_runs(report_runs.everything(tmp_path)), "A test").guard is None
