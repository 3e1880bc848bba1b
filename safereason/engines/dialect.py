"""The dialect of one server: the parameters of a chat request that it refuses, learned from its errors.

Reasoning models of OpenAI's take `max_completion_tokens` in place of `max_tokens`, and only a temperature of 1; other
servers refuse `seed`, `stop` or `logprobs`. What was learned holds for all later requests to that server.
"""

import re
from collections.abc import Mapping
from threading import Lock

import openai

from safereason import console

LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
# `max_tokens` is not here: without it a completion would have no limit.
_MAY_GO = {
    "seed": ("seed",),
    "top_p": ("top_p",),
    "temperature": ("temperature",),
    "stop": ("stop",),
    "logprobs": ("logprobs", "top_logprobs"),
    "top_logprobs": ("logprobs", "top_logprobs"),
}
"""Optional parameters, each with those that are left out together with it; `top_p` goes before `temperature`."""
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
    """The parameters that a server refuses, and its name for the token limit; several threads may use it at once."""

    def __init__(self, who: str) -> None:
        self.who = who
        self._lock = Lock()
        self._dropped: set[str] = set()
        self._has_new_limit = False

    def adapted(self, request: Mapping[str, object]) -> dict[str, object]:
        """The request as the server takes it."""
        # Threads send requests at the same time: the first one to be refused teaches the others.
        with self._lock:
            adapted = {name: value for name, value in request.items() if name not in self._dropped}
            if self._has_new_limit and LIMIT in adapted:
                adapted[NEW_LIMIT] = adapted.pop(LIMIT)
        return adapted

    def drops(self, name: str) -> bool:
        """Whether a parameter is left out of requests."""
        return name in self._dropped

    def learn(self, error: openai.APIStatusError, sent: Mapping[str, object]) -> bool:
        """Whether the request that was refused is worth another try, without what the error is about."""
        if error.status_code not in (400, 422):
            return False
        blamed = _blamed(error, sent)
        if blamed is None:
            return False
        with self._lock:
            if blamed == LIMIT:
                # Only a name changes, and no setting is lost: nothing to tell the user.
                self._has_new_limit = True
                return True
            is_new = blamed not in self._dropped
            self._dropped.update(_MAY_GO[blamed])
        if is_new:
            console.say(
                f"{self.who}: the server refuses {blamed}; requests go without it, and the server takes its own default"
            )
        return True


def is_too_long(error: openai.APIStatusError) -> bool:
    """Whether a prompt was refused for its length, which another try would not change."""
    if error.status_code not in (400, 413, 422):
        return False
    return getattr(error, "code", None) == "context_length_exceeded" or bool(_TOO_LONG.search(str(error)))


def _blamed(error: openai.APIStatusError, sent: Mapping[str, object]) -> str | None:
    """The parameter that the server refuses as such, and not for its value; None where no parameter is to blame."""
    message = str(error)
    # Servers word this one in many ways, none of which names the parameter as it was sent.
    if "logprob" in message.lower() and "logprobs" in sent:
        return "logprobs"
    if getattr(error, "code", None) not in _CODES and not _REFUSES.search(message):
        return None
    if LIMIT in sent and (NEW_LIMIT in message or getattr(error, "param", None) == LIMIT):
        return LIMIT
    named = getattr(error, "param", None)
    if named in _MAY_GO and named in sent:
        return str(named)
    # Some servers name the parameter in the message alone.
    for name in _MAY_GO:
        if name in sent and re.search(rf"\b{name}\b", message):
            return name
    return None
