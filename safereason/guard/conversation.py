"""Conversations in the format of OpenAI's clients, converted to turns of plain text.

The content of a turn is a text, a list of text parts, or null next to tool calls or a refusal. The roles `developer`
and `function` are other names for `system` and `tool`. Content that a guard cannot judge, such as an image, is an
error: a conversation without that part would get the verdict of a different conversation.
"""

import json
from collections.abc import Mapping, Sequence

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
"""Chat-template roles by role in OpenAI's API."""
# `input_text` and `output_text` are the names of the Responses API.
TEXT_KEYS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Key that holds the text, by type of the part."""
# Tool calls are judged as text, because their arguments can hold anything that a response can.
CALL = "[tool call]"
"""Marker in front of each tool call in the text of a turn."""

# Names in error messages come from callers. A long one would flood the log.
_LONGEST_NAME = 40


def turns_of(messages: Sequence[object], where: str = "messages") -> list[Message]:
    """The turns of a conversation, each with a chat-template role and a text.

    Args:
        messages: Messages as JSON has them.
        where: Prefix of error messages.

    Raises:
        InputError: A message is malformed or holds content that is not judged; the error says which.
    """
    turns: list[Message] = []
    for number, message in enumerate(messages, start=1):
        turns.append(_turn_of_message(message, f"{where}: turn {number}"))
    return turns


def _turn_of_message(message: object, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise InputError(f"{where} is {json_type(message)}; an object with `role` and `content` is expected")
    role = _chat_role(message.get("role"), where)
    if message.get("audio") is not None:
        raise InputError(f"{where} holds audio, which is not judged; send its text")
    texts = _content_texts(message.get("content"), where)
    # Only an assistant refuses or calls tools. Clients also send these keys, empty, with other roles.
    if message.get("role") == "assistant":
        texts += _refusal_texts(message.get("refusal"), where)
        texts += _tool_call_texts(message, where)
    if not texts:
        raise InputError(f"{where} has no `content`; send a text, or a list of text parts")
    # A blank line between parts, as between paragraphs of one text.
    return {"role": role, "content": "\n\n".join(texts)}


def _chat_role(role: object, where: str) -> str:
    if isinstance(role, str) and role in ROLES:
        return ROLES[role]
    problem = "has no `role`" if role is None else f"has the role {_quoted_name(role)}"
    raise InputError(f"{where} {problem}; it is one of {', '.join(ROLES)}")


def _content_texts(content: object, where: str) -> list[str]:
    """The texts of a turn's content, one per part; an empty list without content."""
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        raise InputError(f"{where} has {json_type(content)} for its `content`; send a text, or a list of text parts")
    return [_text_of_part(part, where) for part in content]


def _text_of_part(part: object, where: str) -> str:
    if not isinstance(part, Mapping):
        raise InputError(
            f"{where} has {json_type(part)} among its parts; each is an object such as {{type: text, text: …}}"
        )
    kind = part.get("type")
    if kind is None:
        raise InputError(f"{where} holds a part without a `type`; send text parts alone")
    if not isinstance(kind, str) or kind not in TEXT_KEYS:
        raise InputError(
            f"{where} holds a part of type {_quoted_name(kind)}, which is not judged; send text parts alone"
        )
    key = TEXT_KEYS[kind]
    text = part.get(key)
    if not isinstance(text, str):
        raise InputError(
            f"{where} holds a part of type {_quoted_name(kind)} whose `{key}` is {json_type(text)}, not a text"
        )
    return text


def _refusal_texts(refusal: object, where: str) -> list[str]:
    if refusal is None:
        return []
    if not isinstance(refusal, str):
        raise InputError(f"{where} has {json_type(refusal)} for its `refusal`; a text is expected")
    return [refusal]


def _tool_call_texts(message: Mapping[str, object], where: str) -> list[str]:
    """One line per tool call of the assistant, with the arguments."""
    calls = message.get("tool_calls")
    if calls is None:
        calls = []
    if not isinstance(calls, list):
        raise InputError(f"{where} has {json_type(calls)} for its `tool_calls`; a list is expected")
    # `function_call` is the older form, of a single call.
    if (function_call := message.get("function_call")) is not None:
        calls = [*calls, {"function": function_call}]
    return [_text_of_tool_call(call, where) for call in calls]


def _text_of_tool_call(call: object, where: str) -> str:
    """The text of one call: of a function with its `arguments`, or of a custom tool with its `input`."""
    if isinstance(call, Mapping):
        for kind, key in (("function", "arguments"), ("custom", "input")):
            tool = call.get(kind)
            if isinstance(tool, Mapping) and isinstance(tool.get("name"), str):
                return f"{CALL} {tool['name']}({_arguments_text(tool.get(key))})"
    raise InputError(f"{where} holds a tool call that names no tool; it needs a `function` with `name` and `arguments`")


def _arguments_text(arguments: object) -> str:
    """The arguments of a call as text. OpenAI's clients keep the model's text; some others keep parsed JSON."""
    if isinstance(arguments, str):
        return arguments
    if arguments is None:
        return ""
    return json.dumps(arguments, ensure_ascii=False)


def _quoted_name(value: object) -> str:
    """A name in backticks for an error message; a fixed text for any value that is long or not printable."""
    if isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_NAME:
        return f"`{value}`"
    return "that is no name"
