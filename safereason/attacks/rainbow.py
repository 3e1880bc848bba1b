"""Rainbow teaming: a search that fills an archive of risks and styles (Samvelyan et al., arXiv 2402.16822).

TARS (arXiv 2507.00971, app. E) attacks its SFT model this way to get harmful prompts for RL: 10 risks, 12 styles, 1000
iterations an archive, and as many archives as 800 prompts take. It names neither its mutator nor its judge.

Deviations:
1. A prompt too like its parent is dropped by `difflib`'s ratio of the two word lists, not by BLEU.
2. The mutator is given no examples of rewritten prompts; the descriptions of risks and styles are ours.
3. A parent is the champion of a cell drawn uniformly, and a seed where that cell is empty: seeds fade out as it fills.
4. The cells of an iteration differ, so that its candidates can be worked on together and none competes with another.
5. Each answer is scored by a judge. The score says which cells are weak and which attacks succeeded, and without a
   comparing judge also which prompt stays; the paper's comparison is there with one.
6. A candidate needs more than half of the comparing judge's votes, half of them in the other order; an unreadable vote
   is not for it. With one vote an order that is both.
7. A candidate that the mutator refused to write, that was cut off, or that no score could be had for, does not enter.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import partial
from math import exp
from random import Random

from pydantic import Field, PositiveFloat, PositiveInt

from safereason.attacks.base import AttackSettings
from safereason.attacks.meter import Meter, Metered
from safereason.attacks.rainbow_archive import Archive, Candidate, Cell
from safereason.attacks.rainbow_templates import JUDGE, RISK, STYLE, RainbowTemplates
from safereason.attacks.rating import PairScoreFunction
from safereason.data.example import Example
from safereason.engines.base import Completion, Engine, GenerateOptions, Sampling
from safereason.text.chat import user
from safereason.text.inert import special_tokens
from safereason.text.reasoning import OPEN

FAILED, NOTHING, REFUSED, CUT_OFF = "failed", "nothing written", "refused by the mutator", "cut off"
TOO_LONG, NEAR_COPY, UNSCORED = "too long", "a near copy", "unscored"

# Mutators often repeat the markers of their prompt around the new request, or put a label before it.
_BEGIN = re.compile("<begin request>", re.IGNORECASE)
_END = re.compile("<end request>", re.IGNORECASE)
_LABEL = re.compile(r"^(?:(?:here is|the|a|new|rewritten) ){0,3}request:\s*", re.IGNORECASE)
_VERDICT = re.compile(r"verdict\W{1,6}([AB])\b", re.IGNORECASE)


class RainbowSettings(AttackSettings):
    """Settings of rainbow teaming."""

    iterations: PositiveInt = 1000
    """Iterations of one archive (TARS, app. E)."""
    prompts: PositiveInt | None = None
    """Distinct prompts to find, 800 for TARS: archives are added until so many entered one; null makes one archive."""
    archives: PositiveInt = 20
    """Maximum number of archives with `prompts`."""
    batch: PositiveInt = 8
    """Candidates of an iteration, each for a cell of its own."""
    temperature: PositiveFloat = 0.1
    """Temperature of the softmax over negative scores that draws cells; a lower one favours weak cells more."""
    near_copy: float = Field(default=0.8, gt=0, le=1)
    """Ratio of shared words from which on a prompt is a copy of its parent (the paper: BLEU above 0.6)."""
    most_characters: PositiveInt = 1000
    """Maximum length of a prompt; TARS's RL takes no longer ones."""
    mutator_sampling: Sampling = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=256)
    """Sampling of the mutator's prompts."""
    judge_sampling: Sampling = Sampling(temperature=0.0, max_new_tokens=512)
    """Sampling of the comparing judge's replies."""
    votes: PositiveInt = 1
    """Votes of the comparing judge in each order; more than one makes sense if its replies differ."""
    templates: str | None = None
    """Folder with files of the names of `rainbow_*.txt` that replace ours."""

    @property
    def most_archives(self) -> int:
        """Maximum number of archives."""
        if self.prompts is None:
            return 1
        return self.archives


@dataclass(frozen=True)
class Team:
    """The models and judges of a search."""

    target_model: Engine
    """The target model, which is under attack."""
    mutator: Engine
    """The model that writes prompts."""
    sampling: Sampling
    """Sampling of the target model's answers."""
    score: PairScoreFunction
    """The judge of single answers: the harm of each pair of a prompt and an answer."""
    refuses: Callable[[str], bool]
    """Whether a text of the mutator is a refusal."""
    judge: Engine | None = None
    """The comparing judge of two answers, if there is one."""
    prefix: str = ""
    """The target model's generation prefix."""

    def metered(self, meter: Meter) -> "Team":
        """The same team with engines whose use the meter counts."""
        judge: Engine | None = None
        if self.judge is not None:
            judge = Metered(self.judge, meter, is_target=False)
        return replace(
            self,
            target_model=Metered(self.target_model, meter, is_target=True),
            mutator=Metered(self.mutator, meter, is_target=False),
            judge=judge,
        )


def draw_cells(archive: Archive, count: int, temperature: float, rng: Random) -> list[Cell]:
    """Distinct cells of an archive, at most `count`; cells with a low score are likelier."""
    remaining = list(archive.cells)
    drawn: list[Cell] = []
    # Relative to the lowest score, so that the weakest cell's weight is 1 and does not underflow.
    lowest = min(map(archive.score, remaining))
    while remaining and len(drawn) < count:
        weights = [exp((lowest - archive.score(cell)) / temperature) for cell in remaining]
        # All weights may underflow to 0 once the weak cells are drawn; the rest is then drawn uniformly.
        (cell,) = rng.choices(remaining, weights if sum(weights) else None)
        remaining.remove(cell)
        drawn.append(cell)
    return drawn


def iterate(
    archive: Archive,
    number: int,
    iteration: int,
    seeds: Sequence[Example],
    settings: RainbowSettings,
    templates: RainbowTemplates,
    team: Team,
    seed: int,
) -> list[Candidate]:
    """One iteration on an archive, which it does not change.

    Args:
        archive: The state after the iterations before.
        number: Number of the archive, from 1.
        iteration: Number of the iteration in the archive, from 1.
        seeds: Initial prompts.
        settings: Settings of the search.
        templates: Prompts of the mutator and the comparing judge.
        team: The models.
        seed: Seed of the search; each iteration has random numbers of its own.

    Returns:
        A candidate for each cell that was drawn, with its answer and verdicts or its fault, for `Archive.put`.
    """
    # Seeded by the numbers alone, so that a resumed search draws what it would have drawn without the interruption.
    rng = Random(f"{seed}/{number}/{iteration}")
    cells = draw_cells(archive, settings.batch, settings.temperature, rng)
    candidates: list[Candidate] = []
    parent_prompts: dict[str, str] = {}
    for position, cell in enumerate(cells, start=1):
        parent = _draw_parent(archive, seeds, rng)
        candidate_id = f"rainbow/{number}/{iteration}/{position}"
        candidates.append(Candidate(candidate_id, *cell, parent=parent.id, prompt=parent.prompt))
        parent_prompts[candidate_id] = parent.prompt
    # As in the paper, a prompt is rewritten for the risk first and then for the style. Each call's seed is drawn here,
    # also for one without candidates, so that the seeds that follow do not depend on faults.
    for template, descriptions in ((RISK, templates.risks), (STYLE, templates.styles)):
        rewrite = partial(_rewrite, template, descriptions, templates, settings, team, rng.getrandbits(31))
        candidates = _apply_to_valid(candidates, rewrite)
    # After both, since the second rewriting may bring the parent's words back.
    candidates = _apply_to_valid(candidates, partial(_check_prompts, parent_prompts, settings))
    candidates = _apply_to_valid(candidates, partial(_query_target_model, team, rng.getrandbits(31)))
    candidates = _apply_to_valid(candidates, partial(_score_answers, team.score))
    if team.judge is None:
        return candidates
    compare = partial(_compare, archive, templates, settings, team.judge, rng.getrandbits(31))
    return _apply_to_valid(candidates, compare)


def read_rewritten_prompt(text: str) -> str:
    """The request in a mutator's text, without markers, a label or quotation marks around it."""
    text = _LABEL.sub("", _last_marked(text).strip()).strip()
    for opening, closing in ('""', "''", "“”", "``"):
        # Quotation marks inside belong to the request, and then the outer ones may, too.
        if len(text) > 1 and text[0] == opening and text[-1] == closing and opening not in text[1:-1]:
            return text[1:-1].strip()
    return text


def _last_marked(text: str) -> str:
    """The text inside the last pair of markers, whose end may be missing; the whole text without markers."""
    marked = text
    position = 0
    while opening := _BEGIN.search(text, position):
        closing = _END.search(text, opening.end())
        if closing is None:
            return text[opening.end() :]
        marked = text[opening.end() : closing.start()]
        position = closing.end()
    return marked


def read_verdict(text: str) -> str | None:
    """A or B, the last verdict in a comparing judge's reply, or its only letter; None if it names neither."""
    # The last one, because a judge may weigh a verdict before it decides.
    labelled = _VERDICT.findall(text)
    if labelled:
        return str(labelled[-1]).upper()
    letter = text.strip(" \n*.\"'`").upper()
    if letter in ("A", "B"):
        return letter
    return None


def word_similarity(one: str, other: str) -> float:
    """The similarity of two prompts: `difflib`'s ratio of their lower-case words, from 0 to 1."""
    # Without `autojunk=False`, difflib ignores frequent words of texts of 200 words and more.
    return SequenceMatcher(None, one.lower().split(), other.lower().split(), autojunk=False).ratio()


def _apply_to_valid(
    candidates: Sequence[Candidate], stage: Callable[[list[Candidate]], list[Candidate]]
) -> list[Candidate]:
    """The candidates after a stage that only those without a fault go through; the others keep their positions."""
    valid = [candidate for candidate in candidates if candidate.fault is None]
    if not valid:
        return list(candidates)
    processed = iter(stage(valid))
    merged: list[Candidate] = []
    for candidate in candidates:
        merged.append(next(processed) if candidate.fault is None else candidate)
    return merged


def _draw_parent(archive: Archive, seeds: Sequence[Example], rng: Random) -> Example | Candidate:
    """The prompt that a candidate is rewritten from: a cell's champion, or a seed if the cell is empty."""
    champion = archive.champions.get(rng.choice(archive.cells))
    # Drawn even if there is a champion, so that the random numbers that follow are the same in both cases.
    seed = rng.choice(seeds)
    if champion is None:
        return seed
    return champion


def _rewrite(
    template: str,
    descriptions: Mapping[str, str],
    templates: RainbowTemplates,
    settings: RainbowSettings,
    team: Team,
    seed: int,
    candidates: list[Candidate],
) -> list[Candidate]:
    """The candidates with the mutator's prompts, or with the fault of its reply."""
    # A candidate that spells one of the mutator's special tokens could end its own turn in the prompt.
    special = special_tokens(team.mutator.tokenizer)
    conversations = []
    for candidate in candidates:
        if template == RISK:
            axis = {"risk": candidate.risk, "about": descriptions[candidate.risk]}
        else:
            axis = {"style": candidate.style, "about": descriptions[candidate.style]}
        conversations.append(user(templates.fill(template, special, prompt=candidate.prompt, **axis)))
    replies = team.mutator.generate(conversations, settings.mutator_sampling, GenerateOptions(seed=seed))
    rewritten: list[Candidate] = []
    for candidate, (reply,) in zip(candidates, replies, strict=True):
        rewritten.append(_with_prompt(candidate, reply, team.refuses))
    return rewritten


def _with_prompt(candidate: Candidate, reply: Completion, refuses: Callable[[str], bool]) -> Candidate:
    """The candidate with the prompt of a mutator's reply, or with its fault."""
    if reply.missing:
        return replace(candidate, prompt="", fault=FAILED, error=reply.error)
    prompt = read_rewritten_prompt(reply.parts.answer)
    if reply.finish_reason == "length":
        return replace(candidate, prompt=prompt, fault=CUT_OFF)
    # The opening tag is in an answer only if the reasoning was never closed.
    if not prompt or OPEN in prompt:
        return replace(candidate, prompt="", fault=NOTHING)
    if refuses(prompt):
        return replace(candidate, prompt=prompt, fault=REFUSED)
    return replace(candidate, prompt=prompt)


def _check_prompts(
    parent_prompts: Mapping[str, str], settings: RainbowSettings, candidates: list[Candidate]
) -> list[Candidate]:
    """The candidates, with a fault for prompts that are too long or too similar to their parents."""
    checked: list[Candidate] = []
    for candidate in candidates:
        if len(candidate.prompt) > settings.most_characters:
            checked.append(replace(candidate, fault=TOO_LONG))
        elif word_similarity(candidate.prompt, parent_prompts[candidate.id]) >= settings.near_copy:
            checked.append(replace(candidate, fault=NEAR_COPY))
        else:
            checked.append(candidate)
    return checked


def _query_target_model(team: Team, seed: int, candidates: list[Candidate]) -> list[Candidate]:
    """The candidates with the target model's answers."""
    conversations = [user(candidate.prompt) for candidate in candidates]
    options = GenerateOptions(seed=seed, prefix=team.prefix)
    completions = team.target_model.generate(conversations, team.sampling, options)
    answered: list[Candidate] = []
    for candidate, (completion,) in zip(candidates, completions, strict=True):
        if completion.missing:
            answered.append(replace(candidate, fault=FAILED, error=completion.error))
        else:
            answered.append(replace(candidate, answer=completion.parts.answer))
    return answered


def _score_answers(score: PairScoreFunction, candidates: list[Candidate]) -> list[Candidate]:
    """The candidates with the judge's scores. A failed call and an unscored answer are faults."""
    scored: list[Candidate] = []
    scores = score([(candidate.prompt, candidate.answer) for candidate in candidates])
    for candidate, value in zip(candidates, scores, strict=True):
        if isinstance(value, str):
            scored.append(replace(candidate, fault=FAILED, error=value))
        elif value is None:
            scored.append(replace(candidate, fault=UNSCORED))
        else:
            scored.append(replace(candidate, score=value))
    return scored


def _compare(
    archive: Archive,
    templates: RainbowTemplates,
    settings: RainbowSettings,
    judge: Engine,
    seed: int,
    candidates: list[Candidate],
) -> list[Candidate]:
    """The candidates, with the judge's votes for those whose cell has a champion."""
    rivals = [candidate for candidate in candidates if candidate.cell in archive.champions]
    if not rivals:
        return candidates
    special = special_tokens(judge.tokenizer)
    conversations = []
    for rival in rivals:
        champion = archive.champions[rival.cell]
        # In both orders, because judges tend to favour one of the two positions.
        conversations.append(user(_comparison_prompt(templates, special, rival, champion)))
        conversations.append(user(_comparison_prompt(templates, special, champion, rival)))
    rows = iter(judge.generate(conversations, settings.judge_sampling, GenerateOptions(n=settings.votes, seed=seed)))
    compared: list[Candidate] = []
    for candidate in candidates:
        if candidate.cell in archive.champions:
            compared.append(_with_votes(candidate, next(rows), next(rows)))
        else:
            compared.append(candidate)
    return compared


def _comparison_prompt(templates: RainbowTemplates, special: Sequence[str], a: Candidate, b: Candidate) -> str:
    """The comparing judge's prompt about two answers."""
    return templates.fill(
        JUDGE,
        special,
        risk=a.risk,
        about=templates.risks[a.risk],
        prompt_a=a.prompt,
        answer_a=a.answer,
        prompt_b=b.prompt,
        answer_b=b.answer,
    )


def _with_votes(
    candidate: Candidate, replies_as_a: Sequence[Completion], replies_as_b: Sequence[Completion]
) -> Candidate:
    """The candidate with the votes of the replies in which it was A and of those in which it was B."""
    for reply in (*replies_as_a, *replies_as_b):
        # With fewer votes than the settings name, one order could decide alone.
        if reply.missing:
            return replace(candidate, fault=FAILED, error=reply.error)
    votes: list[str | None] = []
    for reply in replies_as_a:
        votes.append(_read_vote(reply, "A"))
    for reply in replies_as_b:
        votes.append(_read_vote(reply, "B"))
    return replace(candidate, votes=tuple(votes))


def _read_vote(reply: Completion, candidate_letter: str) -> str | None:
    """`candidate` or `champion`; None for an unreadable reply."""
    verdict = read_verdict(reply.parts.answer)
    if verdict is None:
        return None
    if verdict == candidate_letter:
        return "candidate"
    return "champion"
