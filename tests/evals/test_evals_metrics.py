"""Figures against published numbers."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from safereason.evals.metrics import Figure, macro, mean, proportion, share, share_by


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_of_shares_are_those_of_newcombe_1998_table_1(successes: int, n: int, low: float, high: float):
    figure = proportion("dsr", successes, n)
    assert (figure.low, figure.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert figure.value == successes / n


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_of_shares_are_scipys(counts: tuple[int, int]):
    figure, interval = proportion("dsr", *counts), binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert (figure.low, figure.high) == (
        pytest.approx(interval.low, abs=1e-12),
        pytest.approx(interval.high, abs=1e-12),
    )


@given(st.lists(st.sampled_from([True, False, None]), max_size=40))
def test_where_each_item_was_tried_once_its_share_is_its_truth(truths: list[bool | None]):
    figure = share_by("dsr", {str(i): [truth] for i, truth in enumerate(truths)})
    assert figure == replace(share("dsr", truths), aggregation="macro")


def test_items_weigh_alike_however_often_they_were_tried():
    figure = share_by("dsr", {"a": [True, False, False, False, None], "b": [True], "c": [None]})
    assert (figure.value, figure.n, figure.unscored) == (0.625, 2, 2)
    assert (figure.low, figure.high) == (pytest.approx(0.1417, abs=1e-4), pytest.approx(0.9439, abs=1e-4))


def test_nothing_scored_has_no_value():
    assert share("dsr", [None, None]) == Figure("dsr", None, 0, None, None, unscored=2, aggregation="mean")
    assert mean("x", [None]) == Figure("x", None, 0, None, None, unscored=1, aggregation="mean")
    assert macro("dsr", [share("dsr", [None], "gcg")]) == Figure(
        "dsr", None, 0, None, None, unscored=1, aggregation="macro"
    )


def test_the_unscored_are_counted_and_not_averaged():
    figure = share("dsr", [True, None, False, True, None])
    assert (figure.value, figure.n, figure.unscored) == (pytest.approx(2 / 3), 3, 2)


def test_a_mean_has_students_interval():
    figure = mean("tokens", [1.0, 2.0, None, 3.0, 4.0, 5.0])
    assert (figure.value, figure.n, figure.unscored) == (3.0, 5, 1)
    # t(0.975, 4) = 2.776445, s / sqrt(n) = sqrt(2.5 / 5)
    assert (figure.low, figure.high) == (pytest.approx(3 - 1.963243, abs=1e-6), pytest.approx(3 + 1.963243, abs=1e-6))


def test_a_mean_of_one_has_no_interval():
    assert mean("tokens", [7.0]) == Figure("tokens", 7.0, 1, None, None, aggregation="mean")


def test_macro_weighs_groups_alike_and_leaves_out_the_empty():
    parts = [
        proportion("dsr", 9, 10, group="gcg"),
        proportion("dsr", 10, 100, group="pair"),
        proportion("dsr", 0, 0, 3, "pap"),
    ]
    figure = macro("dsr", parts)
    assert (figure.value, figure.n, figure.unscored, figure.group) == (pytest.approx(0.5), 110, 3, "all")


@given(st.lists(st.sampled_from([True, False, None]), min_size=1, max_size=60))
def test_macro_of_one_group_is_that_group(truths: list[bool | None]):
    part = share("dsr", truths, "direct")
    whole = macro("dsr", [part])
    assert (whole.value, whole.low, whole.high, whole.n) == (part.value, part.low, part.high, part.n)
    if part.value is not None and part.low is not None and part.high is not None:
        assert 0.0 <= part.low <= part.value + 1e-12 <= part.high + 2e-12 <= 1.0 + 1e-9


def test_labels_name_the_group_only_where_there_is_one():
    assert [proportion("dsr", 1, 2).label, proportion("dsr", 1, 2, group="direct").label] == ["dsr", "dsr/direct"]
