"""Which transcripts the page shows: a seeded draw that covers models and kinds, and puts models side by side."""

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from safereason.report.read import Model, Run, number, of_stage
from safereason.text import reasoning as reasoning_text

GUARD_STAGE = "eval/guard"
"""Its runs hold verdicts of guards, not answers."""


@dataclass(frozen=True)
class Transcript:
    """One completion and what was made of it."""

    model: str
    """Label of the model that wrote it."""
    evaluation: str
    """The evaluation it is from, or the step of RL."""
    kind: str
    prompt: str
    tags: tuple[str, ...]
    """Attack, category and source, as far as they are known."""
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
class Exhibit:
    """A prompt with the transcripts chosen for it, in the models' order."""

    evaluation: str
    kind: str
    prompt: str
    tags: tuple[str, ...]
    transcripts: tuple[Transcript, ...]


def choose(runs: Sequence[Run], models: Sequence[Model], count: int, seed: int) -> list[Exhibit]:
    """Draws `count` transcripts of the evaluations or, where there are none, of the RL rollouts.

    Prompts are put in an order that depends on the seed and the prompt alone, so that each model contributes the same
    ones. Strata (evaluation, model, kind) give in turn; one of each that has unscored completions gives one of these. A
    guard's wrong and right verdicts are strata apart.
    """
    order = {model.spec: place for place, model in enumerate(models)}
    labels = {model.spec: model.label for model in models}
    draw = _Draw(count, seed)
    for run in sorted(of_stage(runs, "eval"), key=lambda run: (order[run.model], run.stage)):
        read = _predicted if run.stage == GUARD_STAGE else _evaluated
        for key, transcript in read(run, labels[run.model]):
            draw.offer(key, transcript)
    if not draw.strata:
        for run in (*of_stage(runs, "rl"), *of_stage(runs, "guard/rl")):
            for key, transcript in _rolled_out(run):
                draw.offer(key, transcript)
    return _exhibits(draw.taken())


class _Draw:
    """Keeps the first few of each stratum in the seeded order, in one pass over any number of completions."""

    def __init__(self, count: int, seed: int) -> None:
        self._count, self._seed = count, seed
        self.strata: dict[tuple[str, ...], list[tuple[int, int, Transcript]]] = defaultdict(list)
        self._offered = 0

    def offer(self, key: str, transcript: Transcript) -> None:
        """Considers one; `key` is the same for the same prompt under every model."""
        self._offered += 1
        rank = -int.from_bytes(
            hashlib.sha256(f"{self._seed}/{key}".encode("utf-8", "surrogatepass")).digest()[:8], "big"
        )
        standing = transcript.standing
        heap = self.strata[transcript.evaluation.split(",")[0], transcript.kind, transcript.model, standing]
        heapq.heappush(heap, (rank, -self._offered, transcript))
        if len(heap) > (self._count if standing else 1):
            heapq.heappop(heap)

    def taken(self) -> list[Transcript]:
        """The draw: in turn from each stratum, the unscored first."""
        queues = [
            [t for _, _, t in sorted(heap, key=lambda e: e[:2])]
            for _, heap in sorted(self.strata.items(), key=lambda e: e[0][3])
        ]
        taken: list[Transcript] = []
        while any(queues) and len(taken) < self._count:
            for queue in queues:
                if queue and len(taken) < self._count:
                    taken.append(queue.pop())
        return taken


def _exhibits(transcripts: Sequence[Transcript]) -> list[Exhibit]:
    groups: dict[tuple[str, str, str], list[Transcript]] = defaultdict(list)
    for t in transcripts:
        groups[t.evaluation, t.kind, t.prompt].append(t)
    return [
        Exhibit(evaluation, kind, prompt, group[0].tags, tuple(group))
        for (evaluation, kind, prompt), group in sorted(groups.items(), key=lambda e: e[0][:2])
    ]


def _evaluated(run: Run, model: str) -> Iterator[tuple[str, Transcript]]:
    evaluation = run.stage.removeprefix("eval/")
    verdicts = {row.get("id"): row for row in run.records("verdicts")}
    for row in run.records("completions"):
        verdict = verdicts.get(row.get("id"), {"reason": "no verdict was written", "judge": run.metrics.get("judge")})
        behavior, attack = _text(row.get("behavior")) or _text(row.get("id")), _text(row.get("attack"))
        yield (
            f"{run.stage}/{behavior}/{attack}",
            Transcript(
                model=model,
                evaluation=evaluation,
                kind=_text(row.get("kind")) or "unknown kind",
                prompt=_text(row.get("prompt")),
                tags=tuple(
                    tag
                    for key in ("attack", "category", "source")
                    if (tag := _text(row.get(key))) and tag != evaluation
                ),
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
            ),
        )


def _predicted(run: Run, model: str) -> Iterator[tuple[str, Transcript]]:
    for row in run.records("predictions"):
        name, text, reply = _text(row.get("set")), _text(row.get("text")), row.get("response")
        parts, prompt = reasoning_text.split(text), _text(row.get("prompt"))
        harms = row.get("harms")
        yield (
            f"{run.stage}/{name}/{row.get('id')}",
            Transcript(
                model=model,
                evaluation=run.stage.removeprefix("eval/"),
                kind="harmful" if row.get("expected") == "unsafe" else "harmless",
                prompt=prompt if reply is None else f"{prompt}\n\nThe agent’s reply:\n{reply}",
                tags=(name, *map(str, harms if isinstance(harms, list) else ())),
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
            ),
        )


def _rolled_out(run: Run) -> Iterator[tuple[str, Transcript]]:
    for row in run.records("rollouts"):
        text, parts = _text(row.get("text")), row.get("parts")
        split = reasoning_text.split(text)
        yield (
            f"{row.get('step')}/{row.get('id')}/{text}",
            Transcript(
                model=f"RL · {run.recipe} · {run.name.rpartition('/')[2]}",
                evaluation=f"rollouts, step {row.get('step')}",
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
            ),
        )


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _tokens(value: Any) -> int | None:
    """A count, whether it was written as one or as the list of ids."""
    if isinstance(value, list):
        return len(value)
    count = number(value)
    return None if count is None else int(count)
