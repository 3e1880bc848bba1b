"""The papers' figures: shape and plausibility of what was typed in."""

import pytest

from safereason.evals.paper import RATIOS, TARS_FIGURE_2B, TARS_FIGURE_3, TARS_TABLE_4, Tradeoff


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
