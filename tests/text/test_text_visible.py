"""Visible text: no character acts on a terminal or a page, and plain text is left alone."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from safereason.text.visible import visible, visible_on_page


@given(st.text())
def test_no_character_acts_on_the_terminal(text):
    text_shown = visible(text)
    assert not [c for c in text_shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n\t"]


@given(st.text(alphabet=st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_plain_text_is_left_as_it_is(text):
    assert visible(text) == text


def test_escapes_name_the_character():
    assert visible("a\x1b[2J\u202e\U000e0041") == "a\\x1b[2J\\u202e\\U000e0041"


@given(st.text(st.characters()))
def test_text_on_a_page_can_be_written_and_holds_no_control_characters(text):
    text_shown = visible_on_page(text)
    assert text_shown.encode("utf-8").decode("utf-8") == text_shown
    assert not set(text_shown) & set("\x00\x1b\r\u202a\u202b\u202d\u202e\u2066\u2067\u2069\u200b\u2028\ufeff\ud800")


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), exclude_characters="⟨⟩") | st.sampled_from("\n\t")))
def test_a_page_shows_plain_text_as_it_is(text):
    assert visible_on_page(text) == text


def test_a_page_names_code_points_and_keeps_joiners():
    assert visible_on_page("a\x1b\u202e\u200d\n") == "a⟨U+001B⟩⟨U+202E⟩\u200d\n"
