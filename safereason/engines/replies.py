"""What a server's reply to a chat request says, whatever its shape.

- `message.content`: a text, null, or a list of parts (text, thinking, reasoning, refusal).
- `message.reasoning_content`, `reasoning`, `thinking` or `reasoning_details`: reasoning, which `content` may hold
  between its tags as well.
- `message.refusal`: what the model says in place of `content`.
- `error`, of the reply or of its choice: an error that came with status 200.

A shape that is not known is a `BadReply` that names it, never a text.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from safereason.engines.base import Completion, TokenChoice, Usage
from safereason.engines.server import MAY_PASS, BadReply
from safereason.errors import redacted
from safereason.files import json_type
from safereason.text import reasoning

Json: TypeAlias = Mapping[str, Any]

FILTERED = "content_filter"
_CUT_SHORT = ("abort", "error")
"""Reasons to finish that are neither the model's end nor the limit."""
_CALLS = ("tool_calls", "function_call")
_FILTER_CODES = (FILTERED, "ResponsibleAIPolicyViolation", "content_policy_violation", "invalid_prompt")
_CODES_THAT_PASS = ("rate_limit", "overloaded", "server_error", "timeout", "unavailable", "internal")
"""In an error's own word for itself."""


def parse(body: bytes) -> Json:
    """A reply's JSON object.

    Raises:
        BadReply: It is none: what a proxy says in place of a server, or a body that was cut.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        begins = " ".join(body[:60].decode("utf-8", "replace").split())
        raise BadReply(f"the server's reply is not JSON: it begins {begins!r}") from error
    if not isinstance(document, dict):
        raise BadReply(f"the server's reply is {json_type(document)} in JSON, not an object")
    return document


def read(document: Json, prefix: str) -> Completion:
    """The completion in a reply to a request that goes on from `prefix`.

    Raises:
        BadReply: It holds an error, no completion, or one of a shape that is not known.
    """
    raise_error(document)
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadReply("the server's reply holds no completion")
    choice: Json = choices[0]
    raise_error(choice)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise BadReply("the server's reply holds no completion")
    if not message.get("content") and (calls := next((key for key in _CALLS if message.get(key)), None)):
        raise BadReply(f"the server's reply holds {calls} and no text", may_pass=False)
    # Half a surrogate pair is legal in JSON and in no file.
    text = written(message, prefix).encode("utf-8", "replace").decode()
    usage, ended = _usage(document), choice.get("finish_reason")
    if ended == FILTERED:
        return Completion(text, (), "filtered", prefix, "the provider's filter cut it off", usage=usage)
    if ended in _CUT_SHORT:
        return Completion(text, (), "error", prefix, f"the server ended it: {ended}", usage=usage)
    reason: Literal["stop", "length"] = "length" if ended in ("length", "max_tokens") else "stop"
    return Completion(text, (), reason, prefix, choices=tuple(_choices(choice)), usage=usage)


def raise_error(document: Json) -> None:
    """Raises the error that a reply with a good status, or a choice in it, reports.

    Raises:
        BadReply: There is one.
    """
    error = document.get("error")
    if not error:
        return
    said = error if isinstance(error, dict) else {"message": error}
    code = said.get("code") or said.get("status") or said.get("type") or ""
    message = redacted(" ".join(str(said.get("message") or said.get("type") or "it says no more").split()))
    is_filter = is_filtered(said)
    raise BadReply(
        f"the server reports an error: {message}" + (f" ({code})" if code else ""),
        may_pass=not is_filter and _may_pass(code),
        code=FILTERED if is_filter else str(code),
    )


def is_filtered(error: Any) -> bool:
    """Whether an error's object says that the provider's filter refused the prompt."""
    if not isinstance(error, dict):
        return False
    error = error.get("error") if isinstance(error.get("error"), dict) else error
    inner = error.get("innererror") or error.get("inner_error")
    metadata = error.get("metadata")
    is_flagged = isinstance(metadata, dict) and bool(metadata.get("flagged_input"))
    codes = [error.get("code"), error.get("type"), inner.get("code") if isinstance(inner, dict) else None]
    return is_flagged or any(code in _FILTER_CODES for code in codes if isinstance(code, str))


def written(message: Json, prefix: str) -> str:
    """The text of a message as the model wrote it: reasoning that the server split off is put back, once.

    Raises:
        BadReply: A part of it is of a kind that is not known.
    """
    parts = list(_parts(message.get("content"), "content"))
    answer = "".join(text for kind, text in parts if kind == "text")
    own = "".join(text for kind, text in parts if kind == "thought")
    thoughts = (own or _field(message)).strip("\n")
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal and refusal not in answer:
        answer = f"{answer}\n\n{refusal}" if answer else refusal
    is_begun = reasoning.OPEN in prefix
    if not thoughts:
        return answer
    if _holds(answer, thoughts):
        whole = answer.lstrip()
        return whole.removeprefix(reasoning.OPEN).lstrip("\n") if is_begun else whole
    # Where nothing follows it, the reasoning was never closed.
    text = reasoning.join(thoughts, answer.lstrip("\n")) if answer else f"{reasoning.PREFIX}{thoughts}"
    return text.removeprefix(reasoning.PREFIX) if is_begun else text


def _holds(answer: str, thoughts: str) -> bool:
    """Whether an answer begins with the very reasoning that a field holds, between tags."""
    before, closed, _ = answer.partition(reasoning.CLOSE)
    begun = before.lstrip()
    is_tagged = bool(closed) or begun.startswith(reasoning.OPEN)
    return is_tagged and begun.removeprefix(reasoning.OPEN).split() == thoughts.split()


def _field(message: Json) -> str:
    """The reasoning in the first field of the message that holds any."""
    for name in ("reasoning_content", "reasoning", "thinking", "reasoning_details"):
        if value := message.get(name):
            found = "".join(text for _, text in _parts(value, name))
            if found.strip():
                return found
    return ""


Part: TypeAlias = tuple[Literal["text", "thought"], str]

_TEXT_OF: dict[str, tuple[Literal["text", "thought"], tuple[str, ...]]] = {
    "text": ("text", ("text",)),
    "output_text": ("text", ("text",)),
    "refusal": ("text", ("refusal",)),
    "thinking": ("thought", ("thinking", "text")),
    "reasoning": ("thought", ("reasoning", "text", "content", "summary")),
    "reasoning_text": ("thought", ("text",)),
    "summary_text": ("thought", ("text",)),
    "reasoning.text": ("thought", ("text",)),
    "reasoning.summary": ("thought", ("summary",)),
    # What the provider encrypts is not to be read.
    "redacted_thinking": ("thought", ()),
    "reasoning.encrypted": ("thought", ()),
}
"""By a part's type, what it is and which of its fields holds the text: itself a text, or parts again."""


def _parts(value: Any, where: str) -> Iterator[Part]:
    """The texts in a field: of a text, a list of parts, or nothing."""
    if value is None:
        return
    if isinstance(value, str):
        yield "text", value
        return
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise BadReply(f"message.{where} is {json_type(value)}, not a text", may_pass=False)
    for part in value:
        if isinstance(part, str):
            yield "text", part
        else:
            yield from _part(part, where)


def _part(part: Any, where: str) -> Iterator[Part]:
    named = part.get("type") if isinstance(part, dict) else None
    known = _TEXT_OF.get(named) if isinstance(named, str) else None
    if known is None:
        said = f"a part of type {named!r:.60}" if named is not None else json_type(part)
        raise BadReply(f"message.{where} holds {said}, which is no text", may_pass=False)
    kind, fields = known
    held = next((part[name] for name in fields if part.get(name)), None)
    for _, text in _parts(held, f"{where}.{named}"):
        yield kind, text


def _may_pass(code: Any) -> bool:
    """Whether an error of this code may not come again; one without a code may."""
    try:
        status = int(code)
    except (TypeError, ValueError):
        return not code or any(word in str(code).lower() for word in _CODES_THAT_PASS)
    return status in MAY_PASS or status >= 500


def _usage(document: Json) -> Usage | None:
    """What the server counted, where it says both."""
    said = document.get("usage")
    if not isinstance(said, dict):
        return None
    read, wrote = said.get("prompt_tokens"), said.get("completion_tokens")
    return Usage(read, wrote) if isinstance(read, int) and isinstance(wrote, int) else None


def _choices(choice: Json) -> Iterator[TokenChoice]:
    """Tokens with what the server says might have stood in their place; the written one is always among it."""
    logprobs = choice.get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    try:
        for token in tokens or ():
            listed = [(other["token"], float(other["logprob"])) for other in token.get("top_logprobs") or ()]
            # Several parts of a character may be written alike, so that this is no mapping.
            if token["token"] not in dict(listed):
                listed.append((token["token"], float(token["logprob"])))
            yield TokenChoice(token["token"], tuple(listed))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadReply("the server's log-probabilities are of a shape that is not known", may_pass=False) from error
