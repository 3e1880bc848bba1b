"""Completions to verdicts: the verdict, what it rests on, and votes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import micro_guard
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.engines.base import Completion, Conversation, GenerateOptions
from safereason.engines.spec import ModelSpec
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard.base import GuardVerdict, Label, Question
from safereason.guard.open import open_guard
from safereason.guard.policy import Category, Policy
from safereason.guard.reasoning import ReasoningGuard, combine, verdict_of_completion
from safereason.recipe.schema import Sampling

POLICY = Policy(
    "p", "Rules", (Category("U1", "One"), Category("U2", "Two"), Category("U10", "Ten"), Category("a.b-c", "Odd"))
)
QUESTIONS = [Question("a"), Question("b", "c"), Question("dd"), Question("e", "")]


def test_reasoning_that_the_template_opened_is_reasoning():
    thinks = Completion("It says \\boxed{safe} and", (1,), "length", "<think>\n")
    assert verdict_of_completion(thinks, POLICY).label is None
    verdict = verdict_of_completion(Completion("Rude.\n</think>\n\n\\boxed{unsafe}", (1,), "stop", "<think>\n"), POLICY)
    assert (verdict.label, verdict.reasoning) == ("unsafe", "Rude.")
    assert verdict.text == "<think>\nRude.\n</think>\n\n\\boxed{unsafe}"


def completion_of(text: str, reason: Any = "stop") -> Completion:
    return Completion(text, (1,) * len(text), reason, error="HTTP 503" if reason == "error" else "")


@pytest.mark.parametrize(
    ("text", "label", "reasoning", "categories"),
    [
        ("<think>It is rude.</think>\nCategories: U2, U1\n\\boxed{unsafe}", "unsafe", "It is rude.", ("U1", "U2")),
        ("<think>Fine.</think>\\boxed{SAFE}.", "safe", "Fine.", ()),
        ("<think>U1?</think>Not U1.\n\\boxed{safe}", "safe", "U1?", ()),
        ("<think>U1? No, U2.</think>\\boxed{unsafe}", "unsafe", "U1? No, U2.", ()),
        ("<think>\\boxed{safe}?</think>U10 \\boxed{unsafe}", "unsafe", "\\boxed{safe}?", ("U10",)),
        ("<think>x</think>\\boxed{safe} \\boxed{unsafe}", "unsafe", "x", ()),
        ("Not U1, but...\n**Categories:** U2.\n\\boxed{unsafe}", "unsafe", "", ("U2",)),
        ("Categories:\n- U10\n- a.b-c\n\n\\boxed{unsafe}", "unsafe", "", ("U10", "a.b-c")),
        ("It is of category U2. \\boxed{unsafe} U1", "unsafe", "", ("U2",)),
        ("\\boxed{unsafe}", "unsafe", "", ()),
        ("half of it</think>\\boxed{unsafe}", "unsafe", "half of it", ()),
    ],
)
def test_a_verdict_is_read_with_what_it_rests_on(text: str, label: Label, reasoning: str, categories: tuple[str, ...]):
    verdict = verdict_of_completion(completion_of(text), POLICY)
    assert verdict == GuardVerdict(label, None, categories, reasoning, text, tokens=len(text))
    assert not verdict.unparsed


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ("<think>x</think>unsafe", "stop", "the guard gave no verdict"),
        ("<think>x</think>\\boxed{maybe}", "stop", "the guard gave no verdict"),
        ("<think>x</think>\\boxed{un safe }", "stop", "the guard gave no verdict"),
        ("<think>x</think>\\boxed{safe", "length", "the guard gave no verdict before its token limit"),
        ("<think>It says \\boxed{safe} and", "length", "the guard gave no verdict before its token limit"),
        ("<think>It says \\boxed{safe}.</think> So", "stop", "the guard gave no verdict"),
        ("", "stop", "the guard gave no verdict"),
    ],
)
def test_what_is_no_verdict_is_unparsed_and_says_why(text: str, finish: str, reason: str):
    verdict = verdict_of_completion(completion_of(text, finish), POLICY)
    assert (verdict.label, verdict.score, verdict.reason, verdict.text) == (None, None, reason, text)
    assert verdict.unparsed
    assert not verdict.failed


def test_a_failed_server_is_no_verdict():
    verdict = verdict_of_completion(completion_of("\\boxed{safe}", "error"), POLICY)
    assert verdict == GuardVerdict(None, None, reason="the guard could not be asked: HTTP 503", failed=True)


LABELS = st.lists(st.sampled_from(["safe", "unsafe", None]), min_size=2, max_size=7)


@given(LABELS, st.data())
def test_the_majority_of_those_that_can_be_read_decides_and_a_tie_is_unsafe(labels: list[Label | None], data: Any):
    scores = [data.draw(st.none() | st.floats(0, 1)) if label else None for label in labels]
    samples = [
        GuardVerdict(
            label,
            score,
            (f"c{i}",) if label == "unsafe" else (),
            f"r{i}",
            f"t{i}",
            None if label else f"why{i}",
            tokens=i,
        )
        for i, (label, score) in enumerate(zip(labels, scores, strict=True))
    ]
    combined = combine(samples)
    unsafe, safe = labels.count("unsafe"), labels.count("safe")
    assert combined.label == (None if not unsafe + safe else "unsafe" if unsafe >= safe else "safe")
    assert combined.votes == tuple(labels)
    assert combined.tokens == sum(range(len(labels)))
    first = samples[labels.index(combined.label)]
    assert (combined.reasoning, combined.text, combined.categories, combined.reason) == (
        first.reasoning,
        first.text,
        first.categories,
        first.reason,
    )
    known = [score for score in scores if score is not None]
    assert combined.score == (pytest.approx(sum(known) / len(known)) if known else None)


def test_one_sample_is_itself_and_has_no_votes():
    one = GuardVerdict("safe", 0.2, tokens=4)
    assert combine([one]) is one


@pytest.mark.parametrize(("other", "failed"), [(GuardVerdict(None, None, reason="r"), False), (None, True)])
def test_samples_have_failed_where_all_have(other: GuardVerdict | None, failed: bool):
    lost = GuardVerdict(None, None, reason="no server", failed=True)
    combined = combine([lost, other or lost])
    assert (combined.failed, combined.label, combined.reason) == (failed, None, "no server")


class Backwards:
    """An engine whose completions end in an order of their own."""

    name = "backwards"
    tokenizer = None

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def generate(
        self, conversations: Sequence[Conversation], sampling: Sampling, options: GenerateOptions
    ) -> list[Any]:
        assert options.choices == 20
        for k in reversed(range(options.n)):
            for i in reversed(range(len(conversations))):
                if i not in options.done:
                    options.on_finish(i, k, completion_of(self.texts[k]))
        return []


def test_samples_are_put_together_by_their_number_whatever_order_they_end_in():
    first, second = "<think>1</think>\\boxed{unsafe}", "<think>2</think>\\boxed{safe}"
    guard = ReasoningGuard(Backwards(first, second), guard_prompts.default(), samples=2)  # type: ignore[arg-type]
    finished: list[int] = []
    verdicts = guard.classify(QUESTIONS, done=[1], on_verdict=lambda i, _: finished.append(i))
    assert finished == [3, 2, 0]
    assert verdicts[1] is None
    assert [(f.votes, f.reasoning) for f in verdicts if f] == [(("unsafe", "safe"), "1")] * 3


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> ReasoningGuard:
    folder = micro_guard.save_guard(tmp_path_factory.mktemp("guard"))
    (folder / "house.yaml").write_text(micro_guard.POLICY)
    return open_guard(ModelSpec(str(folder)), policy=str(folder / "house.yaml"), samples=3)


def test_the_same_questions_and_seed_give_the_same_verdicts_whichever_are_done(guard: ReasoningGuard):
    whole = guard.classify(QUESTIONS, seed=5)
    assert [len(f.votes) for f in whole if f] == [3] * 4
    for done in ([0], [1, 3], [0, 1, 2, 3]):
        assert guard.classify(QUESTIONS, seed=5, done=done) == [
            None if i in done else verdict for i, verdict in enumerate(whole)
        ]
    votes = {f.votes for seed in range(8) for f in guard.classify(QUESTIONS, seed=seed) if f}
    assert {"safe", "unsafe"} == {label for row in votes for label in row}


def test_a_question_too_long_for_the_model_costs_the_others_nothing(guard: ReasoningGuard):
    verdicts = guard.classify([QUESTIONS[0], Question("x" * 5000), QUESTIONS[1]])
    labels = [f.label for f in verdicts if f]
    assert [label is None for label in labels] == [False, True, False]
    lost = verdicts[1]
    assert lost is not None
    assert not lost.failed, "it would be too long again"
    assert "tokens and the model reads 4096; shorten it" in (lost.reason or "")


def test_scores_may_be_left_out(guard: ReasoningGuard):
    plain = ReasoningGuard(guard.engine, guard.guard_prompt, scores=False)
    scored = ReasoningGuard(guard.engine, guard.guard_prompt)
    assert [f.score for f in plain.classify(QUESTIONS) if f] == [None] * 4
    assert [f.label for f in plain.classify(QUESTIONS) if f] == [f.label for f in scored.classify(QUESTIONS) if f]


def test_another_policy_is_read_from_the_model_that_is_there(guard: ReasoningGuard, tmp_path: Path):
    other = guard.under(POLICY)
    assert (other.policy, other.samples, other.engine) == (POLICY, guard.samples, guard.engine)
    assert "U10. Ten" in other.guard_prompt.conversation(QUESTIONS[0])[0]["content"]
    assert guard.policy.categories[0].id == "A1"


def test_white_space_in_the_box_is_no_part_of_the_verdict():
    assert verdict_of_completion(completion_of("<think>x</think>\\boxed{\n Unsafe }", "stop"), POLICY).label == "unsafe"
