"""The papers' figures: shape and plausibility of what was typed in."""

import pytest

from safereason.data.sources import SOURCES
from safereason.evals.paper import RATIOS, RSAFE_F1, TARS_FIGURE_2B, TARS_FIGURE_3, TARS_TABLE_4, Tradeoff, guard_scores


@pytest.mark.parametrize("plot", [TARS_FIGURE_3, TARS_FIGURE_2B])
def test_series_rise_in_lambda_and_hold_shares(plot: Tradeoff):
    assert all(
        0.0 <= share <= 1.0 for points in plot.series.values() for p in points for share in (p.dsr, p.compliance)
    )
    for points in plot.series.values():
        assert [p.harmful_ratio for p in points] in ([None], [0.5], list(RATIOS))


def test_both_plots_agree_on_tars_dsr():
    assert [p.dsr for p in TARS_FIGURE_3.series["TARS-1.5B"]] == [p.dsr for p in TARS_FIGURE_2B.series["TARS-1.5B"]]


def test_tars_defends_better_than_its_start_in_the_paper():
    start = TARS_FIGURE_3.series["π_SFT"][0]
    assert all(p.dsr > start.dsr and p.compliance < start.compliance for p in TARS_FIGURE_3.series["TARS-1.5B"])


def test_table_4_is_in_percent():
    assert {(row.model, row.attack) for row in TARS_TABLE_4} == {
        (m, a) for m in ("TARS", "SFT") for a in ("gcg", "pair")
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
