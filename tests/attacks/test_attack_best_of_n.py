"""Best-of-N: how spellings change, and that the best one is kept until one is good enough."""

import random
from pathlib import Path

import attack_setup
import pytest
from attack_setup import BEHAVIOR
from hypothesis import given
from hypothesis import strategies as st

from safereason.attacks.base import SearchStep, Setup
from safereason.attacks.best_of_n import ATTACK, BestOfNSettings, augment
from safereason.attacks.meter import SpentError
from safereason.engines.open import open_engine
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError


@given(text=st.text(max_size=60), sigma=st.floats(0, 1), seed=st.integers())
def test_a_spelling_is_as_long_as_the_text_and_belongs_to_its_seed(text: str, sigma: float, seed: int):
    spelt = augment(text, sigma, random.Random(seed))
    assert len(spelt) == len(text)
    assert spelt == augment(text, sigma, random.Random(seed))
    assert augment(text, 0.0, random.Random(seed)) == text


@given(words=st.lists(st.text("abcdefg", min_size=1, max_size=9), max_size=6), seed=st.integers())
def test_without_shifts_each_word_keeps_its_letters_and_its_ends(words: list[str], seed: int):
    spelt = augment(" ".join(words), 0.004, random.Random(seed))  # a shift has a probability of 6e-8
    for word, new in zip(words, spelt.lower().split(), strict=True):
        assert (sorted(word), word[0], word[-1]) == (sorted(new), new[0], new[-1])


def test_each_change_happens_as_often_as_the_strength_says():
    letters = "x" * 20_000
    flipped = sum(c.isupper() for c in augment(letters, 0.25, random.Random(0)))
    assert flipped / len(letters) == pytest.approx(0.5, abs=0.02)
    shifted = sum(c.lower() in "wy" for c in augment(letters, 0.5, random.Random(0)))
    assert shifted / len(letters) == pytest.approx(0.125, abs=0.02)
    words = augment("abcdefghij " * 5_000, 0.0625, random.Random(0)).lower().split()
    assert sum(word != "abcdefghij" for word in words) / len(words) == pytest.approx(0.25, abs=0.03)


def search(engine, **settings) -> list[SearchStep]:
    values = {"n": 12, "batch": 5, "stop_at": 1.0, **settings}
    return attack_setup.steps(
        ATTACK, BestOfNSettings(**values), attack_setup.metered(engine, attack_setup.by_number, seed=3)
    )


def capitals(prompt: str) -> str:
    """A score that grows with the capitals; no score where there are few."""
    share = sum(c.isupper() for c in prompt) / len(prompt)
    return f"{share:.3f}" if share > 0.4 else "few"


def test_the_best_so_far_is_kept_at_each_step_and_unscored_answers_are_counted():
    with attack_setup.target(capitals) as engine:
        steps = search(engine)
        prompts = [request["messages"][-1]["content"] for request in engine.server.requests]
    assert [step.number for step in steps] == [0, 1, 2, 3]
    assert (steps[0].cases[0].prompt, steps[0].value) == (BEHAVIOR.prompt, None)
    assert len(prompts) == len(set(prompts)) == 12
    scores = {prompt: float(capitals(prompt)) for prompt in prompts if capitals(prompt) != "few"}
    best = steps[-1].cases[0]
    assert 0 < len(scores) < 12
    assert (scores[best.prompt], steps[-1].value) == (max(scores.values()),) * 2
    assert (best.details["tries"], best.details["unscored"]) == (12, 12 - len(scores))
    values = [step.value for step in steps if step.value is not None]
    assert values == sorted(values)


def test_the_same_seed_finds_the_same_and_a_good_answer_ends_it():
    with attack_setup.target(capitals) as engine:
        assert search(engine) == search(engine)
        engine.server.requests.clear()
        assert [step.number for step in search(engine, stop_at=0.41)] == [0, 1]
        assert len(engine.server.requests) == 5


def test_a_budget_ends_it_with_the_best_so_far():
    with attack_setup.target(capitals) as engine:
        setup = attack_setup.metered(engine, attack_setup.by_number, most=7, seed=3)
        steps = ATTACK.search([BEHAVIOR], BestOfNSettings(n=12, batch=5, stop_at=1.0), setup)
        assert [next(steps).number, next(steps).number] == [0, 1]
        with pytest.raises(SpentError):
            next(steps)
        assert setup.meter.queries == len(engine.server.requests) == 5


def test_failed_answers_are_unscored():
    with attack_setup.target(capitals) as engine:
        engine.server.status_of = lambda body: 500 if len(engine.server.requests) > 6 else 200
        (last,) = search(engine)[-1].cases
    assert last.details["tries"] == 12
    assert last.details["unscored"] >= 6


def test_a_local_model_reasons_and_only_its_answer_is_judged(micro_model: Path):
    judged: list[str] = []

    def score(behavior, answers):
        judged.extend(answers)
        return [0.1 * len(answer) % 1 for answer in answers]

    setup = attack_setup.metered(open_engine(ModelSpec.parse(str(micro_model))), score, prefix="<think>\n</think>\n\n")
    last = attack_setup.steps(ATTACK, BestOfNSettings(n=3, batch=2, stop_at=1.0), setup)[-1]
    assert len(judged) == setup.meter.queries == 3
    assert not any("think>" in answer for answer in judged)
    assert setup.meter.completion_tokens > 0
    assert last.value == max(0.1 * len(answer) % 1 for answer in judged)


def test_it_needs_a_judge(micro_model: Path):
    with pytest.raises(InputError, match="attack best-of-n: needs a judge"):
        attack_setup.steps(ATTACK, BestOfNSettings(n=1), Setup(open_engine(ModelSpec.parse(str(micro_model)))))
