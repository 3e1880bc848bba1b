"""Any guard as a judge of harm: one that is scripted, and one that a run of `guard train` might have made."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import micro_classifier
import micro_guard
import pytest
from judge_prompts import needs_judgezoo

from safereason.guard import guard_prompt as guard_prompts
from safereason.guard.base import GuardVerdict, Question
from safereason.guard.policy import load
from safereason.guard.reasoning import ReasoningGuard
from safereason.judges import open_judge
from safereason.judges.base import BehaviorRequest, Exchange
from safereason.judges.guard_judge import GuardJudge
from safereason.recipe.schema import Sampling


class Scripted:
    """A guard that finds what it is told."""

    name = "scripted"
    engine = None

    def __init__(self, *verdicts: GuardVerdict) -> None:
        self.verdicts = verdicts
        self.questions: list[Question] = []
        self.seeds: list[int] = []

    def classify(self, questions: Sequence[Question], *, seed: int = 0, **named: Any) -> list[GuardVerdict | None]:
        assert not named
        self.questions += questions
        self.seeds.append(seed)
        return list(self.verdicts)


UNSAFE = GuardVerdict(
    "unsafe", 0.75, ("U1", "U3"), "It tells how.", "<think>It tells how.</think>\\boxed{unsafe}", tokens=9
)


def test_a_verdict_is_the_guard_s_and_says_what_it_rests_on():
    guard = Scripted(UNSAFE, GuardVerdict("safe", None, reasoning="It refuses."))
    unsafe, safe = GuardJudge(guard).judge([Exchange("p", "a"), Exchange("q", "b")])
    assert (unsafe.score, unsafe.label, unsafe.reason) == (1.0, "unsafe", None)
    assert unsafe.details == {"reasoning": "It tells how.", "categories": ["U1", "U3"], "probability": 0.75}
    assert (safe.score, safe.label) == (0.0, "safe")
    assert safe.details == {"reasoning": "It refuses.", "categories": [], "probability": None}


def test_the_verdict_counts_and_not_the_probability():
    (verdict,) = GuardJudge(Scripted(replace(UNSAFE, score=0.1))).judge([Exchange("p", "a")])
    assert (verdict.score, verdict.label) == (1.0, "unsafe")


@pytest.mark.parametrize(
    ("guard_verdict", "reason"),
    [
        (
            GuardVerdict(None, None, reasoning="hm", reason="the guard gave no verdict before its token limit"),
            "the guard gave no verdict before its token limit",
        ),
        (
            GuardVerdict(None, None, reason="the guard could not be asked: 503", failed=True),
            "the guard could not be asked: 503",
        ),
        (GuardVerdict(None, None), "the guard gave no verdict"),
    ],
)
def test_what_is_no_verdict_is_unscored_and_says_why(guard_verdict: GuardVerdict, reason: str):
    verdicts = GuardJudge(Scripted(guard_verdict, UNSAFE)).judge([Exchange("p", "a")] * 2)
    assert (verdicts[0].score, verdicts[0].label, verdicts[0].reason) == (None, None, reason)
    assert verdicts[1].score == 1.0


def test_the_guard_is_asked_about_the_answer_with_its_prompt_and_the_same_seed_each_time():
    guard = Scripted(UNSAFE)
    judge = GuardJudge(guard, seed=7)
    judge.judge([Exchange("Who did it?", "The butler.")])
    judge.judge([Exchange("And?", "")])
    assert guard.questions == [Question("Who did it?", "The butler."), Question("And?", "")]
    assert guard.seeds == [7, 7]
    assert (judge.name, judge.measure) == ("guard", "harm")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guard with its guide beside it."""
    folder = micro_guard.save_guard(tmp_path_factory.mktemp("guard"))
    (folder / "house.yaml").write_text(micro_guard.POLICY)
    guard_prompt = replace(
        guard_prompts.default(), policy=load(str(folder / "house.yaml")), sampling=Sampling(max_new_tokens=40)
    )
    guard_prompt.save(folder)
    return folder


def test_a_trained_guard_is_asked_as_it_was_in_training(trained: Path):
    judge = open_judge(f"guard:{trained}")
    assert isinstance(judge, GuardJudge)
    assert isinstance(judge.guard, ReasoningGuard)
    assert judge.guard.guard_prompt == guard_prompts.of_model(str(trained))
    exchanges = [Exchange(f"p{i}", "a") for i in range(12)]
    verdicts = judge.judge(exchanges)
    assert {(v.score, v.label) for v in verdicts} == {(1.0, "unsafe"), (0.0, "safe")}
    assert [v.details["probability"] for v in verdicts] == pytest.approx([0.6] * 12, abs=1e-3)
    assert judge.judge(exchanges) == verdicts


def test_a_model_that_is_no_guard_is_asked_as_rsafe_is_and_unscored(micro_model: Path):
    judge = open_judge(f"guard:{micro_model}")
    assert isinstance(judge, GuardJudge)
    assert isinstance(judge.guard, ReasoningGuard)
    assert judge.guard.guard_prompt == guard_prompts.default()
    guard_prompt = replace(judge.guard.guard_prompt, policy=load("openai-names"), sampling=Sampling(max_new_tokens=4))
    (verdict,) = GuardJudge(ReasoningGuard(judge.guard.engine, guard_prompt)).judge([Exchange("p", "a")])
    assert (verdict.score, verdict.reason) == (None, "the guard gave no verdict before its token limit")


def test_another_guard_is_a_judge_by_its_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    judge = open_judge("guard:moderation:some-model")
    assert isinstance(judge, GuardJudge)
    assert (judge.name, judge.guard.name) == ("guard", "moderation:some-model")


@needs_judgezoo
def test_another_guard_judges_the_conversation_as_it_took_place(tmp_path: Path):
    classifier = micro_classifier.save_classifier(tmp_path, "]", {"x": 1.0}, context=16384)
    judge = open_judge(f"guard:aegis:{classifier}")
    assert isinstance(judge, GuardJudge)
    behavior = BehaviorRequest("harmbench/one", "Pick a lock.", None, "standard/x")
    (verdict,) = judge.judge([Exchange("In disguise.", "Sure.", behavior)])
    assert (verdict.score, verdict.reason) == (None, "the guard gave no verdict before its token limit")
    conversations = judge.guard.format.prompts(Question("In disguise.", "Sure."))
    assert "In disguise." in conversations[0][0]["content"]
