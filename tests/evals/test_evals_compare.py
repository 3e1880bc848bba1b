"""Differences between runs: what is paired, what is drawn, and when a difference is one."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from safereason.errors import InputError
from safereason.evals import compare, guard_suite
from safereason.evals.base import Eval, Outcome
from safereason.evals.guard_predictions import Prediction
from safereason.evals.harmbench import HARMBENCH
from safereason.evals.metrics import Figure
from safereason.evals.xstest import XSTEST
from safereason.judges.base import Measure, Verdict


def outcome(number: int, score: float | None, attack: str = "direct", **changes: Any) -> Outcome:
    record = {
        "id": f"b{number}/{attack}",
        "behavior": f"b{number}",
        "attack": attack,
        "kind": "harmful",
        "category": "c",
        "closed": True,
        "well_formed": True,
        "finish_reason": "stop",
        **changes,
    }
    return Outcome(record, Verdict(score, None) if score is not None else Verdict.unscored("no reply"))


def scores_of(evaluation: Eval, outcomes: list[Outcome], measure: Measure) -> compare.EvalScores:
    return compare.collect_scores(evaluation, outcomes, evaluation.figures(outcomes, measure), measure)


def defended(truths: list[bool | None], attack: str = "direct") -> list[Outcome]:
    return [outcome(n, None if truth is None else float(not truth), attack) for n, truth in enumerate(truths)]


def difference(first: list[bool | None], other: list[bool | None], seed: int = 0) -> compare.Difference:
    runs = [scores_of(HARMBENCH, defended(truths), "harm") for truths in (first, other)]
    return compare.of_evals(*runs, 2000, seed)["dsr", "all"]


def test_the_difference_is_over_what_both_have_a_score_for():
    delta = difference([True, True, False, None, True], [True, False, False, True, None])
    assert delta.value == pytest.approx(-1 / 3)
    assert (delta.n, delta.unscored) == (3, 2)


def test_only_shared_prompts_count():
    first = scores_of(HARMBENCH, defended([True] * 6), "harm")
    other = scores_of(HARMBENCH, defended([False] * 3), "harm")
    assert compare.of_evals(first, other, 200, 0)["dsr", "all"].n == 3
    strangers = scores_of(HARMBENCH, [outcome(9, 1.0)], "harm")
    with pytest.raises(InputError, match="shares no prompt with the first run"):
        compare.of_evals(first, strangers, 200, 0)


@pytest.mark.parametrize(("worse", "better"), [(30, 5), (12, 8), (9, 1), (20, 2)])
def test_p_is_near_mcnemars_exact_one(worse: int, better: int):
    """Of 200 pairs, those that differ decide; the exact test is the binomial one on them."""
    first: list[bool | None] = [True] * worse + [False] * better + [True] * (200 - worse - better)
    other = [not truth if n < worse + better else truth for n, truth in enumerate(first)]
    delta = difference(first, other)
    exact = binomtest(worse, worse + better).pvalue
    assert delta.value == pytest.approx((better - worse) / 200)
    assert delta.low is not None
    assert delta.high is not None
    assert delta.low <= delta.value <= delta.high
    assert delta.p == pytest.approx(exact, abs=0.12)
    assert (delta.p < 0.05) == (exact < 0.05)


def test_equal_runs_differ_by_nothing_and_a_few_prompts_prove_nothing():
    same = difference([True, False, None], [True, False, None])
    assert (same.value, same.low, same.high, same.p) == (0.0, None, None, 1.0)
    five = difference([True] * 5, [False] * 5)
    assert (five.value, five.p) == (-1.0, 2**-4)
    assert not five.is_worse("higher")
    assert difference([True] * 20, [False] * 20).is_worse("higher")


def test_less_is_better_of_some_figures():
    delta = compare.Difference(0.3, 0.1, 0.5, 0.01, 40, 0)
    assert delta.is_worse("lower")
    assert not delta.is_worse("higher")
    assert replace(delta, value=-0.3).is_worse("higher")
    assert not replace(delta, value=-0.3, p=0.2).is_worse("higher")


def test_the_order_changes_nothing_and_the_seed_decides_the_draws():
    truths: list[tuple[bool, bool]] = [(n % 3 > 0, n % 4 > 0) for n in range(60)]
    first, other = (defended([pair[place] for pair in truths]) for place in (0, 1))
    runs = [scores_of(HARMBENCH, outcomes, "harm") for outcomes in (first, other)]
    mixed = [scores_of(HARMBENCH, random.Random(5).sample(o, len(o)), "harm") for o in (first, other)]
    assert compare.of_evals(*runs, 500, 1) == compare.of_evals(*mixed, 500, 1)
    assert compare.of_evals(*runs, 500, 1) != compare.of_evals(*runs, 500, 2)


@given(st.lists(st.tuples(*[st.sampled_from([True, False, None])] * 2), min_size=2, max_size=12))
def test_means_over_attacks_are_taken_apart_and_put_together(truths: list[tuple[bool | None, bool | None]]):
    under_gcg = defended([truth for truth, _ in truths], "gcg")
    under_pair = defended([truth for _, truth in truths], "pair")
    outcomes = [*under_gcg, *under_pair]
    again = [outcome(0, 1.0, "pair", id="b0/pair#2"), outcome(1, 0.0, "gcg", id="b1/gcg#2")]
    run = scores_of(HARMBENCH, [*outcomes, *again], "harm")
    whole = {(f.name, f.group): f.value for f in HARMBENCH.figures([*outcomes, *again], "harm")}
    assert run.figures.keys() == whole.keys()
    for key, delta in compare.of_evals(run, run, 100, 0).items():
        assert delta.value == 0
        assert whole[key] is not None


def test_attacks_on_one_behavior_are_drawn_together():
    """Twenty behaviors under five attacks are no hundred: the interval is as wide as that of twenty."""
    first, other = [], []
    for attack in "vwxyz":
        first += defended([True] * 20, attack)
        other += defended([n % 2 == 0 for n in range(20)], attack)
    alone = difference([True] * 20, [n % 2 == 0 for n in range(20)])
    both = compare.of_evals(scores_of(HARMBENCH, first, "harm"), scores_of(HARMBENCH, other, "harm"), 2000, 0)[
        "dsr", "all"
    ]
    assert (both.low, both.high) == pytest.approx((alone.low, alone.high))


def test_a_score_is_read_by_the_recorded_measure():
    outcomes = defended([True, False, False])
    harm = scores_of(HARMBENCH, outcomes, "harm")
    refusal = scores_of(HARMBENCH, outcomes, "refusal")
    assert [run.items["b0/direct"].values["dsr", "all"] for run in (harm, refusal)] == [1.0, 0.0]


def test_the_recorded_aggregation_decides_and_not_equal_numbers():
    """Both means of these two attacks are .5; once a prompt is not shared, they are not."""
    first = [*defended([True, False], "gcg"), *defended([True, False], "pair")]
    run = scores_of(HARMBENCH, first, "harm")
    assert run.figures["dsr", "all"].aggregation == "macro"
    assert run.figures["closed", "all"].aggregation == "mean"
    other = scores_of(HARMBENCH, [*defended([False, False], "gcg"), *defended([True], "pair")], "harm")
    # Shared are b0 and b1 of gcg, and b0 of pair: (0 + 1) / 2 now, and (1/2 + 1) / 2 before.
    assert compare.of_evals(run, other, 50, 0)["dsr", "all"].value == pytest.approx(0.5 - 0.75)


def test_a_statistic_of_all_items_is_not_paired():
    outcomes = [outcome(0, 1.0), outcome(1, 0.0)]
    ratio = Figure("ratio", 0.5, 2, None, None)
    evaluation = replace(XSTEST, figures=lambda outcomes, measure: [ratio])
    assert compare.collect_scores(evaluation, outcomes, [ratio], "refusal").figures == {}


def test_figures_of_other_records_are_refused():
    recorded = XSTEST.figures([outcome(0, 1.0), outcome(1, 0.0)], "refusal")
    with pytest.raises(InputError, match="not those of its completions"):
        compare.collect_scores(XSTEST, [outcome(0, 1.0), outcome(1, 1.0)], recorded, "refusal")


def predictions(labels: str, name: str = "mine") -> list[Prediction]:
    """`u`, `s` or `-` a row; the first half of the rows is unsafe."""
    words: dict[str, Any] = {"u": "unsafe", "s": "safe", "-": None}
    return [
        Prediction(f"{name}/{n}", name, "unsafe" if n < len(labels) / 2 else "safe", words[letter])
        for n, letter in enumerate(labels)
    ]


def test_a_guards_differences_are_those_of_its_figures():
    first, other = (
        predictions("uuuusss-") + predictions("us", "own"),
        predictions("uss-ssss") + predictions("uu", "own"),
    )
    figures = [
        {(f.name, f.group): f.value for f in guard_suite.figures([p.row for p in guard], 10, 0)}
        for guard in (first, other)
    ]
    deltas = compare.of_guards(first, other, 300, 0)
    assert {("f1", "all"), ("f1", "mine"), ("f1_parsed", "own"), ("unparsed", "mine")} <= deltas.keys()
    for key, one in deltas.items():
        if key not in (("unparsed", "all"), ("says_unsafe", "all")):
            assert one.value == pytest.approx(figures[1][key] - figures[0][key]), key
    assert (deltas["f1", "mine"].n, deltas["f1", "mine"].unscored) == (8, 0)
    assert (deltas["f1_parsed", "mine"].n, deltas["f1_parsed", "mine"].unscored) == (6, 2)


def test_a_guard_that_is_worse_is_seen_and_shared_rows_alone_count():
    good, bad = predictions("u" * 40 + "s" * 40), predictions("s" * 20 + "u" * 20 + "s" * 40)
    delta = compare.of_guards(good, bad[10:], 1000, 0)["f1", "all"]
    assert delta.n == 70
    assert delta.is_worse("higher")
    assert not compare.of_guards(bad, good, 1000, 0)["f1", "all"].is_worse("higher")


def test_rows_with_other_labels_are_refused():
    other = [replace(p, expected="safe") for p in predictions("us")]
    with pytest.raises(InputError, match="row mine/0 of mine is unsafe in one run and safe in the other"):
        compare.of_guards(predictions("us"), other, 100, 0)
