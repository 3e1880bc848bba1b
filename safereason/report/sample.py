"""Transcripts that the page shows without a script: a seeded sample over models and kinds, models side by side."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from safereason.report.transcripts import Transcript, prompt_rank

Stratum = tuple[str, str, str, str]
"""Evaluation, kind, model and verdict group of a transcript."""


@dataclass(frozen=True)
class Exhibit:
    """A prompt with the transcripts sampled for it, in the models' order."""

    evaluation: str
    kind: str
    prompt: str
    tags: tuple[str, ...]
    transcripts: tuple[Transcript, ...]


def choose(transcripts: Sequence[Transcript], count: int, seed: int) -> list[Exhibit]:
    """A sample of `count` transcripts.

    Prompts are put in an order that depends on the seed and the prompt alone, so that each model contributes the same
    ones. Strata (evaluation, model, kind) contribute in turn. A stratum with unscored completions contributes one of
    them. A guard's wrong and right verdicts are separate strata.
    """
    queues = _stratum_queues(transcripts, count, seed)
    sampled_ids = {id(transcript) for transcript in islice(_in_turn(queues), count)}
    # The page's order, by evaluation, prompt and model, is that of `transcripts`.
    sampled = [transcript for transcript in transcripts if id(transcript) in sampled_ids]
    return _exhibits(sampled)


def _stratum_queues(transcripts: Sequence[Transcript], count: int, seed: int) -> list[list[Transcript]]:
    """The transcripts of each stratum in the seeded order of their prompts; unscored strata first, with one each."""
    strata: dict[Stratum, list[Transcript]] = defaultdict(list)
    for transcript in transcripts:
        # A rollout's evaluation is `rollouts, step 7`. All steps are one stratum.
        evaluation = transcript.evaluation.split(",")[0]
        strata[evaluation, transcript.kind, transcript.model, transcript.verdict_group].append(transcript)
    queues = []
    # The group of unscored transcripts is the empty text, which sorts first.
    for stratum in sorted(strata, key=_verdict_group_of):
        members = sorted(strata[stratum], key=lambda transcript: prompt_rank(seed, transcript.key))
        # No more than `count` can be used, even of the only stratum.
        most = count
        if not _verdict_group_of(stratum):
            most = 1
        queues.append(members[:most])
    return queues


def _verdict_group_of(stratum: Stratum) -> str:
    return stratum[3]


def _in_turn(queues: Sequence[list[Transcript]]) -> Iterator[Transcript]:
    """The first transcript of each queue, then the second of each, and so on."""
    longest = max(map(len, queues), default=0)
    for position in range(longest):
        for queue in queues:
            if position < len(queue):
                yield queue[position]


def _exhibits(transcripts: Sequence[Transcript]) -> list[Exhibit]:
    """The transcripts by prompt; the prompts by evaluation and kind."""
    by_prompt: dict[tuple[str, str, str], list[Transcript]] = defaultdict(list)
    for transcript in transcripts:
        by_prompt[transcript.evaluation, transcript.kind, transcript.prompt].append(transcript)
    exhibits = []
    for evaluation, kind, prompt in sorted(by_prompt, key=lambda key: key[:2]):
        members = by_prompt[evaluation, kind, prompt]
        # The attack (of a guard, the set) is the first tag, where there is one.
        tags = tuple(tag for tag in (members[0].test, *members[0].tags) if tag)
        exhibits.append(Exhibit(evaluation, kind, prompt, tags, tuple(members)))
    return exhibits
