import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.data import tars_mix
from safereason.data.draw import fold
from safereason.data.example import Example
from safereason.errors import InputError
from safereason.recipe.schema import TarsMix

KINDS = ("harmful", "harmless", "ambiguous")


def rows_of(kind, count, source=None):
    source = source or kind
    return [Example(f"{source}/{i}", f"{source} prompt {i}", kind, source) for i in range(count)]


SOURCES = {kind: rows_of(kind, 60) for kind in KINDS}
TRACES = {"taught": [
    Example(f"taught/{i}/{n}", f"taught prompt {i}", KINDS[i % 3], "taught", reasoning=f"why {n}", answer="so")
    for i in range(30) for n in range(3)
]}  # fmt: skip


def mix_of(**changes):
    shares = {kind: [{"source": kind, "prompts": 60}] for kind in KINDS}
    traces = [{"source": "taught", "prompts": 30}]
    return TarsMix(**{"mix": "tars", "prompts": 40, "harmful_ratio": 0.5, **shares, "traces": traces, **changes})


def build(mix, seed=0, prompts=SOURCES, traces=TRACES):
    return tars_mix.build(mix, seed, prompts.__getitem__, traces.__getitem__)


@given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.integers(0, 3))
def test_counts_are_exact_and_no_prompt_is_there_twice(prompts, ratio, ambiguous, seed):
    mix = mix_of(prompts=prompts, harmful_ratio=ratio, ambiguous_ratio=ambiguous)
    drawn = build(mix, seed).prompts
    assert len(drawn) == prompts == len({fold(e.prompt) for e in drawn})
    assert {kind: sum(e.kind == kind for e in drawn) for kind in KINDS} == tars_mix.counts(mix)
    assert abs(tars_mix.counts(mix)["harmful"] - prompts * ratio) <= 0.5 + 1e-9


@pytest.mark.parametrize(("ratio", "expected"), [
    (0.1, (200, 900, 900)), (0.3, (600, 700, 700)), (0.5, (1000, 500, 500)), (0.7, (1400, 300, 300)),
    (0.9, (1800, 100, 100)), (1.0, (2000, 0, 0)), (0.0, (0, 1000, 1000)),
])  # fmt: skip
def test_counts_of_the_paper(ratio, expected):
    assert tuple(tars_mix.counts(mix_of(prompts=2000, harmful_ratio=ratio)).values()) == expected


def test_halves_are_rounded_up_in_decimal_arithmetic():
    assert tars_mix.counts(mix_of(prompts=100, harmful_ratio=0.145))["harmful"] == 15
    assert tars_mix.counts(mix_of(prompts=5, harmful_ratio=0.5)) == {"harmful": 3, "harmless": 1, "ambiguous": 1}


@given(st.randoms(use_true_random=False), st.integers(0, 3))
def test_the_mix_does_not_depend_on_the_order_of_the_rows(random, seed):
    shuffled = [{name: random.sample(rows, len(rows)) for name, rows in part.items()} for part in (SOURCES, TRACES)]
    assert build(mix_of(), seed, *shuffled) == build(mix_of(), seed)


def test_the_mix_depends_on_the_seed():
    assert build(mix_of(), 0).prompts != build(mix_of(), 1).prompts


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 5))
def test_a_slice_and_what_comes_after_it_share_no_prompt(first, second, seed):
    def slice_of(skip, take):
        shares = {"harmful": [{"source": "harmful", "prompts": take, "skip": skip}]}
        return {e.id for e in build(mix_of(prompts=take, harmful_ratio=1, **shares), seed).prompts}

    assert not slice_of(0, first) & slice_of(first, second)


@given(st.integers(5, 20), st.integers(0, 5), st.sets(st.integers(0, 29), max_size=4))
def test_rl_prompts_after_the_skip_are_not_the_ones_sft_was_taught(taken, seed, empty):
    taught = rows_of("harmful", 30, "taught")
    traces = {"taught": [
        replace(e, id=f"{e.id}/1", reasoning="" if i in empty else "why", answer="so") for i, e in enumerate(taught)
    ]}  # fmt: skip
    mix = mix_of(
        prompts=30 - taken,
        harmful_ratio=1,
        harmful=[{"source": "taught", "prompts": 30 - taken, "skip": taken}],
        traces=[{"source": "taught", "prompts": taken}],
    )
    mixture = build(mix, seed, {"taught": taught}, traces)
    assert len(mixture.traces) == taken - mixture.drops["traces: no reasoning"]
    assert not {e.prompt for e in mixture.traces} & {e.prompt for e in mixture.prompts}


def test_a_pool_is_drawn_from_all_its_sources():
    prompts = {**SOURCES, "big": rows_of("harmful", 400, "big"), "small": rows_of("harmful", 40, "small")}
    shares = [{"source": "big", "prompts": 40}, {"source": "small", "prompts": 40}]
    drawn = build(mix_of(prompts=40, harmful_ratio=1, harmful=shares), 0, prompts).prompts
    assert 10 <= sum(e.source == "small" for e in drawn) <= 30


def test_long_and_repeated_prompts_are_dropped_and_counted():
    extra = [
        Example("harmful/long", "x" * 1001, "harmful", "harmful"),
        Example("harmful/again", "  HARMFUL prompt 3", "harmful", "harmful"),
    ]
    prompts = {**SOURCES, "harmful": SOURCES["harmful"] + extra}
    mixture = build(mix_of(prompts=60, harmful_ratio=1), 0, prompts)
    assert not {e.id for e in mixture.prompts} & {"harmful/long", "harmful/again"}
    assert mixture.drops["prompts: longer than 1000 characters"] == 1
    assert mixture.drops["prompts: a duplicate"] == 1


def test_a_prompt_of_two_pools_stays_in_the_first():
    prompts = {
        **SOURCES,
        "harmless": [*rows_of("harmless", 30), Example("harmless/x", "Harmful  prompt 5", "harmless", "h")],
    }
    mixture = build(mix_of(prompts=60, harmful_ratio=0.5, ambiguous_ratio=0), 0, prompts)
    assert mixture.drops["prompts: in another share too"] == 1
    assert "harmless/x" not in {e.id for e in mixture.prompts}


def test_only_rows_of_the_pools_kind_are_taken():
    everything = {"all": [e for rows in SOURCES.values() for e in rows]}
    shares = {kind: [{"source": "all", "prompts": 60}] for kind in KINDS}
    drawn = build(mix_of(**shares), 0, everything).prompts
    assert {e.kind for e in drawn} == set(KINDS)
    assert all(e.id.startswith(e.kind) for e in drawn)


def test_a_pool_that_is_too_small_is_named_with_what_it_has():
    with pytest.raises(
        InputError, match=re.escape("data.harmful: 100 prompts are wanted and the pool has 60 (harmful)")
    ):
        build(mix_of(prompts=100, harmful_ratio=1))


def test_a_pool_of_which_nothing_is_wanted_is_not_read():
    assert len(build(mix_of(harmful_ratio=1), 0, {"harmful": SOURCES["harmful"]}).prompts) == 40


@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 3))
def test_traces_are_capped_for_each_prompt_and_each_share(most, prompts, seed):
    mixture = build(mix_of(traces_per_prompt=most, traces=[{"source": "taught", "prompts": prompts}]), seed)
    per_prompt = [sum(t.prompt == p for t in mixture.traces) for p in {t.prompt for t in mixture.traces}]
    assert per_prompt == [min(most, 3)] * prompts
    assert mixture.drops["traces: more than traces_per_prompt"] == prompts * (3 - min(most, 3))


def test_traces_without_reasoning_or_answer_and_repeated_ones_are_dropped_and_counted():
    bad = [
        Example("taught/a", "one", "harmful", "taught", reasoning=" \n", answer="no"),
        Example("taught/b", "two", "harmful", "taught", reasoning="hm", answer=""),
        Example("taught/c", "three", "harmful", "taught", answer="no"),
        Example("taught/d", "TAUGHT prompt 0", "harmful", "taught", reasoning="why 0", answer="so"),
        Example("taught/e", "x" * 1001, "harmful", "taught", reasoning="why", answer="so"),
    ]
    mixture = build(
        mix_of(traces_per_prompt=3, traces=[{"source": "taught", "prompts": 99}]),
        0,
        SOURCES,
        {"taught": [*bad, *TRACES["taught"]]},
    )
    assert len(mixture.traces) == 90
    assert all(t.reasoning.strip() and t.answer.strip() for t in mixture.traces)
    assert {reason: count for reason, count in mixture.drops.items() if count and reason.startswith("traces")} == {
        "traces: no reasoning": 2, "traces: no answer": 1, "traces: a duplicate": 1,
        "traces: prompt longer than 1000 characters": 1,
    }  # fmt: skip


def test_no_usable_trace_is_an_error():
    with pytest.raises(InputError, match="no usable trace"):
        build(mix_of(traces=[{"source": "taught", "prompts": 30, "skip": 30}]))


def test_every_stretch_of_traces_has_all_kinds():
    kinds = [t.kind for t in build(mix_of()).traces]
    assert all(set(kinds[i : i + 3]) == set(KINDS) for i in range(0, 30, 3))


def test_a_share_takes_its_categories_alone():
    harmful = [replace(e, category="a; b" if i % 2 else "c") for i, e in enumerate(SOURCES["harmful"])]
    prompts = {**SOURCES, "harmful": harmful}
    drawn = build(
        mix_of(prompts=20, harmful=[{"source": "harmful", "prompts": 60, "categories": ["b"]}]), prompts=prompts
    ).prompts
    assert {e.category for e in drawn if e.kind == "harmful"} == {"a; b"}
