"""AutoDAN on the micro model: what the generations do to prompts, and what the search comes to."""

import random
from itertools import pairwise
from statistics import fmean

import micro
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from safereason.attacks import autodan
from safereason.attacks.autodan import AutoDANSettings, Breeder
from safereason.attacks.base import SearchStep, Setup
from safereason.attacks.frames import BEHAVIOR_SLOT, PROMPTS_FOLDER, fill_frame, read_frames, read_text
from safereason.attacks.genetic import (
    MAX_REPLACED_WORDS,
    WordScores,
    cross_frames,
    read_synonyms,
    softmax_weights,
    split_sentences,
)
from safereason.attacks.meter import Meter, Metered, SpentError
from safereason.attacks.target_position import text_before_target
from safereason.data.example import Example
from safereason.engines.base import Completion, Engine, GenerateOptions
from safereason.engines.transformers import TransformersEngine
from safereason.errors import InputError
from safereason.text.chat import user

BEHAVIOR = Example(id="b/1", prompt="Name a colour.", kind="harmful", source="b", target="Sure, red")
SMALL = AutoDANSettings(steps=6, population=10, mutation=0.1)
SEEDS = read_frames(PROMPTS_FOLDER / "autodan_seeds.txt")


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    torch.manual_seed(1)
    config = micro.config(tie_word_embeddings=False)
    config.initializer_range = 0.4
    return TransformersEngine(LlamaForCausalLM(config).double(), micro.tokenizer(), name="micro")


class Rewriter:
    """An attacker whose replies the test chooses; everything else is real."""

    name = "rewriter"

    def __init__(self, reply) -> None:
        self.reply = reply
        self.requests: list[str] = []

    def generate(self, conversations, sampling, options=GenerateOptions()) -> list[list[Completion]]:
        self.requests += [conversation[-1]["content"] for conversation in conversations]
        return [[self.reply(conversation[-1]["content"])] for conversation in conversations]


def completion_of(text: str, reason="stop") -> Completion:
    return Completion(text, (), reason)


def run(engine: Engine, settings: AutoDANSettings = SMALL, **setup) -> list[SearchStep]:
    return list(autodan.search_autodan([BEHAVIOR], settings, Setup(engine, **setup)))


def breeder(settings: AutoDANSettings = SMALL, attacker=None, seed: int = 0) -> Breeder:
    return Breeder(settings, attacker, random.Random(seed))


def test_the_loss_falls_and_every_prompt_holds_the_behavior(engine):
    steps = run(engine)
    assert [step.number for step in steps] == list(range(7))
    losses = [step.value for step in steps[1:]]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    assert all(BEHAVIOR.prompt in step.cases[0].prompt for step in steps)
    assert steps[0].value is None


@pytest.mark.parametrize(("place", "prefix"), [("reasoning", "<think>\n"), ("answer", "<think>\n\n</think>\n\n")])
def test_fitness_is_the_likelihood_of_the_target_where_it_is_to_stand(engine, place, prefix):
    [case] = run(engine, SMALL.model_copy(update={"place": place}), prefix="<think>\n")[-1].cases
    [likelihood] = engine.loglikelihood([user(case.prompt)], [BEHAVIOR.target], prefix=prefix)
    assert case.details["loss"] == pytest.approx(-fmean(likelihood.token_logprobs), rel=1e-9)
    assert case.details["greedy"] == likelihood.is_greedy


def test_the_same_seed_gives_the_same_prompts(engine):
    first, again, other = (run(engine, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_budget_ends_it_with_the_best_so_far(engine):
    meter = Meter(max_queries=25)
    steps = autodan.search_autodan([BEHAVIOR], SMALL, Setup(Metered(engine, meter, is_target=True), meter=meter))
    search_steps = []
    with pytest.raises(SpentError):
        search_steps.extend(steps)
    assert 10 <= meter.queries <= 25
    assert search_steps[-1].value is not None
    assert len(search_steps) > 1


def test_a_frame_is_scored_once(engine):
    meter = Meter()
    still = SMALL.model_copy(update={"crossover": 0.0})
    run(Metered(engine, meter, is_target=True), still, meter=meter)
    assert meter.queries == len(SEEDS)  # no word and no sentence moves: all others are copies


def test_it_ends_where_the_target_is_what_the_model_writes(engine):
    one = Setup(engine).sampling.model_copy(update={"max_new_tokens": 1})
    prompts = ["?" * number for number in range(1, 40)]
    texts = [c.text for [c] in engine.generate([user(fill_frame(SEEDS[0], prompt)) for prompt in prompts], one)]
    prompt, text = next(pair for pair in zip(prompts, texts, strict=True) if pair[1].isascii() and pair[1].strip())
    target = Example(id="b/3", prompt=prompt, kind="harmful", source="b", target=text)
    steps = list(autodan.search_autodan([target], SMALL, Setup(engine)))
    assert steps[-1].cases[0].details["greedy"] is True
    assert len(steps) == 2
    going_on = SMALL.model_copy(update={"early_stop": False})
    assert len(list(autodan.search_autodan([target], going_on, Setup(engine)))) == 7


def test_a_behavior_without_a_target_is_refused(engine):
    bare = Example(id="b/2", prompt="Name a colour.", kind="harmful", source="b")
    with pytest.raises(InputError, match="attack autodan: behavior b/2 has no target"):
        next(autodan.search_autodan([bare], SMALL, Setup(engine)))


def test_the_attacker_rewords_paragraphs_and_never_the_behavior(engine):
    attacker = Rewriter(
        lambda prompt: completion_of(
            "<think>\nhm\n</think>\n\nPut otherwise. " + BEHAVIOR_SLOT * (BEHAVIOR_SLOT in tail(prompt))
        )
    )
    first = breeder(attacker=attacker).first()
    assert len(attacker.requests) == 10 - len(SEEDS)
    assert all("Put otherwise. " in frame and frame.count(BEHAVIOR_SLOT) == 1 for frame in first[len(SEEDS) :])
    assert first[: len(SEEDS)] == SEEDS
    attacked = run(engine, attacker=attacker)
    assert attacked[-1].value <= attacked[1].value
    assert not any(BEHAVIOR.prompt in prompt for prompt in attacker.requests)


def tail(prompt: str) -> str:
    return prompt.rsplit("\n\n", 1)[1]


@pytest.mark.parametrize(
    "reply",
    [
        completion_of(""),
        completion_of("cut", "length"),
        completion_of("", "error"),
        completion_of(f"{BEHAVIOR_SLOT} and {BEHAVIOR_SLOT}"),
    ],
)
def test_a_reply_that_is_none_leaves_the_prompt(reply):
    assert breeder(attacker=Rewriter(lambda prompt: reply)).first() == (SEEDS + SEEDS)[:10]


def test_a_child_that_grows_too_long_gives_way_to_its_parent():
    attacker = Rewriter(lambda prompt: completion_of(tail(prompt) + "x" * 5000))
    always = SMALL.model_copy(update={"mutation": 1.0, "crossover": 0.0})
    rows = breeder(always, attacker)
    assert set(rows.following(SEEDS, [0.0] * len(SEEDS), 1)) <= set(SEEDS)
    assert attacker.requests


def test_the_elite_lives_on_and_the_unfit_have_no_children():
    settings = SMALL.model_copy(update={"population": 8, "elites": 0.25, "crossover": 0.0, "mutation": 0.0})
    fitness = [0.0, -1.0, *[-1000.0] * 6]
    following = breeder(settings).following(SEEDS, fitness, 1)
    assert following[:2] == SEEDS[:2]
    assert len(following) == 8
    assert set(following[2:]) <= set(SEEDS[:2])


def sentences_of(frames: list[str]) -> set[str]:
    sentences: set[str] = set()
    for frame in frames:
        for side in frame.split(BEHAVIOR_SLOT):
            sentences.update(split_sentences(side))
    return sentences


def test_sentences_are_crossed_in_one_generation_and_words_replaced_in_the_next():
    settings = SMALL.model_copy(update={"crossover": 1.0, "mutation": 0.0, "sentences_every": 2})
    whole = sentences_of(SEEDS)
    for number, crossing in [(1, True), (2, False), (3, True)]:
        children = breeder(settings).following(SEEDS, [0.0] * len(SEEDS), number)
        assert (sentences_of(children) <= whole) == crossing
        assert not set(children) <= set(SEEDS)


@given(st.text(alphabet="aB .!?\n"))
def test_sentences_joined_are_the_text(text):
    assert "".join(split_sentences(text)) == text
    assert all(not any(mark in s.strip()[:-1].rstrip(".!?\n") for mark in ".!?\n") for s in split_sentences(text))


sides = st.lists(st.sampled_from(["One. ", "Two? ", "Three!\n\n", "and four: "]), max_size=6).map("".join)
frames = st.tuples(sides, sides).map(BEHAVIOR_SLOT.join)


@given(frames, frames, st.integers(1, 6), st.integers())
def test_a_crossing_shares_out_the_sentences_of_both_sides(one, other, points, seed):
    children = cross_frames(one, other, points, random.Random(seed))
    for side in (0, 1):
        parents = [s for frame in (one, other) for s in split_sentences(frame.split(BEHAVIOR_SLOT)[side])]
        assert sorted("".join(c.split(BEHAVIOR_SLOT)[side] for c in children)) == sorted("".join(parents))
    assert [child.count(BEHAVIOR_SLOT) for child in children] == [1, 1]


def test_chances_are_a_softmax():
    assert softmax_weights([-1.0, -2.0, -1000.0]) == pytest.approx(
        torch.tensor([-1.0, -2.0, -1000.0]).softmax(0).tolist()
    )


def test_word_scores_move_halfway_to_the_mean_of_what_has_the_word():
    words = WordScores({})
    words.learn([f"Red house {BEHAVIOR_SLOT}", f"red red car {BEHAVIOR_SLOT}"], [-1.0, -3.0])
    assert words.scores == {"red": -2.0, "house": -1.0, "car": -3.0}
    words.learn([f"A red {BEHAVIOR_SLOT}"], [-6.0])
    assert words.scores == {"red": -4.0, "house": -1.0, "car": -3.0, "a": -6.0}


def test_words_give_way_to_the_better_of_their_synonyms():
    words = WordScores(read_synonyms(["story tale narrative", "play drama"]))
    words.scores = {"tale": 0.0, "story": -100.0, "play": 0.0}
    frame = f"A Story, a play; the history.\n\n{BEHAVIOR_SLOT} story."
    assert words.replace_words(frame, 1.0, random.Random(0)) == f"A Tale, a play; the history.\n\n{BEHAVIOR_SLOT} tale."
    assert words.replace_words(frame, 0.0, random.Random(0)) == frame
    many = "story " * 9 + BEHAVIOR_SLOT
    assert words.replace_words(many, 1.0, random.Random(0)).count("tale") == MAX_REPLACED_WORDS


def test_our_seeds_differ_and_have_words_to_vary():
    words = WordScores(read_synonyms(read_text(PROMPTS_FOLDER / "autodan_synonyms.txt").splitlines()))
    assert len(set(SEEDS)) == len(SEEDS) >= 5
    for seed in SEEDS:
        assert len({words.replace_words(seed, 0.5, random.Random(i)) for i in range(8)}) > 4


def test_seeds_come_from_a_file(tmp_path, engine):
    file = tmp_path / "seeds.txt"
    file.write_text(f"First. {BEHAVIOR_SLOT}\n===\nSecond.\n\n{BEHAVIOR_SLOT} End.\n")
    steps = run(engine, SMALL.model_copy(update={"seeds": str(file), "steps": 1, "population": 2}))
    assert steps[0].cases[0].prompt == "First. Name a colour."
    assert steps[1].cases[0].prompt in ("First. Name a colour.", "Second.\n\nName a colour. End.")


@pytest.mark.parametrize("content", ["no place", f"{BEHAVIOR_SLOT} {BEHAVIOR_SLOT}", f"{BEHAVIOR_SLOT}\n===\n"])
def test_a_seed_without_one_place_for_the_behavior_is_refused(tmp_path, content):
    file = tmp_path / "seeds.txt"
    file.write_text(content)
    with pytest.raises(InputError, match=r"seeds.txt: prompt [12] holds \{behavior\} [02] times"):
        breeder(SMALL.model_copy(update={"seeds": str(file)}))
    with pytest.raises(InputError, match=r"none\.txt: cannot be read"):
        breeder(SMALL.model_copy(update={"synonyms": str(tmp_path / "none.txt")}))


@pytest.mark.parametrize(
    ("prefix", "place", "expected"),
    [
        ("", "answer", ""),
        ("", "reasoning", ""),
        ("<think>\n", "reasoning", "<think>\n"),
        ("<think>\n", "answer", "<think>\n\n</think>\n\n"),
        ("<think>", "answer", "<think>\n\n</think>\n\n"),
        ("<think>\n\n</think>\n\n", "answer", "<think>\n\n</think>\n\n"),
    ],
)
def test_where_the_target_is_placed(prefix, place, expected):
    assert text_before_target(prefix, place) == expected


@pytest.mark.parametrize("points", [1, 2, 5])
def test_a_crossing_changes_sides_at_as_many_places_as_are_allowed(points):
    one, other = (f"{letter}. " * 20 + BEHAVIOR_SLOT for letter in "AB")
    changes = set()
    for seed in range(60):
        child = cross_frames(one, other, points, random.Random(seed))[0].replace(BEHAVIOR_SLOT, "").split()
        changes.add(sum(a != b for a, b in pairwise(child)))
    assert changes == set(range(points + 1))
