"""The trade-off planes: which models make a line, what is labelled, and what stands beside."""

import report_runs

from safereason.report.page import build_page
from safereason.report.read import read_runs

BOTH = ("harmbench", "xstest")


def trained(root, monkeypatch, ratio, rest=""):
    """An RL run of a recipe with this λ, and its two evaluations."""
    monkeypatch.setattr(
        report_runs, "RECIPE", f"{report_runs.RECIPE}{rest}data: {{harmful_ratio: {ratio}, mix: tars}}\n"
    )
    identity = {"seed": 0, "model": report_runs.BASE, "ratio": ratio, "rest": rest}
    model = report_runs.model_name("rl", identity)
    high = int(10 + 20 * ratio)
    runs = [report_runs.rl(root, identity, steps=2), *(report_runs.evaluation(root, n, model, high) for n in BOTH)]
    monkeypatch.undo()
    return runs


def planes(paths):
    return {plot.name: plot for plot in build_page(read_runs(paths), "A test").tradeoff}


def test_models_whose_recipes_differ_in_lambda_alone_are_one_line_and_labelled(tmp_path, monkeypatch):
    overridden = "provenance: {data.harmful_ratio: override}\n"
    points = ((0.5, ""), (0.1, overridden), (0.9, overridden))
    runs = [run for ratio, rest in points for run in trained(tmp_path, monkeypatch, ratio, rest)]
    runs += [report_runs.evaluation(tmp_path, n, report_runs.BASE, 5) for n in BOTH]
    ours = planes(runs)["tradeoff"]
    opening_tag = ours.inline[: ours.inline.index(">")]
    assert opening_tag.count("RL") == 1
    assert [opening_tag.index(f" {ratio} compliance") for ratio in (0.1, 0.5, 0.9)] == sorted(
        opening_tag.index(f" {ratio} compliance") for ratio in (0.1, 0.5, 0.9)
    )
    assert "Base: compliance" in opening_tag
    assert "Numbers are λ" in ours.caption


def test_models_whose_recipes_differ_in_more_stand_apart(tmp_path, monkeypatch):
    runs = [
        run
        for ratio, rest in ((0.1, ""), (0.5, "sft: {epochs: 2}\n"))
        for run in trained(tmp_path, monkeypatch, ratio, rest)
    ]
    svg = planes(runs)["tradeoff"].inline
    assert svg[: svg.index(">")].count("RL · tars-smoke") == 2


def test_each_plane_has_the_papers_plot_of_it_beside(tmp_path):
    everything = report_runs.everything(tmp_path)
    assert list(planes(everything)) == ["tradeoff", "tradeoff-paper"]
    model = report_runs.BASE
    figure = {"name": "compliance", "value": 0.9, "n": 10, "low": 0.8, "high": 0.95, "unscored": 0, "group": "all"}
    wildchat = report_runs.make(
        tmp_path, "eval/wildchat", {"seed": 0, "model": model}, {"judge": "refusal", "figures": [figure]}
    )
    drawn = planes([*everything, wildchat])
    assert list(drawn) == ["tradeoff", "tradeoff-paper", "tradeoff-wildchat", "tradeoff-wildchat-paper"]
    assert "Deliberative alignment" in drawn["tradeoff-wildchat-paper"].inline


def test_one_evaluation_by_two_judges_is_two_plots(tmp_path):
    paths = [
        *(report_runs.evaluation(tmp_path, n, report_runs.BASE, 5) for n in BOTH),
        report_runs.evaluation(tmp_path, "harmbench", report_runs.BASE, 9, judge="other"),
    ]
    metrics = paths[-1] / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"judge": "refusal"', '"judge": "other"'))
    drawn = planes(paths)
    assert list(drawn) == ["tradeoff", "tradeoff-2", "tradeoff-paper"]
    assert "by other and" in drawn["tradeoff"].caption + drawn["tradeoff-2"].caption
