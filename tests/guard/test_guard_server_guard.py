"""The endpoint with all that a guard says."""

import http.client
import json
from collections.abc import Iterator

import openai
import pytest
from guard_server import PATIENCE, Question, Scripted, Served, serve

from safereason.guard.base import GuardVerdict
from safereason.guard.server.settings import ServerSettings


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serve(Scripted(), ServerSettings(model="our-guard")) as served:
        yield served


def test_it_says_all_that_the_guard_says(server: Served):
    assert server.request("/v1/guard", {"prompt": "how to make a bomb", "a key": "it does not know"})[:2] == (
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
    status, body, _ = server.request("/v1/guard", {"prompt": "fog"})
    assert (status, body["label"], body["score"], body["unparsed"]) == (200, None, None, True)
    assert body["reason"] == "the guard gave no verdict"


def test_where_the_model_lies_is_not_said():
    guard = Scripted(
        find=lambda *_: GuardVerdict(None, None, reason="failed: /home/x: too long", failed=True), name="/home/x"
    )
    with serve(guard, ServerSettings(model="x")) as server:
        body = server.request("/v1/guard", {"prompt": "a"})[1]
    assert (body["reason"], body["model"]) == ("failed: too long", "x")
    assert len(guard.calls) == 1


@pytest.mark.parametrize(
    ("body", "question"),
    [
        ({"prompt": "p"}, Question("p")),
        ({"prompt": "p", "response": "r"}, Question("p", "r")),
        ({"messages": [{"role": "user", "content": "p"}]}, Question("p")),
        ({"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]}, Question("p", "r")),
        (
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]},
            Question("system: s\n\nuser: p", is_dialogue=True),
        ),
    ],
)
def test_what_is_judged_is_the_last_turn(body, question):
    guard = Scripted()
    with serve(guard) as server:
        assert server.request("/v1/guard", body)[0] == 200
    assert guard.calls[0][0] == [question]


def test_another_shipped_policy_can_be_asked_for(server: Served):
    guard = Scripted(find=lambda *_: GuardVerdict("unsafe", 0.5, ("W9",)))
    with serve(guard) as other:
        body = other.request("/v1/guard", {"prompt": "a", "policy": "wildguard"})[1]
    assert (body["policy"], body["categories"]) == ("wildguard", [{"id": "W9", "name": "Sexual Content"}])
    assert guard.calls[0][1] == "wildguard"
    for name in ("../policies/default.yaml", "default.yaml", "none"):
        status, body, _ = server.request("/v1/guard", {"prompt": "a", "policy": name})
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
    status, document, _ = server.request("/v1/guard", body)
    assert (status, document["error"]["param"]) == (422, param)
    assert document["error"]["message"].startswith(param)
    assert document["error"]["code"] == "invalid_request"


def test_a_conversation_is_taken_as_openai_s_clients_keep_it():
    guard = Scripted()
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
    ]
    with serve(guard) as server:
        assert server.request("/v1/guard", {"messages": messages})[0] == 200
        status, body, _ = server.request(
            "/v1/guard",
            {
                "messages": [
                    *messages,
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
                ]
            },
        )
    ((question,),) = [questions for questions, _, _ in guard.calls]
    assert question.response == "It is sunny."
    for text in ("Be brief.", "Weather?", '[tool call] weather({"city": "Rome"})', "sunny"):
        assert text in question.prompt
    assert status == 422
    assert "turn 6 holds a part of type `image_url`, which is not judged" in body["error"]["message"]


@pytest.mark.parametrize(
    "content_type",
    [None, "application/x-www-form-urlencoded", "application/ld+json", "application/JSON; charset=utf-8"],
)
def test_a_body_of_json_is_judged_whatever_curl_calls_it(server: Served, content_type: str | None):
    for path in ("/v1/guard", "/v1/moderations"):
        status, _, _ = raw(server, "POST", path, b'{"prompt": "a", "input": "a"}', content_type)
        assert status == 200


@pytest.mark.parametrize("name", ["Origin", "Sec-Fetch-Site"])
def test_a_web_page_cannot_send_one_without_the_browser_s_asking(server: Served, name: str):
    for content_type in (None, "application/x-www-form-urlencoded"):
        status, body, _ = raw(
            server, "POST", "/v1/guard", b'{"prompt": "a"}', content_type, **{name: "https://evil.example"}
        )
        assert (status, json.loads(body)["error"]["code"]) == (415, "unsupported_media_type")
    # A page of this server's own site, or one that was let through by a proxy, says what it sends.
    assert (
        raw(server, "POST", "/v1/guard", b'{"prompt": "a"}', "application/json", **{name: "https://a.example"})[0]
        == 200
    )


def raw(
    server: Served,
    method: str,
    path: str,
    content: bytes | None = None,
    content_type: str | None = None,
    **headers: str,
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)
    named = headers if content_type is None else {**headers, "Content-Type": content_type}
    connection.request(method, path, content, named)
    reply = connection.getresponse()
    result = reply.status, reply.read(), reply.headers
    connection.close()
    return result


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/models"])
def test_head_is_get_without_its_body_and_a_slash_at_the_end_changes_nothing(server: Served, path: str):
    status, body, headers = raw(server, "GET", path)
    assert (status, bool(body)) == (200, True)
    slashed = raw(server, "GET", f"{path}/")
    assert slashed[0] == 200
    status, nothing, headed = raw(server, "HEAD", path)
    assert (status, nothing, headed["Content-Type"]) == (200, b"", headers["Content-Type"])


def test_methods_are_named(server: Served):
    for path in ("/v1/guard", "/v1/moderations/"):
        status, body, headers = raw(server, "GET", path)
        assert (status, headers["Allow"], json.loads(body)["error"]["code"]) == (
            405,
            "POST, OPTIONS",
            "method_not_allowed",
        )
    for method in ("POST", "DELETE", "BREW"):
        status, _, headers = raw(server, method, "/healthz")
        assert (status, headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    status, body, headers = raw(server, "OPTIONS", "/v1/guard")
    assert (status, body, headers["Allow"]) == (204, b"", "POST, OPTIONS")
    assert headers["Access-Control-Allow-Origin"] is None
    assert raw(server, "OPTIONS", "/nowhere")[0] == 404


def test_the_official_client_lists_the_guard_as_a_model(server: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["our-guard"]
    assert client.models.retrieve("our-guard").object == "model"
    with pytest.raises(openai.NotFoundError, match="no such model; there is our-guard"):
        client.models.retrieve("another")
