import unicodedata
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safereason.data.example import Example
from safereason.data.sampling import Selection, fold, interleave, order_key, seeded_order, seeded_selections
from safereason.data.sources import sample

ROWS = [Example(f"s/{i}", f"prompt {i}", "harmless", "s") for i in range(40)]


@given(st.permutations(ROWS), st.integers(0, 5))
def test_order_does_not_depend_on_the_order_of_the_input(rows, seed):
    assert seeded_order(rows, seed, "pool") == seeded_order(ROWS, seed, "pool")


def test_order_is_the_same_on_every_machine():
    assert [e.id for e in seeded_order(ROWS, 0, "pool")[:6]] == ["s/24", "s/7", "s/4", "s/31", "s/12", "s/1"]


def test_order_changes_with_the_seed_and_with_the_purpose():
    orders = {tuple(e.id for e in seeded_order(ROWS, seed, what)) for seed in (0, 1) for what in ("pool", "source")}
    assert len(orders) == 4


def test_traces_lie_in_the_order_of_their_prompts():
    traces = [Example(f"{e.id}/1", e.prompt.upper(), e.kind, e.source, reasoning="r", answer="a") for e in ROWS]
    assert [e.id for e in seeded_order(traces, 3, "source")] == [f"{e.id}/1" for e in seeded_order(ROWS, 3, "source")]


@given(st.lists(st.lists(st.integers(), max_size=12), max_size=4))
def test_interleave_keeps_every_item_and_each_groups_order(groups):
    tagged = [[(g, i) for i in range(len(group))] for g, group in enumerate(groups)]
    mixed = interleave(tagged)
    assert Counter(mixed) == Counter(item for group in tagged for item in group)
    assert all([item for item in mixed if item[0] == g] == group for g, group in enumerate(tagged))


@given(st.integers(1, 60), st.integers(1, 60))
def test_interleave_spreads_evenly(a, b):
    mixed = interleave([["a"] * a, ["b"] * b])
    for stop in range(1, len(mixed) + 1):
        assert abs(mixed[:stop].count("a") - stop * a / (a + b)) <= 1


def test_fold_ignores_case_and_white_space_and_nothing_else():
    assert fold(" How  do I\nSTOP? ") == fold("how do i stop?")
    assert fold("how do I stop?") != fold("how do I stop")


@given(st.integers(1, 50), st.integers(0, 45), st.integers(0, 3))
def test_the_order_of_more_than_memory_holds_is_the_same_and_is_read_once_where_it_can_be(expected, number, seed):
    reads = []

    def read():
        reads.append(1)
        return iter(ROWS)

    even = lambda e: int(e.id[2:]) % 2 == 0  # noqa: E731
    orders = seeded_selections(
        read, seed, "source", {"all": Selection(lambda e: True, expected), "even": Selection(even, expected)}
    )
    assert list(islice(orders["all"], number)) == seeded_order(ROWS, seed, "source")[:number]
    assert len(reads) == 1 or number > expected
    assert list(orders["even"]) == [e for e in seeded_order(ROWS, seed, "source") if even(e)]


def test_repeated_prompts_stand_side_by_side_whichever_comes_first():
    twins = [Example(f"s/{name}", text, "harmless", "s") for name, text in (("b", "PROMPT  3"), ("a", "prompt 3"))]
    rows = seeded_order([*ROWS, *twins], 0, "source")
    ids = [e.id for e in rows if fold(e.prompt) == "prompt 3"]
    at = [i for i, e in enumerate(rows) if e.id in ids]
    assert ids == ["s/3", "s/a", "s/b"]
    assert at == [at[0], at[0] + 1, at[0] + 2]


def forms(text: str) -> list[str]:
    """The same text, written otherwise."""
    spread = "\N{ZERO WIDTH SPACE}".join(text)
    spaced = [text.replace(" ", space) for space in ("\N{NO-BREAK SPACE}", "\N{IDEOGRAPHIC SPACE} ")]
    normal = [unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC", "NFKD")]
    return [*normal, *spaced, spread, f"\ufeff{text}", text.upper()]


TEXTS = ("문을 여는 방법", "Crème brûlée naïve", "file ﬂow № 5", "Ｆｕｌｌ width", "đường phố")


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_the_same_in_whatever_unicode_form(text):
    assert {fold(form) for form in forms(text)} == {fold(text)}


@settings(max_examples=500)
@given(text=st.text())
def test_folding_twice_is_folding_once(text):
    assert fold(fold(text)) == fold(text)
    assert bool(fold(text)) == bool(text.split())


@given(text=st.text(st.characters(max_codepoint=126, min_codepoint=32)))
def test_plain_text_keeps_the_form_that_draws_depend_on(text):
    assert fold(text) == order_key(text)


def test_the_bundled_rows_keep_their_places():
    rows = [*sample.SOURCE.load("train"), *sample.SOURCE.traces("train")]
    assert len(rows) > 200
    assert all(fold(row.prompt) == order_key(row.prompt) for row in rows)


def test_what_is_not_seen_alone_is_not_nothing():
    assert fold("\N{ZERO WIDTH SPACE}") != ""
