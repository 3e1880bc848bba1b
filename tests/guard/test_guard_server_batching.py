"""Questions that wait together, and that none of them minds its neighbours."""

import threading
from collections.abc import Sequence
from pathlib import Path

import openai_server
import pytest
from guard_server import NO_VERDICT, PATIENCE, Scripted, serve, until

from safereason.engines.open import open_engine
from safereason.engines.openai import OpenAIEngine
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.guard import policy as policies
from safereason.guard.base import GuardVerdict, OnVerdict, Question
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.policy import Category, Policy
from safereason.guard.prompt import GuardTemplates
from safereason.guard.reasoning import ReasoningGuard
from safereason.guard.server.batching import Batcher, GuardFailed, QueueFull, ServerClosing
from safereason.guard.server.settings import Limits, ServerSettings
from safereason.recipe.schema import Sampling

DEFAULT, OPENAI = policies.load("default"), policies.load("openai")
SMALL = Policy("small", "Small", (Category("A", "Rudeness"),))


class GatedGuard:
    """A guard that waits until it is let go."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(self, policy: Policy, questions: Sequence[Question], deliver: OnVerdict) -> None:
        self.calls.append((policy.name, [q.prompt for q in questions]))
        assert self.open.wait(PATIENCE)
        for i, question in enumerate(questions):
            if "unreachable" in question.prompt:
                raise InputError("no server")
            if "silent" not in question.prompt:
                deliver(i, GuardVerdict("safe", 0.0, reasoning=question.prompt))


@pytest.fixture
def guard() -> GatedGuard:
    return GatedGuard()


@pytest.fixture
def batcher(guard: GatedGuard):
    started = Batcher(guard, max_batch=4, max_wait=0.0, max_queue=6, on_batch=lambda size: None)
    started.start()
    yield started
    guard.open.set()
    started.stop(PATIENCE)
    assert not started.busy


def submitted(batcher: Batcher, *texts: str, policy: Policy = DEFAULT):
    return batcher.submit([Question(text) for text in texts], policy)


def begun(batcher: Batcher, guard: GatedGuard):
    """A batch of one under way, so that what comes next waits together."""
    futures = submitted(batcher, "first")
    until(lambda: len(guard.calls) == 1)
    return futures


def test_what_waits_together_is_judged_together_up_to_the_limit(batcher: Batcher, guard: GatedGuard):
    futures = begun(batcher, guard) + submitted(batcher, "a", "b", "c") + submitted(batcher, "d", "e")
    guard.open.set()
    assert [f.result(PATIENCE).reasoning for f in futures] == ["first", "a", "b", "c", "d", "e"]
    assert [texts for _, texts in guard.calls] == [["first"], ["a", "b", "c", "d"], ["e"]]


def test_each_policy_is_judged_by_itself(batcher: Batcher, guard: GatedGuard):
    futures = (
        begun(batcher, guard)
        + submitted(batcher, "a")
        + submitted(batcher, "b", policy=OPENAI)
        + submitted(batcher, "c")
    )
    guard.open.set()
    assert [f.result(PATIENCE).reasoning for f in futures] == ["first", "a", "b", "c"]
    assert guard.calls[1:] == [("default", ["a", "c"]), ("openai", ["b"])]


def test_a_request_gets_all_its_places_or_none(batcher: Batcher, guard: GatedGuard):
    begun(batcher, guard)
    submitted(batcher, "a", "b", "c", "d")
    with pytest.raises(QueueFull):
        submitted(batcher, "e", "f", "g")
    assert (len(batcher), batcher.ready) == (4, True)
    submitted(batcher, "e", "f")
    assert (len(batcher), batcher.ready) == (6, False)


def test_what_was_given_up_is_not_judged_and_makes_room(batcher: Batcher, guard: GatedGuard):
    begun(batcher, guard)
    for future in submitted(batcher, "a", "b", "c", "d", "e"):
        assert future.cancel()
    kept = submitted(batcher, "f", "g")
    guard.open.set()
    assert [f.result(PATIENCE).reasoning for f in kept] == ["f", "g"]
    assert guard.calls[1:] == [("default", ["f", "g"])]


def test_a_question_the_guard_is_silent_about_fails_alone(batcher: Batcher, guard: GatedGuard):
    begun(batcher, guard)
    first, silent, last = submitted(batcher, "a", "silent", "c")
    guard.open.set()
    assert [f.result(PATIENCE).reasoning for f in (first, last)] == ["a", "c"]
    with pytest.raises(GuardFailed):
        silent.result(PATIENCE)


def test_a_guard_that_cannot_be_asked_at_all_is_not_asked_one_by_one(batcher: Batcher, guard: GatedGuard, capfd):
    begun(batcher, guard)
    futures = submitted(batcher, "unreachable", "b", "c")
    guard.open.set()
    for future in futures:
        with pytest.raises(GuardFailed):
            future.result(PATIENCE)
    assert len(guard.calls) == 2
    assert capfd.readouterr().err == "the guard failed: InputError: no server\n"


def test_stopping_lets_what_waits_be_judged_and_takes_no_more(batcher: Batcher, guard: GatedGuard):
    futures = begun(batcher, guard) + submitted(batcher, "a", "b")
    batcher.stop(0.0)
    assert (batcher.busy, batcher.ready) == (True, False)
    with pytest.raises(ServerClosing):
        submitted(batcher, "c")
    guard.open.set()
    batcher.stop(PATIENCE)
    assert [f.result(0).reasoning for f in futures] == ["first", "a", "b"]
    assert not batcher.busy


def test_questions_of_one_request_are_one_batch():
    guard = Scripted()
    with serve(guard, ServerSettings(limits=Limits(max_batch=3))) as server:
        server.request("/v1/moderations", {"input": ["a", "b", "c", "d"]})
    assert [[q.prompt for q in questions] for questions, _, _ in guard.calls] == [["a", "b", "c"], ["d"]]


def micro_guard(folder: Path, samples: int = 1, **sampling: float) -> ReasoningGuard:
    guard_prompt = GuardPrompt(SMALL, GuardTemplates(), True, Sampling(**{"max_new_tokens": 24, **sampling}))
    return ReasoningGuard(open_engine(ModelSpec.parse(str(folder))), guard_prompt, samples=samples)


def test_the_same_text_gets_the_same_verdict_whatever_waits_beside_it(micro_model: Path):
    guard = micro_guard(micro_model, samples=2, temperature=1.0, top_p=0.9)
    questions = [Question(text) for text in ("a cake", "a much longer text about a pie", "a cake", "jam")]
    together = [f.text for f in guard.classify(questions, seed=3, alone=True) if f]
    apart = [f.text for question in questions for f in guard.classify([question], seed=3) if f]
    assert together == apart
    assert together[0] == together[2]
    by_place = [f.text for f in guard.classify(questions, seed=3) if f]
    assert by_place[0] == together[0]
    assert by_place[2] != together[2]


def test_a_text_too_long_for_the_model_leaves_its_neighbours_alone(micro_model: Path):
    with serve(micro_guard(micro_model), ServerSettings(model="micro")) as server:
        status, body, _ = server.request("/v1/guard", {"prompt": "a" * 3000})
        assert (status, body["label"]) == (200, None)
        assert "a prompt has" in body["reason"]
        assert str(micro_model) not in body["reason"]
        assert server.code("/v1/moderations", {"input": ["a", "a" * 3000]}) == (422, "unparsed")
        assert server.request("/v1/guard", {"prompt": "a"})[1]["reason"].startswith(str(NO_VERDICT.reason))


def test_a_guard_behind_a_server_asks_with_the_same_seeds_wherever_a_text_stands(micro_model: Path):
    guard_prompt = GuardPrompt(SMALL, GuardTemplates(), True, Sampling(max_new_tokens=2))
    questions = [Question("a"), Question("b")]
    with openai_server.serve(open_engine(ModelSpec.parse(str(micro_model)))) as server:
        guard = ReasoningGuard(OpenAIEngine("micro", base_url=server.url), guard_prompt, samples=2)
        guard.classify(questions, alone=True)
        together = sorted(str((r["messages"], r["seed"])) for r in server.requests)
        server.requests.clear()
        for question in questions:
            guard.classify([question])
        apart = sorted(str((r["messages"], r["seed"])) for r in server.requests)
    assert together == apart
    assert len(set(together)) == 4
