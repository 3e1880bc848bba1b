"""PAIR: an attacker model rewrites a prompt by the target's answer and a judge's rating (arXiv 2310.08419).

Several streams go on side by side, told to persuade by a story, by argument or by authority. Attackers and judge see
the target's answers, never its reasoning.

Deviations:

1. What attackers and judge are told is in our own words; `prompts=FOLDER` puts others in place of it.
2. A reply that cannot be read is asked again with another seed, all such streams in one call; a stream that gets none
   sits the round out. The attacker's reply is not begun for it, so that any chat server will do.
3. Attackers are shown a reply of theirs as clean JSON, and their first message whatever `keep_last_turns` drops.
4. An answer that the judge does not score is shown as unrated, where the original takes the lowest rating.
5. A budget's last queries are spent on the first streams, rather than left because they are too few for all.
"""

from collections.abc import Iterator, Sequence

from pydantic import PositiveInt

from safereason.attacks.base import Attack, Need, Setup, Step
from safereason.attacks.dialogue import DialogueSettings, Refinement, affordable, prompts_of
from safereason.data.example import Example


class PairSettings(DialogueSettings):
    """The figures of PAIR. Sampling, `attempts` and `keep_last_turns` are those of the authors' code."""

    streams: PositiveInt = 20
    """Attackers side by side; the authors' code says 30 for their experiments."""
    iterations: PositiveInt = 3
    """Rounds, each a prompt a stream (as in the paper)."""


def search(behaviors: Sequence[Example], settings: PairSettings, setup: Setup) -> Iterator[Step]:
    """The best prompt after each round; at first the behavior's own words.

    Raises:
        InputError: There is no attacker or no judge, or the attackers' prompts are not to be had.
    """
    pair = Refinement("pair", behaviors, settings, setup)
    streams = pair.begin(settings.streams)
    yield pair.step()
    for _ in range(settings.iterations):
        tried = pair.ask(pair.write(streams[: affordable(setup.meter, len(streams))]))
        yield pair.step()
        if pair.is_done:
            return
        gone_on = {attempt.dialogue.stream: pair.told(attempt) for attempt in tried}
        streams = [gone_on.get(dialogue.stream, dialogue) for dialogue in streams]


def check(behaviors: Sequence[Example], settings: PairSettings, at_hand: frozenset[Need]) -> None:
    """Refuses prompts for attackers that are not to be had."""
    prompts_of("pair", settings)


ATTACK = Attack(
    "pair",
    "A model rewrites the prompt by the target's answers and a judge's ratings (PAIR)",
    search,
    frozenset({"answers", "attacker", "score"}),
    PairSettings,
    check=check,
)
