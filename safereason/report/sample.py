"""Transcripts that the page shows without a script: a seeded draw over models and kinds, models side by side."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from safereason.report.transcripts import Transcript, rank


@dataclass(frozen=True)
class Exhibit:
    """A prompt with the transcripts chosen for it, in the models' order."""

    evaluation: str
    kind: str
    prompt: str
    tags: tuple[str, ...]
    transcripts: tuple[Transcript, ...]


def choose(transcripts: Sequence[Transcript], count: int, seed: int) -> list[Exhibit]:
    """Draws `count` of them.

    Prompts are put in an order that depends on the seed and the prompt alone, so that each model contributes the same
    ones. Strata (evaluation, model, kind) give in turn; one of each that has unscored completions gives one of these. A
    guard's wrong and right verdicts are strata apart.
    """
    strata: dict[tuple[str, ...], list[Transcript]] = defaultdict(list)
    for t in transcripts:
        strata[t.evaluation.split(",")[0], t.kind, t.model, t.standing].append(t)
    queues = []
    for (*_, standing), members in sorted(strata.items(), key=lambda e: e[0][3]):
        members.sort(key=lambda t: rank(seed, t.key))
        queues.append(members[: count if standing else 1])
    return _exhibits([t for t in transcripts if id(t) in set(map(id, _in_turn(queues, count)))])


def _in_turn(queues: Sequence[list[Transcript]], count: int) -> list[Transcript]:
    """The first of each queue, then the second of each, and so on."""
    longest = max(map(len, queues), default=0)
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)][:count]


def _exhibits(transcripts: Sequence[Transcript]) -> list[Exhibit]:
    groups: dict[tuple[str, str, str], list[Transcript]] = defaultdict(list)
    for t in transcripts:
        groups[t.evaluation, t.kind, t.prompt].append(t)
    return [
        Exhibit(evaluation, kind, prompt, tuple(filter(None, (group[0].test, *group[0].tags))), tuple(group))
        for (evaluation, kind, prompt), group in sorted(groups.items(), key=lambda e: e[0][:2])
    ]
