from pathlib import Path

import pytest
import report_runs
from peak import peak

from safereason.errors import InputError
from safereason.report.read import measured_models, metric_lines, read_run, read_runs, summarize_rollouts
from safereason.runs.directory import RunDirectory


def unfinished(root: Path) -> Path:
    with RunDirectory(root / "half", "sft", "tars-smoke", report_runs.RECIPE, {"seed": 0}):
        pass
    return root / "half"


def damaged(root: Path) -> Path:
    path = report_runs.data(root)
    (path / "recipe.yaml").write_text("model: [unclosed\n")
    return path


def with_recipe(root: Path, text: str) -> Path:
    path = report_runs.data(root)
    (path / "recipe.yaml").write_text(text)
    return path


def without_manifest(root: Path) -> Path:
    (root / "folder").mkdir()
    return root / "folder"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", "no such run directory"),
        (without_manifest, "holds no run"),
        (unfinished, "sft run is running, not finished"),
        (damaged, "no readable recipe"),
        (lambda root: with_recipe(root, "[" * 3000), "no readable recipe"),
        (lambda root: with_recipe(root, "[]"), "recipe.yaml: a list in place of a recipe"),
        (lambda root: with_recipe(root, "null"), "recipe.yaml: null in place of a recipe"),
    ],
)
def test_what_is_no_finished_run_is_refused_in_one_line(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as refused:
        read_run(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_run_given_twice_is_read_once(tmp_path):
    path = report_runs.data(tmp_path)
    assert len(read_runs([path, path.parent / "." / path.name])) == 1


def test_models_are_named_by_role_with_the_seed_of_runs_at_hand(tmp_path):
    runs = read_runs(report_runs.everything(tmp_path))
    assert [model.role for model in measured_models(runs)] == ["Base", "SFT", "RL"]
    assert [model.detail.partition("\u00a0")[2] for model in measured_models(runs)] == ["", "0", "0"]


def test_a_model_that_no_recipe_names_is_not_called_base(tmp_path):
    run = read_run(report_runs.evaluation(tmp_path, "xstest", "openai/some-model", high=3, n=8))
    assert [model.label for model in measured_models([run])] == ["Other · openai/some-model"]


def test_curves_leave_out_what_a_row_lacks_or_holds_as_no_finite_number(tmp_path):
    rows = [
        {"step": 2, "loss": 0.5},
        {"step": 1, "loss": 1.0, "kl": 0.1},
        {"step": 3, "loss": None},
        {"step": 4, "loss": float("nan")},
        {"step": 5, "loss": "none"},
        {"loss": 9.0},
    ]
    run = read_run(report_runs.make(tmp_path, "sft", {"seed": 0}, {}, metrics=rows))
    (line,) = metric_lines(run, {"loss": "loss", "entropy": "entropy"})
    assert (line.label, line.x, line.y) == ("loss", (1.0, 2.0), (1.0, 0.5))


def test_the_last_row_of_a_step_counts_also_where_it_lacks_the_key(tmp_path):
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 2, "kl": 0.1}]
    run = read_run(report_runs.make(tmp_path, "sft", {"seed": 0}, {}, metrics=rows))
    (loss, kl) = metric_lines(run, {"loss": "loss", "kl": "kl"})
    assert (loss.x, loss.y, kl.x, kl.y) == ((1.0,), (1.0,), (2.0,), (0.1,))


def test_logs_are_read_without_holding_them(tmp_path):
    texts = {"note": "x" * 20_000}
    rows = [{"step": n, "loss": 1 / n, "kind": "harmful", "total": 0.5, "parts": {}, **texts} for n in range(1, 200)]
    run = read_run(report_runs.make(tmp_path, "rl", {"seed": 0}, {}, metrics=rows, rollouts=rows))
    size = (run.path / "metrics.jsonl").stat().st_size
    assert peak(lambda: metric_lines(run, {"loss": "loss"})) < size / 10
    assert peak(lambda: summarize_rollouts(run)) < size / 10


def test_unscored_rollouts_count_in_no_mean(tmp_path):
    rollouts = [
        {"step": 1, "kind": "harmful", "total": 1.0, "parts": {"format": 1.0}},
        {"step": 1, "kind": "harmful", "total": None, "parts": {"format": 0.0}},
        {"step": 2, "kind": "harmful", "total": None, "parts": {}},
        {"step": 2, "kind": "harmless", "total": 0.5, "parts": None},
    ]
    read = summarize_rollouts(read_run(report_runs.make(tmp_path, "rl", {"seed": 0}, {}, rollouts=rollouts)))
    assert {line.label: (line.x, line.y) for line in read.reward} == {
        "harmful": ((1.0,), (1.0,)),
        "harmless": ((2.0,), (0.5,)),
    }
    assert [(line.label, line.y) for line in read.well_formed] == [("harmful", (0.5,))]
    assert (read.count, read.unscored) == (4, 2)
