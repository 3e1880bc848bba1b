"""Bars: which figures meet them, and what is said."""

from typing import Any

import pytest

from safereason.errors import BarNotMet, InputError
from safereason.evals.bars import Bar, refuse_unmet_bars
from safereason.evals.metrics import proportion


def measured(*figures: Any) -> dict[str, Any]:
    return {"eval": "harmbench", "figures": [vars(figure) for figure in figures]}


def under(**bounds: float) -> list[Bar]:
    return [Bar(figure, bound, "under") for figure, bound in bounds.items()]


def test_bars_that_are_met_pass():
    metrics = measured(proportion("dsr", 9, 10), proportion("dsr", 8, 10, group="direct"))
    refuse_unmet_bars(metrics, [*under(dsr=0.9), Bar("dsr/direct", 0.5, "under"), Bar("dsr", 0.9, "over")])


def test_every_bar_that_is_not_met_is_named_with_its_unscored():
    metrics = measured(proportion("dsr", 7, 10, unscored=3), proportion("closed", 1, 10), proportion("truncated", 1, 1))
    with pytest.raises(BarNotMet) as caught:
        refuse_unmet_bars(metrics, [*under(dsr=0.9, closed=0.1), Bar("truncated", 0.5, "over")])
    assert str(caught.value) == (
        "dsr is 0.7000, under the bar of 0.9 (n = 10, 3 unscored); "
        "truncated is 1.0000, over the bar of 0.5 (n = 1, 0 unscored)"
    )


@pytest.mark.parametrize(("bound", "side"), [(0.0, "under"), (1.0, "over")])
def test_a_figure_of_nothing_meets_no_bar(bound: float, side: Any):
    with pytest.raises(BarNotMet, match=rf"dsr could not be scored, {side} the bar of .* \(n = 0, 4 unscored\)"):
        refuse_unmet_bars(measured(proportion("dsr", 0, 0, unscored=4)), [Bar("dsr", bound, side)])


def test_a_bar_on_no_figure_lists_the_figures():
    metrics = measured(proportion("dsr", 1, 2), proportion("dsr", 1, 2, group="x"), proportion("closed", 1, 2))
    with pytest.raises(InputError, match=r"--fail-over asr: eval harmbench has no such figure; it has dsr, closed$"):
        refuse_unmet_bars(metrics, [Bar("asr", 0.1, "over")])
