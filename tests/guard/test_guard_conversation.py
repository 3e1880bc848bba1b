"""Conversations as OpenAI's clients keep them: read whole, or refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.errors import InputError
from safereason.guard.conversation import CALL, ROLES, TEXT_KEYS, turns_of
from safereason.guard.prompt import question_of

TEXT = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PART = st.tuples(st.sampled_from(sorted(TEXT_KEYS)), TEXT)


def refusal_of(*messages: Any) -> str:
    with pytest.raises(InputError) as caught:
        turns_of(messages)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_roles_go_by_ours():
    turns = turns_of([{"role": role, "content": "c"} for role in ROLES])
    assert [turn["role"] for turn in turns] == ["system", "system", "user", "assistant", "tool", "tool"]


@given(st.sampled_from(sorted(ROLES)), st.lists(PART, min_size=1, max_size=4))
def test_the_texts_of_all_parts_are_there_in_their_order(role: str, parts: list[tuple[str, str]]):
    content = [{"type": kind, TEXT_KEYS[kind]: text, "annotations": []} for kind, text in parts]
    (turn,) = turns_of([{"role": role, "content": content}])
    assert turn["content"] == "\n\n".join(text for _, text in parts)


@pytest.mark.parametrize(
    ("turn", "text"),
    [
        ({"content": "a", "name": "Ann", "tool_calls": None, "refusal": None, "audio": None}, "a"),
        ({"content": None, "refusal": "I cannot."}, "I cannot."),
        ({"refusal": "I cannot."}, "I cannot."),
        (
            {"content": "Let me see.", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            f"Let me see.\n\n{CALL} f({{}})",
        ),
        (
            {
                "content": None,
                "tool_calls": [
                    {"type": "function", "function": {"name": "f", "arguments": {"a": "é"}}},
                    {"type": "custom", "custom": {"name": "g", "input": "x"}},
                ],
            },
            f'{CALL} f({{"a": "é"}})\n\n{CALL} g(x)',
        ),
        ({"content": None, "function_call": {"name": "f"}}, f"{CALL} f()"),
    ],
)
def test_what_an_agent_does_is_text_too(turn: dict[str, Any], text: str):
    assert turns_of([{"role": "assistant", **turn}]) == [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("turn", "what"),
    [
        (3, "turn 2 is a number; an object with `role` and `content` is expected"),
        ({"content": "a"}, "turn 2 has no `role`; it is one of system, developer, user, assistant, tool, function"),
        ({"role": "critic", "content": "a"}, "turn 2 has the role `critic`; it is one of system"),
        ({"role": ["user"], "content": "a"}, "turn 2 has the role that is no name"),
        ({"role": "user"}, "turn 2 has no `content`"),
        ({"role": "user", "content": None, "tool_calls": [{"function": {"name": "f"}}]}, "turn 2 has no `content`"),
        ({"role": "assistant", "content": []}, "turn 2 has no `content`"),
        ({"role": "user", "content": 3}, "turn 2 has a number for its `content`"),
        ({"role": "user", "content": {"type": "text", "text": "a"}}, "turn 2 has an object for its `content`"),
        ({"role": "user", "content": ["a"]}, "turn 2 has a text among its parts"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "a part of type `image_url`, which is"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_audio"}]}, "type `input_audio`"),
        ({"role": "user", "content": [{"type": "file"}]}, "turn 2 holds a part of type `file`"),
        ({"role": "user", "content": [{"text": "a"}]}, "turn 2 holds a part without a `type`"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "type `text` whose `text` is null"),
        ({"role": "user", "content": [{"type": "\x1b[2J"}]}, "of type that is no name"),
        ({"role": "assistant", "audio": {"id": "x"}}, "turn 2 holds audio"),
        ({"role": "assistant", "refusal": 1}, "turn 2 has a number for its `refusal`"),
        ({"role": "assistant", "tool_calls": {}}, "turn 2 has an object for its `tool_calls`"),
        ({"role": "assistant", "tool_calls": [{"type": "code"}]}, "turn 2 holds a tool call that names no tool"),
    ],
)
def test_what_is_not_judged_is_refused_by_name(turn: Any, what: str):
    message = refusal_of({"role": "user", "content": "a"}, turn)
    assert message.startswith("messages: turn 2 ")
    assert what in message


@given(
    st.lists(st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "refusal", "audio"]), JSON), max_size=3)
)
def test_whatever_comes_is_turns_of_text_or_one_refusal(messages: list[Any]):
    try:
        turns = turns_of(messages)
    except InputError as error:
        refusal = str(error)
        assert refusal.startswith("messages: turn ")
        return
    assert len(turns) == len(messages)
    assert all(isinstance(turn["content"], str) and turn["role"] in ROLES.values() for turn in turns)


def test_turns_of_tools_stand_before_the_judged_one_and_not_in_its_place():
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    messages = [{"role": "user", "content": "a"}, call]
    result = {"role": "tool", "tool_call_id": "1", "content": json.dumps([1])}
    assert question_of(turns_of(messages)).response == f"{CALL} f({{}})"
    question = question_of(turns_of([*messages, result, {"role": "assistant", "content": "b"}]))
    assert question.response == "b"
    assert "[1]" in question.prompt
    with pytest.raises(InputError, match="expected at the end"):
        question_of(turns_of([*messages, result]))
