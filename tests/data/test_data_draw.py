from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from safereason.data.draw import fold, interleave, ordered
from safereason.data.example import Example

ROWS = [Example(f"s/{i}", f"prompt {i}", "harmless", "s") for i in range(40)]


@given(st.permutations(ROWS), st.integers(0, 5))
def test_order_does_not_depend_on_the_order_of_the_input(rows, seed):
    assert ordered(rows, seed, "pool") == ordered(ROWS, seed, "pool")


def test_order_is_the_same_on_every_machine():
    assert [e.id for e in ordered(ROWS, 0, "pool")[:6]] == ["s/24", "s/7", "s/4", "s/31", "s/12", "s/1"]


def test_order_changes_with_the_seed_and_with_the_purpose():
    orders = {tuple(e.id for e in ordered(ROWS, seed, what)) for seed in (0, 1) for what in ("pool", "source")}
    assert len(orders) == 4


def test_traces_lie_in_the_order_of_their_prompts():
    traces = [Example(f"{e.id}/1", e.prompt.upper(), e.kind, e.source, reasoning="r", answer="a") for e in ROWS]
    assert [e.id for e in ordered(traces, 3, "source")] == [f"{e.id}/1" for e in ordered(ROWS, 3, "source")]


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
