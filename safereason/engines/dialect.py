"""What one server does not take of a chat request, learned from how it refuses it.

Reasoning models of OpenAI's take `max_completion_tokens` in place of `max_tokens`, and a temperature of 1 alone; other
servers refuse `seed`, `stop` or `logprobs`. What was learned holds for all later requests to that server.
"""

import re
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import openai

from safereason import console

LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
_MAY_GO = {
    "seed": ("seed",),
    "top_p": ("top_p",),
    "temperature": ("temperature",),
    "stop": ("stop",),
    "logprobs": ("logprobs", "top_logprobs"),
    "top_logprobs": ("logprobs", "top_logprobs"),
}
"""Parameters that a request can do without, each with those that go with it; `top_p` goes before `temperature`."""
_CODES = ("unsupported_parameter", "unsupported_value", "unknown_parameter")
_REFUSES = re.compile(
    r"support|unrecogni[sz]ed|unknown|unexpected|not (?:allowed|permitted|available|accepted)|extra (?:inputs|fields)"
    r"|deprecated|cannot both|only the default|incompatible",
    re.IGNORECASE,
)
_TOO_LONG = re.compile(
    r"context.?(?:length|window|size)|maximum model length|prompt is too long|too many (?:input )?tokens", re.IGNORECASE
)


class Dialect:
    """What a server is asked without, and by which name it knows the limit; several threads may use it at once."""

    def __init__(self, who: str) -> None:
        self.who = who
        self._lock = Lock()
        self._dropped: set[str] = set()
        self._has_new_limit = False

    def adapted(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request as the server takes it."""
        with self._lock:
            found = {name: value for name, value in request.items() if name not in self._dropped}
            if self._has_new_limit and LIMIT in found:
                found[NEW_LIMIT] = found.pop(LIMIT)
        return found

    def drops(self, name: str) -> bool:
        """Whether the server is not told of a parameter."""
        return name in self._dropped

    def learn(self, error: openai.APIStatusError, sent: Mapping[str, Any]) -> bool:
        """Whether the request that was refused is worth another try, without what the error is about."""
        if error.status_code not in (400, 422):
            return False
        blamed = _blamed(error, sent)
        if blamed is None:
            return False
        with self._lock:
            is_new = not (self._has_new_limit if blamed == LIMIT else blamed in self._dropped)
            if blamed == LIMIT:
                self._has_new_limit = True
            else:
                self._dropped.update(_MAY_GO[blamed])
        if is_new and blamed != LIMIT:
            console.say(f"{self.who}: the server refuses {blamed}; it is asked without, and takes its own default")
        return True


def is_too_long(error: openai.APIStatusError) -> bool:
    """Whether a prompt was refused for its length: asked again, it will be again."""
    if error.status_code not in (400, 413, 422):
        return False
    return getattr(error, "code", None) == "context_length_exceeded" or bool(_TOO_LONG.search(str(error)))


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop text, for a server that refuses to be told them."""
    return text[: min((text.find(each) for each in stop if each and each in text), default=len(text))]


def _blamed(error: openai.APIStatusError, sent: Mapping[str, Any]) -> str | None:
    """The parameter that was sent and is refused as such, whatever its value."""
    said = str(error)
    if "logprob" in said.lower() and "logprobs" in sent:
        return "logprobs"
    if getattr(error, "code", None) not in _CODES and not _REFUSES.search(said):
        return None
    if LIMIT in sent and (NEW_LIMIT in said or getattr(error, "param", None) == LIMIT):
        return LIMIT
    named = getattr(error, "param", None)
    if named in _MAY_GO and named in sent:
        return str(named)
    return next((name for name in _MAY_GO if name in sent and re.search(rf"\b{name}\b", said)), None)
