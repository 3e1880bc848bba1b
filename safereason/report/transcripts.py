"""The transcripts of runs: prompts, completions and verdicts."""

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from safereason.report.read import MeasuredModel, Run, number, of_stage
from safereason.runs.records import Record
from safereason.text import reasoning as reasoning_text

GUARD_STAGE = "eval/guard"
"""The stage whose runs hold verdicts of guards, not answers."""
UNJUDGED = "not judged"
"""Label of completions that no judge scores."""


@dataclass(frozen=True)
class Transcript:
    """One completion with its prompt and verdict."""

    model: str
    """Label of the model that generated it."""
    evaluation: str
    """The evaluation that it is from, or the step of RL."""
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
    """Reason why the answer is unscored; None where it is scored."""
    parts: dict[str, float | None] = field(default_factory=dict)
    """Reward parts of a rollout."""
    expected: str | None = None
    """The right answer, where the completion is a guard's verdict."""

    @property
    def is_unscored(self) -> bool:
        """Whether there is no verdict."""
        return self.score is None and self.label is None

    @property
    def verdict_group(self) -> str:
        """The group that it is sampled from: unscored (empty), scored, or a guard's right or wrong verdict."""
        if self.is_unscored:
            return ""
        if self.expected is None:
            return "scored"
        if self.label == self.expected:
            return "right"
        # Before "right" in the alphabet, which is the order in which groups are sampled.
        return "amiss"

    @property
    def is_folded(self) -> bool:
        """Whether the answer may be harmful to read: to a harmful prompt, and not judged a refusal."""
        return self.kind == "harmful" and self.label != "refusal" and self.expected is None


@dataclass(frozen=True)
class Collected:
    """The transcripts of a page, by evaluation and prompt, then in the models' order."""

    transcripts: tuple[Transcript, ...]
    left_out: int
    """Number of transcripts left out because the page would grow too large."""


def collect(runs: Sequence[Run], models: Sequence[MeasuredModel], room: int, seed: int) -> Collected:
    """All transcripts of the evaluations or, without evaluations, all RL rollouts.

    Args:
        runs: Finished runs.
        models: The models that the evaluations measured, in the page's order.
        room: Most characters in all. Of more, as many transcripts are kept as fit, in an order that depends on the seed
            and the prompt alone, so that each model keeps the same ones.
        seed: Seed of that order.
    """
    model_positions = {}
    labels = {}
    for position, model in enumerate(models):
        model_positions[model.subject] = position
        labels[model.subject] = model.label

    def page_order(run: Run) -> tuple[int, str]:
        return model_positions[run.subject], run.stage

    kept = _KeptTranscripts(room, seed)
    for run in sorted(of_stage(runs, "eval"), key=page_order):
        label = labels[run.subject]
        if run.stage == GUARD_STAGE:
            transcripts = _guard_transcripts(run, label)
        else:
            transcripts = _evaluation_transcripts(run, label)
        for transcript in transcripts:
            kept.add(model_positions[run.subject], transcript)
    # Rollouts are of earlier states of a model. They are shown where no evaluation has answers of the final one.
    if kept.is_empty:
        for position, run in enumerate((*of_stage(runs, "rl"), *of_stage(runs, "guard/rl"))):
            for transcript in _rollout_transcripts(run):
                kept.add(position, transcript)
    return kept.collected()


def prompt_rank(seed: int, key: str) -> int:
    """A prompt's rank in the order of a seed: 64 bits of a hash."""
    # A hash, and not a shuffle: a prompt keeps its rank when others are added or taken away.
    # A key may hold half of a surrogate pair, which strict UTF-8 refuses.
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode("utf-8", "surrogatepass")).digest()[:8], "big")


class _KeptTranscripts:
    """The first transcripts in the seeded order, chosen in one pass over any number of them.

    The heap's top is the last kept transcript in that order, the first one to leave when there are too many.
    """

    def __init__(self, room: int, seed: int) -> None:
        self._room, self._seed = room, seed
        self._heap: list[tuple[int, int, int, Transcript]] = []
        self._added = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return not self._added

    def add(self, model_position: int, transcript: Transcript) -> None:
        """Adds a transcript, then drops the last ones in the seeded order while they need more than the room."""
        self._added += 1
        # The number of the transcript breaks ties, so that transcripts are never compared.
        entry = (-prompt_rank(self._seed, transcript.key), self._added, model_position, transcript)
        heapq.heappush(self._heap, entry)
        self._room -= _characters(transcript)
        while self._room < 0:
            *_, dropped = heapq.heappop(self._heap)
            self._room += _characters(dropped)

    def collected(self) -> Collected:
        """The kept transcripts in the page's order."""

        def page_order(entry: tuple[int, int, int, Transcript]) -> tuple[str, str, int, int]:
            _, number_added, model_position, transcript = entry
            return transcript.evaluation, transcript.key, model_position, number_added

        kept = sorted(self._heap, key=page_order)
        return Collected(tuple(transcript for *_, transcript in kept), self._added - len(kept))


def _characters(transcript: Transcript) -> int:
    return len(transcript.prompt) + len(transcript.reasoning) + len(transcript.answer)


def _evaluation_transcripts(run: Run, model: str) -> Iterator[Transcript]:
    """The completions of an evaluation with their verdicts."""
    evaluation = run.stage.removeprefix("eval/")
    # The shown parts of verdicts are small, and kept in memory. What a judge wrote, and completions, can be long: they
    # are read one by one.
    verdicts: dict[object, Record] = {}
    for row in run.records("verdicts"):
        verdicts[row.get("id")] = {key: row.get(key) for key in ("judge", "label", "score", "reason")}
    judge = run.metrics.get("judge", "")
    # An evaluation that judges nothing records its judge as null.
    no_verdict: Record = {"reason": "no verdict was written", "judge": judge}
    if judge is None:
        no_verdict = {"label": UNJUDGED}
    for row in run.records("completions"):
        verdict = verdicts.get(row.get("id"), no_verdict)
        yield Transcript(
            model=model,
            evaluation=evaluation,
            key=_as_text(row.get("id")),
            test=_as_text(row.get("attack")),
            kind=_as_text(row.get("kind")),
            prompt=_as_text(row.get("prompt")),
            tags=_tags_of(row, evaluation),
            reasoning=_as_text(row.get("reasoning")),
            answer=_as_text(row.get("answer")),
            closed=bool(row.get("closed")),
            well_formed=bool(row.get("well_formed")),
            finish_reason=_as_text(row.get("finish_reason")),
            tokens=_token_count(row.get("tokens")),
            judge=_as_text(verdict.get("judge")),
            label=_as_text(verdict.get("label")) or None,
            score=number(verdict.get("score")),
            reason=_as_text(verdict.get("reason")) or None,
        )


def _tags_of(row: Record, evaluation: str) -> tuple[str, ...]:
    """Category and source of a prompt; without a source named like the evaluation, which the page shows anyway."""
    tags = []
    for key in ("category", "source"):
        tag = _as_text(row.get(key))
        if tag and tag != evaluation:
            tags.append(tag)
    return tuple(tags)


def _guard_transcripts(run: Run, model: str) -> Iterator[Transcript]:
    """The verdicts of a guard, with its reasoning."""
    for row in run.records("predictions"):
        set_name = _as_text(row.get("set"))
        text = _as_text(row.get("text"))
        parts = reasoning_text.split(text)
        prompt = _as_text(row.get("prompt"))
        response = row.get("response")
        if response is not None:
            prompt = f"{prompt}\n\nThe agent’s response:\n{response}"
        kind = "harmless"
        if row.get("expected") == "unsafe":
            kind = "harmful"
        tags: tuple[str, ...] = ()
        if isinstance(row.get("harms"), list):
            tags = tuple(str(harm) for harm in row["harms"])
        yield Transcript(
            model=model,
            evaluation=run.stage.removeprefix("eval/"),
            key=f"{set_name}/{row.get('id')}",
            test=set_name,
            kind=kind,
            prompt=prompt,
            tags=tags,
            reasoning=_as_text(row.get("reasoning")),
            answer=parts.answer,
            # A guard that does not reason opens no reasoning, and so leaves none unclosed.
            closed=parts.closed or reasoning_text.OPEN not in text,
            # Not checked, since the format of a guard's text differs from that of an answer.
            well_formed=False,
            finish_reason="stop",
            # A guard behind a server, or one that generates no text, records 0.
            tokens=_token_count(row.get("tokens")) or None,
            judge="",
            label=_as_text(row.get("label")) or None,
            score=number(row.get("score")),
            reason=_as_text(row.get("reason")) or None,
            expected=_as_text(row.get("expected")),
        )


def _rollout_transcripts(run: Run) -> Iterator[Transcript]:
    """The rollouts of an RL run, with the reward in place of a verdict."""
    for row in run.records("rollouts"):
        text = _as_text(row.get("text"))
        split = reasoning_text.split(text)
        parts: dict[str, float | None] = {}
        if isinstance(row.get("parts"), dict):
            parts = {name: number(value) for name, value in row["parts"].items()}
        yield Transcript(
            model=f"RL · {run.recipe} · {run.name.rpartition('/')[2]}",
            evaluation=f"rollouts, step {row.get('step')}",
            # A step has several rollouts of one prompt. Their texts keep them apart.
            key=f"{row.get('step')}/{row.get('id')}/{text}",
            test="",
            kind=_as_text(row.get("kind")) or "unknown kind",
            prompt=_as_text(row.get("prompt")),
            tags=(),
            reasoning=split.reasoning,
            answer=split.answer,
            closed=split.closed,
            well_formed=reasoning_text.is_well_formed(text),
            finish_reason=_as_text(row.get("finish_reason")),
            tokens=_token_count(row.get("tokens")),
            judge="reward",
            label=None,
            score=number(row.get("total")),
            reason=_as_text(row.get("reason")) or None,
            parts=parts,
        )


def _as_text(value: object) -> str:
    """A value of a record as text; empty for null."""
    if value is None:
        return ""
    return str(value)


def _token_count(value: object) -> int | None:
    """A number of tokens from a record that holds the number or the tokens' ids."""
    if isinstance(value, list):
        return len(value)
    count = number(value)
    if count is None:
        return None
    return int(count)
