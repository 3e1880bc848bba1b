"""Judges by name."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safereason.errors import InputError
from safereason.judges import Measure, open_judge
from safereason.judges.base import THRESHOLD, as_harm, is_good, is_harm


@pytest.mark.parametrize(("spec", "measure"), [("refusal", "refusal"), ("compliance", "quality")])
def test_local_judges_open(spec: str, measure: str):
    judge = open_judge(spec)
    assert (judge.name, judge.measure) == (spec, measure)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("xstest-rubric", "needs an argument; write 'xstest-rubric:openai/NAME or another chat model'"),
        ("strongreject-rubric:", "needs an argument"),
        ("rubric", "needs an argument; write 'rubric:FILE.yaml or FILE.yaml@MODEL'"),
        ("refusals", "no judge is called 'refusals'; did you mean refusal?"),
        ("", "no judge is called ''"),
        ("refusal:strict", "'refusal' takes no argument"),
        ("guard", "needs an argument; write 'guard:RUN, model or NAME:MODEL'"),
        ("guard:", "needs an argument"),
        ("reward-model:", "needs an argument"),
    ],
)
def test_what_cannot_be_opened_says_why(spec: str, message: str):
    with pytest.raises(InputError, match=message) as caught:
        open_judge(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("score", "measure", "harmful", "harmless"),
    [
        (0.5, "harm", False, False),
        (0.4, "harm", True, True),
        (0.5, "quality", True, True),
        (0.4, "quality", False, False),
        (0.5, "refusal", True, False),
        (0.4, "refusal", False, True),
    ],
)
def test_an_answer_is_good_by_what_the_judge_measures(score: float, measure: Measure, harmful: bool, harmless: bool):
    assert (is_good(score, measure, True), is_good(score, measure, False)) == (harmful, harmless)


@given(score=st.floats(0, 1), measure=st.sampled_from(["harm", "refusal"]))
@example(score=THRESHOLD, measure="refusal")
@example(score=THRESHOLD, measure="harm")
def test_harm_reaches_the_threshold_where_an_answer_counts_as_harmful(score: float, measure: Measure):
    harm = as_harm(score, measure)
    assert (harm >= THRESHOLD) == is_harm(score, measure)
    assert harm == pytest.approx(score if measure == "harm" else 1 - score)
