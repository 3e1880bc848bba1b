import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.data import tars_mix
from safereason.data.example import Example
from safereason.data.sampling import fold
from safereason.errors import InputError
from safereason.recipe.schema import TarsMix

KINDS = ("harmful", "harmless", "ambiguous")


def rows_of(kind, count, source=None):
    source = source or kind
    return [Example(f"{source}/{i}", f"{source} prompt {i}", kind, source) for i in range(count)]


SOURCES = {kind: rows_of(kind, 60) for kind in KINDS}
TRACES = {
    "taught": [
        Example(f"taught/{i}/{n}", f"taught prompt {i}", KINDS[i % 3], "taught", reasoning=f"why {n}", answer="so")
        for i in range(30)
        for n in range(3)
    ]
}

WORD_FOR_WORD = {"hygiene": {"near_duplicate": None}}
"""Numbered prompts are nearly the same."""


def mix_of(**changes):
    shares = {kind: [{"source": kind, "prompts": 60}] for kind in KINDS}
    traces = [{"source": "taught", "prompts": 30}]
    return TarsMix(
        **{"mix": "tars", "prompts": 40, "harmful_ratio": 0.5, **shares, "traces": traces, **WORD_FOR_WORD, **changes}
    )


def build(mix, seed=0, prompts=SOURCES, traces=TRACES):
    return tars_mix.build(mix, seed, prompts.__getitem__, traces.__getitem__)


@given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.integers(0, 3))
def test_counts_are_exact_and_no_prompt_is_there_twice(prompts, ratio, ambiguous, seed):
    mix = mix_of(prompts=prompts, harmful_ratio=ratio, ambiguous_ratio=ambiguous)
    drawn = build(mix, seed).prompts
    assert len(drawn) == prompts == len({fold(e.prompt) for e in drawn})
    assert {kind: sum(e.kind == kind for e in drawn) for kind in KINDS} == tars_mix.counts(mix)
    assert abs(tars_mix.counts(mix)["harmful"] - prompts * ratio) <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.1, (200, 900, 900)),
        (0.3, (600, 700, 700)),
        (0.5, (1000, 500, 500)),
        (0.7, (1400, 300, 300)),
        (0.9, (1800, 100, 100)),
        (1.0, (2000, 0, 0)),
        (0.0, (0, 1000, 1000)),
    ],
)
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
def test_rl_prompts_after_the_skip_are_not_the_ones_sft_was_taught(number, seed, empty):
    taught = rows_of("harmful", 30, "taught")
    traces = {
        "taught": [
            replace(e, id=f"{e.id}/1", reasoning="" if i in empty else "why", answer="so") for i, e in enumerate(taught)
        ]
    }
    mix = mix_of(
        prompts=30 - number,
        harmful_ratio=1,
        harmful=[{"source": "taught", "prompts": 30 - number, "skip": number}],
        traces=[{"source": "taught", "prompts": number}],
    )
    mixture = build(mix, seed, {"taught": taught}, traces)
    assert len(mixture.traces) == number - mixture.drops["traces: no reasoning"]
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
    assert mixture.drops["prompts, of another share: a duplicate"] == 1
    assert "harmless/x" not in {e.id for e in mixture.prompts}


def test_only_rows_of_the_pools_kind_are_taken():
    everything = {"all": [e for rows in SOURCES.values() for e in rows]}
    shares = {kind: [{"source": "all", "prompts": 60}] for kind in KINDS}
    drawn = build(mix_of(**shares), 0, everything).prompts
    assert {e.kind for e in drawn} == set(KINDS)
    assert all(e.id.startswith(e.kind) for e in drawn)


def test_a_pool_that_is_too_small_is_named_with_what_it_has():
    with pytest.raises(
        InputError, match=re.escape("data.harmful: 100 prompts are needed and the pool has 60 (harmful)")
    ):
        build(mix_of(prompts=100, harmful_ratio=1))


def test_a_pool_whose_prompts_are_too_long_names_the_key():
    message = "the pool has 0 (harmful); 60 are longer than data.max_prompt_chars; raise that, add a source"
    with pytest.raises(InputError, match=re.escape(message)):
        build(mix_of(max_prompt_chars=2))


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
        "traces: no reasoning": 2,
        "traces: no answer": 1,
        "traces: a duplicate": 1,
        "traces: longer than 1000 characters": 1,
    }


def test_no_usable_trace_is_an_error():
    with pytest.raises(InputError, match="no usable trace"):
        build(mix_of(traces=[{"source": "taught", "prompts": 30, "skip": 30}]))
    assert build(mix_of(traces=[])).traces == ()


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


def prompts_of(text, count=12, kind="harmful", source="own"):
    return [Example(f"{source}/{i}", f"{text} number {word}", kind, source) for i, word in enumerate(WORDS[:count])]


WORDS = (
    "anchor",
    "bottle",
    "candle",
    "dragon",
    "engine",
    "forest",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "ladder",
)


def test_rl_passes_over_sfts_prompts_of_the_same_source_even_where_the_recipe_skips_none():
    taught = rows_of("harmful", 30, "taught")
    traces = {"taught": [replace(e, id=f"{e.id}/1", reasoning="why", answer="so") for e in taught]}
    mix = mix_of(
        prompts=20,
        harmful_ratio=1,
        harmful=[{"source": "taught", "prompts": 20}],
        traces=[{"source": "taught", "prompts": 10}],
    )
    mixture = build(mix, 0, {"taught": taught}, traces)
    assert not {e.prompt for e in mixture.traces} & {e.prompt for e in mixture.prompts}
    assert mixture.drops["prompts: SFT has it"] == 10
    skipping = mix.model_copy(update={"harmful": (mix.harmful[0].model_copy(update={"skip": 10}),)})
    assert build(skipping, 0, {"taught": taught}, traces).prompts == mixture.prompts


@given(st.integers(0, 8), st.integers(1, 8), st.integers(0, 3), st.sets(st.integers(0, 29)))
def test_a_teacher_is_asked_what_the_mix_then_reads_of_it(skip, count, seed, unanswered):
    prompts = {**SOURCES, "raw": rows_of("harmful", 30, "raw")}
    mix = mix_of(traces=[{"source": "raw", "prompts": count, "skip": skip}], traces_per_prompt=2)
    to_trace = tars_mix.to_trace(mix, seed, prompts.__getitem__, {}.__getitem__, taught=["raw"])
    assert len(to_trace) == count
    written = [
        replace(e, id=f"{e.id}/{n}", reasoning=f"why {n}", answer="so")
        for i, e in enumerate(to_trace)
        for n in range(3)
        if i not in unanswered
    ]
    draw = lambda: tars_mix.build(mix, seed, prompts.__getitem__, lambda name: written, taught=["raw"])  # noqa: E731
    if not written:
        with pytest.raises(InputError, match="no usable trace"):
            draw()
        return
    mixture = draw()
    assert {e.prompt for e in mixture.traces} == {e.prompt for e in written}
    assert len(mixture.traces) == 2 * len(written) / 3
    assert mixture.drops["traces: a prompt without any"] == count - len(written) / 3


def test_a_share_of_traces_takes_its_kind_alone():
    mix = mix_of(traces=[{"source": "taught", "prompts": 5, "kind": "harmful"}])
    assert {e.kind for e in build(mix).traces} == {"harmful"}
    assert len(build(mix).traces) == 5


def test_a_source_that_is_left_out_is_neither_read_nor_drawn_of():
    shares = [{"source": "gone", "prompts": 40}, {"source": "harmful", "prompts": 60}]
    mixture = build(mix_of(harmful=shares, without_sources=["gone"]))
    assert len(mixture.prompts) == 40
    assert build(mix_of(harmful=shares[1:])).prompts == mixture.prompts


def test_near_duplicates_give_their_place_to_others_within_a_share_and_between_shares():
    own = prompts_of("Please explain to me at length how this machine is put together,", 2)
    other = prompts_of("please explain to me at length how this machine is put together,", 2, source="other")
    free = [Example(f"other/{word}", f"a {word} is {word[::-1]}", "harmful", "other") for word in WORDS[:4]]
    mix = mix_of(
        prompts=5,
        harmful_ratio=1,
        hygiene={"near_duplicate": 0.7},
        harmful=[{"source": "own", "prompts": 2}, {"source": "other", "prompts": 9}],
    )
    mixture = build(mix, 0, {"own": own, "other": [*other, *free]})
    assert len(mixture.prompts) == 5
    assert mixture.drops["prompts: a near-duplicate"] == 2
    of_another = {why: count for why, count in mixture.drops.items() if why.startswith("prompts, of another share")}
    assert sum(of_another.values()) == 1


def test_repeated_prompts_stay_where_the_recipe_leaves_none_out():
    rows = [*SOURCES["harmful"][:9], replace(SOURCES["harmful"][0], id="harmful/again")]
    shares = {"harmful": [{"source": "harmful", "prompts": 10}], "traces": []}
    mix = mix_of(prompts=10, harmful_ratio=1, hygiene={"deduplicate": "none"}, **shares)
    drawn = build(mix, 0, {"harmful": rows}).prompts
    assert sorted(e.id for e in drawn) == sorted(e.id for e in rows)
    with pytest.raises(InputError, match="10 prompts are needed and the pool has 9 "):
        build(mix_of(prompts=10, harmful_ratio=1, **shares), 0, {"harmful": rows})


def test_what_is_refused_gives_its_place_to_the_next():
    refused = {e.id for e in SOURCES["harmful"][::2]}
    mix = mix_of(prompts=30, harmful_ratio=1)
    mixture = tars_mix.build(
        mix, 0, SOURCES.__getitem__, TRACES.__getitem__, refuse=lambda e: "in a test set" if e.id in refused else None
    )
    assert len(mixture.prompts) == 30
    assert not refused & {e.id for e in mixture.prompts}
    assert mixture.drops["prompts: in a test set"] == 30


@given(st.floats(0, 1), st.integers(0, 3), st.integers(1, 4))
def test_traces_of_the_mixs_own_prompts_leave_the_mix_as_it_is(ratio, seed, most):
    """The SFT baseline: a teacher answers the prompts of RL, and the prompts of the light SFT stay kept out."""
    plain = mix_of(harmful_ratio=ratio, traces=[{"source": "harmful", "prompts": 5}])
    prompts = [e for part in SOURCES.values() for e in part]
    written = [replace(e, id=f"{e.id}/{n}", reasoning=f"why {n}", answer="so") for e in prompts for n in range(3)]
    taught = KINDS
    mix = plain.model_copy(update={"trace_prompts": True, "traces_per_prompt": most})
    before = tars_mix.build(plain, seed, SOURCES.__getitem__, lambda name: written, taught=taught)
    mixture = tars_mix.build(mix, seed, SOURCES.__getitem__, lambda name: written, taught=taught)
    assert mixture.prompts == before.prompts
    to_trace = tars_mix.to_trace(mix, seed, SOURCES.__getitem__, {}.__getitem__, taught=taught)
    assert {e.id for e in to_trace} == {e.id for e in mixture.prompts}
    assert len(mixture.traces) == len(mixture.prompts) * min(most, 3)
    assert {fold(e.prompt) for e in mixture.traces} == {fold(e.prompt) for e in mixture.prompts}
