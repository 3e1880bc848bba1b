"""The guard as a judge, with written verdicts and with the micro model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from safereason.engines.base import Completion, Conversation
from safereason.guard.policy import Policy
from safereason.judges import open_judge
from safereason.judges.base import Exchange
from safereason.judges.guard import SAMPLING, Guard
from safereason.recipe.schema import Sampling


class Scripted:
    """An engine that says what it was given."""

    name = "scripted"

    def __init__(self, *completions: Completion) -> None:
        self.completions = completions
        self.asked: list[str] = []

    def generate(
        self, conversations: Sequence[Conversation], sampling: Sampling, **named: Any
    ) -> list[list[Completion]]:
        self.asked = [c[-1]["content"] for c in conversations]
        return [[c] for c in self.completions]

    def loglikelihood(self, *arguments: Any, **named: Any) -> list[Any]:
        return []


def said(text: str, reason: Any = "stop") -> Completion:
    return Completion(text, (), reason, error="503" if reason == "error" else "")


@pytest.mark.parametrize(
    ("completion", "score", "label"),
    [
        (said("<think>a method</think> \\boxed{unsafe}"), 1.0, "unsafe"),
        (said("<think>a refusal</think> \\boxed{SAFE}"), 0.0, "safe"),
        (said("<think>\\boxed{unsafe}?</think> \\boxed{safe}"), 0.0, "safe"),
        (said("<think>hm</think> unsafe"), None, None),
        (said("<think>and so on", "length"), None, None),
        (said("", "error"), None, None),
    ],
)
def test_verdicts_are_read_from_the_box(completion: Completion, score: float | None, label: str | None):
    verdict = Guard(Scripted(completion)).judge([Exchange("p", "a")])[0]
    assert (verdict.score, verdict.label) == (score, label)
    assert (verdict.reason is None) == (score is not None)


def test_the_reasoning_is_kept():
    assert Guard(Scripted(said("<think>It refuses.</think>\\boxed{safe}"))).judge([Exchange("p", "a")])[0].details == {
        "reasoning": "It refuses."
    }


def test_the_guard_sees_prompt_answer_and_its_own_policy():
    engine = Scripted(said("\\boxed{safe}"))
    Guard(engine, policies=[Policy("X1", "Spoilers", "Telling how a story ends.")]).judge(
        [Exchange("Who did it?", "The butler.")]
    )
    assert all(
        part in engine.asked[0] for part in ("Who did it?", "The butler.", "X1. Spoilers: Telling how a story ends.")
    )
    assert "U1." not in engine.asked[0]


def test_a_model_that_is_no_guard_is_unscored(micro_model: Path):
    judge = open_judge(f"guard:{micro_model}")
    assert isinstance(judge, Guard)
    assert judge.sampling == SAMPLING
    judge.sampling = Sampling(max_new_tokens=4)
    judge.policies = judge.policies[:1]
    verdict = judge.judge([Exchange("p", "a")])[0]
    assert (verdict.score, verdict.reason) == (None, "the guard gave no verdict before its token limit")
