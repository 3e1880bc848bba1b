"""Reading what a teacher wrote: what is mended, what is refused and why, and that a kept trace is well-formed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.data import traces
from safereason.data.traces import first_of_each, read
from safereason.text import reasoning, verdict
from safereason.text.reasoning import Reasoned

HM = Reasoned("hm", "Yes.", closed=True)


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nhm\n</think>\n\nYes.",
        "<think>hm</think>Yes.",
        "\n\n  <think>  \n\n hm\n\n\n</think>\n\n\n\nYes.  \n",
        "hm\n</think>\n\nYes.",
        "\nhm</think> Yes.",
        "```\n<think>\nhm\n</think>\n\nYes.\n```",
        "```xml\n\n<think>hm</think>\nYes.\n\n```\n",
        "```\nhm\n</think>\nYes.\n```",
    ],
)
def test_small_faults_of_form_are_mended(text: str):
    assert read(text) == HM


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<think>\nhm", traces.NEVER_CLOSED),
        ("Yes.", traces.EMPTY_REASONING),
        ("", traces.EMPTY_REASONING),
        ("<think>\n\n</think>\n\nYes.", traces.EMPTY_REASONING),
        ("</think>Yes.", traces.EMPTY_REASONING),
        ("<think></think>", traces.EMPTY_REASONING),
        ("<think>hm</think>", traces.EMPTY_ANSWER),
        ("hm</think>\n \n", traces.EMPTY_ANSWER),
        ("<think>hm</think>ha</think>Yes.", traces.TAGS),
        ("<think>hm</think>ha<think>Yes.", traces.TAGS),
        ("<think><think>hm</think>Yes.", traces.TAGS),
        ("hm</think><think>ha</think>Yes.<think>", traces.TAGS),
        ("hm</think><think></think>Yes.", traces.EMPTY_REASONING),
        ("Sure. <think>hm</think>Yes.", traces.TEXT_BEFORE),
    ],
)
def test_what_cannot_be_mended_is_refused_by_name(text: str, why: str):
    assert read(text) == why


@pytest.mark.parametrize(("finish_reason", "why"), [("length", traces.TRUNCATED), ("error", traces.FAILED)])
def test_a_reply_that_did_not_end_by_itself_is_none_however_whole_it_looks(finish_reason: str, why: str):
    assert read("<think>hm</think>Yes.", finish_reason) == why


@pytest.mark.parametrize(
    ("text", "thoughts", "answer"),
    [
        ("<think>hm</think>\n```py\nx\n```", "hm", "```py\nx\n```"),
        ("<think>```\nx\n```</think>Yes.", "```\nx\n```", "Yes."),
        ("```py\nx\n```\nhm</think>So:\n```py\ny\n```", "```py\nx\n```\nhm", "So:\n```py\ny\n```"),
        ("```\n<think>hm</think>\n```py\nx\n```\n```", "hm", "```py\nx\n```"),
    ],
)
def test_fences_inside_reasoning_and_answer_stay(text: str, thoughts: str, answer: str):
    assert read(text) == Reasoned(thoughts, answer, closed=True)


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [
        (r"Categories: A1" "\n\n" r"\boxed{unsafe}", "unsafe", "kept"),
        (r"\boxed{Safe}", "safe", "kept"),
        (r"\boxed{safe}", "unsafe", traces.WRONG),
        (r"\boxed{safe}, or rather \boxed{unsafe}", "safe", traces.WRONG),
        ("It is unsafe.", "unsafe", traces.UNPARSED),
        (r"\boxed{maybe}", "unsafe", traces.UNPARSED),
    ],
)
def test_a_guards_verdict_has_to_be_the_rows_label(answer: str, label, expected: str):
    result = read(f"<think>hm</think>{answer}", label=label)
    assert result == (Reasoned("hm", answer, closed=True) if expected == "kept" else expected)


def test_a_box_in_the_reasoning_is_no_verdict():
    assert read(r"<think>\boxed{unsafe}?</think>I would say so.", label="unsafe") == traces.UNPARSED


PIECES = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<think",
        "think>",
        "\n",
        " ",
        "```",
        "```py\n",
        "\n```",
        "\t",
        "\u2028",
        "hm",
        "Yes.",
        r"\boxed{safe}",
        r"\boxed{unsafe}",
        "</think>\n\n",
        "<think>\n",
    ]
)
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=14).map("".join)


@given(TEXTS, st.sampled_from([None, "safe", "unsafe"]))
def test_what_is_kept_passes_the_format_checks_and_splits_into_itself(text: str, label):
    result = read(text, label=label)
    if isinstance(result, str):
        assert result in {
            traces.NEVER_CLOSED,
            traces.TAGS,
            traces.TEXT_BEFORE,
            traces.EMPTY_REASONING,
            traces.EMPTY_ANSWER,
            *([traces.UNPARSED, traces.WRONG] if label else []),
        }
        return
    whole = reasoning.join(result.reasoning, result.answer)
    assert reasoning.is_well_formed(whole)
    assert reasoning.split(whole, strict=True) == reasoning.split(whole) == result
    assert read(whole, label=label) == result
    if label is not None:
        assert verdict.parse(result.answer) == label
        assert verdict.is_well_formed(whole)


SOUND = st.text(min_size=1, max_size=20).map(str.strip).filter(lambda t: t and "think>" not in t and "```" not in t)
SPACE = st.text(" \n", max_size=3)


@given(SOUND, SOUND, SPACE, SPACE, SPACE, SPACE, st.booleans(), st.booleans())
def test_no_sound_trace_is_lost_by_its_wrapping(thoughts, answer, a, b, c, d, opened, fenced):
    text = f"{a}{'<think>' if opened else ''}{b}{thoughts}{c}</think>{d}{answer}{a}"
    assert read(f"```\n{text}\n```" if fenced else text) == Reasoned(thoughts, answer, closed=True)


def test_of_one_prompts_traces_each_is_kept_once():
    other = Reasoned("ha", "Yes.", closed=True)
    results = first_of_each([traces.TRUNCATED, HM, other, HM, traces.TAGS, other])
    assert results == [traces.TRUNCATED, HM, other, traces.DUPLICATE, traces.TAGS, traces.DUPLICATE]


def test_of_a_guards_row_only_the_first_right_one_is_kept():
    other = Reasoned("ha", "Yes.", closed=True)
    results = first_of_each([traces.WRONG, HM, other, HM], only_one=True)
    assert results == [traces.WRONG, HM, traces.MORE, traces.DUPLICATE]
