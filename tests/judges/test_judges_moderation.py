"""The moderation judge against a real HTTP server."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from safereason.engines.result_cache import cache_key
from safereason.errors import InputError
from safereason.guard.others.moderation import ModerationAPI, ReplyCache
from safereason.judges import open_judge
from safereason.judges.base import Exchange, Verdict
from safereason.judges.cache import VerdictCache
from safereason.judges.moderation import Moderation


class Server(ThreadingHTTPServer):
    """Answers with the queued statuses first, then with scores that depend on the text."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses: list[int] = []
        self.forever: int | None = None
        self.requests: list[dict[str, Any]] = []
        self.body: Any = None
        self.outage: tuple[int, bytes] | None = None
        self.outage_ends_after = 10**9
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append({"path": self.path, "key": self.headers["Authorization"], **request})
            status = self.server.forever or (self.server.statuses.pop(0) if self.server.statuses else 200)
        scores = {"violence": 0.875 if "bomb" in request["input"] else 0.03125, "harassment/threatening": 0.0625}
        result = {"flagged": "bomb" in request["input"], "categories": {}, "category_scores": scores}
        body = self.server.body or {"id": "m", "model": "served", "results": [result]}
        content = json.dumps(body if status == 200 else {"error": {"message": f"status {status}"}}).encode()
        if self.server.outage and len(self.server.requests) < self.server.outage_ends_after:
            status, content = self.server.outage
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("retry-after-ms", "5")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("SAFEREASON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    started = Server()
    monkeypatch.setenv("OPENAI_BASE_URL", started.url)
    threading.Thread(target=started.serve_forever, args=(0.01,), daemon=True).start()
    yield started
    started.shutdown()
    started.server_close()


def moderation(model: str = "omni-moderation-latest", **options: Any) -> Moderation:
    return Moderation(ModerationAPI(model, **options))


def exchange(answer: str) -> Exchange:
    return Exchange("a prompt that is not sent", answer)


def test_the_score_is_the_largest_category_score_of_the_answer_alone(server: Server):
    verdicts = open_judge("moderation").judge([exchange("a bomb"), exchange("a cake")])
    assert [(v.score, v.label) for v in verdicts] == [(0.875, "flagged"), (0.0625, "clean")]
    assert verdicts[0].details == {"violence": 0.875, "harassment/threatening": 0.0625}
    assert {(s["path"], s["model"], s["key"]) for s in server.requests} == {
        ("/v1/moderations", "omni-moderation-latest", "Bearer sk-test")
    }
    assert sorted(s["input"] for s in server.requests) == ["a bomb", "a cake"]


def test_no_text_is_paid_for_twice(server: Server):
    first = open_judge("moderation:text-moderation-stable")
    assert isinstance(first, Moderation)
    first.judge([exchange("a cake"), exchange("a cake"), exchange("a pie")])
    second = moderation("text-moderation-stable")
    verdicts = second.judge([exchange("a pie"), exchange("a cake")])
    assert [v.score for v in verdicts] == [0.0625, 0.0625]
    assert (first.api.calls_made, first.api.calls_saved) == (2, 1)
    assert (second.api.calls_made, second.api.calls_saved) == (0, 2)
    assert len(server.requests) == 2


def test_another_model_is_another_verdict(server: Server):
    for model in ("one", "two"):
        moderation(model).judge([exchange("a cake")])
    assert [s["model"] for s in server.requests] == ["one", "two"]


def test_a_busy_server_is_asked_again(server: Server):
    server.statuses = [429, 503]
    assert moderation().judge([exchange("a cake")])[0].score == 0.0625
    assert len(server.requests) == 3


def test_a_failing_server_leaves_the_answer_unscored_and_is_asked_again_later(server: Server):
    server.forever = 500
    judge = moderation(patience=0)
    verdict = judge.judge([exchange("a cake")])[0]
    assert verdict.score is None
    assert "500" in (verdict.reason or "")
    server.forever = None
    assert judge.judge([exchange("a cake")])[0].score == 0.0625


@pytest.mark.parametrize(
    "body",
    [
        {"id": "m", "model": "m", "results": []},
        {"id": "m", "model": "m", "results": [{"flagged": False, "category_scores": {"hate": None}}]},
        {"id": "m", "model": "m", "results": [{"flagged": False}]},
        {"unexpected": True},
    ],
)
def test_an_answer_without_scores_is_unscored(server: Server, body: dict[str, Any]):
    server.body = body
    verdict = moderation(patience=0).judge([exchange("a cake")])[0]
    assert verdict.score is None
    assert verdict.reason


def test_an_empty_answer_is_not_sent(server: Server):
    verdicts = moderation().judge([exchange(" "), exchange("a cake")])
    assert [v.score for v in verdicts] == [None, 0.0625]
    assert len(server.requests) == 1


def test_a_refused_key_is_for_the_person_to_mend(server: Server):
    server.forever = 401
    with pytest.raises(InputError, match="check OPENAI_API_KEY"):
        moderation().judge([exchange("a cake")])


def test_no_key_and_no_server_of_ones_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(InputError, match="OPENAI_API_KEY is not set"):
        open_judge("moderation")


def test_a_server_of_ones_own_needs_no_key(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL")
    judge = moderation(base_url=server.url, cache=ReplyCache(tmp_path / "own.sqlite3"))
    assert judge.judge([exchange("a bomb")])[0].label == "flagged"


OUTAGES: dict[str, tuple[int, bytes]] = {
    "down": (503, b"{}"),
    "busy": (429, b"{}"),
    "garbage": (200, b'{"results": [{'),
    "HTML": (200, b"<html>Welcome</html>"),
    "nothing": (200, b""),
    "no results": (200, b'{"results": []}'),
    "null scores": (200, b'{"results": [{"flagged": false, "category_scores": {"hate": null}}]}'),
    "no object": (200, b"[]"),
    "an error": (200, b'{"error": {"message": "no worker", "code": 503}}'),
}


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("kind", OUTAGES)
def test_an_outage_is_a_failed_verdict_and_one_that_passes_none(server: Server, kind: str):
    server.outage = OUTAGES[kind]
    judge = moderation(patience=0)
    verdicts = judge.judge([exchange("a cake"), exchange(" ")])
    assert [(v.score, v.failed) for v in verdicts] == [(None, True), (None, False)]
    assert str(verdicts[0].reason).startswith("moderation call failed: ")
    server.outage_ends_after = len(server.requests) + 4
    (verdict,) = moderation(patience=60).judge([exchange("a cake")])
    assert (verdict.score, verdict.failed) == (0.0625, False)


def test_a_text_that_our_own_guard_gave_no_verdict_on_is_unscorable(server: Server):
    server.outage = (422, b'{"error": {"message": "input: the guard gave no verdict", "code": "unparsed"}}')
    (verdict,) = moderation(patience=60).judge([exchange("a cake")])
    assert (verdict.score, verdict.failed, len(server.requests)) == (None, False, 1)
    assert "the guard gave no verdict" in str(verdict.reason)


def test_what_an_earlier_version_paid_for_is_found(server: Server, tmp_path: Path):
    path = tmp_path / "judges.sqlite3"
    paid = Verdict(0.75, "flagged", details={"violence": 0.75, "hate": 0.125})
    VerdictCache(path).put(cache_key("moderation", "omni-moderation-latest", f"{server.url}/", "a storm"), paid)
    assert moderation(cache=ReplyCache(path)).judge([exchange("a storm")]) == [paid]
    assert server.requests == []


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"label": "flagged", "details": {}}', '{"label": 1, "details": {"a": 1}}']
)
def test_an_entry_that_is_no_reply_is_sent_again(server: Server, tmp_path: Path, text: str):
    cache = ReplyCache(tmp_path / "own.sqlite3")
    key = cache_key("moderation", "omni-moderation-latest", f"{server.url}/", "a cake")
    with cache._connected() as db:
        db.execute("INSERT INTO verdicts VALUES (?, ?)", (key, text))
    assert [v.score for v in moderation(cache=cache).judge([exchange("a cake")])] == [0.0625]
    assert len(server.requests) == 1
