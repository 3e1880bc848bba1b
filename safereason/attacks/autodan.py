"""AutoDAN: prompts that read like prompts, bred by a hierarchical genetic algorithm (Liu et al., arXiv 2310.04451).

Each prompt of a population is a frame around the behavior. Its fitness is the mean log-likelihood of the behavior's
target as what the model writes first. The fittest live on; the others' places go to offspring of parents drawn at the
roulette wheel, by crossing of sentences in some generations and by replacing words in the others.

Deviations:
1. The seeds are frames of our own; pass `seeds` for others, such as the original's.
2. The behavior stays where it is in each parent, so that no child loses it: what stands before it is crossed with what
   stands before it, and so after it. The original crosses paragraph by paragraph.
3. Synonyms come from a list (`synonyms`) instead of WordNet. They are drawn by the softmax of their scores, so that a
   word not yet seen has a chance too; the original gives it none. No word is dropped from the scores.
4. Without an attacker, a mutation replaces words where the original has a model reword the prompt. With one, it rewords
   one paragraph, and one that comes back much longer or without its placeholder is not taken.
5. The search ends when each token of the target is the likeliest one (`early_stop`). The original answers in each
   generation, HarmBench in every fifth, and looks for the words of a refusal.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import Field

from safereason.attacks import base
from safereason.attacks.base import Attack, Need, Setup, Step, TestCase
from safereason.attacks.frames import PROMPTS, SLOT, filled, read_frames
from safereason.attacks.genetic import Words, chances, crossed, synonyms
from safereason.attacks.placing import Place, check_targets, opening, target_of
from safereason.data.example import Example
from safereason.engines.base import Engine, Likelihood, Sampling
from safereason.files import read_text
from safereason.text.chat import user

REWORDING = Sampling(temperature=1.0, max_new_tokens=512)
"""How the attacker rewords."""
GROWTH = 2.0
"""A frame longer than the longest seed by this factor is not taken, so that rewording does not fill the context."""


class Settings(base.Settings):
    """The figures of HarmBench's AutoDAN, and those of the original's hierarchical variant where HarmBench has none."""

    steps: int = Field(100, ge=1)
    """Generations."""
    population: int = Field(64, ge=2)
    """Prompts of a generation."""
    elites: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of a generation that lives on as it is, at least one; the original's code has 0.05."""
    crossover: float = Field(0.5, ge=0.0, le=1.0)
    """How likely two parents are crossed; in a generation of words, how likely a word is drawn anew."""
    points: int = Field(5, ge=1)
    """Places at most where a crossing changes sides."""
    mutation: float = Field(0.01, ge=0.0, le=1.0)
    """How likely a child is reworded."""
    sentences_every: int = Field(5, ge=1)
    """Generations from one crossing of sentences to the next, words being replaced in between. The original's
    hierarchical variant; 1 never replaces words, as HarmBench does."""
    early_stop: bool = True
    """End when the whole target is what the model would write greedily."""
    place: Place = "reasoning"
    """Where a reasoning model is to write the target: right after its generation prefix, or as its answer."""
    seeds: str | None = None
    """Text file of prompts to begin with, lines of `===` between them, each with one {behavior}; None takes our own."""
    synonyms: str | None = None
    """Text file, words of a like meaning on each line; None takes our own."""


def search(behaviors: Sequence[Example], settings: Any, setup: Setup) -> Iterator[Step]:
    """Breeds prompts for a behavior; a step a generation, the first of what the search begins with.

    Raises:
        InputError: The behavior has no target, or a file of the settings does not fit.
    """
    [behavior] = behaviors
    goal = target_of("autodan", behavior)
    prefix = opening(setup.prefix, settings.place)
    breeder = Breeder(settings, setup.attacker, random.Random(setup.seed))
    yield Step(0, (TestCase(behavior.id, "autodan", filled(breeder.seeds[0], behavior.prompt)),))
    population = breeder.first()
    scored: dict[str, Likelihood] = {}
    for number in range(1, settings.steps + 1):
        new = [frame for frame in dict.fromkeys(population) if frame not in scored]
        asked = [user(filled(frame, behavior.prompt)) for frame in new]
        scored |= zip(new, setup.target.loglikelihood(asked, [goal] * len(new), prefix=prefix), strict=True)
        best = max(scored, key=lambda f: (settings.early_stop and scored[f].is_greedy, fitness_of(scored[f])))
        loss, greedy = -fitness_of(scored[best]), scored[best].is_greedy
        details = {"loss": loss, "greedy": greedy}
        yield Step(number, (TestCase(behavior.id, "autodan", filled(best, behavior.prompt), details=details),), loss)
        if settings.early_stop and greedy:
            return
        if number < settings.steps:
            population = breeder.following(population, [fitness_of(scored[frame]) for frame in population], number)


def fitness_of(likelihood: Likelihood) -> float:
    """Mean log-likelihood of a target's token, in nats."""
    return fmean(likelihood.token_logprobs)


class Breeder:
    """Makes a generation of frames from the one before."""

    def __init__(self, settings: Settings, attacker: Engine | None, rng: random.Random) -> None:
        self.settings, self.attacker, self.rng = settings, attacker, rng
        self.seeds = read_frames(settings.seeds or PROMPTS / "autodan_seeds.txt")[: settings.population]
        self.words = Words(
            synonyms(read_text(Path(settings.synonyms or PROMPTS / "autodan_synonyms.txt")).splitlines())
        )
        self._longest = GROWTH * max(map(len, self.seeds))
        self._order = read_text(PROMPTS / "autodan_reword.txt")

    def first(self) -> list[str]:
        """The seeds, and mutations of them up to the population."""
        missing = self.settings.population - len(self.seeds)
        return self.seeds + self._mutated([self.seeds[i % len(self.seeds)] for i in range(missing)])

    def following(self, frames: Sequence[str], fitness: Sequence[float], number: int) -> list[str]:
        """The next generation: the elite, then offspring.

        Args:
            frames: This generation.
            fitness: Of each of its frames; the larger the better.
            number: Its number, from 1.
        """
        settings, rng = self.settings, self.rng
        self.words.learn(frames, fitness)
        ranked = sorted(range(len(frames)), key=lambda i: -fitness[i])
        distinct = list(dict.fromkeys(frames[i] for i in ranked))
        elite = distinct[: max(1, int(settings.elites * settings.population))]
        parents = rng.choices(frames, chances(fitness), k=settings.population - len(elite))
        if (number - 1) % settings.sentences_every == 0:
            children = self._crossed(parents)
        else:
            children = [self.words.replaced(parent, settings.crossover, rng) for parent in parents]
        chosen = [i for i in range(len(children)) if rng.random() < settings.mutation]
        for i, child in zip(chosen, self._mutated([children[i] for i in chosen]), strict=True):
            children[i] = child
        return elite + [c if len(c) <= self._longest else p for p, c in zip(parents, children, strict=True)]

    def _crossed(self, parents: Sequence[str]) -> list[str]:
        children = list(parents)
        for i in range(0, len(parents) - 1, 2):
            if self.rng.random() < self.settings.crossover:
                children[i : i + 2] = crossed(parents[i], parents[i + 1], self.settings.points, self.rng)
        return children

    def _mutated(self, frames: Sequence[str]) -> list[str]:
        """Each frame with one paragraph reworded by the attacker, or with words replaced where there is none."""
        if self.attacker is None or not frames:
            return [self.words.replaced(frame, self.settings.crossover, self.rng) for frame in frames]
        split = [frame.split("\n\n") for frame in frames]
        places = [self.rng.randrange(len(paragraphs)) for paragraphs in split]
        old = [paragraphs[place] for paragraphs, place in zip(split, places, strict=True)]
        asked = [user(self._order.replace("{paragraph}", paragraph)) for paragraph in old]
        replies = self.attacker.generate(asked, REWORDING, seed=self.rng.randrange(2**31))
        for paragraphs, place, [reply] in zip(split, places, replies, strict=True):
            new = reply.parts.answer.strip()
            if reply.finish_reason == "stop" and new and new.count(SLOT) == paragraphs[place].count(SLOT):
                paragraphs[place] = new
        return ["\n\n".join(paragraphs) for paragraphs in split]


def check(behaviors: Sequence[Example], settings: Any, at_hand: frozenset[Need]) -> None:
    """Refuses behaviors without a target, and files that do not fit."""
    check_targets("autodan", behaviors)
    Breeder(settings, None, random.Random(0))


ATTACK = Attack(
    "autodan",
    "A genetic search for readable prompts that make the target likely",
    search,
    frozenset({"likelihood"}),
    Settings,
    uses=frozenset({"attacker"}),
    check=check,
)
