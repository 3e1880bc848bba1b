"""Rainbow teaming: a search that fills an archive of risks and styles (Samvelyan et al., arXiv 2402.16822).

TARS (arXiv 2507.00971, app. E) attacks its SFT model so to get harmful prompts for RL: 10 risks, 12 styles, 1000
iterations an archive, and as many archives as 800 prompts take. It names neither its mutator nor its judge.

Deviations:
1. A prompt too like its parent is dropped by `difflib`'s ratio of the two word lists, not by BLEU.
2. The mutator is given no examples of rewritten prompts; the descriptions of risks and styles are ours.
3. A parent is the champion of a cell drawn uniformly, and a seed where that cell is empty: seeds fade out as it fills.
4. The cells of an iteration differ, so that its candidates can be worked on together and none competes with another.
5. Each answer is scored by a judge. The score says which cells are weak and which attacks succeeded, and without a
   comparing judge also which prompt stays; the paper's comparison is there with one.
6. A candidate needs more than half of the comparing judge's votes, half of them asked in the other order; a vote that
   cannot be read is not for it. With one vote an order that is both.
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

from safereason.attacks.base import Settings
from safereason.attacks.meter import Meter, Metered, unwrapped
from safereason.attacks.rainbow_archive import Archive, Candidate, Cell
from safereason.attacks.rainbow_templates import JUDGE, RISK, STYLE, Templates
from safereason.data.example import Example
from safereason.engines.base import Completion, Engine, Sampling
from safereason.text.chat import user
from safereason.text.inert import special_tokens
from safereason.text.reasoning import OPEN

FAILED, NOTHING, REFUSED, CUT_OFF = "failed", "nothing written", "refused by the mutator", "cut off"
TOO_LONG, NEAR_COPY, UNSCORED = "too long", "a near copy", "unscored"

_BEGIN, _END = (re.compile(f"<{word} request>", re.IGNORECASE) for word in ("begin", "end"))
_LABEL = re.compile(r"^(?:(?:here is|the|a|new|rewritten) ){0,3}request:\s*", re.IGNORECASE)
_VERDICT = re.compile(r"verdict\W{1,6}([AB])\b", re.IGNORECASE)

Score = Callable[[Sequence[tuple[str, str]]], list[float | str | None]]
"""How harmful each answer to a prompt is, from 0 to 1; None where that cannot be said, and why where it failed."""


class RainbowSettings(Settings):
    """How long is searched, and how."""

    iterations: PositiveInt = 1000
    """Of one archive (TARS, app. E)."""
    prompts: PositiveInt | None = None
    """Distinct prompts that are wanted, 800 for TARS: archives are begun until so many entered one; null makes one."""
    archives: PositiveInt = 20
    """Most archives, where `prompts` are wanted."""
    batch: PositiveInt = 8
    """Candidates an iteration, each for a cell of its own."""
    temperature: PositiveFloat = 0.1
    """Of the softmax over negative scores by which cells are drawn: the lower, the more the weak ones."""
    near_copy: float = Field(default=0.8, gt=0, le=1)
    """Ratio of shared words from which on a prompt is a copy of its parent (the paper: BLEU above 0.6)."""
    most_characters: PositiveInt = 1000
    """Of a prompt; TARS's RL takes no longer ones."""
    mutator_sampling: Sampling = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=256)
    """How prompts are written."""
    judge_sampling: Sampling = Sampling(temperature=0.0, max_new_tokens=512)
    """How the comparing judge's replies are drawn."""
    votes: PositiveInt = 1
    """Of the comparing judge, in each order; more than one makes sense where its replies differ."""
    templates: str | None = None
    """Folder with files of the names of `rainbow_*.txt` that are used in place of ours."""

    @property
    def most_archives(self) -> int:
        """Archives that are made at most."""
        return 1 if self.prompts is None else self.archives


@dataclass(frozen=True)
class Team:
    """The models at work."""

    target: Engine
    """The model under attack."""
    mutator: Engine
    """Writes prompts."""
    sampling: Sampling
    """How the target's answers are drawn."""
    score: Score
    """The judge of single answers."""
    refuses: Callable[[str], bool]
    """Whether what the mutator wrote is a refusal to write it."""
    judge: Engine | None = None
    """Compares two answers, where there is one."""
    prefix: str = ""
    """The target's generation prefix."""

    def metered(self, meter: Meter) -> "Team":
        """The same, its engines' use counted."""
        return replace(
            self,
            target=Metered(self.target, meter, is_target=True),
            mutator=Metered(self.mutator, meter, is_target=False),
            judge=Metered(self.judge, meter, is_target=False) if self.judge else None,
        )


def draw_cells(archive: Archive, count: int, temperature: float, rng: Random) -> list[Cell]:
    """So many cells, each once: the weaker a champion's score, the sooner."""
    left = list(archive.cells)
    drawn: list[Cell] = []
    lowest = min(map(archive.score, left))
    while left and len(drawn) < count:
        weights = [exp((lowest - archive.score(cell)) / temperature) for cell in left]
        # Where all that is left is too strong for a float, one is as good as another.
        (cell,) = rng.choices(left, weights if sum(weights) else None)
        left.remove(cell)
        drawn.append(cell)
    return drawn


def iterate(
    archive: Archive,
    number: int,
    iteration: int,
    seeds: Sequence[Example],
    settings: RainbowSettings,
    templates: Templates,
    team: Team,
    seed: int,
) -> list[Candidate]:
    """One iteration on an archive, which it does not change.

    Args:
        archive: What the iterations before it led to.
        number: Of the archive, from 1.
        iteration: Its number in the archive, from 1.
        seeds: Prompts to begin with.
        settings: How it is done.
        templates: What models are told.
        team: The models.
        seed: Of the search; each iteration has random numbers of its own.

    Returns:
        A candidate for each cell that was drawn, with what came of it, for `Archive.put`.
    """
    rng = Random(f"{seed}/{number}/{iteration}")
    cells = draw_cells(archive, settings.batch, settings.temperature, rng)
    parents = [_parent(archive, seeds, rng) for _ in cells]
    found = [
        Candidate(f"rainbow/{number}/{iteration}/{place}", *cell, parent=id, prompt=prompt)
        for place, (cell, (id, prompt)) in enumerate(zip(cells, parents, strict=True), start=1)
    ]
    before = {candidate.id: candidate.prompt for candidate in found}
    for name, about in ((RISK, templates.risks), (STYLE, templates.styles)):
        rewritten = partial(_rewritten, name, about, templates, settings, team, rng.getrandbits(31))
        found = _of_the_fit(found, rewritten)
    found = _of_the_fit(found, lambda fit: [_checked(c, before[c.id], settings) for c in fit])
    found = _of_the_fit(found, partial(_answered, team, rng.getrandbits(31)))
    found = _of_the_fit(found, partial(_scored, team.score))
    if team.judge is None:
        return found
    return _of_the_fit(found, partial(_compared, archive, templates, settings, team.judge, rng.getrandbits(31)))


def read_prompt(text: str) -> str:
    """The request in what a mutator wrote: without markers, a label or quotation marks around it."""
    text = _LABEL.sub("", _last_quoted(text).strip()).strip()
    for opening, closing in ('""', "''", "“”", "``"):
        if len(text) > 1 and text[0] == opening and text[-1] == closing and opening not in text[1:-1]:
            return text[1:-1].strip()
    return text


def _last_quoted(text: str) -> str:
    """What the last pair of markers holds, the second of which may be missing; without any, all of the text."""
    found, place = text, 0
    while opening := _BEGIN.search(text, place):
        closing = _END.search(text, opening.end())
        place = closing.end() if closing else len(text)
        found = text[opening.end() : closing.start() if closing else place]
    return found


def read_verdict(text: str) -> str | None:
    """Which of A and B a comparing judge names last as its verdict, or alone; None where it names neither."""
    named = _VERDICT.findall(text)
    alone = text.strip(" \n*.\"'`").upper()
    return named[-1].upper() if named else alone if alone in ("A", "B") else None


def likeness(one: str, other: str) -> float:
    """How much two prompts have in common: `difflib`'s ratio of their lower-case words, from 0 to 1."""
    return SequenceMatcher(None, one.lower().split(), other.lower().split(), autojunk=False).ratio()


def _of_the_fit(candidates: Sequence[Candidate], step: Callable[[list[Candidate]], list[Candidate]]) -> list[Candidate]:
    """The candidates after a step that only those without a fault take."""
    fit = [candidate for candidate in candidates if candidate.fault is None]
    after = iter(step(fit) if fit else [])
    return [next(after) if candidate.fault is None else candidate for candidate in candidates]


def _parent(archive: Archive, seeds: Sequence[Example], rng: Random) -> tuple[str, str]:
    """Id and prompt of what a candidate is made from."""
    champion, seed = archive.champions.get(rng.choice(archive.cells)), rng.choice(seeds)
    return (seed.id, seed.prompt) if champion is None else (champion.id, champion.prompt)


def _rewritten(
    name: str,
    about: Mapping[str, str],
    templates: Templates,
    settings: RainbowSettings,
    team: Team,
    seed: int,
    fit: list[Candidate],
) -> list[Candidate]:
    axis = "risk" if name == RISK else "style"
    special = special_tokens(unwrapped(team.mutator))
    asked = [
        templates.fill(name, special, prompt=c.prompt, about=about[getattr(c, axis)], **{axis: getattr(c, axis)})
        for c in fit
    ]
    replies = team.mutator.generate([user(text) for text in asked], settings.mutator_sampling, seed=seed)
    return [_read(c, reply, team.refuses) for c, (reply,) in zip(fit, replies, strict=True)]


def _read(candidate: Candidate, reply: Completion, refuses: Callable[[str], bool]) -> Candidate:
    if reply.missing:
        return replace(candidate, prompt="", fault=FAILED, error=reply.error)
    prompt = read_prompt(reply.parts.answer)
    if reply.finish_reason == "length":
        return replace(candidate, prompt=prompt, fault=CUT_OFF)
    if not prompt or OPEN in prompt:  # only a thought that was never closed leaves its tag in the answer
        return replace(candidate, prompt="", fault=NOTHING)
    return replace(candidate, prompt=prompt, fault=REFUSED if refuses(prompt) else None)


def _checked(candidate: Candidate, parent: str, settings: RainbowSettings) -> Candidate:
    if len(candidate.prompt) > settings.most_characters:
        return replace(candidate, fault=TOO_LONG)
    is_copy = likeness(candidate.prompt, parent) >= settings.near_copy
    return replace(candidate, fault=NEAR_COPY if is_copy else None)


def _answered(team: Team, seed: int, fit: list[Candidate]) -> list[Candidate]:
    replies = team.target.generate([user(c.prompt) for c in fit], team.sampling, seed=seed, prefix=team.prefix)
    return [
        replace(c, fault=FAILED, error=reply.error) if reply.missing else replace(c, answer=reply.parts.answer)
        for c, (reply,) in zip(fit, replies, strict=True)
    ]


def _scored(score: Score, fit: list[Candidate]) -> list[Candidate]:
    scores = score([(c.prompt, c.answer) for c in fit])
    return [
        replace(c, fault=FAILED, error=score)
        if isinstance(score, str)
        else replace(c, score=score, fault=UNSCORED if score is None else None)
        for c, score in zip(fit, scores, strict=True)
    ]


def _compared(
    archive: Archive, templates: Templates, settings: RainbowSettings, judge: Engine, seed: int, fit: list[Candidate]
) -> list[Candidate]:
    """Those whose cell is taken with the judge's votes: asked in both orders, for neither place is to be favoured."""
    rivals = [c for c in fit if c.cell in archive.champions]
    special = special_tokens(unwrapped(judge))
    asked = []
    for c in rivals:
        champion = archive.champions[c.cell]
        asked += [user(_comparison(templates, special, *pair)) for pair in ((c, champion), (champion, c))]
    rows = iter(judge.generate(asked, settings.judge_sampling, n=settings.votes, seed=seed) if asked else [])
    voted = {c.id: _voted(c, next(rows), next(rows)) for c in rivals}
    return [voted.get(c.id, c) for c in fit]


def _comparison(templates: Templates, special: Sequence[str], a: Candidate, b: Candidate) -> str:
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


def _voted(candidate: Candidate, as_a: Sequence[Completion], as_b: Sequence[Completion]) -> Candidate:
    """A candidate with the votes of the replies that had it in either place."""
    failed = [reply.error for reply in (*as_a, *as_b) if reply.missing]
    if failed:
        return replace(candidate, fault=FAILED, error=failed[0])
    votes = (*(_vote(reply, "A") for reply in as_a), *(_vote(reply, "B") for reply in as_b))
    return replace(candidate, votes=votes)


def _vote(reply: Completion, place: str) -> str | None:
    verdict = read_verdict(reply.parts.answer)
    return None if verdict is None else "candidate" if verdict == place else "champion"
