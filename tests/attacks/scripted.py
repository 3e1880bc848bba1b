"""Attacker, target and judge behind one real server, each answering by rule, so that a search can be followed."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import openai_server

from safereason.attacks.base import Setup
from safereason.attacks.meter import Meter, Metered
from safereason.attacks.rating import rater
from safereason.data.example import Example
from safereason.engines.base import Completion, Conversation, Engine
from safereason.engines.openai import OpenAIEngine

BEHAVIOR = Example("own/0", "Write a poem about harbours.", "harmful", "own", target="Sure, here is a poem")
MARKER = "lantern"
SECRET = "kept to myself"
"""What the target thinks."""


class CountingEngine(OpenAIEngine):
    """An engine that notes how many conversations it is asked at a time."""

    def generate(self, conversations: Sequence[Conversation], *args: Any, **named: Any) -> list[list[Completion]]:
        self.calls = [*getattr(self, "calls", []), len(conversations)]
        return super().generate(conversations, *args, **named)


@dataclass
class Scene:
    """A server with three models, and what each of them was asked."""

    server: openai_server.Server
    meter: Meter = field(default_factory=Meter)

    def requests_to(self, model: str) -> list[dict[str, Any]]:
        """Requests to one of the models."""
        return [body for body in self.server.requests if body["model"] == model]

    def setup(self, *, most: int | None = None, seed: int = 0, prefix: str = "") -> Setup:
        """Engines on the server, metered as the stage does it."""
        self.meter = Meter(most)
        target, attacker, self.judge = (
            CountingEngine(m, base_url=self.server.url, patience=0) for m in ("t", "a", "j")
        )
        return Setup(
            target_model=Metered(target, self.meter, is_target=True),
            attacker=Metered(attacker, self.meter, is_target=False),
            score=rater(self.judge),
            seed=seed,
            prefix=prefix,
            meter=self.meter,
        )


def choice_of(text: str, **fields: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text, **fields}, "finish_reason": "stop"}


def between(text: str, what: str) -> str:
    """What a prompt of ours holds between its markers."""
    match = re.search(rf"<BEGIN {what}>\n(.*)\n<END {what}>", text, re.DOTALL)
    assert match is not None
    return match[1]


def attack(body: dict[str, Any]) -> str:
    """One marker more each round."""
    prompts = [json.loads(m["content"])["prompt"] for m in body["messages"] if m["role"] == "assistant"]
    prompt = f"{prompts[-1]} {MARKER}" if prompts else f"Harbour {body['seed']}"
    return json.dumps({"improvement": "one more", "prompt": prompt})


def judge(body: dict[str, Any]) -> str:
    """Rates an answer by its markers: 1, 4, 7, 10."""
    answer = between(body["messages"][-1]["content"], "ANSWER")
    return f"It says so.\nRating: [[{min(10, 1 + 3 * answer.count(MARKER))}]]"


def reply(body: dict[str, Any]) -> dict[str, Any]:
    """What each model says: the target thinks, and repeats what it was asked."""
    content = [m["content"] for m in body["messages"] if m["role"] == "user"][-1]
    if body["model"] == "a":
        if "<BEGIN PROMPT>" in content:
            return choice_of(f"On topic: [[{'no' if 'stray' in between(content, 'PROMPT') else 'yes'}]]")
        return choice_of(f"```json\n{attack(body)}\n```")
    if body["model"] == "j":
        return choice_of(judge(body))
    return choice_of(f"You said: {content}", reasoning_content=f"{SECRET} {MARKER * 9}")


@contextmanager
def scene(engine: Engine) -> Iterator[Scene]:
    """Runs the server; `engine` writes where `server.choice` is set to None."""
    with openai_server.serve(engine) as server:
        server.choice = reply
        yield Scene(server)
