"""What the OpenAI engine makes of servers: every shape of a reply, what they refuse, outages, keys and addresses."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.engines import replies
from safereason.engines.base import Completion, GenerateOptions
from safereason.engines.openai import OpenAIEngine
from safereason.engines.server import PROXIES, BadReply, Patience, connect, seconds
from safereason.errors import InputError
from safereason.recipe.schema import Sampling
from safereason.text.chat import user

ANSWER, REASONING = "It is blue.", "The sky scatters light."
WHOLE = f"<think>\n{REASONING}\n</think>\n\n{ANSWER}"

Answer = tuple[int, Any]
"""Status, and a body: bytes as they are, anything else as JSON."""


class Server(ThreadingHTTPServer):
    """Replies as it is told, and keeps what it was asked."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, reply: Callable[[dict[str, Any], int], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a caller that went away is no error, and what is printed would be another test's."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            number = len(self.server.requests)
        status, document = self.server.reply(body, number)
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def serve(reply: Callable[[dict[str, Any], int], Answer]) -> Iterator[Server]:
    server = Server(reply)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def choice(message: Any, reason: str | None = "stop", **fields: Any) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": reason, **fields}]}


def completion_of(document: Any, prefix: str = "", **options: Any) -> Completion:
    """What becomes of one reply of a real server."""
    with serve(lambda body, number: (200, document)) as server:
        engine = OpenAIEngine("m", base_url=server.url, patience=options.pop("patience", 0))
        return engine.generate([user("x")], Sampling(), GenerateOptions(prefix=prefix, **options))[0][0]


SHAPES = {
    "a text": ({"content": ANSWER}, ANSWER),
    "nothing": ({"content": None}, ""),
    "a text part": ({"content": [{"type": "text", "text": ANSWER}]}, ANSWER),
    "several text parts": (
        {"content": [{"type": "text", "text": ANSWER[:5]}, {"type": "text", "text": ANSWER[5:]}]},
        ANSWER,
    ),
    "texts in a list": ({"content": [ANSWER[:3], ANSWER[3:]]}, ANSWER),
    "no parts": ({"content": []}, ""),
    "an output text": ({"content": [{"type": "output_text", "text": ANSWER, "annotations": []}]}, ANSWER),
    "thinking in parts": (
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": REASONING}]},
                {"type": "text", "text": ANSWER},
            ]
        },
        WHOLE,
    ),
    "thinking in a text": (
        {"content": [{"type": "thinking", "thinking": REASONING, "signature": "x"}, {"type": "text", "text": ANSWER}]},
        WHOLE,
    ),
    "thinking that is hidden": (
        {"content": [{"type": "redacted_thinking", "data": "xx"}, {"type": "text", "text": ANSWER}]},
        ANSWER,
    ),
    "a reasoning part": (
        {
            "content": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": REASONING}]},
                {"type": "output_text", "text": ANSWER},
            ]
        },
        WHOLE,
    ),
    "a refusal part": ({"content": [{"type": "refusal", "refusal": "I won't."}]}, "I won't."),
    "a refusal": ({"content": None, "refusal": "I won't."}, "I won't."),
    "no refusal": ({"content": ANSWER, "refusal": None}, ANSWER),
    "reasoning_content": ({"content": ANSWER, "reasoning_content": REASONING}, WHOLE),
    "reasoning": ({"content": ANSWER, "reasoning": REASONING}, WHOLE),
    "thinking": ({"content": ANSWER, "thinking": REASONING}, WHOLE),
    "reasoning_details": (
        {"content": ANSWER, "reasoning_details": [{"type": "reasoning.text", "text": REASONING}]},
        WHOLE,
    ),
    "both fields": ({"content": ANSWER, "reasoning": REASONING, "reasoning_content": REASONING}, WHOLE),
    "reasoning given twice": ({"content": WHOLE, "reasoning_content": REASONING}, WHOLE),
    "reasoning given twice, without the opening tag": (
        {"content": f"{REASONING}\n</think>\n\n{ANSWER}", "reasoning_content": REASONING},
        f"{REASONING}\n</think>\n\n{ANSWER}",
    ),
    "other reasoning between tags": (
        {"content": "<think>hm</think>Yes.", "reasoning_content": REASONING},
        f"<think>\n{REASONING}\n</think>\n\n<think>hm</think>Yes.",
    ),
    "an empty field": ({"content": ANSWER, "reasoning_content": "", "reasoning": None}, ANSWER),
    "tags that the model wrote": ({"content": WHOLE}, WHOLE),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_of_a_message_is_read(shape: str):
    message, expected = SHAPES[shape]
    completion = completion_of(choice({"role": "assistant", **message}))
    assert (completion.text, completion.finish_reason, completion.error) == (expected, "stop", "")


@pytest.mark.parametrize(
    "shape", [name for name, (_, text) in SHAPES.items() if REASONING in text and "hm" not in text]
)
def test_reasoning_is_there_once_whether_a_prefix_opened_it_or_not(shape: str):
    message = {"role": "assistant", **SHAPES[shape][0]}
    for prefix in ("", "<think>\n"):
        if prefix and shape == "tags that the model wrote":
            continue  # it wrote a second one
        completion = completion_of(choice(message), prefix)
        assert (completion.parts.reasoning, completion.parts.answer) == (REASONING, ANSWER)
        assert completion.full_text.count(REASONING) == 1
        assert completion.full_text.count("<think>") == (0 if "without" in shape and not prefix else 1)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "'image_url'"),
        ({"content": [{"type": "text", "text": ANSWER}, {"type": "hologram"}]}, "'hologram'"),
        ({"content": [{"text": ANSWER}]}, "holds an object, which is no text"),
        ({"content": [7]}, "holds a number, which is no text"),
        ({"content": 7}, "is a number, not a text"),
        ({"content": [{"type": ["text"]}]}, "['text']"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls and no text"),
        ({"content": ANSWER, "reasoning": {"type": "x"}}, "message.reasoning holds a part of type 'x'"),
    ],
)
def test_a_shape_that_is_not_known_is_an_error_that_names_it(message: dict[str, Any], named: str):
    completion = completion_of(choice({"role": "assistant", **message}), patience=30)  # and not asked for half a minute
    assert (completion.finish_reason, completion.text) == ("error", "")
    assert named in completion.error


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "text",
                        "thinking",
                        "content",
                        "refusal",
                        "reasoning",
                        "choices",
                        "message",
                        "error",
                        "finish_reason",
                        "logprobs",
                        "code",
                        "innererror",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_no_reply_breaks_the_reader_nor_turns_into_python_s_notation(value: Any):
    for document in (value, choice(value), choice({"content": value, "reasoning": value}), {"error": value}):
        try:
            completion = replies.read(replies.parse(json.dumps(document).encode()), "")
        except BadReply:
            continue
        assert isinstance(completion.text, str)
        assert not completion.text.startswith(("[{", "{'"))


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("code", [429, "429", 503, "rate_limit_exceeded", "server_error", None])
def test_an_error_with_a_good_status_is_tried_again_where_it_may_pass(code: Any):
    def reply(body: dict[str, Any], number: int) -> Answer:
        error = {"error": {"message": "overloaded", "code": code}, "choices": None}
        return 200, error if number == 1 else choice({"content": ANSWER})

    with serve(reply) as server:
        completions = OpenAIEngine("m", base_url=server.url, patience=60).generate([user("x")], Sampling())
    assert completions[0][0].text == ANSWER
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ({"message": "no such thing", "code": 400}, "no such thing (400)"),
        ({"message": "no credit", "code": "insufficient_quota"}, "no credit (insufficient_quota)"),
        ({"message": "no code", "code": float("inf")}, "no code (inf)"),
    ],
)
def test_one_that_will_not_pass_is_told_at_once(error: Any, message: str):
    with serve(lambda body, number: (200, {"error": error, "choices": None})) as server:
        (completion,) = OpenAIEngine("m", base_url=server.url, patience=60).generate([user("x")], Sampling())[0]
    assert (completion.finish_reason, len(server.requests)) == ("error", 1)
    assert message in completion.error


def test_an_error_in_the_choice_and_one_that_is_a_text():
    assert (
        "it broke (502)"
        in completion_of(choice({"content": ""}, "error", error={"message": "it broke", "code": 502})).error
    )
    assert "reports an error: it broke" in completion_of({"error": "it broke"}).error


REFUSALS = {
    "max_tokens": "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "temperature": "'temperature' does not support 0.5 with this model. Only the default (1) is supported.",
    "top_p": "`temperature` and `top_p` cannot both be specified for this model.",
    "seed": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed'), 'msg': 'Extra inputs are not permitted'}]",
    "stop": "Unsupported parameter: 'stop' is not supported with this model.",
    "logprobs": "You are not allowed to request logprobs from this model.",
}


def refusing(*names: str) -> Callable[[dict[str, Any], int], Answer]:
    def reply(body: dict[str, Any], number: int) -> Answer:
        for name in names:
            if name in body:
                return 400, {"error": {"message": REFUSALS[name], "code": "unsupported_parameter"}}
        return 200, choice({"content": "one two STOP three"})

    return reply


@pytest.mark.parametrize("name", REFUSALS)
def test_a_parameter_that_is_refused_is_left_out_from_then_on(name: str, capsys: pytest.CaptureFixture[str]):
    with serve(refusing(name)) as server:
        engine = OpenAIEngine("m", base_url=server.url, patience=0, concurrency=1)
        sampling = Sampling(temperature=0.5, max_new_tokens=7)
        completions = engine.generate(
            [user(str(i)) for i in range(3)], sampling, GenerateOptions(stop=["STOP"], choices=2)
        )
        assert [row[0].finish_reason for row in completions] == ["stop"] * 3
        assert len(server.requests) == 4
        first, *others = server.requests
        gone = {name, *(("top_logprobs",) if name == "logprobs" else ())}
        assert all(first.keys() - body.keys() == gone for body in others)
        if name == "max_tokens":
            assert {body["max_completion_tokens"] for body in others} == {7}
            assert capsys.readouterr().err == ""
        else:
            assert capsys.readouterr().err.count(f"the server refuses {name}") == 1
        # What the server was not told to stop at is cut here.
        assert {row[0].text for row in completions} == {"one two " if name == "stop" else "one two STOP three"}


def test_several_are_learned_one_by_one_by_threads_that_ask_at_once(capsys: pytest.CaptureFixture[str]):
    with serve(refusing("max_tokens", "temperature", "seed")) as server:
        engine = OpenAIEngine("m", base_url=server.url, patience=0)
        completions = engine.generate([user(str(i)) for i in range(40)], Sampling())
        assert {row[0].finish_reason for row in completions} == {"stop"}
        assert len(server.requests) <= 40 + 3 * 16
        server.requests.clear()
        engine.generate([user("x")], Sampling())
        assert len(server.requests) == 1
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 2
    assert stderr.count("refuses temperature") == stderr.count("refuses seed") == 1


@pytest.mark.parametrize(
    "message", ["max_tokens is too large: 9999. This model takes at most 4096.", "temperature must lie between 0 and 2"]
)
def test_a_bad_value_is_no_refusal_of_the_parameter(message: str):
    with serve(lambda body, number: (400, {"error": {"message": message, "param": "max_tokens"}})) as server:
        (completion,) = OpenAIEngine("m", base_url=server.url, patience=0).generate([user("x")], Sampling())[0]
    assert (completion.finish_reason, len(server.requests)) == ("error", 1)
    assert message[:30] in completion.error


FILTERS = [
    (400, {"message": "filtered", "code": "content_filter", "param": "prompt"}),
    (400, {"message": "filtered", "code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}}),
    (403, {"message": "flagged", "code": 403, "metadata": {"reasons": ["x"], "flagged_input": "y"}}),
    (200, {"message": "filtered", "code": "content_filter"}),
]


@pytest.mark.parametrize(("status", "error"), FILTERS)
def test_what_the_provider_filters_is_a_result_of_its_own(status: int, error: dict[str, Any]):
    with serve(lambda body, number: (status, {"error": error})) as server:
        (completion,) = OpenAIEngine("m", base_url=server.url, patience=60).generate([user("x")], Sampling())[0]
    assert (completion.finish_reason, len(server.requests)) == ("filtered", 1)
    assert completion.missing
    assert not completion.failed
    assert error["message"] in completion.error


@pytest.mark.parametrize(
    "error",
    [
        {"message": "too long", "code": "context_length_exceeded"},
        {"message": "This model's maximum context length is 4096 tokens, you asked for 5000"},
    ],
)
def test_a_prompt_that_is_too_long_is_an_error_that_lasts(error: dict[str, Any]):
    with serve(lambda body, number: (400, {"error": error})) as server:
        (completion,) = OpenAIEngine("m", base_url=server.url, patience=60).generate([user("x")], Sampling())[0]
    assert (completion.finish_reason, completion.lasts, completion.failed) == ("error", True, False)


GARBAGE = {
    "not JSON": (200, b"{"),
    "HTML": (200, b"<html>Bad Gateway</html>"),
    "nothing": (200, b""),
    "no choices": (200, {"choices": []}),
    "busy": (429, {"error": {"message": "slow down"}}),
    "broken": (500, b"oops"),
    "a gateway": (502, b"<html>"),
}


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("kind", GARBAGE)
def test_an_outage_of_any_kind_is_waited_for(kind: str):
    def reply(body: dict[str, Any], number: int) -> Answer:
        return GARBAGE[kind] if number <= 5 else (200, choice({"content": ANSWER}))

    with serve(reply) as server:
        engine = OpenAIEngine("m", base_url=server.url, patience=60)
        completions = engine.generate([user("a"), user("b")], Sampling())
    assert [row[0].text for row in completions] == [ANSWER, ANSWER]


REPLY = json.dumps(choice({"content": ANSWER})).encode()
HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(REPLY)}\r\nConnection: close\r\n"


@contextmanager
def sending(answer: Callable[[int], bytes]) -> Iterator[str]:
    """The address of a server that sends these bytes, whatever it is asked, told how often it was."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def work() -> None:
            for times in count(1):
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer(times))
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):  # closed with a request unread, it would be reset
                        pass

        threading.Thread(target=work, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.usefixtures("short_pauses")
def test_a_body_that_is_cut_is_waited_for():
    attempts = []

    def answer(times: int) -> bytes:
        attempts.append(times)
        return f"{HEAD}\r\n".encode() + (REPLY if times > 2 else REPLY[:20])

    with sending(answer) as url:
        completions = OpenAIEngine("m", base_url=url, patience=60, concurrency=1).generate([user("x")], Sampling())
    assert (completions[0][0].text, attempts) == (ANSWER, [1, 2, 3])


@pytest.mark.parametrize(
    "answer",
    [
        f"{HEAD}\r\n".encode() + REPLY[:20],
        f"{HEAD}Content-Encoding: gzip\r\n\r\n".encode() + REPLY,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n20\r\n{",
    ],
    ids=["cut", "no gzip", "a chunk that is cut"],
)
def test_a_body_that_breaks_off_at_the_first_request_is_no_misspelt_address(answer: bytes):
    with sending(lambda times: answer) as url:
        (completion,) = OpenAIEngine("m", base_url=url, patience=0).generate([user("x")], Sampling())[0]
    assert (completion.finish_reason, completion.failed) == ("error", True)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_what_speaks_no_http_cannot_be_reached(answer: bytes):
    message = r"cannot be reached .* start the server"
    with sending(lambda times: answer) as url, pytest.raises(InputError, match=message):
        OpenAIEngine("m", base_url=url, patience=0).generate([user("x")], Sampling())


@pytest.mark.parametrize("named", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("address", ["http://proxy.test:port", "gopher://proxy.test:70"])
def test_an_address_of_a_proxy_that_is_none_names_its_variable(
    named: str, address: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(named, address)
    with pytest.raises(InputError, match=f"^{named}: names no proxy to go by"):
        OpenAIEngine("m", base_url="http://server.test/v1")


def test_a_proxy_that_is_down_is_named_where_it_stands_in_the_way(monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nothing = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("HTTP_PROXY", nothing)
        with pytest.raises(InputError, match=r"by the proxy in HTTP_PROXY: check that, or check --base-url"):
            OpenAIEngine("m", base_url="http://server.test/v1", patience=0).generate([user("x")], Sampling())
        with pytest.raises(InputError, match="start the server or check --base-url"):  # which NO_PROXY leaves out
            OpenAIEngine("m", base_url=f"{nothing}/v1", patience=0).generate([user("x")], Sampling())


def test_a_server_that_never_answers_costs_one_timeout_and_the_rest_is_not_asked():
    never = threading.Event()
    with serve(lambda body, number: (never.wait(60), (503, b""))[1]) as server:
        engine = OpenAIEngine("m", base_url=server.url, patience=0.1, timeout=0.5, concurrency=4)
        completions = engine.generate([user(str(i)) for i in range(200)], Sampling())
        never.set()
    assert {row[0].finish_reason for row in completions} == {"error"}
    assert all(row[0].failed for row in completions)
    assert len(server.requests) < 40


def test_patience_holds_for_each_request_and_ends_for_all_together(monkeypatch: pytest.MonkeyPatch):
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    patience = Patience("m", 300)
    calls = 0

    def down() -> None:
        nonlocal calls
        calls += 1
        raise BadReply("down")

    with pytest.raises(BadReply):
        patience.call(down)
    assert 250 < now <= 300
    assert calls > 15
    for _ in range(50):  # it is lost: each is one try, without a wait
        with pytest.raises(BadReply):
            patience.call(down)
    assert now <= 300
    patience.call(lambda: None)
    calls = 0
    with pytest.raises(BadReply):  # it is back, and its next outage is waited for again
        patience.call(down)
    assert calls > 15


def test_an_address_that_never_answered_gets_less_patience(monkeypatch: pytest.MonkeyPatch):
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(InputError, match="cannot be reached"):
            OpenAIEngine("m", base_url=url, patience=300).generate([user("x")], Sampling())
        assert 5 < now <= 15
        now = 0.0
        awaited = OpenAIEngine("m", base_url=url, patience=300)
        awaited.be_awaited()
        assert awaited.generate([user("x")], Sampling())[0][0].failed
        assert 250 < now <= 300


SECRET = "sk-not-to-be-seen"


@pytest.mark.parametrize("around", [f"{SECRET}\n", f" {SECRET}\r\n", f"\t{SECRET}"])
def test_white_space_around_a_key_is_dropped(around: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", around)
    with serve(lambda body, number: (200, choice({"content": ANSWER}))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f" {server.url}\n")
        assert OpenAIEngine("m").generate([user("x")], Sampling())[0][0].text == ANSWER
    assert server.headers[0]["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    "key", [f"{SECRET}\n{SECRET}", f"sk–{SECRET}", f"{SECRET}\x01", f"{SECRET} {SECRET}", "sk-ключ"]
)
def test_what_cannot_be_a_key_is_refused_and_not_shown(key: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match=r"OPENAI_API_KEY holds a character that no key has \(U\+") as raised:
        connect("openai/m", "http://localhost/v1")
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://loc\nalhost/v1",
        "http://local host/v1",
        "http://local–host/v1",
        "http://h:port/v1",
        "http:///v1",
        "http://h:99999/v1",
        "localhost:8000",
        "http://[::1/v1",
        "ftp://h/v1",
    ],
)
def test_what_cannot_be_an_address_is_one_line(address: str):
    with pytest.raises(
        InputError, match=r"--base-url .*(type it anew|it looks like http://localhost:8000/v1)"
    ) as raised:
        connect("openai/m", address)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://user:sek ret@127.0.0.1:9/v1",
        "user:sekret@127.0.0.1:9",
        "http://u:a?sek ret@h/v1",
        "sekret@h",
        "http://h/v1?api_key=se kret",
        "http://h/v1?anything=sek ret",
        "http://u:sek@ret @h/v1?code=sekret",
    ],
)
def test_what_cannot_be_an_address_shows_no_part_of_its_secrets(address: str):
    with pytest.raises(InputError, match=r"--base-url .*<hidden>") as raised:
        connect("openai/m", address)
    assert not {"sek", "ret", "kret"} & set(re.split(r"[^a-z]+", str(raised.value).replace("sekret", "sek ret")))


@pytest.mark.parametrize("credentials", ["someone:pass%40word", "someone:", "token"])
def test_credentials_in_an_address_are_sent_and_not_kept(credentials: str):
    import base64
    from urllib.parse import unquote

    with serve(lambda body, number: (200, choice({"content": ANSWER}))) as server:
        engine = OpenAIEngine("m", base_url=f"http://{credentials}@{server.host}/v1", api_key=SECRET, patience=0)
        engine.generate([user("x")], Sampling())
        connection = engine._connection
    sent = base64.b64decode(server.headers[0]["authorization"].removeprefix("Basic ")).decode()
    assert sent == unquote(credentials if ":" in credentials else f"{credentials}:")
    assert connection.url == server.url
    assert SECRET not in repr(connection)
    assert credentials not in repr(connection)


def test_credentials_that_a_server_repeats_are_not_shown():
    def reply(body: dict[str, Any], number: int) -> Answer:
        return 401, {"error": {"message": f"Incorrect API key: {server.headers[-1]['authorization']}"}}

    with serve(reply) as server:
        engine = OpenAIEngine("m", base_url=f"http://someone:pass%40word99@{server.host}/v1", patience=0)
        with pytest.raises(InputError, match="Incorrect API key: Basic <hidden>") as raised:
            engine.generate([user("x")], Sampling())
    assert "word99" not in str(raised.value)


@pytest.mark.parametrize(
    "body", [{"detail": [{"msg": "no such thing"}]}, b"no such thing", {"message": "no such thing"}]
)
def test_why_a_server_refuses_is_told_whatever_the_shape(body: Any):
    with serve(lambda _, number: (422, body)) as server:
        (completion,) = OpenAIEngine("m", base_url=server.url, patience=0).generate([user("x")], Sampling())[0]
    assert "no such thing" in completion.error


def test_patience_in_the_environment_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SAFEREASON_PATIENCE", " 12.5 ")
    assert seconds("SAFEREASON_PATIENCE", 300) == 12.5
    for wrong in ("soon", "-1", "inf", "nan"):
        monkeypatch.setenv("SAFEREASON_PATIENCE", wrong)
        with pytest.raises(InputError, match=f"SAFEREASON_PATIENCE={wrong}: a number of seconds"):
            OpenAIEngine("m", base_url="http://localhost/v1")
