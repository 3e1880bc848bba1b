"""Random search for a suffix, guided by log-probabilities alone (Andriushchenko et al., arXiv 2404.02151).

Random tokens or characters replace a span of the suffix at a random position. The change is kept if the target text's
first token becomes likelier. No gradient, and no weights, are needed.

Deviations:
1. Several candidates are drawn from one suffix and scored together (`batch`), and the best of them is kept where it is
   better; 1 is the paper's search, one after the other.
2. The prompt is the behavior's own text unless `template` names a file; the paper's is a long one written by hand, to
   which its figures belong.
3. A changed span lies inside the suffix, which thus keeps its length; tokens are drawn from those that are text by
   themselves, none of them special.
4. A restart ends when the first tokens have the probability `enough`: over one half, the model writes them when it is
   greedy. The paper also asks a judge, and restarts where it says no.
"""

import math
import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from safereason.attacks.base import Attack, AttackSettings, Need, SearchStep, Setup, TestCase
from safereason.attacks.frames import BEHAVIOR_SLOT, read_frames
from safereason.attacks.target_position import (
    TargetPosition,
    check_target_texts,
    require_target_text,
    text_before_target,
)
from safereason.data.example import Example
from safereason.engines.base import Engine
from safereason.errors import InputError
from safereason.text.chat import user
from safereason.text.template import filled

SUFFIX = "{suffix}"
"""Slot of the suffix in a template; without it, the suffix ends the prompt."""
_CHARACTERS = string.digits + string.ascii_letters + string.punctuation + " "

ScoreSuffixes = Callable[[Sequence[Sequence[int]]], list[float]]
"""The log-probability of the target text's first tokens after each suffix."""


class RandomSearchSettings(AttackSettings):
    """The figures of the paper's code where it has them."""

    candidates: int = Field(10_000, ge=1)
    """Candidate suffixes of one restart."""
    batch: int = Field(32, ge=1)
    """Candidates of one step, scored together."""
    restarts: int = Field(1, ge=1)
    """Searches, each from the same initial suffix."""
    unit: Literal["token", "character"] = "token"
    """Unit of the suffix."""
    length: int = Field(25, ge=1)
    """Units of the suffix; the paper's code has 25 tokens, or 100 characters."""
    change: int = Field(4, ge=1)
    """Longest span that is changed at once, in units."""
    schedule: Literal["probability", "constant"] = "probability"
    """Whether the span halves when the first tokens' probability passes 0.01, and again at 0.1."""
    first: int = Field(1, ge=1)
    """Number of the target text's first tokens whose log-probability is maximised."""
    enough: float = Field(0.5, gt=0.0, le=1.0)
    """Probability of those tokens at which the search ends; 1 goes on to the last candidate."""
    place: TargetPosition = "reasoning"
    """Position of the target text in a reasoning model's completion: after its generation prefix, or as its answer."""
    template: str | None = None
    """Text file of a prompt with one {behavior}; {suffix} in it marks the suffix's position, by default the end."""


@dataclass(frozen=True)
class Alphabet:
    """The units of suffixes: token ids, or positions in a list of characters."""

    text: Callable[[Sequence[int]], str]
    """Text of a suffix, from its units."""
    units: Sequence[int]
    """Units that a change draws from."""
    start: Sequence[int]
    """Units of the initial suffix."""


def search_random(behaviors: Sequence[Example], settings: RandomSearchSettings, setup: Setup) -> Iterator[SearchStep]:
    """Searches a suffix for a behavior. The initial suffix is step 0, and then each batch of candidates is a step.

    Raises:
        InputError: The behavior has no target text, the template does not fit, or the engine has no tokenizer.
    """
    [behavior] = behaviors
    target_text = require_target_text("random-search", behavior)
    template = read_suffix_template(settings.template)
    alphabet = build_alphabet(settings, setup.target_model)
    rng = random.Random(setup.seed)
    prefix = text_before_target(setup.prefix, settings.place)

    def fill_prompt(suffix: Sequence[int]) -> str:
        return filled(template, {BEHAVIOR_SLOT: behavior.prompt, SUFFIX: alphabet.text(suffix)})

    def score_suffixes(suffixes: Sequence[Sequence[int]]) -> list[float]:
        conversations = [user(fill_prompt(suffix)) for suffix in suffixes]
        target_texts = [target_text] * len(conversations)
        likelihoods = setup.target_model.loglikelihood(conversations, target_texts, prefix=prefix)
        return [sum(likelihood.token_logprobs[: settings.first]) for likelihood in likelihoods]

    # Before the first query, so that a budget that is spent at once still leaves a test case.
    yield SearchStep(0, (TestCase(behavior.id, "random-search", fill_prompt(alphabet.start)),))
    best_suffix: Sequence[int] = alphabet.start
    best_logprob = -math.inf
    number = 0
    for _ in range(settings.restarts):
        for suffix, logprob in climb(alphabet, score_suffixes, settings, rng):
            number += 1
            # The best of all restarts is reported, which need not be that of the current one.
            if logprob > best_logprob:
                best_suffix = suffix
                best_logprob = logprob
            details = {"loss": -best_logprob, "suffix": alphabet.text(best_suffix)}
            case = TestCase(behavior.id, "random-search", fill_prompt(best_suffix), details=details)
            yield SearchStep(number, (case,), -best_logprob)
        # A further restart is for a search that got stuck.
        if best_logprob >= math.log(settings.enough):
            return


def climb(
    alphabet: Alphabet, score_suffixes: ScoreSuffixes, settings: RandomSearchSettings, rng: random.Random
) -> Iterator[tuple[Sequence[int], float]]:
    """One restart. Yields the best suffix so far and its log-probability, first of the start, then after each batch."""
    best_suffix = alphabet.start
    [best_logprob] = score_suffixes([best_suffix])
    yield best_suffix, best_logprob
    candidates_left = settings.candidates
    while candidates_left and best_logprob < math.log(settings.enough):
        # The probability of the best suffix so far, so the span may shrink but never grows again.
        length = span_length(settings, math.exp(best_logprob))
        batch_size = min(settings.batch, candidates_left)
        candidates = [replace_span(best_suffix, alphabet.units, length, rng) for _ in range(batch_size)]
        candidates_left -= batch_size
        for candidate, logprob in zip(candidates, score_suffixes(candidates), strict=True):
            if logprob > best_logprob:
                best_suffix = candidate
                best_logprob = logprob
        yield best_suffix, best_logprob


def span_length(settings: RandomSearchSettings, probability: float) -> int:
    """Number of units to change at once, given the probability of the target text's first tokens."""
    if settings.schedule == "constant" or probability <= 0.01:
        return settings.change
    # The closer the search is, the smaller the steps: a long change would undo more than it gains.
    if probability <= 0.1:
        return max(1, settings.change // 2)
    return max(1, settings.change // 4)


def replace_span(suffix: Sequence[int], units: Sequence[int], length: int, rng: random.Random) -> list[int]:
    """The suffix with one span of random units; all of it is replaced if it is no longer than the span."""
    length = min(length, len(suffix))
    start = rng.randint(0, len(suffix) - length)
    return [*suffix[:start], *rng.choices(units, k=length), *suffix[start + length :]]


def build_alphabet(settings: RandomSearchSettings, engine: Engine) -> Alphabet:
    """The units of suffixes for an engine.

    Raises:
        InputError: The unit is the token, and the engine has no tokenizer.
    """
    if settings.unit == "character":
        return _character_alphabet(settings.length)
    tokenizer = engine.tokenizer
    if tokenizer is None:
        raise InputError(f"attack random-search: {engine.name} has no tokenizer here; set unit to character")
    # Added tokens, too: a chat template's control tokens need not be marked as special.
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    ids = [i for i in range(len(tokenizer)) if i not in special]
    units: list[int] = []
    for i, text in zip(ids, tokenizer.batch_decode([[i] for i in ids]), strict=True):
        # A token that is a part of a character decodes to U+FFFD, and would not survive as text.
        if text and "\ufffd" not in text:
            units.append(i)
    # More marks than needed, because a tokenizer may make one token of several; the rest is cut off.
    start = tokenizer("!" + " !" * settings.length, add_special_tokens=False)["input_ids"][: settings.length]
    return Alphabet(lambda suffix: str(tokenizer.decode(list(suffix))), units, start)


def _character_alphabet(length: int) -> Alphabet:
    """Characters that can be typed; the initial suffix is underscores."""

    def decode(suffix: Sequence[int]) -> str:
        return "".join(_CHARACTERS[i] for i in suffix)

    start = [_CHARACTERS.index("_")] * length
    return Alphabet(decode, range(len(_CHARACTERS)), start)


def read_suffix_template(path: str | None) -> str:
    """The prompt of a file, or the behavior alone; with a slot for the suffix.

    Raises:
        InputError: The file cannot be read, or does not hold one prompt with at most one `{suffix}`.
    """
    if path is None:
        return f"{BEHAVIOR_SLOT} {SUFFIX}"
    frames = read_frames(path)
    if len(frames) != 1 or frames[0].count(SUFFIX) > 1:
        raise InputError(f"{path}: one prompt with at most one {SUFFIX} is expected; leave out the rest")
    if SUFFIX in frames[0]:
        return frames[0]
    return f"{frames[0]} {SUFFIX}"


def check_random_search(
    behaviors: Sequence[Example], settings: RandomSearchSettings, available: frozenset[Need]
) -> None:
    """Refuses behaviors without a target text, and a template that does not fit."""
    check_target_texts("random-search", behaviors)
    read_suffix_template(settings.template)


ATTACK = Attack(
    "random-search",
    "A suffix found by random changes that make the target text's first token likelier",
    search_random,
    frozenset({"likelihood"}),
    RandomSearchSettings,
    check=check_random_search,
)
