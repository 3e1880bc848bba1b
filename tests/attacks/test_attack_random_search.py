"""Random search on the micro model: what a step changes, what is kept, and when it ends."""

import math
import random
from dataclasses import replace

import micro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from safereason.attacks import random_search
from safereason.attacks.base import SearchStep, Setup
from safereason.attacks.meter import Meter, Metered, SpentError
from safereason.attacks.random_search import (
    Alphabet,
    RandomSearchSettings,
    build_alphabet,
    climb,
    read_suffix_template,
    replace_span,
    span_length,
)
from safereason.data.example import Example
from safereason.engines.base import Engine
from safereason.engines.openai import OpenAIEngine
from safereason.engines.transformers import TransformersEngine
from safereason.errors import InputError
from safereason.text.chat import user

BEHAVIOR = Example(id="b/1", prompt="Name a colour.", kind="harmful", source="b", target="Sure, red")
SMALL = RandomSearchSettings(candidates=40, batch=8, length=6, change=2, enough=1.0)


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    torch.manual_seed(1)
    config = micro.config(tie_word_embeddings=False)
    config.initializer_range = 0.4
    return TransformersEngine(LlamaForCausalLM(config).double(), micro.tokenizer(), name="micro")


def run(
    engine: Engine, settings: RandomSearchSettings = SMALL, behavior: Example = BEHAVIOR, **setup
) -> list[SearchStep]:
    return list(random_search.search_random([behavior], settings, Setup(engine, **setup)))


@pytest.mark.parametrize("unit", ["token", "character"])
def test_the_loss_falls_and_the_suffix_keeps_its_length(engine, unit):
    steps = run(engine, SMALL.model_copy(update={"unit": unit}))
    losses = [step.value for step in steps[1:]]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert [step.number for step in steps] == list(range(7))  # what it begins with, its loss, 5 batches
    start = "! ! ! " if unit == "token" else "______"
    assert steps[0].cases[0].prompt == steps[1].cases[0].prompt == f"Name a colour. {start}"
    case = steps[-1].cases[0]
    assert case.prompt == f"Name a colour. {case.details['suffix']}"
    assert len(case.details["suffix"]) == 6


@pytest.mark.parametrize(("place", "prefix"), [("reasoning", "<think>\n"), ("answer", "<think>\n\n</think>\n\n")])
@pytest.mark.parametrize("first", [1, 4])
def test_the_loss_is_that_of_the_prompt_that_is_deployed(engine, place, prefix, first):
    settings = SMALL.model_copy(update={"place": place, "first": first})
    [case] = run(engine, settings, prefix="<think>\n")[-1].cases
    [likelihood] = engine.loglikelihood([user(case.prompt)], [BEHAVIOR.target], prefix=prefix)
    assert case.details["loss"] == pytest.approx(-sum(likelihood.token_logprobs[:first]), rel=1e-9)


def test_the_same_seed_gives_the_same_suffix(engine):
    first, again, other = (run(engine, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("batch", "restarts", "steps"), [(8, 1, 7), (1, 1, 42), (30, 2, 7)])
def test_each_restart_tries_the_same_number_of_candidates(engine, batch, restarts, steps):
    meter = Meter()
    settings = SMALL.model_copy(update={"batch": batch, "restarts": restarts})
    search_steps = run(Metered(engine, meter, is_target=True), settings, meter=meter)
    assert meter.queries == restarts * (1 + 40)
    assert len(search_steps) == steps
    assert search_steps[-1].value == min(step.value for step in search_steps[1:])


def test_the_budget_ends_it_with_the_best_so_far(engine):
    meter = Meter(max_queries=20)
    steps = random_search.search_random([BEHAVIOR], SMALL, Setup(Metered(engine, meter, is_target=True), meter=meter))
    search_steps = []
    with pytest.raises(SpentError):
        search_steps.extend(steps)
    assert meter.queries == 1 + 8 + 8
    assert search_steps == run(engine)[: len(search_steps)]
    assert len(search_steps) == 4


def test_it_ends_once_the_first_token_is_likely_enough(engine):
    whole = run(engine, SMALL.model_copy(update={"candidates": 80}))
    reached = next(step.number for step in whole[2:] if step.value < whole[1].value)
    enough = math.exp(-whole[reached].value) * (1 - 1e-9)
    settings = SMALL.model_copy(update={"candidates": 80, "enough": enough, "restarts": 3})
    assert run(engine, settings) == whole[: reached + 1]


def test_a_template_says_where_the_suffix_stands(engine, tmp_path):
    file = tmp_path / "template.txt"
    file.write_text("Please: {behavior} [{suffix}] Thanks.\n")
    steps = run(engine, SMALL.model_copy(update={"template": str(file)}))
    assert steps[0].cases[0].prompt == "Please: Name a colour. [! ! ! ] Thanks."
    file.write_text("Please: {behavior} Thanks.")
    assert read_suffix_template(str(file)) == "Please: {behavior} Thanks. {suffix}"


def test_a_behavior_that_spells_the_slot_of_the_suffix_keeps_it(engine):
    behavior = replace(BEHAVIOR, prompt="What does {suffix} mean?")
    steps = run(engine, behavior=behavior)
    assert steps[0].cases[0].prompt == "What does {suffix} mean? ! ! ! "


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{behavior} {suffix} {suffix}", "at most one {suffix}"),
        ("{behavior}\n===\n{behavior}", "one prompt with"),
        ("nothing", "holds {behavior} 0 times"),
    ],
)
def test_a_template_that_does_not_fit_is_refused(tmp_path, content, problem):
    file = tmp_path / "template.txt"
    file.write_text(content)
    with pytest.raises(InputError) as raised:
        read_suffix_template(str(file))
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_behavior_without_a_target_is_refused(engine):
    bare = Example(id="b/2", prompt="Name a colour.", kind="harmful", source="b")
    with pytest.raises(InputError, match="attack random-search: behavior b/2 has no target"):
        run(engine, behavior=bare)


def test_tokens_are_text_and_never_special(engine):
    letters = build_alphabet(SMALL, engine)
    assert not {256, 257, 258} & set(letters.units)
    assert {letters.text([unit]) for unit in letters.units} == {chr(i) for i in range(128)}
    assert letters.text(letters.start) == "! ! ! "


def test_tokens_need_a_tokenizer():
    server = OpenAIEngine("m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(InputError, match="has no tokenizer here; set unit to character"):
        build_alphabet(SMALL, server)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 15), st.integers())
def test_one_span_changes(suffix, length, seed):
    after = replace_span(suffix, range(100, 110), length, random.Random(seed))
    multibyte = [i for i, unit in enumerate(after) if unit >= 100]
    assert len(after) == len(suffix)
    assert multibyte == list(range(multibyte[0], multibyte[0] + min(length, len(suffix))))
    assert all(after[i] == suffix[i] for i in range(len(suffix)) if i not in multibyte)


@pytest.mark.parametrize(
    ("schedule", "probability", "expected"),
    [
        ("probability", 0.01, 8),
        ("probability", 0.011, 4),
        ("probability", 0.1, 4),
        ("probability", 0.11, 2),
        ("constant", 0.9, 8),
    ],
)
def test_the_span_shrinks_as_the_target_becomes_likelier(schedule, probability, expected):
    assert span_length(RandomSearchSettings(change=8, schedule=schedule), probability) == expected
    assert span_length(RandomSearchSettings(change=1), 0.5) == 1


def test_what_is_no_better_is_not_kept():
    letters = Alphabet(str, range(10), [0, 0, 0])
    scored = []

    def score(suffixes):
        scored.extend(map(list, suffixes))
        return [-1.0 - sum(suffix) for suffix in suffixes]  # nothing beats the start

    settings = RandomSearchSettings(candidates=9, batch=3, change=1)
    climbed = list(climb(letters, score, settings, random.Random(0)))
    assert climbed == [([0, 0, 0], -1.0)] * 4
    assert all(sum(unit != 0 for unit in suffix) <= 1 for suffix in scored)
