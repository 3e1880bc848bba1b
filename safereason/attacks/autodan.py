"""AutoDAN: readable prompts, bred by a hierarchical genetic algorithm (Liu et al., arXiv 2310.04451).

Each prompt of a population is a frame around the behavior. Its fitness is the mean log-likelihood of the behavior's
target text as the beginning of the model's completion. The fittest prompts survive. The rest are replaced by offspring
of parents that the roulette wheel picks: by crossover of sentences in some generations, and by replacement of words in
the others.

Deviations:
1. The seeds are frames of our own; pass `seeds` for others, such as the original's.
2. The behavior stays where it is in each parent, so that no child loses it: sentences before it are crossed with
   sentences before it, and those after it likewise. The original crosses paragraph by paragraph.
3. Synonyms come from a list (`synonyms`) instead of WordNet. They are drawn by the softmax of their scores, so that a
   word not yet seen has a chance too; the original gives it none. No word is dropped from the scores.
4. Without an attacker, a mutation replaces words where the original has a model reword the prompt. With one, it rewords
   one paragraph, and one that comes back much longer or without its slot is not taken.
5. The search ends when each token of the target text is the likeliest one (`early_stop`). The original answers in each
   generation, HarmBench in every fifth, and looks for the words of a refusal.
"""

import random
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean

from pydantic import Field

from safereason.attacks.base import Attack, AttackSettings, Need, SearchStep, Setup, TestCase
from safereason.attacks.frames import BEHAVIOR_SLOT, PROMPTS_FOLDER, fill_frame, read_frames
from safereason.attacks.genetic import WordScores, cross_frames, read_synonyms, softmax_weights
from safereason.attacks.target_position import (
    TargetPosition,
    check_target_texts,
    require_target_text,
    text_before_target,
)
from safereason.data.example import Example
from safereason.engines.base import Completion, Engine, GenerateOptions, Likelihood, Sampling
from safereason.files import read_text
from safereason.text.chat import user
from safereason.text.template import filled

REWORDING = Sampling(temperature=1.0, max_new_tokens=512)
"""Sampling of the attacker's rewordings."""
GROWTH = 2.0
"""Maximum length of a frame, relative to the longest seed, so that rewording does not fill the context."""


class AutoDANSettings(AttackSettings):
    """The figures of HarmBench's AutoDAN, and those of the original's hierarchical variant where HarmBench has none."""

    steps: int = Field(100, ge=1)
    """Generations."""
    population: int = Field(64, ge=2)
    """Prompts of a generation."""
    elites: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of a generation that survives unchanged, at least one prompt; the original's code has 0.05."""
    crossover: float = Field(0.5, ge=0.0, le=1.0)
    """Probability that two parents are crossed; in a generation of words, that a word is sampled again."""
    points: int = Field(5, ge=1)
    """Maximum number of crossover points."""
    mutation: float = Field(0.01, ge=0.0, le=1.0)
    """Probability that a child is reworded."""
    sentences_every: int = Field(5, ge=1)
    """Generations from one crossover of sentences to the next, with words replaced in between. The original's
    hierarchical variant; 1 never replaces words, as HarmBench does."""
    early_stop: bool = True
    """Whether the search ends when greedy decoding gives the whole target text."""
    place: TargetPosition = "reasoning"
    """Position of the target text in a reasoning model's completion: after its generation prefix, or as its answer."""
    seeds: str | None = None
    """Text file of initial prompts, lines of `===` between them, each with one {behavior}; None takes our own."""
    synonyms: str | None = None
    """Text file of synonyms, those of one group on each line; None takes our own."""


def search_autodan(behaviors: Sequence[Example], settings: AutoDANSettings, setup: Setup) -> Iterator[SearchStep]:
    """One step for each generation, after a step with the first seed.

    Raises:
        InputError: The behavior has no target text, or a file of the settings does not fit.
    """
    [behavior] = behaviors
    target_text = require_target_text("autodan", behavior)
    prefix = text_before_target(setup.prefix, settings.place)
    breeder = Breeder(settings, setup.attacker, random.Random(setup.seed))
    # Before the first query, so that a budget that is spent at once still leaves a test case.
    yield SearchStep(0, (TestCase(behavior.id, "autodan", fill_frame(breeder.seeds[0], behavior.prompt)),))
    population = breeder.first()
    likelihoods: dict[str, Likelihood] = {}
    for number in range(1, settings.steps + 1):
        # Elites and equal children come again, and a query for one would only repeat its likelihood.
        new = [frame for frame in dict.fromkeys(population) if frame not in likelihoods]
        conversations = [user(fill_frame(frame, behavior.prompt)) for frame in new]
        scored = setup.target_model.loglikelihood(conversations, [target_text] * len(new), prefix=prefix)
        likelihoods |= zip(new, scored, strict=True)
        best = _fittest(likelihoods, settings.early_stop)
        loss = -mean_logprob(likelihoods[best])
        is_greedy = likelihoods[best].is_greedy
        details = {"loss": loss, "greedy": is_greedy}
        case = TestCase(behavior.id, "autodan", fill_frame(best, behavior.prompt), details=details)
        yield SearchStep(number, (case,), loss)
        if settings.early_stop and is_greedy:
            return
        # The last generation has no offspring: an attacker would be paid for prompts that nobody scores.
        if number < settings.steps:
            fitness = [mean_logprob(likelihoods[frame]) for frame in population]
            population = breeder.following(population, fitness, number)


def _fittest(likelihoods: dict[str, Likelihood], early_stop: bool) -> str:
    """The frame with the likeliest target text. With `early_stop`, one that ends the search comes before all others."""

    def rank(frame: str) -> tuple[bool, float]:
        likelihood = likelihoods[frame]
        return early_stop and likelihood.is_greedy, mean_logprob(likelihood)

    return max(likelihoods, key=rank)


def mean_logprob(likelihood: Likelihood) -> float:
    """Mean log-likelihood of a target text's tokens, in nats: the fitness of its prompt."""
    return fmean(likelihood.token_logprobs)


class Breeder:
    """The genetic algorithm: it makes each generation of frames from the one before."""

    def __init__(self, settings: AutoDANSettings, attacker: Engine | None, rng: random.Random) -> None:
        """Reads the files that the settings name.

        Raises:
            InputError: A file cannot be read or does not fit.
        """
        self.settings = settings
        self.attacker = attacker
        self.rng = rng
        self.seeds = read_frames(settings.seeds or PROMPTS_FOLDER / "autodan_seeds.txt")[: settings.population]
        synonyms = read_text(Path(settings.synonyms or PROMPTS_FOLDER / "autodan_synonyms.txt"))
        self.words = WordScores(read_synonyms(synonyms.splitlines()))
        self._max_length = GROWTH * max(map(len, self.seeds))
        self._rewording_prompt = read_text(PROMPTS_FOLDER / "autodan_reword.txt")

    def first(self) -> list[str]:
        """The first generation: the seeds, and mutations of them up to the population's size."""
        missing = self.settings.population - len(self.seeds)
        repeated = list(islice(cycle(self.seeds), missing))
        return self.seeds + self._mutate(repeated)

    def following(self, frames: Sequence[str], fitness: Sequence[float], number: int) -> list[str]:
        """The next generation: the elite, then offspring.

        Args:
            frames: This generation.
            fitness: The fitness of each of its frames; larger is better.
            number: The number of this generation, from 1.
        """
        settings = self.settings
        self.words.learn(frames, fitness)
        elite = self._elite(frames, fitness)
        # The roulette wheel: a fit frame may be a parent several times.
        parents = self.rng.choices(frames, softmax_weights(fitness), k=settings.population - len(elite))
        if (number - 1) % settings.sentences_every == 0:
            children = self._cross(parents)
        else:
            children = self._replace_words(parents)
        chosen: list[int] = []
        for i in range(len(children)):
            if self.rng.random() < settings.mutation:
                chosen.append(i)
        # All at once, so that the attacker can reword them as a batch.
        mutants = self._mutate([children[i] for i in chosen])
        for i, mutant in zip(chosen, mutants, strict=True):
            children[i] = mutant
        # A child that has grown too long gives its place back to its parent.
        for i, parent in enumerate(parents):
            if len(children[i]) > self._max_length:
                children[i] = parent
        return elite + children

    def _elite(self, frames: Sequence[str], fitness: Sequence[float]) -> list[str]:
        """The fittest frames, each once: copies of the best would leave no room for others."""
        ranked = sorted(range(len(frames)), key=lambda i: -fitness[i])
        distinct = list(dict.fromkeys(frames[i] for i in ranked))
        # At least one, so that the best prompt is never lost.
        size = max(1, int(self.settings.elites * self.settings.population))
        return distinct[:size]

    def _cross(self, parents: Sequence[str]) -> list[str]:
        """The children of parents taken in pairs; a pair that is not crossed, and an odd last parent, stay."""
        children = list(parents)
        for i in range(0, len(parents) - 1, 2):
            if self.rng.random() < self.settings.crossover:
                children[i : i + 2] = cross_frames(parents[i], parents[i + 1], self.settings.points, self.rng)
        return children

    def _mutate(self, frames: Sequence[str]) -> list[str]:
        """Each frame with one paragraph reworded by the attacker, or with words replaced if there is no attacker."""
        if self.attacker is None or not frames:
            return self._replace_words(frames)
        paragraphs_by_frame: list[list[str]] = []
        positions: list[int] = []
        conversations = []
        for frame in frames:
            paragraphs = frame.split("\n\n")
            position = self.rng.randrange(len(paragraphs))
            paragraphs_by_frame.append(paragraphs)
            positions.append(position)
            conversations.append(user(filled(self._rewording_prompt, {"{paragraph}": paragraphs[position]})))
        replies = self.attacker.generate(conversations, REWORDING, GenerateOptions(seed=self.rng.randrange(2**31)))
        mutants: list[str] = []
        for paragraphs, position, [reply] in zip(paragraphs_by_frame, positions, replies, strict=True):
            paragraphs[position] = _reworded(paragraphs[position], reply)
            mutants.append("\n\n".join(paragraphs))
        return mutants

    def _replace_words(self, frames: Sequence[str]) -> list[str]:
        """Each frame with some words replaced by synonyms."""
        replaced: list[str] = []
        for frame in frames:
            replaced.append(self.words.replace_words(frame, self.settings.crossover, self.rng))
        return replaced


def _reworded(paragraph: str, reply: Completion) -> str:
    """The attacker's paragraph, or the old one if the reply is cut off, empty, or has lost or doubled a slot."""
    new = reply.parts.answer.strip()
    has_slot = new.count(BEHAVIOR_SLOT) == paragraph.count(BEHAVIOR_SLOT)
    # One that was cut off would end in the middle of a sentence.
    if reply.finish_reason == "stop" and new and has_slot:
        return new
    return paragraph


def check_autodan(behaviors: Sequence[Example], settings: AutoDANSettings, available: frozenset[Need]) -> None:
    """Refuses behaviors without a target text, and files that do not fit."""
    check_target_texts("autodan", behaviors)
    # A breeder reads its files when it is made. Nothing is drawn here, so the seed does not matter.
    Breeder(settings, None, random.Random(0))


ATTACK = Attack(
    "autodan",
    "A genetic search for readable prompts that make the target text likely",
    search_autodan,
    frozenset({"likelihood"}),
    AutoDANSettings,
    uses=frozenset({"attacker"}),
    check=check_autodan,
)
