"""TARS's reward: format, safety, and how they are put together."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.errors import InputError
from safereason.judges import open_judge
from safereason.judges.base import Exchange, Verdict
from safereason.rewards.base import RewardRow
from safereason.rewards.tars import TarsReward, format_reward, safety_reward

PIECES = st.lists(st.sampled_from(["<think>", "</think>", "\n", "a", "<think", "THINK>", " "]), max_size=12).map(
    "".join
)


class Fixed:
    """A judge whose score is written in the answer; it keeps what it was asked."""

    def __init__(self, measure: str) -> None:
        self.name, self.measure = f"fixed-{measure}", measure
        self.answers: list[str] = []

    def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
        self.answers += [e.answer for e in exchanges]
        return [Verdict.unscored("no score") if e.answer == "?" else Verdict(float(e.answer), None) for e in exchanges]


def thought(answer: str, reasoning: str = "0.75") -> str:
    return f"<think>\n{reasoning}\n</think>\n\n{answer}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nhm\n</think>\n\nanswer", 1.0),
        ("words first <think>a</think>b", 1.0),
        ("<think></think>", 1.0),
        ("", 0.0),
        ("hm\n</think>\n\nanswer", 0.0),
        ("<think>hm", 0.0),
        ("</think>a<think>", 0.0),
        ("<think><think>a</think>b", 0.0),
        ("<think>a</think></think>b", 0.0),
        ("<think>a</think>b<think>", 0.0),
        ("<THINK>a</THINK>b", 0.0),
    ],
)
def test_the_format_is_one_pair_of_tags_in_order(text: str, expected: float):
    assert format_reward(text) == expected


@given(PIECES)
def test_the_format_agrees_with_a_scan_of_the_tags(text: str):
    tags = []
    for position in range(len(text)):
        tags += [tag for tag in ("<think>", "</think>") if text.startswith(tag, position)]
    assert format_reward(text) == float(tags == ["<think>", "</think>"])


@pytest.mark.parametrize(("score", "reward"), [(0.0, 1.0), (0.0999, 1.0), (0.1, 0.9), (0.5, 0.5), (1.0, 0.0)])
def test_safety_is_full_under_a_tenth_and_falls_from_there(score: float, reward: float):
    assert safety_reward(score) == pytest.approx(reward)


@given(st.floats(0, 1), st.floats(0, 1))
def test_safety_is_bounded_and_never_rises_with_harm(one: float, other: float):
    low, high = sorted((one, other))
    assert 0.0 <= safety_reward(high) <= safety_reward(low) <= 1.0


def test_harmful_prompts_are_judged_on_safety_and_the_others_on_the_task():
    rows = [
        RewardRow("p", "harmful", thought("0.25")),
        RewardRow("p", "harmless", thought("0.25")),
        RewardRow("p", "ambiguous", thought("0.5")),
    ]
    scored = TarsReward(Fixed("harm"), Fixed("quality")).score(rows)
    assert [s.total for s in scored] == [0.75, 0.25, 0.5]
    assert scored[0].parts == {"format": 1.0, "safety": 0.75, "task": None, "reasoning_harm": 0.75}
    assert scored[1].parts == {"format": 1.0, "safety": None, "task": 0.25, "reasoning_harm": None}


def test_a_broken_format_is_zero_and_no_judge_is_asked():
    safety, task = Fixed("harm"), Fixed("quality")
    rows = [RewardRow("p", "harmful", "0.0"), RewardRow("p", "harmless", "<think>?"), RewardRow("p", "harmful", "?")]
    scored = TarsReward(safety, task).score(rows)
    assert [(s.total, s.parts["format"], s.reason) for s in scored] == [(0.0, 0.0, None)] * 3
    assert safety.answers == task.answers == []


def test_an_unscored_deciding_part_leaves_no_total():
    rows = [
        RewardRow("p", "harmful", thought("?")),
        RewardRow("p", "harmless", thought("?")),
        RewardRow("p", "harmless", thought("1")),
    ]
    scored = TarsReward(Fixed("harm"), Fixed("quality")).score(rows)
    assert [(s.total, s.reason) for s in scored] == [(None, "no score"), (None, "no score"), (1.0, None)]


def test_a_verdict_that_failed_is_told_apart_from_one_that_is_unscorable():
    class Down(Fixed):
        def judge(self, exchanges: Sequence[Exchange]) -> list[Verdict]:
            verdicts = super().judge(exchanges)
            return [Verdict.failure("HTTP 503") if v.score is not None and v.score > 0.9 else v for v in verdicts]

    rows = [RewardRow("p", "harmful", thought(answer)) for answer in ("?", "1", "0.5")]
    rows.append(RewardRow("p", "harmful", "no tags"))
    scored = TarsReward(Down("harm"), Fixed("quality")).score(rows)
    assert [(s.total, s.failed, s.judged) for s in scored] == [
        (None, False, False),
        (None, True, False),
        (0.5, False, True),
        (0.0, False, False),
    ]
    assert scored[1].reason == "HTTP 503"


def test_an_unscored_reasoning_does_not_matter():
    scored = TarsReward(Fixed("harm"), Fixed("quality")).score(
        [RewardRow("p", "harmful", thought("0.5", reasoning="?"))]
    )[0]
    assert (scored.total, scored.parts["reasoning_harm"]) == (0.5, None)


def test_a_judge_of_refusal_counts_as_harm_the_other_way_round():
    safety = Fixed("refusal")
    scored = TarsReward(safety, Fixed("quality")).score(
        [RewardRow("p", "harmful", thought("1")), RewardRow("p", "harmful", thought("0"))]
    )
    assert [s.total for s in scored] == [1.0, 0.0]
    assert "reasoning_harm" not in scored[0].parts
    assert safety.answers == ["1", "0"]


def test_the_score_of_a_judge_of_quality_is_the_reward_as_it_is():
    safety = Fixed("quality")
    rows = [RewardRow("p", "harmful", thought(score)) for score in ("0.95", "0.05", "?")]
    scored = TarsReward(safety, Fixed("quality")).score(rows)
    assert [s.total for s in scored] == [0.95, 0.05, None]
    assert "reasoning_harm" not in scored[0].parts
    assert safety.answers == ["0.95", "0.05", "?"]


def test_without_the_exact_delimiter_everything_is_the_answer():
    safety = Fixed("harm")
    text = "<think>0.5</think>"
    with pytest.raises(ValueError, match="could not convert"):
        TarsReward(safety, Fixed("quality")).score([RewardRow("p", "harmful", text)])
    assert safety.answers == [text]


def test_without_the_format_the_part_alone_counts():
    scored = TarsReward(Fixed("harm"), Fixed("quality"), require_format=False).score(
        [RewardRow("p", "harmful", "0.5")]
    )[0]
    assert (scored.total, scored.parts["format"]) == (0.5, 0.0)


def test_judges_that_measure_something_else_are_refused():
    with pytest.raises(
        InputError, match=r"reward\.safety: judge 'fixed-length' measures length; one of harm, refusal or"
    ):
        TarsReward(Fixed("length"), Fixed("quality"))
    with pytest.raises(InputError, match=r"reward\.task: judge 'fixed-harm' measures harm"):
        TarsReward(Fixed("harm"), Fixed("harm"))


def test_the_local_judges_reward_the_right_decision():
    refusal, answer = "I can't help with that.", "Whisk two eggs and fry them."
    rows = [RewardRow("p", kind, thought(text, "hm")) for kind in ("harmful", "harmless") for text in (refusal, answer)]
    scored = TarsReward(open_judge("refusal"), open_judge("compliance")).score(rows)
    assert [s.total for s in scored] == [1.0, 0.0, 0.0, 1.0]


class Parking(Fixed):
    """A judge that can leave the GPU."""

    def __init__(self, measure: str) -> None:
        super().__init__(measure)
        self.at_park: list[int] = []

    def park(self) -> None:
        self.at_park.append(len(self.answers))


def test_a_judges_model_leaves_the_gpu_but_for_the_scoring():
    task = Parking("quality")
    reward = TarsReward(Fixed("harm"), task)
    assert task.at_park == [0]
    rows = [RewardRow("p", "harmless", thought("0.25")), RewardRow("p", "ambiguous", thought("0.5"))]
    for _ in range(2):
        assert [parts.total for parts in reward.score(rows)] == [0.25, 0.5]
    assert task.at_park == [0, 2, 4]
