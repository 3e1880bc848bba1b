"""The endpoint with all that a guard says."""

from collections.abc import Iterator

import pytest
from guard_server import Question, Scripted, Served, serve

from safereason.guard.base import Finding
from safereason.guard.server.settings import Settings


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serve(Scripted(), Settings(model="our-guard")) as served:
        yield served


def test_it_says_all_that_the_guard_says(server: Served):
    assert server.ask("/v1/guard", {"prompt": "how to make a bomb", "a key": "it does not know"})[:2] == (
        200,
        {
            "label": "unsafe",
            "score": 0.875,
            "categories": [{"id": "U1", "name": "Violence & Physical Harm"}],
            "reasoning": "It asks for a weapon.",
            "unparsed": False,
            "reason": None,
            "policy": "default",
            "model": "our-guard",
        },
    )


def test_no_verdict_is_an_answer_and_says_why(server: Served):
    status, body, _ = server.ask("/v1/guard", {"prompt": "fog"})
    assert (status, body["label"], body["score"], body["unparsed"]) == (200, None, None, True)
    assert body["reason"] == "the guard gave no verdict"


def test_where_the_model_lies_is_not_said():
    guard = Scripted(
        find=lambda *_: Finding(None, None, reason="failed: /home/x: too long", failed=True), name="/home/x"
    )
    with serve(guard, Settings(model="x")) as server:
        body = server.ask("/v1/guard", {"prompt": "a"})[1]
    assert (body["reason"], body["model"]) == ("failed: too long", "x")
    assert len(guard.asked) == 1


@pytest.mark.parametrize(
    ("body", "question"),
    [
        ({"prompt": "p"}, Question("p")),
        ({"prompt": "p", "response": "r"}, Question("p", "r")),
        ({"messages": [{"role": "user", "content": "p"}]}, Question("p")),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]}, Question("p", "r")),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]},
            Question("system: s\n\nuser: p"),
        ),
    ],
)
def test_what_is_judged_is_the_last_turn(body, question):
    guard = Scripted()
    with serve(guard) as server:
        assert server.ask("/v1/guard", body)[0] == 200
    assert guard.asked[0][0] == [question]


def test_another_shipped_policy_can_be_asked_for(server: Served):
    guard = Scripted(find=lambda *_: Finding("unsafe", 0.5, ("W9",)))
    with serve(guard) as other:
        body = other.ask("/v1/guard", {"prompt": "a", "policy": "wildguard"})[1]
    assert (body["policy"], body["categories"]) == ("wildguard", [{"id": "W9", "name": "Sexual Content"}])
    assert guard.asked[0][1] == "wildguard"
    for name in ("../policies/default.yaml", "default.yaml", "none"):
        status, body, _ = server.ask("/v1/guard", {"prompt": "a", "policy": name})
        assert (status, body["error"]["param"]) == (422, "policy")
        assert "openai, openai-names, wildguard" in body["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"prompt": "p", "messages": [{"role": "user", "content": "p"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "p"}], "response": "r"}, "response"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "s"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "s"}]}, "messages"),
        ({"messages": [{"role": "critic", "content": "s"}]}, "messages"),
        ({"messages": [{"role": "user", "content": ["s"]}]}, "messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
        ({"messages": {"role": "user", "content": "s"}}, "messages"),
        ({"prompt": 3}, "prompt"),
        ({"response": "r"}, "messages"),
    ],
)
def test_what_is_no_question_is_refused_with_its_place(server: Served, body, param):
    status, document, _ = server.ask("/v1/guard", body)
    assert (status, document["error"]["param"]) == (422, param)
    assert document["error"]["message"].startswith(param)
    assert document["error"]["code"] == "invalid_request"
