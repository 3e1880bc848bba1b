from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from safereason.data.draw import Want, fold, in_order, interleave, ordered
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


@given(st.integers(1, 50), st.integers(0, 45), st.integers(0, 3))
def test_the_order_of_more_than_memory_holds_is_the_same_and_is_read_once_where_it_can_be(expected, taken, seed):
    reads = []

    def read():
        reads.append(1)
        return iter(ROWS)

    even = lambda e: int(e.id[2:]) % 2 == 0  # noqa: E731
    orders = in_order(read, seed, "source", {"all": Want(lambda e: True, expected), "even": Want(even, expected)})
    assert list(islice(orders["all"], taken)) == ordered(ROWS, seed, "source")[:taken]
    assert len(reads) == 1 or taken > expected
    assert list(orders["even"]) == [e for e in ordered(ROWS, seed, "source") if even(e)]


def test_repeated_prompts_stand_side_by_side_whichever_comes_first():
    twins = [Example(f"s/{name}", text, "harmless", "s") for name, text in (("b", "PROMPT  3"), ("a", "prompt 3"))]
    rows = ordered([*ROWS, *twins], 0, "source")
    ids = [e.id for e in rows if fold(e.prompt) == "prompt 3"]
    at = [i for i, e in enumerate(rows) if e.id in ids]
    assert ids == ["s/3", "s/a", "s/b"]
    assert at == [at[0], at[0] + 1, at[0] + 2]
