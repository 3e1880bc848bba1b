"""The transcripts of runs: what each model wrote to which prompt, and what was made of it."""

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from safereason.report.read import Model, Run, number, of_stage
from safereason.text import reasoning as reasoning_text

GUARD_STAGE = "eval/guard"
"""Its runs hold verdicts of guards, not answers."""
UNJUDGED = "not judged"
"""What stands for a verdict where an evaluation has no judge."""


@dataclass(frozen=True)
class Transcript:
    """One completion and what was made of it."""

    model: str
    """Label of the model that wrote it."""
    evaluation: str
    """The evaluation it is from, or the step of RL."""
    key: str
    """The same for the same prompt under every model."""
    test: str
    """The attack; of a guard, the set; empty of a rollout."""
    kind: str
    prompt: str
    tags: tuple[str, ...]
    """Category, source and the like, as far as they are known."""
    reasoning: str
    answer: str
    closed: bool
    well_formed: bool
    finish_reason: str
    tokens: int | None
    judge: str
    label: str | None
    score: float | None
    reason: str | None
    """Why it is unscored."""
    parts: dict[str, float | None] = field(default_factory=dict)
    """Reward parts of a rollout."""
    expected: str | None = None
    """The right answer, where the completion is a guard's verdict."""

    @property
    def is_unscored(self) -> bool:
        """Whether there is no verdict."""
        return self.score is None and self.label is None

    @property
    def standing(self) -> str:
        """Which of them there are to be some of, the first ones first."""
        if self.is_unscored:
            return ""
        return "scored" if self.expected is None else "right" if self.label == self.expected else "amiss"

    @property
    def is_folded(self) -> bool:
        """Whether the answer may be harmful to read: to a harmful prompt, and not judged a refusal."""
        return self.kind == "harmful" and self.label != "refusal" and self.expected is None


@dataclass(frozen=True)
class Collected:
    """The transcripts of a page, by evaluation and prompt, then in the models' order."""

    transcripts: tuple[Transcript, ...]
    left_out: int
    """Those that there was no room for."""


def collect(runs: Sequence[Run], models: Sequence[Model], room: int, seed: int) -> Collected:
    """All transcripts of the evaluations or, where there are none, all RL rollouts.

    Of more than `room` characters, as many are kept as fit, in an order that depends on the seed and the prompt alone,
    so that each model keeps the same ones.
    """
    order = {model.subject: place for place, model in enumerate(models)}
    labels = {model.subject: model.label for model in models}
    shelf = _Shelf(room, seed)
    for run in sorted(of_stage(runs, "eval"), key=lambda run: (order[run.subject], run.stage)):
        read = _predicted if run.stage == GUARD_STAGE else _evaluated
        for transcript in read(run, labels[run.subject]):
            shelf.put(order[run.subject], transcript)
    if shelf.is_empty:
        for place, run in enumerate((*of_stage(runs, "rl"), *of_stage(runs, "guard/rl"))):
            for transcript in _rolled_out(run):
                shelf.put(place, transcript)
    return shelf.collected()


def rank(seed: int, key: str) -> int:
    """A prompt's place in the order of a seed."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode("utf-8", "surrogatepass")).digest()[:8], "big")


class _Shelf:
    """Keeps the first transcripts in the seeded order, in one pass over any number of them."""

    def __init__(self, room: int, seed: int) -> None:
        self._room, self._seed = room, seed
        self._kept: list[tuple[int, int, int, Transcript]] = []
        self._put = 0

    @property
    def is_empty(self) -> bool:
        return not self._put

    def put(self, place: int, transcript: Transcript) -> None:
        """Takes one in, and the last in the order out while there are too many; `place` is its model's."""
        self._put += 1
        heapq.heappush(self._kept, (-rank(self._seed, transcript.key), self._put, place, transcript))
        self._room -= _size(transcript)
        while self._room < 0:
            self._room += _size(heapq.heappop(self._kept)[-1])

    def collected(self) -> Collected:
        kept = sorted(self._kept, key=lambda e: (e[3].evaluation, e[3].key, e[2], e[1]))
        return Collected(tuple(transcript for *_, transcript in kept), self._put - len(kept))


def _size(transcript: Transcript) -> int:
    return len(transcript.prompt) + len(transcript.reasoning) + len(transcript.answer)


def _evaluated(run: Run, model: str) -> Iterator[Transcript]:
    evaluation = run.stage.removeprefix("eval/")
    verdicts = {row.get("id"): row for row in run.records("verdicts")}
    judge = run.metrics.get("judge", "")
    none = {"reason": "no verdict was written", "judge": judge} if judge is not None else {"label": UNJUDGED}
    for row in run.records("completions"):
        verdict = verdicts.get(row.get("id"), none)
        yield Transcript(
            model=model,
            evaluation=evaluation,
            key=_text(row.get("id")),
            test=_text(row.get("attack")),
            kind=_text(row.get("kind")) or "unknown kind",
            prompt=_text(row.get("prompt")),
            tags=tuple(tag for key in ("category", "source") if (tag := _text(row.get(key))) and tag != evaluation),
            reasoning=_text(row.get("reasoning")),
            answer=_text(row.get("answer")),
            closed=bool(row.get("closed")),
            well_formed=bool(row.get("well_formed")),
            finish_reason=_text(row.get("finish_reason")),
            tokens=_tokens(row.get("tokens")),
            judge=_text(verdict.get("judge")),
            label=_text(verdict.get("label")) or None,
            score=number(verdict.get("score")),
            reason=_text(verdict.get("reason")) or None,
        )


def _predicted(run: Run, model: str) -> Iterator[Transcript]:
    for row in run.records("predictions"):
        name, text, reply = _text(row.get("set")), _text(row.get("text")), row.get("response")
        parts, prompt = reasoning_text.split(text), _text(row.get("prompt"))
        harms = row.get("harms")
        yield Transcript(
            model=model,
            evaluation=run.stage.removeprefix("eval/"),
            key=f"{name}/{row.get('id')}",
            test=name,
            kind="harmful" if row.get("expected") == "unsafe" else "harmless",
            prompt=prompt if reply is None else f"{prompt}\n\nThe agent’s reply:\n{reply}",
            tags=tuple(map(str, harms if isinstance(harms, list) else ())),
            reasoning=_text(row.get("reasoning")),
            answer=parts.answer,
            closed=parts.closed or reasoning_text.OPEN not in text,
            well_formed=False,
            finish_reason="stop",
            tokens=_tokens(row.get("tokens")) or None,
            judge="",
            label=_text(row.get("label")) or None,
            score=number(row.get("score")),
            reason=_text(row.get("reason")) or None,
            expected=_text(row.get("expected")),
        )


def _rolled_out(run: Run) -> Iterator[Transcript]:
    for row in run.records("rollouts"):
        text, parts = _text(row.get("text")), row.get("parts")
        split = reasoning_text.split(text)
        yield Transcript(
            model=f"RL · {run.recipe} · {run.name.rpartition('/')[2]}",
            evaluation=f"rollouts, step {row.get('step')}",
            key=f"{row.get('step')}/{row.get('id')}/{text}",
            test="",
            kind=_text(row.get("kind")) or "unknown kind",
            prompt=_text(row.get("prompt")),
            tags=(),
            reasoning=split.reasoning,
            answer=split.answer,
            closed=split.closed,
            well_formed=reasoning_text.is_well_formed(text),
            finish_reason=_text(row.get("finish_reason")),
            tokens=_tokens(row.get("tokens")),
            judge="reward",
            label=None,
            score=number(row.get("total")),
            reason=_text(row.get("reason")) or None,
            parts={k: number(v) for k, v in parts.items()} if isinstance(parts, dict) else {},
        )


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _tokens(value: Any) -> int | None:
    """A count, whether it was written as one or as the list of ids."""
    if isinstance(value, list):
        return len(value)
    count = number(value)
    return None if count is None else int(count)
