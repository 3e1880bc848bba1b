import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.data import rsafe_mix
from safereason.data.example import Example
from safereason.errors import InputError
from safereason.recipe.schema import RSafeMix

ROWS = [Example(f"s/u{i}", f"unsafe {i}", "harmful", "s", "bad" if i % 2 else "worse") for i in range(10)] + [
    Example(f"s/s{i}", f"safe {i}", "ambiguous" if i % 2 else "harmless", "s") for i in range(40)
]


def build(rows=ROWS, seed=0, **changes):
    mix = RSafeMix(**{"mix": "rsafe", "rows_per_label": 8, "sources": ["s"], **changes})
    return rsafe_mix.build(mix, seed, lambda name: rows)


@given(st.integers(1, 100), st.integers(0, 3))
def test_each_label_has_the_rows_asked_for_under_ids_of_their_own(count, seed):
    rows = build(seed=seed, rows_per_label=count).prompts
    assert [sum(e.label == label for e in rows) for label in ("safe", "unsafe")] == [count, count]
    assert all((e.label == "unsafe") == (e.kind == "harmful") for e in rows)
    assert len({e.id for e in rows}) == 2 * count


def test_repeats_are_counted_where_a_source_has_too_few():
    mixture = build(rows_per_label=20)
    distinct = len({e.prompt for e in mixture.prompts if e.label == "unsafe"})
    assert distinct < 20
    assert mixture.notes == (f"s: {20 - distinct} of its 20 unsafe rows are repeats, since it has 10",)


def test_a_source_of_one_label_goes_under_its_own_key():
    with pytest.raises(InputError, match="s has no safe row; name it under"):
        build(rows=ROWS[:10])
    rows = build(sources=[], unsafe_only=[{"source": "s", "prompts": 6}], safe_only=[{"source": "s", "prompts": 9}])
    assert [sum(e.label == label for e in rows.prompts) for label in ("safe", "unsafe")] == [9, 6]


def test_a_category_is_left_out_and_counted():
    mixture = build(without_categories=["worse"])
    assert {e.category for e in mixture.prompts if e.label == "unsafe"} == {"bad"}
    assert mixture.drops["prompts: of a category left out"] == 5


def test_the_sources_own_label_counts_and_an_unlabelled_response_does_not():
    rows = [
        *ROWS,
        Example("s/r1", "harmful prompt", "harmful", "s", response="I refuse", label="safe"),
        Example("s/r2", "harmful prompt", "harmful", "s", response="Sure"),
    ]
    mixture = build(rows=rows, rows_per_label=41)
    assert {e.id: e.label for e in mixture.prompts}["s/r1"] == "safe"
    assert mixture.drops["prompts: a response without a label"] == 1
