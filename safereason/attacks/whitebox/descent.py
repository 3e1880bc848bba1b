"""The search of GCG, step by step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from safereason.attacks.base import Setup, Step, TestCase
from safereason.attacks.meter import SpentError, unwrapped
from safereason.attacks.whitebox import candidates, goals, probe
from safereason.attacks.whitebox.slot import Ids, Suffix
from safereason.data.example import Example
from safereason.engines.base import Engine
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.attacks.gcg import GCG


@dataclass(frozen=True)
class Found:
    """A suffix and what it was measured at."""

    suffix: Suffix
    losses: Tensor
    """[G], one for each goal."""
    matched: bool
    """Whether greedy decoding writes every goal's target."""

    @property
    def loss(self) -> float:
        """Mean of the goals'."""
        return float(self.losses.mean())


class Descent:
    """One search for one suffix."""

    def __init__(self, behaviors: Sequence[Example], settings: "GCG", setup: Setup) -> None:
        self.behaviors, self.settings, self.setup = behaviors, settings, setup
        self.target = goals.weights("gcg", unwrapped(setup.target))
        self.goals = self._goals([self.target, *(unwrapped(other) for other in setup.others)])
        self.draft = self._open_draft()
        self.generator = torch.Generator().manual_seed(setup.seed)
        slot = self.goals.targets[0].slot
        self.start = slot.start
        if settings.replaced > len(self.start.ids):
            raise InputError(
                f"attack gcg: replaced is {settings.replaced}, and the suffix has {len(self.start.ids)} tokens"
            )
        self.may = candidates.allowed(slot.tokenizer, settings.ascii_only)
        self.dropped = self.not_finite = 0

    def steps(self) -> Iterator[Step]:
        """The start, then each step with the best so far."""
        settings = self.settings
        losses, matched = self.goals.losses([self.start])
        best = Found(self.start, losses[:, 0], bool(matched.all()))
        if not losses.isfinite().all():
            raise InputError("attack gcg: the loss of the first prompt is not a finite number; load the model in fp32")
        pool = [best]  # the best first
        ends = settings.steps == 0 or self._stops(best)
        yield self._step(0, best, ends)
        for number in range(1, settings.steps + 1):
            if ends:
                return
            if self._is_spent():
                raise SpentError
            found = self._candidate(pool[0].suffix.ids)
            if found is not None:
                pool = self._renewed(pool, found)
                if self._beats(found, best):
                    best = found
            ends = number == settings.steps or self._stops(best)
            yield self._step(number, best, ends)

    def _candidate(self, current: Ids) -> Found | None:
        """The best of one step's candidates; None where none survives or has a finite loss."""
        settings = self.settings
        gradient = self.goals.gradient(current)
        drawn = candidates.draw(
            current,
            gradient,
            self.may,
            width=settings.width,
            top_k=settings.top_k,
            replaced=settings.replaced,
            generator=self.generator,
        )
        scored = self._score(self._survivors(drawn))
        if settings.merge and scored:
            ranked = [found.suffix.ids for found in sorted(scored, key=lambda found: found.loss)]
            scored += self._measured(self._survivors(candidates.merged(current, ranked, settings.merge)))
        return min(scored, key=self._rank) if scored else None

    def _survivors(self, drawn: list[Ids]) -> list[Suffix]:
        survivors = self.goals.read(drawn)
        self.dropped += len(drawn) - len(survivors)
        return survivors

    def _score(self, survivors: list[Suffix]) -> list[Found]:
        """All of them, or those that a draft model leaves."""
        if self.draft is None or len(survivors) < 2:
            return self._measured(survivors)
        probes = probe.probe_set(len(survivors), self.settings.probe_share, self.generator)
        probes = probes[: len(self.goals.affordable([survivors[i] for i in probes]))]
        draft = self.draft.losses(survivors)[0].mean(0)
        probed = self.goals.losses([survivors[i] for i in probes])
        left = probe.chosen(draft, probed[0].mean(0), probes, self.settings.probe_reduction)
        return self._finite([survivors[i] for i in probes], *probed) + self._measured([survivors[i] for i in left])

    def _measured(self, suffixes: list[Suffix]) -> list[Found]:
        suffixes = self.goals.affordable(suffixes)
        return self._finite(suffixes, *self.goals.losses(suffixes)) if suffixes else []

    def _finite(self, suffixes: list[Suffix], losses: Tensor, matched: Tensor) -> list[Found]:
        """Those whose losses are numbers; the others are counted."""
        found = [
            Found(suffix, losses[:, i], bool(matched[:, i].all()))
            for i, suffix in enumerate(suffixes)
            if losses[:, i].isfinite().all()
        ]
        self.not_finite += len(suffixes) - len(found)
        return found

    def _renewed(self, pool: list[Found], found: Found) -> list[Found]:
        """With a buffer the best seen, as many as it holds; without one the last step's best."""
        if not self.settings.buffer:
            return [found]
        if any(found.suffix == kept.suffix for kept in pool):
            return pool
        return sorted([*pool, found], key=self._rank)[: self.settings.buffer]

    def _beats(self, found: Found, best: Found) -> bool:
        return self._rank(found) < self._rank(best)

    def _rank(self, found: Found) -> tuple[bool, float]:
        """By loss; where a match ends the search, matches come first."""
        return self.settings.stop_at_match and not found.matched, found.loss

    def _stops(self, best: Found) -> bool:
        low = self.settings.stop_at_loss is not None and best.loss <= self.settings.stop_at_loss
        return low or (self.settings.stop_at_match and best.matched)

    def _step(self, number: int, best: Found, ends: bool) -> Step:
        last = ends or self._is_spent()
        cases = [self._case(i, number, best, last) for i in range(len(self.behaviors))]
        return Step(number, tuple(cases), best.loss)

    def _is_spent(self) -> bool:
        """Whether the target may not be asked about a single suffix more."""
        return not self.goals.affordable([self.start])

    def _case(self, behavior: int, number: int, best: Found, last: bool) -> TestCase:
        """The test case of one behavior; the last one's loss is measured anew on what is deployed."""
        goal = self.goals.targets[behavior]
        details: dict[str, Any] = {
            "suffix": best.suffix.text,
            "suffix_tokens": len(best.suffix.ids),
            "place": self.settings.place,
            "loss": float(best.losses[behavior]),
            "steps": number,
            "dropped": self.dropped,
            "not_finite": self.not_finite,
        }
        if last:
            (deployed,) = goal.slot.encode([best.suffix.text])
            details["loss_deployed"], details["matched"] = goal.loss.plain(deployed)
        return TestCase(self.behaviors[behavior].id, "gcg", goal.slot.prompt(best.suffix.text), details=details)

    def _open_draft(self) -> goals.Goals | None:
        if self.settings.draft is None:
            return None
        from safereason.engines.open import open_engine

        return self._goals([open_engine(self.settings.draft)])

    def _goals(self, engines: Sequence[Engine]) -> goals.Goals:
        settings = self.settings
        return goals.of_models(
            "gcg",
            self.behaviors,
            engines,
            self.setup.meter,
            target=self.target,
            start=settings.start,
            prefix=self.setup.prefix,
            place=settings.place,
            mellowmax=settings.mellowmax,
        )
