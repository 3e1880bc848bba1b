r"""The guard's verdict in `\boxed{…}`."""

import re
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.text.verdict import BOX, is_well_formed, last_boxed, parse

PIECES = st.sampled_from(
    [BOX, "{", "}", "safe", "unsafe", "\\boxed", "\\", "x", "\n", " ", "\u2003", "<think>", "</think>"]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{safe}", "safe"),
        (r"\boxed{unsafe} or rather \boxed{safe}", "safe"),
        (r"\boxed{a{b}{c{d}}e} tail}", "a{b}{c{d}}e"),
        (r"\boxed{outer \boxed{inner} rest}", "inner"),
        (r"\boxed{}", ""),
        ("\\boxed{two\nlines}", "two\nlines"),
        (r"\boxed{safe", None),
        (r"\boxed{safe} \boxed{never {closed}", None),
        (r"\boxed safe", None),
        (r"\Boxed{safe}", None),
        ("safe", None),
        ("", None),
    ],
)
def test_the_last_box_counts_with_its_braces_balanced(text: str, content: str | None):
    assert last_boxed(text) == content


@given(text=TEXTS)
def test_what_is_in_the_box_is_balanced_and_in_the_text(text: str):
    content = last_boxed(text)
    if content is None:
        tail = text[text.rfind(BOX) + len(BOX) :] if BOX in text else ""
        assert BOX not in text or all(tail[:i].count("}") <= tail[:i].count("{") for i in range(len(tail) + 1))
    else:
        assert f"{BOX}{content}}}" in text
        assert content.count("{") == content.count("}")
        assert BOX not in content


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (r"so it is \boxed{safe}.", "safe"),
        (r"\boxed{unsafe}", "unsafe"),
        (r"\boxed{Unsafe}", "unsafe"),
        (r"\boxed{SAFE}", "safe"),
        (r"\boxed{ safe}", "safe"),
        (r"\boxed{Unsafe }", "unsafe"),
        ("\\boxed{\t safe\n}", "safe"),
        ("\\boxed{\u00a0unsafe\u2003}", "unsafe"),
        ("\\boxed{\u200bsafe}", None),
        (r"\boxed{un safe}", None),
        (r"\boxed{not safe}", None),
        (r"\boxed{\text{safe}}", None),
        (r"\boxed{{safe}}", None),
        (r"\boxed{}", None),
        (r"\boxed{safe} then \boxed{maybe}", None),
        ("unsafe", None),
        ("", None),
    ],
)
def test_only_the_two_words_alone_in_the_last_box_are_a_verdict(text: str, verdict: str | None):
    assert parse(text) == verdict


@given(before=TEXTS, label=st.sampled_from(["safe", "unsafe"]), after=st.text().filter(lambda t: BOX not in t))
def test_a_verdict_is_found_wherever_it_stands(before: str, label: str, after: str):
    assert parse(f"{before}{BOX}{label}}}{after}") == label


@pytest.mark.parametrize(
    ("text", "reasoned", "bare"),
    [
        ("<think>\nwhy\n</think>\n\\boxed{safe}", True, True),
        ("<think></think>\\boxed{} and more\n", True, True),
        ("<think>a</think>b</think>\\boxed{{x}}", True, True),
        (" <think>why</think>\\boxed{safe}", False, True),
        ("why</think>\\boxed{safe}", False, True),
        ("<think>\\boxed{safe}</think>", False, True),
        ("\\boxed{safe}<think>why</think>", False, True),
        ("<think>why</think>safe", False, False),
        ("<think>why</think>\\boxed{safe", False, False),
        ("", False, False),
    ],
)
def test_the_format_is_checked_from_the_first_character(text: str, reasoned: bool, bare: bool):
    assert is_well_formed(text) is reasoned
    assert is_well_formed(text, require_reasoning=False) is bare


def by_the_released_rule(text: str, reasons: bool) -> tuple[bool, str | None]:
    """Format and verdict as RSafe's released code has them: one pattern over all of the text, the last box stripped."""
    pattern = r"<think>.*</think>.*\\boxed\{.*\}.*" if reasons else r".*\\boxed\{.*\}.*"
    label = None
    depth, start = 0, text.rfind("\\boxed{")
    for place, character in enumerate(text[start + 6 :] if start >= 0 else ""):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            label = text[start + 7 : start + 6 + place].strip().lower()
            break
    return re.fullmatch(pattern, text, re.DOTALL) is not None, label if label in ("safe", "unsafe") else None


@given(TEXTS | st.builds("<think>{}</think>{}".format, TEXTS, TEXTS), st.booleans())
def test_format_and_verdict_are_those_of_the_released_code(text: str, reasons: bool):
    assert (is_well_formed(text, reasons), parse(text)) == by_the_released_rule(text, reasons)


def test_long_texts_are_checked_at_once():
    start = process_time()
    for piece in ("</think>", "\\boxed{", "<think></think>", "<think></think>\\boxed{", "}{", " "):
        text = "<think>" + piece * 100_000
        assert not is_well_formed(text)
        assert parse(text) is None
    assert process_time() - start < 10
