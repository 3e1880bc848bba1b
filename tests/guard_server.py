"""A guard behind a real socket, and a guard that finds what it is told.

with guard_server.serve(Scripted()) as server:
    status, body, headers = server.ask("/v1/guard", {"prompt": "hello"})
"""

import http.client
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import FastAPI

from safereason.guard import policy as policies
from safereason.guard.base import GuardVerdict, OnVerdict, Question
from safereason.guard.policy import Policy
from safereason.guard.server import run
from safereason.guard.server.app import ServedGuard, create_app
from safereason.guard.server.settings import ServerSettings

PATIENCE = 60.0
"""Seconds after which a wait gives up, so that a failing test ends."""
NO_VERDICT = GuardVerdict(None, None, reason="the guard gave no verdict")


def find(question: Question, seed: int) -> GuardVerdict:
    """Unsafe where there is a bomb in what is judged, without a verdict where there is fog, else safe."""
    text = question.prompt if question.response is None else question.response
    if "break" in text:
        raise RuntimeError("the guard broke")
    if "fog" in text and not ("thin" in text and seed):
        return NO_VERDICT
    if "bomb" in text:
        return GuardVerdict("unsafe", 0.875, ("U1",), "It asks for a weapon.", "…")
    return GuardVerdict("safe", 0.125, (), "Nothing applies.", "…")


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


@dataclass
class Scripted:
    """Keeps the contract of a guard that is served."""

    find: Callable[[Question, int], GuardVerdict] = find
    policy: Policy = field(default_factory=lambda: policies.load("default"))
    name: str = "scripted"
    calls: list[tuple[list[Question], str, int]] = field(default_factory=list)
    """Questions, policy and seed of each call."""
    open: threading.Event = field(default_factory=_set)
    """Calls wait until it is set."""
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def under(self, policy: Policy) -> "Scripted":
        return replace(self, policy=policy)

    def classify(
        self, questions: Sequence[Question], *, seed: int = 0, alone: bool = False, on_verdict: OnVerdict | None = None
    ) -> None:
        assert alone
        assert on_verdict is not None
        self.calls.append((list(questions), self.policy.name, seed))
        self.entered.release()
        assert self.open.wait(PATIENCE)
        for i, question in enumerate(questions):
            on_verdict(i, self.find(question, seed))


@dataclass
class Served:
    """A running server."""

    app: FastAPI
    url: str

    def request(
        self, path: str, body: Any = None, *, headers: dict[str, str] | None = None, raw: Any = None
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        """One request: GET without a body, else POST of `body` as JSON or of `raw` as it is."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=PATIENCE)
        content = raw if raw is not None else None if body is None else json.dumps(body).encode()
        try:
            connection.request(
                "GET" if content is None else "POST",
                path,
                content,
                {"Content-Type": "application/json", **(headers or {})},
            )
            reply = connection.getresponse()
            text = reply.read().decode()
        finally:
            connection.close()
        is_json = reply.headers.get_content_type() == "application/json"
        return reply.status, json.loads(text) if is_json else text, reply.headers

    def code(self, path: str, body: Any = None, **named: Any) -> tuple[int, str]:
        """Status and error code of a request that is refused."""
        status, document, _ = self.request(path, body, **named)
        assert set(document["error"]) == {"message", "type", "param", "code"}
        return status, document["error"]["code"]


@contextmanager
def serve(guard: ServedGuard, settings: ServerSettings | None = None) -> Iterator[Served]:
    """Runs it on a free port until the block ends."""
    settings = settings or ServerSettings()
    app = create_app(guard, settings)
    with run.bind("127.0.0.1", 0) as bound:
        server = run.Server(app, settings.limits, "it listens")
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            threading.Event().wait(0.01)
        try:
            yield Served(app, run.url_of(bound))
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


def until(condition: Callable[[], bool]) -> None:
    """Waits for something that other threads bring about."""
    for _ in range(int(PATIENCE * 100)):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come about")
