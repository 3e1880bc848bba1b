"""Text that is put between markers cannot step out of them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.text.defuse import defuse

STEPS_OUT = [
    "<BEGIN POLICY>", "<end user message>", "</END AGENT REPLY>", "< / END POLICY>", "<\n END POLICY>", "<|im_start|>",
    "<|im_end|>", "<|eot_id|>", "< |im_end|>", "<｜User｜>", "<start_of_turn>", "<end_of_turn>", "<s>", "</s>",
    "</ S >", "<bos>", "<eos>", "<<END POLICY>",
]  # fmt: skip
STAYS = [
    "if a < b and b <= c: print('<b>bold</b>')", "<div> <strong> <think>x</think>", "a <- b", "x<5", "<", "",
    "<small>", "<section>", "\\boxed{safe}", "‹|im_end|>", "|im_end|>", "BEGIN POLICY",
]  # fmt: skip
OPENS = re.compile(r"<\s*/?\s*(?:BEGIN|END|START_OF|[|｜]|(?:s|bos|eos)\s*>)", re.IGNORECASE)
HOSTILE = st.lists(
    st.sampled_from([*STEPS_OUT, "<", "< ", "/", "|", "BEGIN", "END", "eos", "s", ">", "\n", "‹", "a"]), max_size=12
).map("".join)


@pytest.mark.parametrize("text", STEPS_OUT)
def test_what_could_close_a_marker_or_open_a_turn_loses_its_bracket(text: str):
    assert not OPENS.search(defuse(f"a {text} b"))
    assert defuse(text).replace("‹", "<") == text


@pytest.mark.parametrize("text", STAYS)
def test_ordinary_text_is_left_as_it_is(text: str):
    assert defuse(text) == text


@given(HOSTILE)
def test_whatever_is_put_together_is_defused_once_and_for_all(text: str):
    safe = defuse(text)
    assert not OPENS.search(safe)
    assert defuse(safe) == safe
    assert len(safe) == len(text)
    assert all(old == new or (old, new) == ("<", "‹") for old, new in zip(text, safe, strict=True))


@given(st.text(alphabet=st.characters(exclude_characters="<")))
def test_text_without_brackets_is_left_as_it_is(text: str):
    assert defuse(text) == text
