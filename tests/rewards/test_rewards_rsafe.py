"""RSafe's reward: the format to the letter, and the verdict only within it."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.rewards.base import RewardRow
from safereason.rewards.rsafe import VerdictReward, verdict_reward

PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "\\boxed{", "safe", "unsafe", "}", "{", "\n", " ", "x"]), max_size=14
).map("".join)
LABELS = st.sampled_from(["safe", "unsafe"])


@pytest.mark.parametrize(
    ("text", "accuracy", "form"),
    [
        ("<think>hm</think>\\boxed{unsafe}", 1.0, 1.0),
        ("<think>\nhm\n</think>\n\nIt is \\boxed{UnSafe}.\n", 1.0, 1.0),
        ("<think>hm</think>\\boxed{safe}", 0.0, 1.0),
        ("<think>hm</think>\\boxed{safe} or rather \\boxed{unsafe}", 1.0, 1.0),
        ("<think>hm</think>\\boxed{unsafe} or rather \\boxed{safe}", 0.0, 1.0),
        ("<think>hm</think>\\boxed{\\text{unsafe}}", 0.0, 1.0),
        ("<think>hm</think>\\boxed{{unsafe}}", 0.0, 1.0),
        ("<think>hm</think>\\boxed{ unsafe }", 1.0, 1.0),
        ("<think>hm</think>\\boxed{\nUnsafe\u2003}", 1.0, 1.0),
        ("<think>hm</think>\\boxed{ safe }", 0.0, 1.0),
        ("<think>hm</think>\\boxed{}", 0.0, 1.0),
        ("<think>hm</think>\\boxed{unsafe} \\boxed{safe", 0.0, 1.0),
        ("<think><think>hm</think></think>\\boxed{unsafe}", 1.0, 1.0),
        ("<think>hm</think>\\boxed{unsafe", 0.0, 0.0),
        ("<think>hm</think>unsafe", 0.0, 0.0),
        (" <think>hm</think>\\boxed{unsafe}", 0.0, 0.0),
        ("So: <think>hm</think>\\boxed{unsafe}", 0.0, 0.0),
        ("<think>\\boxed{unsafe}</think>", 0.0, 0.0),
        ("\\boxed{unsafe}", 0.0, 0.0),
        ("<THINK>hm</THINK>\\boxed{unsafe}", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_accuracy_and_format(text: str, accuracy: float, form: float):
    earned = verdict_reward(text, "unsafe")
    assert (earned.accuracy, earned.format) == (accuracy, form)
    assert earned.total == pytest.approx(0.9 * accuracy + 0.1 * form)


@pytest.mark.parametrize(
    ("text", "total"), [("\\boxed{safe}", 1.0), ("so \\boxed{SAFE}", 1.0), ("\\boxed{unsafe}", 0.1), ("safe", 0.0)]
)
def test_without_reasoning_a_box_is_enough(text: str, total: float):
    assert verdict_reward(text, "safe", require_reasoning=False).total == pytest.approx(total)


@given(PIECES, LABELS)
def test_only_four_totals_exist_and_accuracy_needs_the_format(text: str, label: Literal["safe", "unsafe"]):
    earned = verdict_reward(text, label)
    assert (earned.accuracy, earned.format) in {(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)}
    assert earned.total in {0.0, 0.1, 1.0}


@given(PIECES)
def test_at_most_one_label_is_right(text: str):
    assert verdict_reward(text, "safe").accuracy + verdict_reward(text, "unsafe").accuracy <= 1.0


@given(PIECES, LABELS)
def test_dropping_the_reasoning_never_costs_anything(text: str, label: Literal["safe", "unsafe"]):
    assert verdict_reward(text, label, require_reasoning=False).total >= verdict_reward(text, label).total


def test_rows_are_scored_against_their_own_labels():
    text = "<think>hm</think>\\boxed{safe}"
    reward = VerdictReward(0.8, 0.2, require_reasoning=True)
    scored = reward.score([RewardRow("p", "harmful", text, label) for label in ("safe", "unsafe", None)])
    assert [s.total for s in scored] == [pytest.approx(1.0), pytest.approx(0.2), None]
    assert scored[1].parts == {"accuracy": 0.0, "format": 1.0, "unparsed": 0.0, "says_unsafe": 0.0}
    assert scored[2].parts == {"accuracy": None, "format": None, "unparsed": 0.0, "says_unsafe": 0.0}
    assert scored[2].reason == "the row has no label"


@pytest.mark.parametrize(
    ("text", "unparsed", "says_unsafe"),
    [
        ("<think>hm</think>\\boxed{UNSAFE}", 0.0, 1.0),
        ("<think>hm</think>\\boxed{safe}", 0.0, 0.0),
        ("\\boxed{unsafe}", 0.0, 1.0),  # no format, and yet a verdict
        ("<think>hm</think>\\boxed{perhaps}", 1.0, None),
        ("<think>hm</think>", 1.0, None),
    ],
)
@pytest.mark.parametrize("label", ["safe", "unsafe", None])
def test_what_cannot_be_read_is_no_verdict_of_either_kind(text: str, unparsed: float, says_unsafe: float | None, label):
    (scored,) = VerdictReward(0.9, 0.1, require_reasoning=True).score([RewardRow("p", "harmless", text, label)])
    assert (scored.parts["unparsed"], scored.parts["says_unsafe"]) == (unparsed, says_unsafe)


@given(PIECES, LABELS, st.booleans())
def test_what_is_logged_besides_changes_no_reward(text: str, label: Literal["safe", "unsafe"], reasons: bool):
    (scored,) = VerdictReward(0.9, 0.1, reasons).score([RewardRow("p", "harmless", text, label, "a response")])
    assert scored.total == verdict_reward(text, label, reasons).total
    assert scored.parts["accuracy"] <= 1.0 - scored.parts["unparsed"]
