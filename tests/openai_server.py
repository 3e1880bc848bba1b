"""A real OpenAI-compatible chat server on a real engine, which can be told to misbehave.

with openai_server.serve(engine) as server:
    OpenAIEngine("micro", base_url=server.url)
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from safereason.engines.base import Engine, GenerateOptions
from safereason.recipe.schema import Sampling

PATIENCE = 120.0
"""Seconds after which a held request gives up, so that a failing test ends."""


@dataclass
class Server:
    """What the server is told, and what it saw."""

    engine: Engine
    url: str = ""
    """Address up to and with `/v1`."""
    statuses: list[int] = field(default_factory=list)
    """The next requests fail with these."""
    status_of: Callable[[dict[str, Any]], int] = lambda body: 200
    """Status of a request by what it asks, after `statuses`."""
    refusal: str = ""
    """What the server says where it fails."""
    choice: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """In place of the engine: the request's choice, a message and a finish reason; `usage` in it goes beside it."""
    raw: Response | None = None
    """In place of any reply."""
    hold_until: int = 0
    """Requests wait until so many are under way at a time."""
    hangs: Callable[[dict[str, Any]], bool] = lambda body: False
    """Requests that are never answered."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies, in the order they came."""
    keys: list[str | None] = field(default_factory=list)
    """Their `Authorization` headers."""
    under_way: int = 0
    peak: int = 0
    """Most requests under way at a time."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    stopped: threading.Event = field(default_factory=threading.Event)

    def answer(self, body: dict[str, Any], key: str | None) -> Response:
        """One request, from its arrival to its reply."""
        with self.changed:
            self.requests.append(body)
            self.keys.append(key)
            self.under_way += 1
            self.peak = max(self.peak, self.under_way)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.peak >= self.hold_until, PATIENCE)
            status = self.statuses.pop(0) if self.statuses else self.status_of(body)
        try:
            if self.hangs(body):
                self.stopped.wait(PATIENCE)
                return Response(status_code=503)
            return self._reply(body, status)
        finally:
            with self.changed:
                self.under_way -= 1
                self.changed.notify_all()

    def _reply(self, body: dict[str, Any], status: int) -> Response:
        if status != 200:
            error = {"error": {"message": self.refusal or f"told to fail with {status}"}}
            return JSONResponse(error, status, headers={"retry-after-ms": "1"})
        if self.raw is not None:
            return self.raw
        choice = dict(self.choice(body) if self.choice else self._generated(body))
        usage = {"usage": choice.pop("usage")} if "usage" in choice else {}
        return JSONResponse(
            {
                "id": "c",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, **choice}],
                **usage,
            }
        )

    def _generated(self, body: dict[str, Any]) -> dict[str, Any]:
        messages, prefix = body["messages"], ""
        if body.get("continue_final_message"):
            *messages, last = messages
            prefix = last["content"]
        sampling = Sampling(
            temperature=body["temperature"],
            top_p=body["top_p"],
            top_k=body.get("top_k", 0),
            repetition_penalty=body.get("repetition_penalty", 1.0),
            max_new_tokens=body["max_tokens"],
        )
        with self.changed:
            written = self.engine.generate(
                [messages],
                sampling,
                GenerateOptions(
                    seed=body["seed"], stop=body.get("stop", ()), prefix=prefix, choices=body.get("top_logprobs", 0)
                ),
            )[0][0]
        listed = [
            {
                "token": c.text,
                "logprob": dict(c.likeliest)[c.text],
                "top_logprobs": [{"token": text, "logprob": logprob} for text, logprob in c.likeliest],
            }
            for c in written.choices
        ]
        took = written.usage
        usage = {"prompt_tokens": took.prompt, "completion_tokens": took.completion} if took else None
        return {
            "message": {"role": "assistant", "content": written.text},
            "finish_reason": written.finish_reason,
            "usage": usage,
            **({"logprobs": {"content": listed}} if listed else {}),
        }


@contextmanager
def serve(engine: Engine) -> Iterator[Server]:
    """Runs the server on a free port of this machine until the block ends."""
    server, app = Server(engine), FastAPI()

    async def read(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        return await run_in_threadpool(server.answer, await request.json(), request.headers.get("authorization"))

    app.post("/v1/chat/completions")(read)
    running = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    try:
        while not running.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            threading.Event().wait(0.01)
        port = running.servers[0].sockets[0].getsockname()[1]
        server.url = f"http://127.0.0.1:{port}/v1"
        yield server
    finally:
        server.stopped.set()
        running.should_exit = running.force_exit = True
        thread.join(PATIENCE)
        # A thread that is still in torch when the interpreter ends takes the process down with it.
        with server.changed:
            server.changed.wait_for(lambda: server.under_way == 0, PATIENCE)
