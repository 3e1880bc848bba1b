"""Conversations as OpenAI's clients keep them, read into turns of plain text.

Content may be a text, a list of text parts, or null beside tool calls or a refusal. `developer` is `system` under its
newer name, `function` is `tool` under its older one. What a guard cannot judge, such as an image, is refused by name:
a conversation that lost a part would be judged as another one.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from safereason.errors import InputError
from safereason.files import json_type
from safereason.text.chat import Message

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
"""Our roles by theirs."""
PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Key of the text by type of the part."""
CALL = "[tool call]"
"""Stands before each call of a tool in the text of a turn."""

_LONGEST_NAME = 40


def turns_of(messages: Sequence[Any], where: str = "messages") -> list[Message]:
    """The turns of a conversation, each with a role of ours and a text.

    Raises:
        InputError: A turn holds what is not judged; the message says which turn and what.
    """
    return [_turn(message, f"{where}: turn {number}") for number, message in enumerate(messages, start=1)]


def _turn(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise InputError(f"{where} is {json_type(message)}; an object with `role` and `content` is expected")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        said = "has no `role`" if role is None else f"has the role {_shown(role)}"
        raise InputError(f"{where} {said}; it is one of {', '.join(ROLES)}")
    if message.get("audio") is not None:
        raise InputError(f"{where} holds audio, which is not judged; send its text")
    texts = [*_content(message.get("content"), where)]
    if role == "assistant":
        texts += [*_refusal(message.get("refusal"), where), *_calls(message, where)]
    if not texts:
        raise InputError(f"{where} has no `content`; send a text, or a list of text parts")
    return {"role": ROLES[role], "content": "\n\n".join(texts)}


def _content(content: Any, where: str) -> list[str]:
    """The texts of a turn's content, one a part; none where there is no content."""
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise InputError(f"{where} has {json_type(content)} for its `content`; send a text, or a list of text parts")
    return [_part(part, where) for part in content]


def _part(part: Any, where: str) -> str:
    if not isinstance(part, Mapping):
        raise InputError(
            f"{where} has {json_type(part)} among its parts; each is an object such as {{type: text, text: …}}"
        )
    kind = part.get("type")
    key = PARTS.get(kind) if isinstance(kind, str) else None
    if key is None:
        said = "a part without a `type`" if kind is None else f"a part of type {_shown(kind)}, which is not judged"
        raise InputError(f"{where} holds {said}; send text parts alone")
    text = part.get(key)
    if not isinstance(text, str):
        raise InputError(f"{where} holds a part of type {_shown(kind)} whose `{key}` is {json_type(text)}, not a text")
    return text


def _refusal(refusal: Any, where: str) -> list[str]:
    if refusal is None:
        return []
    if not isinstance(refusal, str):
        raise InputError(f"{where} has {json_type(refusal)} for its `refusal`; a text is expected")
    return [refusal]


def _calls(message: Mapping[str, Any], where: str) -> list[str]:
    """A line for each tool that the agent calls, with what it hands over."""
    calls = message.get("tool_calls")
    if calls is None:
        calls = []
    if not isinstance(calls, list):
        raise InputError(f"{where} has {json_type(calls)} for its `tool_calls`; a list is expected")
    if (older := message.get("function_call")) is not None:
        calls = [*calls, {"function": older}]
    return [_call(call, where) for call in calls]


def _call(call: Any, where: str) -> str:
    """One call: of a function with its `arguments`, or of a custom tool with its `input`."""
    for kind, key in (("function", "arguments"), ("custom", "input")):
        called = call.get(kind) if isinstance(call, Mapping) else None
        if isinstance(called, Mapping) and isinstance(called.get("name"), str):
            given = called.get(key)
            # Some clients keep the arguments parsed, where OpenAI's keep the text that the model wrote.
            text = given if isinstance(given, str) else "" if given is None else json.dumps(given, ensure_ascii=False)
            return f"{CALL} {called['name']}({text})"
    raise InputError(f"{where} holds a tool call that names no tool; it needs a `function` with `name` and `arguments`")


def _shown(value: Any) -> str:
    """A value in a message: a name as it is, if it is short; else its kind."""
    if isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_NAME:
        return f"`{value}`"
    return "that is no name"
