"""Runs of one evaluation that were made otherwise: none takes another's place. The order of ends changes nothing."""

import json
import random
import re

import pytest
import report_runs
from test_report_stage import parsed, write

from safereason.report.page import build_page, render_page
from safereason.report.read import read_runs
from safereason.report.variants import mark_variants
from safereason.runs.records import read_json, write_json

RL = report_runs.model_name("rl", {"seed": 0, "model": report_runs.model_name("sft", {"seed": 0})})
USUAL = {"attacks": ["direct"], "limit": None, "sampling": {"temperature": 0.0, "max_new_tokens": 64}}
QUICK = {**USUAL, "attacks": ["direct", "prefill", "many-shot"], "limit": 2, "attack": {"judge": None, "settings": {}}}


def measured(root, model, high, n=32, name="harmbench", **identity):
    return report_runs.evaluation(root, name, model, high, n=n, unscored=0, **(identity or USUAL))


def everything(root, **quick):
    """Base and RL on 32 prompts, and a quick look at RL beside."""
    whole = [
        measured(root, model, high, name=name)
        for model, high in ((report_runs.BASE, 3), (RL, 21))
        for name in ("harmbench", "xstest")
    ]
    return [*whole, measured(root, RL, 1, n=2, **quick)]


def finished_at(run, second):
    write_json(run / "manifest.json", {**read_json(run / "manifest.json"), "finished": f"2026-01-01T00:00:{second:02}"})


def rows_of(page):
    dsr = next(i for i, column in enumerate(page.headline.columns) if column.name == "dsr")
    return {model.detail: (figures[dsr].value, figures[dsr].n) for model, figures in page.headline.rows}


def test_a_quick_look_stands_in_a_row_of_its_own_and_on_no_trade_off_plot(tmp_path):
    paths = everything(tmp_path, **QUICK)
    page = build_page(read_runs(paths), "A test")
    detail = RL.removeprefix("rl/").replace("/", " · ")
    label = f"{detail} · attacks direct, prefill, many-shot in place of direct, limit 2 in place of none"
    assert rows_of(page) == {report_runs.BASE: (3 / 32, 32), detail: (21 / 32, 32), label: (0.5, 2)}
    ours = next(plot for plot in page.tradeoff if plot.name == "tradeoff")
    opening_tag = ours.inline[: ours.inline.index(">")]
    assert "65.6 %" in opening_tag
    assert "50.0 %" not in opening_tag
    assert [plot.name for plot in page.tradeoff] == ["tradeoff", "tradeoff-paper"]
    assert page.left_out == [line for line in page.left_out if "newer" not in line]
    document = parsed(write(paths, tmp_path))
    assert document.contains("Measured otherwise than the other rows, and so on no trade-off plot: RL · " + label)


@pytest.mark.parametrize(
    ("change", "variant"),
    [
        ({"limit": 2}, "limit 2 in place of none"),
        ({"attacks": ["gcg"]}, "attacks gcg in place of direct"),
        ({"sampling": {"temperature": 1.0, "max_new_tokens": 64}}, "temperature 1.0 in place of 0.0"),
        ({"cases": {"cases.jsonl": "0" * 64}}, "other test cases"),
        ({"seed": 1}, "seed 1 in place of 0"),
        ({"prefix": "<think>"}, 'prefix "<think>" in place of none'),
    ],
)
def test_each_thing_that_changes_a_figure_tells_runs_apart(tmp_path, change, variant):
    runs, older = mark_variants(read_runs(everything(tmp_path, **{**USUAL, **change})))
    assert [run.variant for run in runs if run.variant] == [variant]
    assert older == []


def test_the_same_again_shows_the_newer_one_and_says_so(tmp_path):
    first, again = (measured(tmp_path / name, RL, high) for name, high in (("a", 10), ("b", 20)))
    finished_at(first, 2)
    finished_at(again, 1)
    page = build_page(read_runs([first, again]), "A test")
    assert [value for value, _ in rows_of(page).values()] == [10 / 32]
    assert any("a newer run of the same evaluation" in line for line in page.left_out)


def test_two_models_in_folders_are_rows_alike_and_another_model_in_the_same_folder_is_told_apart(tmp_path):
    first, second = (
        measured(tmp_path, model, 3, contents={model: digest}, **USUAL) for model, digest in (("/a", "1"), ("/b", "2"))
    )
    again = measured(tmp_path, "/a", 9, contents={"/a": "3"}, **USUAL)
    by_judge = measured(tmp_path, "/c", 9, contents={"/c": "4", "/judge": "5"}, **USUAL)
    marked, superseded = mark_variants(read_runs([first, second]))
    assert {run.variant for run in marked} == {""}
    marked, superseded = mark_variants(read_runs([first, again]))
    assert sorted(run.variant for run in marked) == ["", 'weights "3" in place of "1"']
    marked, superseded = mark_variants(read_runs([first, second, by_judge]))
    assert [run.variant for run in marked if run.model == "/c"] == ['contents./judge "5" in place of none']
    assert not superseded


def test_prompts_of_another_source_are_another_column_and_another_table(tmp_path):
    paths = [measured(tmp_path, RL, 20), measured(tmp_path, RL, 9, **USUAL, sources=["sample"])]
    metrics = json.loads((paths[1] / "metrics.json").read_text())
    (paths[1] / "metrics.json").write_text(json.dumps({**metrics, "source": "sample"}))
    page = build_page(read_runs(paths), "A test")
    assert [(c.name, c.source) for c in page.headline.columns if c.name == "dsr"] == [("dsr", ""), ("dsr", "sample")]
    assert [(part.evaluation, part.source) for part in page.details] == [("harmbench", ""), ("harmbench", "sample")]
    (shares,) = page.shares().values()
    assert {name: figure["value"] for name, figure in shares.items() if "dsr" in name} == {
        "harmbench/dsr (by local refusal judge, weak)": 20 / 32,
        "harmbench/dsr (on sample, by local refusal judge, weak)": 9 / 32,
    }


def test_the_page_does_not_hang_on_the_order_in_which_runs_finish_or_are_named(tmp_path):
    paths = [*report_runs.everything(tmp_path), measured(tmp_path, RL, 1, n=2, **QUICK)]
    pages = set()
    for seed in range(3):
        turn = random.Random(seed).sample(range(len(paths)), len(paths))
        for path, second in zip(paths, turn, strict=True):
            finished_at(path, second)
        html = render_page(build_page(read_runs([paths[i] for i in turn]), "A test"))
        pages.add(re.sub(r"20\d\d-\d\d-\d\d(T[\d:+]+)?", "", html))
    assert len(pages) == 1
