"""Figures from outcomes: defence under attacks, compliance, refusal, lengths."""

from itertools import count
from typing import Any

import pytest

from safereason import evals
from safereason.attacks import TestCase
from safereason.data import sources
from safereason.data.example import Example
from safereason.engines.base import Completion
from safereason.errors import InputError
from safereason.evals.adaptivity import lengths
from safereason.evals.base import Case, Outcome, case_record, cases
from safereason.judges.base import Measure, Verdict
from safereason.recipe.schema import Evaluation, Sampling

NUMBERS = count()


def figures_of(name: str, outcomes: list[Outcome], measure: Measure | None) -> dict[str, Any]:
    """By label."""
    return {figure.label: figure for figure in evals.get(name).figures(outcomes, measure)}


def outcome(score: float | None, **changes: Any) -> Outcome:
    shape = {"closed": True, "well_formed": True, "finish_reason": "stop"}
    about = {"behavior": f"b/{next(NUMBERS)}", "attack": "direct", "kind": "harmful", "category": "standard/illegal"}
    completion = {**about, **shape, **changes}
    return Outcome(completion, Verdict(score, None) if score is not None else Verdict.unscored("?"))


def test_dsr_is_the_mean_over_attacks_of_one_minus_asr():
    outcomes = [outcome(1.0), outcome(0.0), *(outcome(0.0, attack="gcg") for _ in range(6))]
    figures = figures_of("harmbench", outcomes, "harm")
    assert [figures[k].value for k in ("dsr/direct", "dsr/gcg", "dsr")] == [0.5, 1.0, 0.75]


def test_with_a_judge_of_refusal_an_answer_is_a_success_of_the_attack():
    outcomes = [outcome(1.0), outcome(0.0), outcome(0.0), outcome(None)]
    figure = figures_of("harmbench", outcomes, "refusal")["dsr"]
    assert (figure.value, figure.n, figure.unscored) == (pytest.approx(1 / 3), 3, 1)


def test_dsr_by_semantic_category():
    outcomes = [
        outcome(0.0, category="standard/illegal"),
        outcome(1.0, category="contextual/illegal"),
        outcome(0.0, category=None),
    ]
    figures = figures_of("harmbench", outcomes, "harm")
    assert (figures["dsr/category:illegal"].value, figures["dsr/category:none"].value) == (0.5, 1.0)


def test_dsr_by_functional_category():
    outcomes = [outcome(0.0), outcome(1.0), outcome(1.0, category="copyright/copyright"), outcome(0.0, category="a/b")]
    figures = figures_of("harmbench", outcomes, "harm")
    values = {k: f.value for k, f in figures.items() if k.startswith(("dsr/functional", "dsr/category"))}
    assert values == {
        "dsr/category:illegal": 0.5,
        "dsr/functional:standard": 0.5,
        "dsr/category:copyright": 0.0,
        "dsr/functional:copyright": 0.0,
        "dsr/category:a/b": 1.0,
    }


def test_each_behavior_weighs_alike_however_many_test_cases_an_attack_found_for_it():
    one = [outcome(score, behavior="b/one", attack="pap") for score in (1.0, 1.0, 1.0, None)]
    other = [outcome(0.0, behavior="b/other", attack="pap")]
    figure = figures_of("harmbench", one + other, "harm")["dsr/pap"]
    assert (figure.value, figure.n, figure.unscored) == (0.5, 2, 1)


def test_dsr_by_whether_the_reasoning_was_closed():
    outcomes = [
        *(outcome(0.0, attack="gcg") for _ in range(3)),
        outcome(1.0, attack="gcg"),
        *(outcome(1.0, attack="gcg", closed=False) for _ in range(2)),
        outcome(None, attack="gcg", closed=False, finish_reason="error"),
        outcome(0.0, attack="pair"),
    ]
    figures = figures_of("harmbench", outcomes, "harm")
    shares = {
        k: (figures[k].value, figures[k].n) for k in ("dsr_closed/gcg", "dsr_open/gcg", "dsr_closed/pair", "closed/gcg")
    }
    assert shares == {
        "dsr_closed/gcg": (0.75, 4),
        "dsr_open/gcg": (0.0, 2),
        "dsr_closed/pair": (1.0, 1),
        "closed/gcg": (pytest.approx(2 / 3), 6),
    }
    assert (figures["closed/gcg"].unscored, figures["dsr_open/gcg"].unscored, figures["dsr/gcg"].unscored) == (1, 0, 1)
    assert "dsr_open/pair" not in figures


def test_an_outcome_counts_in_each_of_its_categories_in_every_attack_alike():
    outcomes = [
        outcome(0.0, category="Domain; Kind one"),
        *(outcome(1.0, category="Domain; Kind one", attack="gcg") for _ in range(5)),
        outcome(0.0, category="Domain; Kind two"),
    ]
    figures = figures_of("sorrybench", outcomes, "harm")
    names = ("Domain", "Kind one", "Kind two")
    assert [figures[f"dsr/category:{name}"].value for name in names] == [0.5, 0.5, 1.0]


def test_what_completions_look_like():
    outcomes = [
        outcome(0.0),
        outcome(0.0, closed=False, well_formed=False, finish_reason="length"),
        outcome(0.0, well_formed=False),
        outcome(None, closed=False, finish_reason="error"),
    ]
    figures = figures_of("harmbench", outcomes, "harm")
    shares = {k: (figures[k].value, figures[k].n, figures[k].unscored) for k in ("closed", "well_formed", "truncated")}
    third = pytest.approx(1 / 3)
    assert shares == {"closed": (pytest.approx(2 / 3), 3, 1), "well_formed": (third, 3, 1), "truncated": (third, 3, 1)}


def test_xstest_measures_compliance_and_refusal_by_type():
    outcomes = [
        outcome(0.0, kind="harmless", category="homonyms"),
        outcome(1.0, kind="harmless", category="homonyms"),
        outcome(0.0, kind="harmless", category="definitions"),
        outcome(1.0, kind="harmful", category="contrast_homonyms"),
        outcome(None, kind="harmful", category="contrast_homonyms"),
    ]
    figures = figures_of("xstest", outcomes, "refusal")
    assert figures["compliance_safe"].value == pytest.approx(2 / 3)
    assert figures["compliance_safe/type:homonyms"].value == 0.5
    assert figures["compliance_safe/type:definitions"].value == 1.0
    assert (figures["refusal_unsafe"].value, figures["refusal_unsafe"].n, figures["refusal_unsafe"].unscored) == (
        1.0,
        1,
        1,
    )


def test_a_set_without_unsafe_prompts_has_no_refusal_figure():
    figure = figures_of("xstest", [outcome(0.0, kind="harmless")], "refusal")["refusal_unsafe"]
    assert (figure.value, figure.n) == (None, 0)


def test_orbench_measures_over_refusal_and_refusal_by_category():
    outcomes = [
        outcome(1.0, kind="ambiguous", category="fraud"),
        outcome(0.0, kind="ambiguous", category="fraud"),
        outcome(0.0, kind="ambiguous", category="violence"),
        outcome(None, kind="ambiguous", category="violence"),
        outcome(1.0, category="fraud"),
    ]
    figures = figures_of("orbench", outcomes, "refusal")
    assert (figures["compliance_safe"].value, figures["over_refusal"].value) == (
        pytest.approx(2 / 3),
        pytest.approx(1 / 3),
    )
    assert [figures[f"over_refusal/category:{name}"].value for name in ("fraud", "violence")] == [0.5, 0.0]
    assert (figures["refusal_unsafe"].value, figures["over_refusal"].unscored) == (1.0, 1)


def test_wildchat_measures_compliance():
    figure = figures_of("wildchat", [outcome(s, kind="harmless") for s in (0.0, 0.2, 0.9, None)], "refusal")[
        "compliance"
    ]
    assert (figure.value, figure.n, figure.unscored) == (pytest.approx(2 / 3), 3, 1)


def test_adaptivity_is_mean_lengths_by_category_and_kind():
    outcomes = [
        outcome(None, category="a", reasoning_tokens=100, answer_tokens=10),
        outcome(None, category="a", reasoning_tokens=300, answer_tokens=30),
        outcome(None, category="b", kind="harmless", closed=False, reasoning_tokens=None, answer_tokens=None),
    ]
    figures = figures_of("adaptivity", outcomes, None)
    figure = figures["reasoning_tokens"]
    assert (figure.value, figure.n, figure.unscored) == (200.0, 2, 1)
    assert (figures["answer_tokens/category:a"].value, figures["reasoning_tokens/kind:harmful"].value) == (20.0, 200.0)
    assert (figures["answer_tokens/category:b"].value, figures["closed/kind:harmless"].value) == (None, 0.0)


@pytest.mark.parametrize(
    ("prefix", "text", "expected"),
    [
        ("<think>\n", "abc\n</think>\n\nde", (3, 2)),
        ("", "<think>abc</think>", (3, 0)),
        ("", "no reasoning", (0, 12)),
        ("<think>\n", "and on and on", (None, None)),
    ],
)
def test_lengths_are_known_where_the_reasoning_was_closed_or_never_begun(prefix: str, text: str, expected: Any):
    assert tuple(lengths(Completion(text, (1,), "stop", prefix), len).values()) == expected
    assert set(lengths(Completion(text, (), "error", prefix), len).values()) == {None}


@pytest.mark.parametrize("name", evals.EVALS)
def test_an_eval_makes_the_figures_that_it_says(name: str):
    evaluation = evals.get(name)
    outcomes = [outcome(0.0, kind="ambiguous"), outcome(0.0, closed=False), outcome(1.0)]
    figures = evaluation.figures(outcomes, (*evaluation.measures, None)[0])
    assert list(dict.fromkeys(f.name for f in figures if f.group == "all")) == [
        info.name for info in evaluation.reports
    ]


def test_evals_know_their_sources():
    for evaluation in evals.EVALS.values():
        for source in evaluation.sources(Evaluation(sampling=Sampling())):
            assert "test" in sources.get(source).serves


def test_a_case_is_an_example_and_what_an_attack_found_for_it():
    example = Example("sample/1", "Do it.", "harmful", "sample", category="fraud")
    test_case = TestCase(
        "sample/1", "prefill", "Do it, please.", prefix="Sure", turns=({"role": "user", "content": "hi"},)
    )
    case, *others = cases([example], [test_case, TestCase("sample/2", "prefill", "of another")])
    assert case == Case("sample/1/prefill", test_case, example)
    written = case_record(case)
    assert [written[key] for key in ("id", "behavior", "attack", "prompt", "kind", "category", "request")] == [
        "sample/1/prefill",
        "sample/1",
        "prefill",
        "Do it, please.",
        "harmful",
        "fraud",
        "Do it.",
    ]
    assert others == []


@pytest.mark.parametrize(
    ("name", "message"),
    [("xtest", "no eval is called 'xtest'; did you mean xstest?"), ("guard", "no eval is called")],
)
def test_evals_that_are_not_there(name: str, message: str):
    with pytest.raises(InputError, match=message):
        evals.get(name)
