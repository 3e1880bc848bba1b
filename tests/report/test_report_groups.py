"""Figures by category and kind, the papers' figures beside, and the picture of a model's inside."""

import random
import warnings
from dataclasses import replace

import report_runs
from test_report_stage import parsed, write

from safereason import evals
from safereason.evals import EVALS
from safereason.evals.adaptivity import ADAPTIVITY
from safereason.evals.metrics import FigureInfo
from safereason.evals.paper import all_figures
from safereason.report import plots
from safereason.report.page import build_page
from safereason.report.plots import Dots, Span
from safereason.report.read import read_runs
from safereason.report.tables import quantity

KNOWN = next(f for f in all_figures() if f.figure == "reasoning_tokens" and f.group.startswith("category:"))


def figure(name, value, group="all", low=None, high=None):
    return {"name": name, "value": value, "n": 20, "low": low, "high": high, "unscored": 0, "group": group}


def adaptivity(root, model, tokens):
    groups = {KNOWN.group: 1, "category:pets": 2, "kind:harmful": 1}
    figures = [
        figure("reasoning_tokens", tokens, low=tokens - 10, high=tokens + 10),
        *(figure("reasoning_tokens", tokens * times, group) for group, times in groups.items()),
    ]
    return report_runs.make(root, "eval/adaptivity", {"seed": 0, "model": model}, {"judge": None, "figures": figures})


def test_adaptivity_is_drawn_by_category_with_the_papers_tokens_beside(tmp_path):
    page = build_page(
        read_runs([adaptivity(tmp_path, report_runs.BASE, 100.5), adaptivity(tmp_path, "b", 50.0)]), "A test"
    )
    (part,) = page.groups
    assert part.title == "Adaptivity by category and kind"
    (plot,) = part.plots
    assert plot.title == "Length of the reasoning by category"
    opening_tag = plot.inline[: plot.inline.index(">")]
    category = KNOWN.group.partition(":")[2]
    assert f"{category} 100.5 tokens; pets 201.0 tokens" in opening_tag
    assert f"the paper’s {KNOWN.model}: {category} {KNOWN.value:.1f} tokens." in opening_tag


def test_tokens_are_shown_as_tokens_and_shares_in_percent(tmp_path):
    document = parsed(write([adaptivity(tmp_path, report_runs.BASE, 312.44)], tmp_path))
    assert document.contains("312.4 tokens 302.4 – 322.4, n = 20")
    assert (quantity(0.989, None), quantity(0.5, "")) == ("98.9\u2009%", "0.500")


def test_a_plugins_figure_has_its_own_title_and_unit(tmp_path, monkeypatch):
    length = FigureInfo("words", "Words of an answer", unit="words", headline=True)
    own = replace(ADAPTIVITY, name="terse", title="Terseness", reports=(length, FigureInfo("ratio", unit="")))
    monkeypatch.setitem(EVALS, "terse", own)
    groups = [f"category:{name}" for name in "ab"]
    figures = [figure("words", 12.34, low=11.0, high=13.0), figure("ratio", 0.5), figure("other_share", 0.25)]
    figures += [figure(name, 7.0, group) for name in ("words", "ratio") for group in groups]
    run = report_runs.make(tmp_path, "eval/terse", {"seed": 0, "model": "m"}, {"judge": None, "figures": figures})
    page = build_page(read_runs([run]), "A test")
    assert [column.title for column in page.headline.columns] == ["Words of an answer"]
    words, ratio = page.groups[0].plots
    assert words.title == "Words of an answer by category"
    assert "a 7.0 words; b 7.0 words" in words.inline
    assert "a 7.000; b 7.000" in ratio.inline
    document = parsed(write([run], tmp_path))
    for text in ("12.3 words 11.0 – 13.0 n = 20", "12.3 words 11.0 – 13.0, n = 20", "ratio all 0.500 n = 20"):
        assert document.contains(text)
    assert document.contains("other share all 25.0 % n = 20")


def test_figures_of_one_name_are_described_by_their_own_evaluation():
    assert evals.figure_info("separation", "accuracy").title == "Prompts on the right side, C = 1.0"
    assert evals.figure_info("guard", "accuracy").title == ""
    assert evals.figure_info("no-such", "dsr") == FigureInfo("dsr")


QWEN = "Qwen/Qwen2.5-1.5B-Instruct"


def beside_the_paper(tmp_path, model, name="harmbench", source=None, shown=None, **metrics):
    shown = shown or figure("dsr", 0.9, low=0.8, high=0.995)
    document = {"eval": name, "judge": "refusal", "source": source or name, "figures": [shown], **metrics}
    run = report_runs.make(tmp_path, f"eval/{name}", {"seed": 0, "model": model, **metrics}, document)
    return [run, build_page(read_runs([run]), "A test").paper_comparisons]


def test_a_figure_of_the_papers_own_model_says_whether_the_interval_covers_it(tmp_path):
    runs = []
    for model, low, high in (("CMU-AIRe/TARS-1.5B", 0.8, 0.995), ("CMU-AIRe/TARS-7B", 0.4, 0.6), (QWEN, None, None)):
        metrics = {
            "eval": "harmbench",
            "source": "harmbench",
            "judge": "refusal",
            "figures": [figure("dsr", 0.5, low=low, high=high)],
        }
        runs.append(report_runs.make(tmp_path, "eval/harmbench", {"seed": 0, "model": model}, metrics))
    page = build_page(read_runs(runs), "A test")
    assert {row.paper.model: (row.paper.value, row.covers) for row in page.paper_comparisons} == {
        "TARS-1.5B, λ = 0.5": (0.989, True),
        "TARS-7B, λ = 0.5": (0.983, False),
        "Qwen2.5-1.5B-Instruct": (0.561, None),
    }
    assert all(any("judge refusal" in text for text in row.departures) for row in page.paper_comparisons)
    document = parsed(write(runs, tmp_path))
    assert document.contains("TARS-1.5B, λ = 0.5, Figure 3 yes")


def test_what_is_not_like_a_papers_model_has_nothing_beside_it(tmp_path):
    small = "rl/tars-smoke/12345678"
    _, rows = beside_the_paper(tmp_path / "model", small, source="sample")
    assert rows == []
    _, rows = beside_the_paper(tmp_path / "size", "embedded/smollm2-135m")
    assert rows == []
    _, rows = beside_the_paper(tmp_path / "source", "CMU-AIRe/TARS-1.5B", source="sample")
    assert rows == []
    _, (row,) = beside_the_paper(tmp_path / "own", "CMU-AIRe/TARS-1.5B")
    assert row.covers


def test_a_margin_is_put_beside_the_papers_where_plane_and_prompts_are_its_own(tmp_path):
    prompts = {"harmful": {"source": "harmbench"}, "harmless": {"source": "xstest"}}
    margin = figure("margin", 0.7, low=0.6, high=0.8)
    settings = {"shown": margin, "model": "CMU-AIRe/TARS-1.5B", "name": "separation"}
    for projection, rows in (("pca", 0), ("umap", 1)):
        assert len(beside_the_paper(tmp_path / projection, projection=projection, **settings, **prompts)[1]) == rows
    prompts["harmless"] = {"source": "sample"}
    assert beside_the_paper(tmp_path / "sample", projection="umap", **settings, **prompts)[1] == []


def test_the_inside_of_a_model_is_drawn_from_its_points(tmp_path):
    draw = random.Random(0)
    points = [
        {"id": str(i), "kind": kind, "x": centre + draw.random(), "y": draw.random()}
        for kind, centre in (("harmful", 1.0), ("harmless", -2.0))
        for i in range(9)
    ]
    runs = [
        report_runs.make(tmp_path, "eval/separation", {"seed": 0, "model": str(n)}, {"projection": "pca"}, points=rows)
        for n, rows in enumerate((points, points[:9], [{"kind": "harmful", "x": None, "y": "<b>"}]))
    ]
    (plot,) = build_page(read_runs(runs), "A test").separations
    assert "PCA; C = 1.0, margin " in plot.caption
    assert "harmful (9)" in plot.inline


def test_names_longer_than_a_panel_leave_room_for_the_plot():
    long = "a model with a very long path " * 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.dots("a", "Some", [long], [Dots(long, (Span(0.5, 0.4, 0.6),)), Dots(long, (None,))], "")
        plots.reliability_curve("b", "Some", [plots.Line(long, (0.1,), (0.2,)), plots.Line("b", (0.1,), (0.2,))], "")
        plots.curves("c", "Some", [plots.Line(long, (1.0,), (0.2,)), plots.Line("b", (1.0,), (0.2,))])
