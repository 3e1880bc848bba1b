from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.data import rsafe_mix
from safereason.data.example import Example
from safereason.errors import InputError
from safereason.recipe.schema import GuardSet, RSafeMix

ROWS = [Example(f"s/u{i}", f"unsafe {i}", "harmful", "s", "bad" if i % 2 else "worse") for i in range(10)] + [
    Example(f"s/s{i}", f"safe {i}", "ambiguous" if i % 2 else "harmless", "s") for i in range(40)
]

WORD_FOR_WORD = {"hygiene": {"near_duplicate": None}}
"""Numbered rows are nearly the same."""


def build(rows=ROWS, seed=0, refuse=lambda example: None, **changes):
    mix = RSafeMix(**{"mix": "rsafe", "rows_per_label": 8, "sources": ["s"], **WORD_FOR_WORD, **changes})
    return rsafe_mix.build(mix, seed, lambda name: rows, lambda name: [], refuse=refuse)


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
    assert mixture.drops["s: of a category left out"] == 5


def test_the_sources_own_label_counts_and_an_unlabelled_response_does_not():
    rows = [
        *ROWS,
        Example("s/r1", "harmful prompt", "harmful", "s", response="I refuse", label="safe"),
        Example("s/r2", "harmful prompt", "harmful", "s", response="Sure"),
    ]
    mixture = build(rows=rows, rows_per_label=41)
    assert {e.id: e.label for e in mixture.prompts}["s/r1"] == "safe"
    assert mixture.drops["s: a response without a label"] == 1


def test_a_row_of_several_categories_is_left_out_for_any_of_them():
    rows = [*ROWS, Example("s/m", "of two", "harmful", "s", "bad; worse")]
    mixture = build(rows=rows, without_categories=["worse"])
    assert "of two" not in {e.prompt for e in mixture.prompts}
    assert mixture.drops["s: of a category left out"] == 6


def test_rows_that_are_refused_are_counted_by_reason():
    mixture = build(refuse=lambda e: "too long" if e.id.endswith("1") else None, rows_per_label=50)
    assert mixture.drops["s: too long"] == sum(e.id.endswith("1") for e in ROWS)
    assert not any(e.id.endswith("1") for e in mixture.prompts)


@given(st.integers(0, 4), st.integers(0, 3))
def test_validation_rows_are_of_both_labels_and_not_trained_on(count, seed):
    mixture = build(seed=seed, validation_rows_per_label=count, rows_per_label=6)
    assert [sum(e.label == label for e in mixture.validation) for label in ("safe", "unsafe")] == [count, count]
    assert not {e.prompt for e in mixture.validation} & {e.prompt for e in mixture.prompts}


def test_what_is_drawn_is_the_same_with_and_without_validation():
    assert build(validation_rows_per_label=2).prompts == build().prompts


def test_every_row_of_a_held_out_prompt_is_held_out():
    twins = [Example(f"s/t{i}", "the same prompt", "harmful", "s", response=f"r{i}", label="unsafe") for i in range(30)]
    held_out = 0
    for seed in range(12):
        mixture = build(
            rows=[*ROWS, *twins],
            seed=seed,
            sources=[],
            unsafe_only=[{"source": "s", "prompts": 50}],
            safe_only=[{"source": "s", "prompts": 5}],
            validation_rows_per_label=4,
        )
        validation_prompts = {e.prompt for e in mixture.validation}
        assert not validation_prompts & {e.prompt for e in mixture.prompts}
        held_out += "the same prompt" in validation_prompts
    assert held_out


def test_a_share_takes_its_categories_alone():
    mixture = build(sources=[], unsafe_only=[{"source": "s", "prompts": 9, "categories": ["bad"]}])
    assert [e.category for e in mixture.prompts] == ["bad"] * 5
    with pytest.raises(InputError, match=r"has no unsafe row after the first 0 of none such"):
        build(sources=[], unsafe_only=[{"source": "s", "prompts": 9, "categories": ["none such"]}])


def test_traces_are_of_both_labels_and_of_no_held_out_prompt():
    traces = [replace(e, reasoning="hm", answer="x") for e in ROWS]
    mix = RSafeMix(
        mix="rsafe",
        rows_per_label=2,
        sources=["s"],
        validation_rows_per_label=3,
        traces=[{"source": "s", "prompts": 12}],
        **WORD_FOR_WORD,
    )
    mixture = rsafe_mix.build(mix, 0, lambda name: ROWS, lambda name: traces)
    assert [sum(e.label == label for e in mixture.traces) for label in ("safe", "unsafe")] == [6, 6]
    assert not {e.prompt for e in mixture.validation} & {e.prompt for e in mixture.traces}


def test_a_test_set_takes_what_training_leaves():
    chosen = GuardSet(source="s", split="train", skip=8, unsafe=2, safe=None)
    tested = rsafe_mix.set_rows(chosen, 0, ROWS)
    assert [sum(e.label == label for e in tested) for label in ("safe", "unsafe")] == [32, 2]
    assert not {e.id for e in tested} & {e.id for e in build().prompts}
    assert {e.category for e in rsafe_mix.set_rows(GuardSet(source="s", safe=0, categories=["bad"]), 0, ROWS)} == {
        "bad"
    }


def test_rows_are_held_out_of_what_can_be_drawn_alone():
    share = {"source": "s", "prompts": 3, "categories": ["bad"]}
    mixture = build(
        sources=[], unsafe_only=[share], safe_only=[{"source": "s", "prompts": 3}], validation_rows_per_label=2
    )
    assert [e.category for e in mixture.validation if e.label == "unsafe"] == ["bad", "bad"]
    both = [share, {**share, "categories": []}]
    twice = build(sources=[], unsafe_only=both, safe_only=[{"source": "s", "prompts": 3}], validation_rows_per_label=2)
    assert len({e.id for e in twice.validation}) == 4
