"""A guard's figures: against scikit-learn and scipy, what strict means, and what changes nothing."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from safereason.evals import GUARD
from safereason.evals.guard_suite import (
    BINS,
    LabelledRow,
    by_category,
    confusion,
    figures,
    reliability,
)
from safereason.evals.metrics import Figure

LABELS = st.sampled_from(["safe", "unsafe"])
ROWS = st.lists(
    st.builds(
        LabelledRow,
        set=st.sampled_from(["one", "two"]),
        expected=LABELS,
        label=st.none() | LABELS,
        score=st.none() | st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
        categories=st.sampled_from([(), ("a",), ("a", "b")]),
    ),
    min_size=1,
    max_size=40,
)


def drawn(n: int, name: str = "set", seed: int = 0, unparsed: float = 0.1) -> list[LabelledRow]:
    """Rows of a guard that is right more often than not."""
    rng = random.Random(f"{name}/{seed}")
    rows = []
    for _ in range(n):
        expected = rng.choice(["safe", "safe", "unsafe"])
        score = min(max(rng.gauss(0.65 if expected == "unsafe" else 0.35, 0.25), 0.0), 1.0)
        label = None if rng.random() < unparsed else "unsafe" if score > 0.5 else "safe"
        rows.append(LabelledRow(name, expected, label, score if label else None))
    return rows


def measured(rows: list[LabelledRow], resamples: int = 200, seed: int = 0) -> dict[str, Figure]:
    return {figure.label: figure for figure in figures(rows, resamples, seed)}


def wrong(label: str) -> str:
    return {"safe": "unsafe", "unsafe": "safe"}[label]


def strictly(rows: list[LabelledRow]) -> tuple[list[bool], list[bool]]:
    """Truth and prediction, where no verdict is the wrong one."""
    labels = [row.label or wrong(row.expected) for row in rows]
    return [row.expected == "unsafe" for row in rows], [label == "unsafe" for label in labels]


def test_a_set_agrees_with_scikit_learn():
    rows = drawn(300)
    results = measured(rows)
    truth, predicted = strictly(rows)
    for name, score in {
        "f1": f1_score,
        "precision": precision_score,
        "recall": recall_score,
        "accuracy": accuracy_score,
    }.items():
        assert results[f"{name}/set"].value == pytest.approx(score(truth, predicted))
    parsed = [row for row in rows if row.label]
    assert results["f1_parsed/set"].value == pytest.approx(f1_score(*strictly(parsed)))
    assert (results["f1_parsed/set"].n, results["f1_parsed/set"].unscored) == (len(parsed), 300 - len(parsed))
    scored = [row for row in rows if row.score is not None]
    auroc = roc_auc_score([row.expected == "unsafe" for row in scored], [row.score for row in scored])
    assert results["auroc/set"].value == pytest.approx(auroc)
    assert results["f1_always_unsafe/set"].value == pytest.approx(f1_score(truth, [True] * 300))
    assert (results["f1_always_safe/set"].value, results["f1_always_safe/set"].high) == (0.0, 0.0)


def test_ties_count_half_in_auroc():
    rows = [
        LabelledRow("set", "unsafe", "unsafe", 0.5),
        LabelledRow("set", "safe", "safe", 0.5),
        LabelledRow("set", "safe", "safe", 0.1),
    ]
    truth, scores = [row.expected == "unsafe" for row in rows], [row.score for row in rows]
    assert measured(rows)["auroc"].value == pytest.approx(roc_auc_score(truth, scores)) == 0.75


@pytest.mark.parametrize("name", ["f1", "auroc"])
def test_intervals_agree_with_scipys_bootstrap(name):
    rows = drawn(120, unparsed=0.0)
    truth, predicted = map(np.array, strictly(rows))
    scores = np.array([row.score for row in rows])
    statistic = {
        "f1": lambda t, p, s: f1_score(t, p),
        "auroc": lambda t, p, s: roc_auc_score(t, s),
    }[name]
    interval = bootstrap(
        (truth, predicted, scores),
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=500,
        method="percentile",
        rng=1,
    ).confidence_interval
    figure = measured(rows, resamples=2000)[f"{name}/set"]
    assert figure.low == pytest.approx(interval.low, abs=0.03)
    assert figure.high == pytest.approx(interval.high, abs=0.03)


def test_no_verdict_is_the_wrong_verdict_and_is_dropped_by_the_authors():
    right = [LabelledRow("set", label, label) for label in ("safe", "unsafe")] * 5
    silent = [LabelledRow("set", label, None) for label in ("safe", "unsafe")] * 5
    results = measured([*right, *silent])
    # 5 hits, 5 misses and 5 false alarms.
    assert results["f1"].value == pytest.approx(0.5)
    assert (results["precision"].value, results["recall"].value, results["accuracy"].value) == (0.5, 0.5, 0.5)
    assert (results["f1_parsed"].value, results["f1_parsed"].n, results["f1_parsed"].unscored) == (1.0, 10, 10)
    assert (results["unparsed"].value, results["says_unsafe"].value) == (0.5, 0.5)
    assert (results["says_unsafe"].n, results["says_unsafe"].unscored) == (10, 10)


def test_a_figure_that_is_not_defined_is_none_and_no_zero():
    safe_only = measured([LabelledRow("set", "safe", "safe", 0.2)] * 4)
    for name in ("f1", "f1_parsed", "recall", "auroc", "f1_always_unsafe", "precision"):
        assert (safe_only[f"{name}/set"].value, safe_only[f"{name}/set"].n) == (None, 0)
        assert safe_only[f"{name}/set"].unscored == 4
    assert safe_only["accuracy"].value == 1.0
    assert measured([LabelledRow("set", "unsafe", "safe")] * 4)["f1"].value == 0.0
    assert figures([], 10, 0) == []


def test_draws_that_all_agree_give_no_interval():
    results = measured([LabelledRow("set", "unsafe", "unsafe")] * 5 + [LabelledRow("set", "safe", "safe")] * 5)
    assert (results["f1"].value, results["f1"].low, results["f1"].high) == (1.0, None, None)
    assert results["unparsed"].high == pytest.approx(0.2775, abs=1e-3)  # Wilson's, for 0 of 10


def test_over_all_sets_is_the_mean_weighted_by_rows_and_the_f1_of_all():
    one, two = drawn(150, "one"), drawn(50, "two", unparsed=0.4)
    results = measured([*one, *two])
    expected = 0.75 * results["f1/one"].value + 0.25 * results["f1/two"].value
    assert results["f1"].value == pytest.approx(expected)
    assert (results["f1"].n, results["f1"].unscored) == (200, 0)
    assert results["f1_pooled"].value == pytest.approx(f1_score(*strictly([*one, *two])))
    assert results["f1"].high - results["f1"].low < results["f1/two"].high - results["f1/two"].low


def test_a_set_without_unsafe_rows_is_left_out_of_the_mean_and_counted():
    results = measured([*drawn(60, "one"), *([LabelledRow("two", "safe", "safe")] * 20)])
    assert results["f1"].value == results["f1/one"].value
    assert (results["f1"].n, results["f1"].unscored) == (60, 20)
    assert results["accuracy"].n == 80


def test_neither_the_order_of_rows_nor_other_sets_change_a_sets_figures():
    one, two = drawn(80, "one"), drawn(40, "two")
    shuffled = random.Random(1).sample([*one, *two], 120)
    alone, together = measured(one), measured(shuffled)
    own = [label for label in alone if label.endswith("/one")]
    assert own
    assert [together[label] for label in own] == [alone[label] for label in own]
    assert measured(one, seed=1)["f1/one"].low != alone["f1/one"].low


@given(ROWS)
def test_figures_are_shares_inside_their_intervals(rows):
    all_figures = figures(rows, 30, 0)
    assert {figure.name for figure in all_figures} == {info.name for info in GUARD.reports}
    for figure in all_figures:
        assert figure.n + figure.unscored == sum(figure.group in ("all", row.set) for row in rows)
        assert (figure.value is None) == (figure.n == 0)
        if figure.value is not None:
            assert 0 <= figure.value <= 1
        if figure.low is not None:
            assert 0 <= figure.low <= figure.high <= 1


@given(ROWS)
def test_confusion_counts_every_row_once(rows):
    table = confusion(rows)
    assert sum(n for row in table.values() for n in row.values()) == len(rows)
    assert table["unsafe"]["unparsed"] == sum(r.expected == "unsafe" and r.label is None for r in rows)


def test_recall_by_category_counts_a_row_in_each_of_its_categories():
    rows = [
        LabelledRow("set", "unsafe", "unsafe", categories=("a", "b")),
        LabelledRow("set", "unsafe", None, categories=("a",)),
        LabelledRow("set", "unsafe", "safe"),
        LabelledRow("set", "safe", "unsafe", categories=("a",)),
    ]
    table = {row["category"]: (row["n"], row["recall"], row["unparsed"]) for row in by_category(rows)}
    assert table == {"a": (2, 0.5, 1), "b": (1, 1.0, 0), "none named": (1, 0.0, 0)}
    assert all(row["low"] <= row["recall"] <= row["high"] for row in by_category(rows))


def test_reliability_sets_mean_score_against_the_share_unsafe():
    rows = [
        LabelledRow("s", "unsafe", "unsafe", 1.0),
        LabelledRow("s", "safe", "unsafe", 0.96),
        LabelledRow("s", "safe", None),
    ]
    curve = reliability(rows)
    assert (curve["n"], len(curve["bins"])) == (2, BINS)
    assert curve["bins"][9] == {"low": 0.9, "high": 1.0, "n": 2, "mean_score": pytest.approx(0.98), "share_unsafe": 0.5}
    assert curve["calibration_error"] == pytest.approx(0.48)
    assert all(b["mean_score"] is None and b["n"] == 0 for b in curve["bins"][:9])
    assert reliability(rows[2:])["calibration_error"] is None


@given(ROWS)
def test_reliability_puts_every_score_into_one_bin(rows):
    curve = reliability(rows)
    assert sum(b["n"] for b in curve["bins"]) == curve["n"] == sum(row.score is not None for row in rows)
    for b in curve["bins"]:
        assert b["n"] == 0 or b["low"] - 1e-9 <= b["mean_score"] <= b["high"] + 1e-9
