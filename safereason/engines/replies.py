"""A server's reply to a chat request, read in each of the shapes that servers give it.

- `message.content`: a text, null, or a list of parts (text, thinking, reasoning, refusal).
- `message.reasoning_content`, `reasoning`, `thinking` or `reasoning_details`: reasoning, which `content` may hold
  between its tags as well.
- `message.refusal`: the model's refusal, in place of `content`.
- `error`, of the reply or of its choice: an error that came with status 200.

A shape that is not known is a `BadReply` that names it, never a text.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Literal, TypeAlias

from safereason.engines.base import Completion, TokenChoice, Usage
from safereason.engines.server import MAY_PASS, BadReply
from safereason.errors import redacted
from safereason.files import json_type
from safereason.text import reasoning

JSONObject: TypeAlias = Mapping[str, object]
"""An object of a foreign document: each value is checked where it is read."""

CONTENT_FILTER = "content_filter"
_CUT_SHORT = ("abort", "error")
"""Reasons to finish that are neither the model's end nor the limit."""
_CALLS = ("tool_calls", "function_call")
_FILTER_CODES = (CONTENT_FILTER, "ResponsibleAIPolicyViolation", "content_policy_violation", "invalid_prompt")
_CODES_THAT_PASS = ("rate_limit", "overloaded", "server_error", "timeout", "unavailable", "internal")
"""Parts of error codes that a later try may not meet."""


def parse(body: bytes) -> JSONObject:
    """A reply's JSON object.

    Raises:
        BadReply: It is none, such as a proxy's error page or a body that was cut.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        begins = " ".join(body[:60].decode("utf-8", "replace").split())
        raise BadReply(f"the server's reply is not JSON: it begins {begins!r}") from error
    if not isinstance(document, dict):
        raise BadReply(f"the server's reply is {json_type(document)} in JSON, not an object")
    return document


def read(document: JSONObject, prefix: str) -> Completion:
    """The completion in a reply to a request that goes on from `prefix`.

    Raises:
        BadReply: It holds an error, no completion, or one of a shape that is not known.
    """
    raise_error(document)
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise BadReply("the server's reply holds no completion")
    choice: JSONObject = choices[0]
    # Gateways such as OpenRouter report a provider's error inside the choice.
    raise_error(choice)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise BadReply("the server's reply holds no completion")
    if not message.get("content"):
        for key in _CALLS:
            # A tool call is no refusal and no answer. Another try would call the tool again.
            if message.get(key):
                raise BadReply(f"the server's reply holds {key} and no text", may_pass=False)
    # Half a surrogate pair is legal in JSON and in no file.
    text = text_of_message(message, prefix).encode("utf-8", "replace").decode()
    usage = _usage(document)
    ended = choice.get("finish_reason")
    if ended == CONTENT_FILTER:
        return Completion(text, (), "filtered", prefix, "the provider's filter cut it off", usage=usage)
    if ended in _CUT_SHORT:
        return Completion(text, (), "error", prefix, f"the server ended it: {ended}", usage=usage)
    # A server that gives no reason, or one of its own, has come to the end of the text.
    reason: Literal["stop", "length"] = "stop"
    if ended in ("length", "max_tokens"):
        reason = "length"
    return Completion(text, (), reason, prefix, choices=tuple(_choices(choice)), usage=usage)


def raise_error(document: JSONObject) -> None:
    """Raises the error that a reply with a good status, or a choice in it, reports.

    Raises:
        BadReply: There is one.
    """
    error = document.get("error")
    if not error:
        return
    if not isinstance(error, dict):
        error = {"message": error}
    code = error.get("code") or error.get("status") or error.get("type") or ""
    words = str(error.get("message") or error.get("type") or "it says no more").split()
    message = f"the server reports an error: {redacted(' '.join(words))}"
    if code:
        message += f" ({code})"
    if is_filtered(error):
        raise BadReply(message, may_pass=False, code=CONTENT_FILTER)
    raise BadReply(message, may_pass=_may_pass(code), code=str(code))


def is_filtered(error: object) -> bool:
    """Whether an error's object says that the provider's filter refused the prompt."""
    if not isinstance(error, dict):
        return False
    details = error
    # The client's exceptions hold the whole body, and not the error inside it.
    if isinstance(error.get("error"), dict):
        details = error["error"]
    # OpenRouter marks a filtered prompt in this way.
    metadata = details.get("metadata")
    if isinstance(metadata, dict) and metadata.get("flagged_input"):
        return True
    codes = [details.get("code"), details.get("type")]
    # Azure has the filter's code one level further in.
    inner = details.get("innererror") or details.get("inner_error")
    if isinstance(inner, dict):
        codes.append(inner.get("code"))
    return any(code in _FILTER_CODES for code in codes if isinstance(code, str))


def text_of_message(message: JSONObject, prefix: str) -> str:
    """The text of a message as the model wrote it: reasoning that the server split off is put back, once.

    Raises:
        BadReply: A part of it is of a kind that is not known.
    """
    parts = list(_parts(message.get("content"), "content"))
    answer = "".join(text for kind, text in parts if kind == "text")
    # Parts of `content` and a field of its own may hold the same reasoning: only one of them counts.
    own_reasoning = "".join(text for kind, text in parts if kind == "reasoning")
    reasoning_text = (own_reasoning or _reasoning_field(message)).strip("\n")
    refusal = message.get("refusal")
    # Some servers put the refusal into `content` as well.
    if isinstance(refusal, str) and refusal and refusal not in answer:
        answer = f"{answer}\n\n{refusal}".removeprefix("\n\n")
    if not reasoning_text:
        return answer
    # The tag that the prefix opens must not come twice.
    is_begun = reasoning.OPEN in prefix
    if _begins_with_reasoning(answer, reasoning_text):
        whole = answer.lstrip()
        if is_begun:
            return whole.removeprefix(reasoning.OPEN).lstrip("\n")
        return whole
    # Without an answer, the reasoning was never closed.
    text = f"{reasoning.PREFIX}{reasoning_text}"
    if answer:
        text = reasoning.join(reasoning_text, answer.lstrip("\n"))
    if is_begun:
        return text.removeprefix(reasoning.PREFIX)
    return text


def _begins_with_reasoning(answer: str, reasoning_text: str) -> bool:
    """Whether an answer begins with the very reasoning that a field holds, between tags."""
    before, closed, _ = answer.partition(reasoning.CLOSE)
    begun = before.lstrip()
    is_tagged = bool(closed) or begun.startswith(reasoning.OPEN)
    return is_tagged and begun.removeprefix(reasoning.OPEN).split() == reasoning_text.split()


def _reasoning_field(message: JSONObject) -> str:
    """The reasoning in the first field of the message that holds any."""
    for name in ("reasoning_content", "reasoning", "thinking", "reasoning_details"):
        value = message.get(name)
        if not value:
            continue
        reasoning_text = "".join(text for _, text in _parts(value, name))
        if reasoning_text.strip():
            return reasoning_text
    return ""


ReplyPart: TypeAlias = tuple[Literal["text", "reasoning"], str]

_TEXT_OF: dict[str, tuple[Literal["text", "reasoning"], tuple[str, ...]]] = {
    "text": ("text", ("text",)),
    "output_text": ("text", ("text",)),
    "refusal": ("text", ("refusal",)),
    "thinking": ("reasoning", ("thinking", "text")),
    "reasoning": ("reasoning", ("reasoning", "text", "content", "summary")),
    "reasoning_text": ("reasoning", ("text",)),
    "summary_text": ("reasoning", ("text",)),
    "reasoning.text": ("reasoning", ("text",)),
    "reasoning.summary": ("reasoning", ("summary",)),
    # Encrypted reasoning cannot be read.
    "redacted_thinking": ("reasoning", ()),
    "reasoning.encrypted": ("reasoning", ()),
}
"""Kind of each type of part, text or reasoning, and the fields that hold it as a text or as parts again."""


def _parts(value: object, where: str) -> Iterator[ReplyPart]:
    """The texts in a field: of a text, a list of parts, or nothing."""
    if value is None:
        return
    if isinstance(value, str):
        yield "text", value
        return
    # A few servers send one part without the list around it.
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise BadReply(f"message.{where} is {json_type(value)}, not a text", may_pass=False)
    for part in value:
        if isinstance(part, str):
            yield "text", part
        else:
            yield from _part(part, where)


def _part(part: object, where: str) -> Iterator[ReplyPart]:
    if not isinstance(part, dict) or part.get("type") is None:
        raise BadReply(f"message.{where} holds {json_type(part)}, which is no text", may_pass=False)
    part_type = part["type"]
    if not isinstance(part_type, str) or part_type not in _TEXT_OF:
        raise BadReply(f"message.{where} holds a part of type {part_type!r:.60}, which is no text", may_pass=False)
    kind, fields = _TEXT_OF[part_type]
    content: object = None
    for name in fields:
        if part.get(name):
            content = part[name]
            break
    for _, text in _parts(content, f"{where}.{part_type}"):
        yield kind, text


def _may_pass(code: object) -> bool:
    """Whether an error of this code may not come again; one without a code may."""
    # Codes come as numbers, as numbers in quotes, or as words.
    if isinstance(code, (int, float, str)):
        with suppress(ValueError, OverflowError):
            status = int(code)
            return status in MAY_PASS or status >= 500
    return not code or any(word in str(code).lower() for word in _CODES_THAT_PASS)


def _usage(document: JSONObject) -> Usage | None:
    """The tokens that the server counted; None where it does not give both numbers."""
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return None
    prompt_tokens = usage.get("prompt_tokens")
    completion_tokens = usage.get("completion_tokens")
    if not isinstance(prompt_tokens, int) or not isinstance(completion_tokens, int):
        return None
    return Usage(prompt_tokens, completion_tokens)


def _choices(choice: JSONObject) -> Iterator[TokenChoice]:
    """Tokens with the alternatives that the server lists; the drawn token is always among them."""
    logprobs = choice.get("logprobs")
    tokens = None
    if isinstance(logprobs, dict):
        tokens = logprobs.get("content")
    try:
        for token in tokens or ():
            listed: list[tuple[str, float]] = []
            for other in token.get("top_logprobs") or ():
                listed.append((other["token"], float(other["logprob"])))
            # Several parts of a character may be spelt alike, so that this is no mapping.
            if token["token"] not in dict(listed):
                listed.append((token["token"], float(token["logprob"])))
            yield TokenChoice(token["token"], tuple(listed))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadReply("the server's log-probabilities are of a shape that is not known", may_pass=False) from error
