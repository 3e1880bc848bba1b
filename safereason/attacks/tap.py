"""TAP, a tree of attacks with pruning: PAIR's attacker branches, and only the best branches go on (arXiv 2312.02119).

At each depth every leaf gets several next prompts. Off-topic ones are pruned before they reach the target model; the
others are sent to it and rated, and the best become the next leaves.

Deviations, beside PAIR's:

1. The attacker says whether a prompt is on topic, where the paper asks the judge: so any judge will do that scores.
2. A prompt whose topic is unclear stays, and is counted (`unclear`).
3. All prompts that are on topic are sent, as in the paper; the authors' code keeps `width` of them before that too.
4. Where no branch is left, its leaves branch once more at the next depth; the authors' code goes on from one that was
   pruned.
5. A budget's last queries are spent on the first branches, rather than left because they are too few for all.
"""

from collections.abc import Iterator, Sequence

from pydantic import PositiveInt

from safereason.attacks.base import Attack, Need, SearchStep, Setup
from safereason.attacks.dialogue import (
    Attempt,
    Dialogue,
    DialogueSettings,
    Refinement,
    affordable_queries,
    ranking_score,
    read_attacker_prompts,
)
from safereason.attacks.rating import TopicJudge, topic_judge
from safereason.data.example import Example


class TapSettings(DialogueSettings):
    """The figures of TAP; sampling and `attempts` are those of the authors' code."""

    depth: PositiveInt = 10
    """Rounds (as in the paper)."""
    width: PositiveInt = 10
    """Maximum number of leaves that go on from a round (as in the paper)."""
    branching: PositiveInt = 4
    """Prompts written for each leaf (as in the paper)."""
    roots: PositiveInt = 1
    """Trees that begin side by side and share the width (as in the authors' code)."""
    keep_last_turns: PositiveInt = 3
    """Latest rounds that an attacker sees (as in the authors' code); it always sees its first instructions."""


def search_tap(behaviors: Sequence[Example], settings: TapSettings, setup: Setup) -> Iterator[SearchStep]:
    """One step for each depth with the best prompt so far, after one with the behavior's own prompt.

    Raises:
        InputError: There is no attacker or no judge, or the attackers' prompts cannot be read.
    """
    counts = ("off_topic", "unclear", "pruned")
    refinement = Refinement("tap", behaviors, settings, setup, further_counts=counts)
    leaves = refinement.begin(settings.roots)
    judge_topic = topic_judge(refinement.attacker)
    yield refinement.step()
    for _ in range(settings.depth):
        # Raises when the budget is spent, before the attacker writes prompts that could not be sent.
        affordable_queries(setup.meter, 1)
        branches: list[Dialogue] = []
        for leaf in leaves:
            branches += [leaf] * settings.branching
        on_topic = _prune_off_topic(refinement, judge_topic, refinement.write_prompts(branches))
        attempts: list[Attempt] = []
        if on_topic:
            affordable = affordable_queries(setup.meter, len(on_topic))
            attempts = refinement.query_target_model(on_topic[:affordable])
        best = _prune_by_score(refinement, attempts, settings.width)
        yield refinement.step()
        if refinement.is_done:
            return
        # Without any branch left, the same leaves branch again (deviation 4).
        if best:
            leaves = [refinement.next_dialogue(attempt) for attempt in best]


def _prune_off_topic(refinement: Refinement, judge_topic: TopicJudge, attempts: Sequence[Attempt]) -> list[Attempt]:
    """The first pruning: all attempts but those that are off topic."""
    verdicts = judge_topic(refinement.behavior, [attempt.reply.prompt for attempt in attempts])
    refinement.counts["off_topic"] += verdicts.count(False)
    refinement.counts["unclear"] += verdicts.count(None)
    # An unclear one stays: the target model's answer and its score will tell.
    return [attempt for attempt, verdict in zip(attempts, verdicts, strict=True) if verdict is not False]


def _prune_by_score(refinement: Refinement, attempts: list[Attempt], width: int) -> list[Attempt]:
    """The second pruning: the `width` attempts with the highest scores."""
    # The sort is stable, so that equal scores stay in random order. Else the first root's branches would always win.
    refinement.random.shuffle(attempts)
    attempts.sort(key=ranking_score, reverse=True)
    refinement.counts["pruned"] += len(attempts[width:])
    return attempts[:width]


def check_tap(behaviors: Sequence[Example], settings: TapSettings, available: frozenset[Need]) -> None:
    """Refuses prompts for attackers that cannot be read."""
    read_attacker_prompts("tap", settings)


ATTACK = Attack(
    "tap",
    "PAIR's rewriting as a tree, its branches pruned by topic and by rating (TAP)",
    search_tap,
    frozenset({"answers", "attacker", "score"}),
    TapSettings,
    check=check_tap,
)
