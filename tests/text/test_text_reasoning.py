"""Where reasoning ends and the answer begins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.text.reasoning import CLOSE, DELIMITER, OPEN, PREFIX, is_well_formed, join, split

PIECES = st.sampled_from([OPEN, CLOSE, "\n", " ", "think", "</think", "<", ">", "step", "answer", "é", "\u2028"])
TAGGED = st.lists(PIECES, max_size=12).map("".join)
TEXTS = st.one_of(TAGGED, st.text())
REASONING = TEXTS.filter(lambda text: CLOSE not in text)


@given(reasoning=REASONING, answer=TEXTS)
def test_a_trace_taken_apart_strictly_is_as_it_was_put_together(reasoning: str, answer: str):
    parts = split(join(reasoning, answer), strict=True)
    assert (parts.reasoning, parts.answer, parts.closed) == (reasoning, answer, True)


@given(reasoning=REASONING, answer=TEXTS)
def test_a_trace_taken_apart_for_evaluation_is_the_same_but_for_white_space(reasoning: str, answer: str):
    parts = split(join(reasoning, answer))
    assert (parts.reasoning, parts.answer, parts.closed) == (reasoning.strip(), answer.strip(), True)


@given(text=TEXTS, strict=st.booleans())
def test_all_is_answer_where_the_reasoning_is_never_closed(text: str, strict: bool):
    parts = split(text, strict)
    assert parts.closed is ((DELIMITER if strict else CLOSE) in text)
    if not parts.closed:
        assert (parts.reasoning, parts.answer) == ("", text)


@given(text=TEXTS, strict=st.booleans())
def test_nothing_is_made_up(text: str, strict: bool):
    parts = split(text, strict)
    assert parts.reasoning in text
    assert parts.answer in text
    assert CLOSE not in parts.reasoning or strict


@pytest.mark.parametrize("strict", [False, True])
def test_the_first_end_counts(strict: bool):
    text = "<think>\none\n</think>\n\ntwo\n</think>\n\nthree"
    parts = split(text, strict)
    assert (parts.reasoning, parts.answer) == ("one", "two\n</think>\n\nthree")


@pytest.mark.parametrize(
    "text",
    [
        "<think>\none\n</think>\ntwo",
        "<think>\none</think>\n\ntwo",
        "<think>\none\n</think> \n\ntwo",
        "<think>\none\n</THINK>\n\ntwo",
        "<think>\none\r\n</think>\r\n\r\ntwo",
    ],
)
def test_the_strict_delimiter_is_taken_to_the_letter(text: str):
    assert split(text, strict=True).answer == text
    assert not split(text, strict=True).closed


def test_the_strict_split_keeps_white_space_and_an_opening_of_another_form():
    parts = split("<think> one \n</think>\n\n two ", strict=True)
    assert (parts.reasoning, parts.answer) == ("<think> one ", " two ")


@pytest.mark.parametrize("opening", ["", "<think>", "<think>\n", " \n<think>\n\n"])
def test_evaluation_needs_no_opening_tag(opening: str):
    parts = split(f"{opening}one</think>two")
    assert (parts.reasoning, parts.answer, parts.closed) == ("one", "two", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\none\n</think>\n\ntwo", True),
        ("before <think>one</think> two", True),
        ("<think></think>", True),
        ("one</think>two", False),
        ("<think>one", False),
        ("</think>one<think>", False),
        ("<think><think>one</think>", False),
        ("<think>one</think></think>", False),
        ("<THINK>one</THINK>", False),
        ("", False),
    ],
)
def test_a_well_formed_completion_has_one_tag_of_each_in_order(text: str, expected: bool):
    assert is_well_formed(text) is expected


@given(reasoning=REASONING.filter(lambda text: OPEN not in text), answer=st.text())
def test_every_trace_is_well_formed(reasoning: str, answer: str):
    assert is_well_formed(join(reasoning, answer)) is not (OPEN in answer or CLOSE in answer)
    assert join(reasoning, answer).startswith(PREFIX)
