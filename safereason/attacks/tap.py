"""TAP, a tree of attacks with pruning: PAIR's attacker branches, and only the best branches go on (arXiv 2312.02119).

At each depth every leaf gets several next prompts; those that are off topic are dropped unasked, the others are put to
the target and rated, and the best become the next leaves.

Deviations, beside PAIR's:

1. The attacker says whether a prompt is on topic, where the paper asks the judge: so any judge will do that scores.
2. A prompt of which that cannot be told stays, and is counted (`unclear`).
3. All prompts that are on topic are asked, as in the paper; the authors' code keeps `width` of them before that too.
4. Where no branch is left, its leaves branch once more at the next depth; the authors' code goes on from one that was
   pruned.
5. A budget's last queries are spent on the first branches, rather than left because they are too few for all.
"""

from collections.abc import Iterator, Sequence

from pydantic import PositiveInt

from safereason.attacks.base import Attack, Need, Setup, Step
from safereason.attacks.dialogue import Attempt, DialogueSettings, Refinement, affordable, prompts_of, rank
from safereason.attacks.rating import OnTopic, on_topic
from safereason.data.example import Example


class TapSettings(DialogueSettings):
    """The figures of TAP; sampling and `attempts` are those of the authors' code."""

    depth: PositiveInt = 10
    """Rounds (as in the paper)."""
    width: PositiveInt = 10
    """Most leaves that go on from a round (as in the paper)."""
    branching: PositiveInt = 4
    """Prompts written for each leaf (as in the paper)."""
    roots: PositiveInt = 1
    """Trees that begin side by side and share the width (as in the authors' code)."""
    keep_last_turns: PositiveInt = 3
    """Latest rounds that an attacker is shown (as in the authors' code); what it was told at first it always is."""


def search(behaviors: Sequence[Example], settings: TapSettings, setup: Setup) -> Iterator[Step]:
    """The best prompt after each depth; at first the behavior's own words.

    Raises:
        InputError: There is no attacker or no judge, or the attackers' prompts are not to be had.
    """
    tap = Refinement("tap", behaviors, settings, setup, counted=("off_topic", "unclear", "pruned"))
    leaves = tap.begin(settings.roots)
    topic = on_topic(tap.attacker)
    yield tap.step()
    for _ in range(settings.depth):
        affordable(setup.meter, 1)  # no prompt is written that could not be asked
        written = tap.write([leaf for leaf in leaves for _ in range(settings.branching)])
        kept = _on_topic(tap, topic, written)
        tried = tap.ask(kept[: affordable(setup.meter, len(kept))] if kept else [])
        best = _best(tap, tried, settings.width)
        yield tap.step()
        if tap.is_done:
            return
        leaves = [tap.told(attempt) for attempt in best] or leaves


def _on_topic(tap: Refinement, topic: OnTopic, written: Sequence[Attempt]) -> list[Attempt]:
    """The first pruning: all but what is off topic."""
    verdicts = topic(tap.behavior, [attempt.reply.prompt for attempt in written])
    tap.counts["off_topic"] += verdicts.count(False)
    tap.counts["unclear"] += verdicts.count(None)
    return [attempt for attempt, verdict in zip(written, verdicts, strict=True) if verdict is not False]


def _best(tap: Refinement, tried: list[Attempt], width: int) -> list[Attempt]:
    """The second pruning: the best by score, those that score alike in random order, for the sake of variety."""
    tap.random.shuffle(tried)
    tried.sort(key=rank, reverse=True)
    tap.counts["pruned"] += len(tried[width:])
    return tried[:width]


def check(behaviors: Sequence[Example], settings: TapSettings, at_hand: frozenset[Need]) -> None:
    """Refuses prompts for attackers that are not to be had."""
    prompts_of("tap", settings)


ATTACK = Attack(
    "tap",
    "PAIR's rewriting as a tree, its branches pruned by topic and by rating (TAP)",
    search,
    frozenset({"answers", "attacker", "score"}),
    TapSettings,
    check=check,
)
