"""What keeps a server up: keys, limits, errors in one shape, counters, and silence about what it is sent."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from guard_server import PATIENCE, Scripted, Served, serve, until
from prometheus_client.parser import text_string_to_metric_families

from safereason.errors import InputError
from safereason.guard.server import keys
from safereason.guard.server.settings import Limits, ServerSettings

SMALL = Limits(max_inputs=2, max_turns=2, max_chars=10, max_body=200, max_batch=1, max_queue=2)


@pytest.fixture(scope="module")
def small() -> Iterator[Served]:
    with serve(Scripted(), ServerSettings(limits=SMALL)) as served:
        yield served


@pytest.fixture
def two_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> keys.Keys:
    monkeypatch.setenv(keys.VARIABLE, "first-key, second-key")
    file = tmp_path / "keys"
    file.write_text("third-key\n\n")
    return keys.read(file)


def test_callers_need_a_key_and_those_who_watch_the_server_none(two_keys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve(Scripted(), ServerSettings(keys=two_keys)) as server:
        for path in ("/v1/guard", "/v1/moderations", "/metrics", "/openapi.json", "/elsewhere"):
            body = {"prompt": "a", "input": "a"} if path.startswith("/v1") else None
            for headers in (
                {},
                {"Authorization": "Bearer first-ke"},
                {"Authorization": "first-key"},
                {"Authorization": "Basic first-key"},
                {"Authorization": "Bearer "},
                {"Authorization": "Bearer k\u00e9y"},
            ):
                assert server.code(path, body, headers=headers) == (401, "invalid_api_key")
            for key in ("first-key", "second-key", "third-key"):
                status = server.request(path, body, headers={"Authorization": f"Bearer {key}"})[0]
                assert status == (404 if path == "/elsewhere" else 200)
        assert [server.request(path)[0] for path in ("/healthz", "/readyz")] == [200, 200]
        with pytest.raises(openai.AuthenticationError, match="no key, or a wrong one"):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="none").moderations.create(input="a")


def test_keys_are_shown_nowhere(two_keys):
    text = f"{ServerSettings(keys=two_keys)!r} {vars(two_keys)}"
    assert not any(key in text for key in ("first-key", "second-key", "third-key"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key"),
        (" , ", "holds no key"),
        ("a b", "key 1 holds a space"),
        ("a\x1cb", "key 1 holds a space, a control character"),
        ("a\x7f", "key 1 holds a space, a control character"),
        ("a,\u00e9", "key 2 holds a space, a control character or what is not ASCII"),
    ],
)
def test_keys_that_are_none_are_refused(monkeypatch, tmp_path, text, message):
    file = tmp_path / "keys"
    file.write_text(text.replace(",", "\n"), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        keys.read(file)
    monkeypatch.setenv(keys.VARIABLE, text)
    with pytest.raises(InputError, match=message):
        keys.read(None)


def test_without_the_variable_and_a_file_there_are_no_keys(monkeypatch):
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    assert not keys.read(None)


@pytest.mark.parametrize(
    ("path", "body", "refused"),
    [
        ("/v1/moderations", {"input": ["a"] * 3}, (422, "invalid_request")),
        ("/v1/moderations", {"input": []}, (422, "invalid_request")),
        ("/v1/moderations", {"input": "a" * 11}, (422, "text_too_long")),
        ("/v1/moderations", {"input": ["a", "a" * 11]}, (422, "text_too_long")),
        ("/v1/moderations", {"input": [{"type": "text", "text": "a" * 6}] * 2}, (422, "text_too_long")),
        ("/v1/guard", {"prompt": "a" * 6, "response": "a" * 5}, (422, "text_too_long")),
        ("/v1/guard", {"messages": [{"role": "user", "content": "a"}] * 3}, (422, "invalid_request")),
        ("/v1/guard", {"messages": [{"role": "user", "content": "a" * 11}]}, (422, "text_too_long")),
        ("/v1/guard", {"prompt": "a", "padding": "a" * 200}, (413, "body_too_large")),
    ],
)
def test_too_much_is_refused(small: Served, path, body, refused):
    assert small.code(path, body) == refused
    assert small.request(path, {"prompt": "a" * 10, "input": ["a" * 10] * 2})[0] == 200


def test_a_body_without_a_length_is_counted_as_it_comes(small: Served):
    chunks = (b'{"prompt": "a", "padding": "', *[b"a" * 50] * 4, b'"}')
    assert small.code("/v1/guard", raw=iter(chunks)) == (413, "body_too_large")
    assert small.request("/v1/guard", raw=iter((*chunks[:3], b'"}')))[0] == 200


def test_a_body_that_does_not_come_is_not_waited_for():
    with serve(Scripted(), ServerSettings(limits=Limits(timeout=0.2))) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            connection.sendall(
                b"POST /v1/guard HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n"
                b'Content-Type: application/json\r\n\r\n{"prompt":'
            )
            # Head and body are two writes, which may come as two.
            reply = b"".join(iter(lambda: connection.recv(4096), b""))
    assert reply.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body_timeout"' in reply


def test_a_full_queue_is_said_and_what_waits_is_still_judged():
    guard = Scripted()
    guard.open.clear()
    limits = Limits(max_batch=1, max_queue=1, max_wait=0.0)
    with serve(guard, ServerSettings(limits=limits)) as server, ThreadPoolExecutor(2) as pool:
        first = pool.submit(server.request, "/v1/guard", {"prompt": "one"})
        assert guard.entered.acquire(timeout=PATIENCE)
        second = pool.submit(server.request, "/v1/guard", {"prompt": "two"})
        until(lambda: server.request("/readyz")[0] == 503)
        status, body, headers = server.request("/v1/guard", {"prompt": "three"})
        assert (status, body["error"]["code"], body["error"]["type"]) == (429, "queue_full", "rate_limit_error")
        assert headers["Retry-After"] == "1"
        assert server.request("/healthz")[0] == 200
        assert gauge(server, "safereason_queue_length") == 1
        guard.open.set()
        assert [first.result()[0], second.result()[0]] == [200, 200]
        assert server.request("/readyz")[0] == 200
    assert [questions[0].prompt for questions, _, _ in guard.calls] == ["one", "two"]


def test_a_verdict_that_takes_too_long_is_not_waited_for_and_what_waits_behind_it_is_dropped():
    guard = Scripted()
    guard.open.clear()
    limits = Limits(max_batch=1, max_queue=1, timeout=0.3)
    with serve(guard, ServerSettings(limits=limits)) as server, ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(server.code, "/v1/guard", {"prompt": "one"})]
        assert guard.entered.acquire(timeout=PATIENCE)
        futures.append(pool.submit(server.code, "/v1/moderations", {"input": "two"}))
        assert [h.result() for h in futures] == [(503, "timeout")] * 2
        # What nobody waits for takes no place in the queue.
        assert server.code("/v1/guard", {"prompt": "three"}) == (503, "timeout")
        guard.open.set()
        until(lambda: server.request("/v1/guard", {"prompt": "four"})[0] == 200)
    assert "two" not in [questions[0].prompt for questions, _, _ in guard.calls]


def test_a_guard_that_breaks_over_one_text_answers_for_the_others_and_lives_on(capfd):
    guard = Scripted()
    guard.open.clear()
    with serve(guard) as server, ThreadPoolExecutor(4) as pool:
        first = pool.submit(server.request, "/v1/guard", {"prompt": "first"})
        assert guard.entered.acquire(timeout=PATIENCE)
        replies = [pool.submit(server.request, "/v1/guard", {"prompt": text}) for text in ("a bomb", "break", "a cake")]
        until(lambda: gauge(server, "safereason_queue_length") == 3)
        guard.open.set()
        statuses = [reply.result()[:2] for reply in replies]
        assert first.result()[0] == 200
    assert [status for status, _ in statuses] == [200, 503, 200]
    assert statuses[1][1]["error"]["code"] == "guard_failed"
    assert capfd.readouterr().err.count("the guard failed: RuntimeError: the guard broke") == 1


HOSTILE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"3",
    b'"text"',
    b"\xff\xfe",
    b"{" * 50_000,
    b"[" * 50_000,
    b'{"input": NaN, "prompt": NaN}',
    b'{"input": "\\ud800", "prompt": "\\ud800"}',
    b'{"input": ["\\udfff"], "prompt": 1e999}',
    b'{"input": ' + b"9" * 5000 + b', "prompt": []}',
    b'{"input": {"a": 1}, "prompt": {}}',
    b'{"input": [[1, 2]], "prompt": true}',
    b'{"input": [{"type": "text"}], "messages": [{}]}',
    b'{"input": [{"type": "audio"}], "messages": [1]}',
    b'{"input": null, "prompt": null}',
]


@pytest.mark.parametrize("path", ["/v1/moderations", "/v1/guard"])
@pytest.mark.parametrize("raw", HOSTILE, ids=lambda raw: repr(raw[:20]))
def test_hostile_bodies_are_the_callers_mistake(hostile_server: Served, path, raw):
    status, code = hostile_server.code(path, raw=raw)
    assert (status, code) in {(400, "invalid_json"), (422, "invalid_request")}


@pytest.fixture(scope="module")
def hostile_server() -> Iterator[Served]:
    guard = Scripted()
    with serve(guard) as served:
        yield served
        assert served.request("/v1/guard", {"prompt": "a"})[0] == 200
    assert len(guard.calls) == 1


def test_a_body_that_is_not_called_json_is_not_read_as_json(small: Served):
    # So that a web page cannot send one without the browser's asking first.
    status, body, _ = small.request("/v1/guard", {"prompt": "a"}, headers={"Content-Type": "text/plain"})
    assert (status, body["error"]["code"]) == (415, "unsupported_media_type")
    assert "Content-Type: application/json" in body["error"]["message"]


def test_other_paths_and_methods_are_refused_in_the_same_shape(small: Served):
    assert small.code("/nowhere") == (404, "not_found")
    assert small.code("/v1/guard") == (405, "method_not_allowed")
    assert small.code("/docs") == (404, "not_found")


def gauge(server: Served, name: str, **labels: str) -> float:
    total = 0.0
    for family in text_string_to_metric_families(server.request("/metrics")[1]):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                total += sample.value
    return total


def test_requests_batches_and_verdicts_are_counted():
    with serve(Scripted()) as server:
        server.request("/v1/moderations", {"input": ["a bomb", "a cake", "fog"]})
        server.request("/v1/guard", {"prompt": "a bomb"})
        server.request("/v1/guard", {"prompt": 1})
        for n in range(3):
            server.request(f"/made-up/{n}")
        verdicts = [gauge(server, "safereason_verdicts_total", label=x) for x in ("unsafe", "safe", "unparsed")]
        assert verdicts == [2, 1, 1]
        counted = {
            (path, status): gauge(server, "safereason_requests_total", path=path, status=status)
            for path, status in [
                ("/v1/moderations", "422"),
                ("/v1/guard", "200"),
                ("/v1/guard", "422"),
                ("other", "404"),
            ]
        }
        assert list(counted.values()) == [1, 1, 1, 3]
        assert gauge(server, "safereason_batch_size_sum") == 4
        assert gauge(server, "safereason_batch_size_count") == 2
        assert gauge(server, "safereason_request_seconds_count", path="/v1/guard") == 2
        assert "made-up" not in server.request("/metrics")[1]


def test_what_it_is_sent_is_not_logged_unless_asked(capfd, caplog):
    caplog.set_level("DEBUG")
    bodies = [{"prompt": f"a secret {what}", "input": f"a secret {what}"} for what in ("cake", "fog", "break")]
    with serve(Scripted()) as server:
        for path in ("/v1/guard", "/v1/moderations"):
            for body in bodies:
                server.request(path, body)
            server.request(path, raw=b'{"prompt": "a secret')
    out, err = capfd.readouterr()
    assert "the guard failed" in err
    assert "secret" not in out + err + caplog.text
    with serve(Scripted(), ServerSettings(log_prompts=True)) as server:
        server.request("/v1/guard", {"prompt": "a \x1b secret\n", "response": "é"})
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert json.loads(line) == {"prompt": "a \x1b secret\n", "response": "é", "label": "safe", "text": "…"}
    assert line.isascii()
