"""The papers' figures: shape and plausibility of what was typed in."""

import pytest

from safereason.data.sources import SOURCES
from safereason.evals import EVALS, paper
from safereason.evals.metrics import Figure
from safereason.evals.paper import RATIOS, RSAFE_F1, TARS_FIGURE_2B, TARS_FIGURE_3, TARS_TABLE_4, Tradeoff, guard_scores
from safereason.evals.paper_locations import PAPER_LOCATIONS
from safereason.evals.paper_match import Origin, matching_figure
from safereason.recipe.named import shipped


@pytest.mark.parametrize("plot", [TARS_FIGURE_3, TARS_FIGURE_2B])
def test_series_rise_in_lambda_and_hold_shares(plot: Tradeoff):
    for points in plot.series.values():
        assert all(0.0 <= point.dsr <= 1.0 and 0.0 <= point.compliance <= 1.0 for point in points)
        assert [point.harmful_ratio for point in points] in ([None], [0.5], list(RATIOS))


def test_both_plots_agree_on_tars_dsr():
    assert [p.dsr for p in TARS_FIGURE_3.series["TARS-1.5B"]] == [p.dsr for p in TARS_FIGURE_2B.series["TARS-1.5B"]]


def test_tars_defends_better_than_its_start_in_the_paper():
    start = TARS_FIGURE_3.series["π_SFT"][0]
    assert all(p.dsr > start.dsr and p.compliance < start.compliance for p in TARS_FIGURE_3.series["TARS-1.5B"])


def test_table_4_is_in_percent():
    assert {(row.model, row.attack) for row in TARS_TABLE_4} == {
        (m, a) for m in ("TARS-1.5B", "SFT") for a in ("gcg", "pair")
    }
    assert all(50 < row.closed < 100 and 50 < row.dsr_closed < 100 for row in TARS_TABLE_4)


def test_known_figures_of_guards_are_shares_of_sets_that_can_be_measured():
    assert {score.set for score in RSAFE_F1} <= set(SOURCES)
    assert all(0.5 < score.f1 < 1 and score.source for score in RSAFE_F1)
    assert len({(score.set, score.guard) for score in RSAFE_F1}) == len(RSAFE_F1)


def test_the_nearest_target_of_a_set_comes_first():
    assert [score.f1 for score in guard_scores("openai-moderation")] == [0.764]
    assert [score.f1 for score in guard_scores("wildguardtest-adversarial")] == [0.723, 0.733, 0.634, 0.717, 0.609]
    assert guard_scores("mine") == ()


def test_known_figures_begin_with_the_main_model():
    dsr = paper.known("harmbench", "dsr")
    assert (dsr[0].model, dsr[0].value, dsr[0].location) == ("TARS-1.5B, λ = 0.5", 0.989, "Figure 3")
    assert len({figure.model for figure in dsr}) == len(dsr) == 34
    assert paper.known("xstest", "compliance_safe")[0].value == 0.767
    assert paper.known("wildchat", "compliance")[0].value == 0.858
    assert paper.known("adaptivity", "answer_tokens", "category:Potentially Unqualified Advice")[0].value == 609
    assert paper.known("harmbench", "dsr", "direct") == ()


QWEN, QWEN_7B = "Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (Origin("rl/tars-1.5b/x", QWEN, 0.5), ("TARS-1.5B, λ = 0.5", 0.989)),
        (Origin("rl/tars-1.5b/x", QWEN, 0.7), ("TARS-1.5B, λ = 0.7", 0.9995)),
        (Origin("rl/tars-1.5b-released/x", "danielkty22/TARS-SFT-1.5B", 0.3), ("TARS-1.5B, λ = 0.3", 0.910)),
        (Origin("rl/tars-7b/x", QWEN_7B, 0.5), ("TARS-7B, λ = 0.5", 0.983)),
        (Origin("rl/baseline-dpo/x", QWEN, 0.5), ("DPO, λ = 0.5", 0.801)),
        (Origin("sft/tars-1.5b/x", QWEN, 0.5), ("π_SFT", 0.683)),
        (Origin("sft/baseline-sft/x", "danielkty22/TARS-SFT-1.5B", 0.5), ("SFT, λ = 0.5", 0.770)),
        (Origin(QWEN), ("Qwen2.5-1.5B-Instruct", 0.561)),
        (Origin("danielkty22/TARS-SFT-1.5B"), ("π_SFT", 0.683)),
        (Origin("CMU-AIRe/TARS-1.5B"), ("TARS-1.5B, λ = 0.5", 0.989)),
        (Origin("rl/tars-1.5b/x", QWEN_7B, 0.5), None),  # another size
        (Origin("rl/tars-1.5b/x", QWEN, 0.4), None),  # a λ that the paper has not
        (Origin("rl/tars-1.5b/x"), None),  # nobody knows of which base
        (Origin("rl/tars-smoke/x", "embedded/smollm2-135m", 0.5), None),
        (Origin("rl/mine/x", QWEN, 0.5), None),  # another method, for all that is known
        (Origin("embedded/smollm2-135m"), None),
    ],
)
def test_a_model_is_held_against_its_own_figure_of_the_paper_or_none(origin, expected):
    figure = matching_figure("harmbench", "dsr", "all", origin, {"source": "harmbench"}, {})
    assert (figure and (figure.model, figure.value)) == expected
    assert matching_figure("harmbench", "dsr", "all", origin, {"source": "sample"}, {}) is None
    assert matching_figure("harmbench", "truncated", "all", origin, {"source": "harmbench"}, {}) is None


def test_a_guard_is_held_against_the_run_of_its_recipe_on_that_set():
    rsafe, sets = Origin("guard/rl/rsafe/x", QWEN_7B), {"sets": [{"source": "toxicchat", "name": None}]}
    figure = matching_figure("guard", "f1_parsed", "toxicchat", rsafe, {}, sets)
    assert figure is not None
    assert figure.value == 0.728
    others = (Origin("guard/sft/rsafe/x", QWEN_7B), Origin("guard/rl/rsafe-smoke/x", "embedded/smollm2-135m"))
    assert [matching_figure("guard", "f1_parsed", "toxicchat", other, {}, sets) for other in others] == [None, None]
    renamed = {"sets": [{"source": "mine.jsonl", "name": "toxicchat"}]}
    assert matching_figure("guard", "f1_parsed", "toxicchat", rsafe, {}, renamed) is None


def test_gcgs_dsr_is_worked_out_from_table_4():
    worked_out = paper.known("harmbench", "dsr", "gcg")[0]
    assert worked_out.value == pytest.approx(0.6865 * 0.9279 + 0.3135 * 0.8382)
    assert "worked out" in worked_out.source
    assert paper.known("harmbench", "dsr", "pair") == ()  # the table does not have the other half


@pytest.mark.parametrize(
    ("low", "high", "covers"),
    [(0.9, 0.983, False), (0.9, 0.984, True), (0.994, 1.0, True), (0.9945, 1.0, False), (None, None, None)],
)
def test_an_interval_covers_what_its_reading_may_be_out(low: float | None, high: float | None, covers: bool | None):
    theirs = paper.known("harmbench", "dsr")[0]
    assert paper.covered(Figure("dsr", 0.95, 20, low, high), theirs) is covers
    assert paper.covered(Figure("dsr", None, 0, None, None, 20), theirs) is None


def test_every_figure_is_of_a_place_an_evaluation_and_a_recipe_that_there_are():
    locations = {(location.paper, location.name) for location in PAPER_LOCATIONS}
    assert len(locations) == len(PAPER_LOCATIONS)
    recipes = {file.stem for file in shipped()}
    for figure in paper.as_printed():
        assert (figure.paper, figure.location) in locations
        assert figure.recipe is None or figure.recipe in recipes
        assert figure.tolerance > 0
        if figure.evaluation in EVALS:
            assert figure.figure in [info.name for info in EVALS[figure.evaluation].reports], figure


def test_a_run_says_how_it_departs_from_the_papers_protocol():
    theirs = {
        "eval": "harmbench",
        "judge": "harmbench:org/m",
        "attacks": ["pap", "pair", "gcg", "autodan"],
        "limit": None,
    }
    assert paper.departures(theirs) == ()
    ours = {**theirs, "judge": "refusal", "attacks": ["direct"], "limit": 20, "examples": 20, "available": 400}
    assert paper.departures(ours) == (
        "judge refusal for harmbench",
        "attacks direct for gcg, autodan, pair, pap",
        "20 of 400 prompts",
    )
    assert paper.departures({"eval": "guard"}) == ()
