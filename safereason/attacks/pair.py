"""PAIR: an attacker model rewrites a prompt by the target model's answer and a judge's rating (arXiv 2310.08419).

Several streams run side by side, with instructions to persuade by a story, by argument or by authority. Attackers and
judge see the target model's answers, never its reasoning.

Deviations:

1. The prompts of attackers and judge are in our own words; `prompts=FOLDER` replaces those of attackers.
2. An unreadable reply is requested again with another seed, all such streams in one call; a stream that gets none
   skips the round. The attacker's reply is not begun for it, so that any chat server will do.
3. Attackers see their own replies as clean JSON, and always their first message, whatever `keep_last_turns` drops.
4. An answer that the judge does not score is shown as unrated, where the original takes the lowest rating.
5. A budget's last queries are spent on the first streams, rather than left because they are too few for all.
"""

from collections.abc import Iterator, Sequence

from pydantic import PositiveInt

from safereason.attacks.base import Attack, Need, SearchStep, Setup
from safereason.attacks.dialogue import (
    Dialogue,
    DialogueSettings,
    Refinement,
    affordable_queries,
    read_attacker_prompts,
)
from safereason.data.example import Example


class PairSettings(DialogueSettings):
    """The figures of PAIR. Sampling, `attempts` and `keep_last_turns` are those of the authors' code."""

    streams: PositiveInt = 20
    """Attackers side by side; the authors' code says 30 for their experiments."""
    iterations: PositiveInt = 3
    """Rounds, each with one prompt for each stream (as in the paper)."""


def search_pair(behaviors: Sequence[Example], settings: PairSettings, setup: Setup) -> Iterator[SearchStep]:
    """One step for each round with the best prompt so far, after one with the behavior's own prompt.

    Raises:
        InputError: There is no attacker or no judge, or the attackers' prompts cannot be read.
    """
    refinement = Refinement("pair", behaviors, settings, setup)
    dialogues = refinement.begin(settings.streams)
    yield refinement.step()
    for _ in range(settings.iterations):
        # The budget is checked before the attackers write: a prompt that cannot be sent would cost tokens for nothing.
        active = dialogues[: affordable_queries(setup.meter, len(dialogues))]
        attempts = refinement.query_target_model(refinement.write_prompts(active))
        yield refinement.step()
        if refinement.is_done:
            return
        continued: dict[int, Dialogue] = {}
        for attempt in attempts:
            continued[attempt.dialogue.stream] = refinement.next_dialogue(attempt)
        # A stream without an answer in this round repeats its last request, as does one beyond the budget.
        dialogues = [continued.get(dialogue.stream, dialogue) for dialogue in dialogues]


def check_pair(behaviors: Sequence[Example], settings: PairSettings, available: frozenset[Need]) -> None:
    """Refuses prompts for attackers that cannot be read."""
    read_attacker_prompts("pair", settings)


ATTACK = Attack(
    "pair",
    "A model rewrites the prompt by the target model's answers and a judge's ratings (PAIR)",
    search_pair,
    frozenset({"answers", "attacker", "score"}),
    PairSettings,
    check=check_pair,
)
