"""The search of GCG, step by step."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safereason.attacks.base import SearchStep, Setup, TestCase
from safereason.attacks.gcg_settings import GCGSettings
from safereason.attacks.meter import SpentError
from safereason.attacks.whitebox import candidates, objectives, probe
from safereason.attacks.whitebox.suffix import Suffix, TokenIds
from safereason.data.example import Example
from safereason.errors import InputError


@dataclass(frozen=True)
class ScoredSuffix:
    """A suffix with its losses."""

    suffix: Suffix
    losses: Tensor
    """[G], one for each objective."""
    matched: bool
    """Whether greedy decoding writes the target texts of all objectives."""

    @property
    def loss(self) -> float:
        """Mean loss of the objectives."""
        return float(self.losses.mean())


class GCGSearch:
    """One search for one suffix, for one behavior or for all of them together."""

    def __init__(self, behaviors: Sequence[Example], settings: GCGSettings, setup: Setup) -> None:
        """Opens the models and finds the initial suffix in the prompts.

        Raises:
            InputError: A model's weights are not accessible, or the settings or the behaviors do not fit.
        """
        self.behaviors = behaviors
        self.settings = settings
        self.setup = setup
        self.objectives = objectives.build_objectives(behaviors, [setup.target_model, *setup.others], settings, setup)
        self.draft = self._open_draft()
        # On the CPU, so that a seed draws the same numbers on every device.
        self.generator = torch.Generator().manual_seed(setup.seed)
        # The first position will do for all: their initial suffixes are the same ids.
        position = self.objectives.on_target_model[0].position
        self.start = position.start
        if settings.replaced > len(self.start.ids):
            raise InputError(
                f"attack gcg: replaced is {settings.replaced}, and the suffix has {len(self.start.ids)} tokens"
            )
        self.allowed_tokens = candidates.allowed_token_mask(position.tokenizer, settings.ascii_only)
        self.dropped = 0
        """Candidates that did not survive the way through text."""
        self.not_finite = 0
        """Candidates whose loss was no finite number."""

    def steps(self) -> Iterator[SearchStep]:
        """The initial suffix, then the best suffix so far after each step.

        Raises:
            InputError: The first loss is not finite.
            SpentError: The query budget is spent before the last step.
        """
        settings = self.settings
        losses, matched = self.objectives.losses([self.start])
        best = ScoredSuffix(self.start, losses[:, 0], bool(matched.all()))
        if not losses.isfinite().all():
            raise InputError("attack gcg: the loss of the first prompt is not a finite number; load the model in fp32")
        # The search continues from the pool's first suffix, which may be worse than the best one that is reported.
        pool = [best]
        ends = settings.steps == 0 or self._is_good_enough(best)
        yield self._step(0, best, ends)
        for number in range(1, settings.steps + 1):
            if ends:
                return
            # Before the gradient, whose pass would be wasted without a query for its candidates.
            if self._is_budget_spent():
                raise SpentError
            candidate = self._best_candidate(pool[0].suffix.ids)
            if candidate is not None:
                pool = self._updated_pool(pool, candidate)
                if self._rank(candidate) < self._rank(best):
                    best = candidate
            ends = number == settings.steps or self._is_good_enough(best)
            yield self._step(number, best, ends)

    def _best_candidate(self, current: TokenIds) -> ScoredSuffix | None:
        """The best of one step's candidates; None if none survives or has a finite loss."""
        settings = self.settings
        drawn = candidates.draw_candidates(
            current,
            self.objectives.gradient(current),
            self.allowed_tokens,
            width=settings.width,
            top_k=settings.top_k,
            replaced=settings.replaced,
            generator=self.generator,
        )
        scored = self._score_candidates(self._survivors(drawn))
        if settings.merge and scored:
            best_first = sorted(scored, key=lambda candidate: candidate.loss)
            edits = [candidate.suffix.ids for candidate in best_first]
            merged = candidates.merge_edits(current, edits, settings.merge)
            # Merged edits may hurt each other, so they compete with the candidates that they are made of.
            scored += self._score_on_target_model(self._survivors(merged))
        if not scored:
            return None
        return min(scored, key=self._rank)

    def _survivors(self, drawn: list[TokenIds]) -> list[Suffix]:
        """The candidates that are the same ids when their text is encoded; the others are counted."""
        survivors = self.objectives.read(drawn)
        self.dropped += len(drawn) - len(survivors)
        return survivors

    def _score_candidates(self, survivors: list[Suffix]) -> list[ScoredSuffix]:
        """The scores of all candidates, or of those that the draft model selects."""
        # Two candidates at least, since the agreement of the models is measured on two.
        if self.draft is None or len(survivors) < 2:
            return self._score_on_target_model(survivors)
        probes = probe.draw_probe_set(len(survivors), self.settings.probe_share, self.generator)
        # The budget may end within the probe set.
        probe_suffixes = self.objectives.affordable([survivors[i] for i in probes])
        probes = probes[: len(probe_suffixes)]
        draft_losses, _ = self.draft.losses(survivors)
        probe_losses, probe_matched = self.objectives.losses(probe_suffixes)
        selected = probe.choose_candidates(
            draft_losses.mean(0), probe_losses.mean(0), probes, self.settings.probe_reduction
        )
        scored = self._keep_finite(probe_suffixes, probe_losses, probe_matched)
        return scored + self._score_on_target_model([survivors[i] for i in selected])

    def _score_on_target_model(self, suffixes: list[Suffix]) -> list[ScoredSuffix]:
        """The scores of suffixes, as many as the query budget allows."""
        suffixes = self.objectives.affordable(suffixes)
        if not suffixes:
            return []
        losses, matched = self.objectives.losses(suffixes)
        return self._keep_finite(suffixes, losses, matched)

    def _keep_finite(self, suffixes: list[Suffix], losses: Tensor, matched: Tensor) -> list[ScoredSuffix]:
        """The suffixes with finite losses [G, N]; the others are counted."""
        scored: list[ScoredSuffix] = []
        for i, suffix in enumerate(suffixes):
            # A NaN compares false with everything, and could stay the best to the end.
            if losses[:, i].isfinite().all():
                scored.append(ScoredSuffix(suffix, losses[:, i], bool(matched[:, i].all())))
        self.not_finite += len(suffixes) - len(scored)
        return scored

    def _updated_pool(self, pool: list[ScoredSuffix], candidate: ScoredSuffix) -> list[ScoredSuffix]:
        """The best suffixes so far, up to the buffer's size; without a buffer the last step's best alone."""
        if not self.settings.buffer:
            return [candidate]
        # A suffix that comes again would fill the buffer with copies of itself.
        if any(candidate.suffix == kept.suffix for kept in pool):
            return pool
        return sorted([*pool, candidate], key=self._rank)[: self.settings.buffer]

    def _rank(self, scored: ScoredSuffix) -> tuple[bool, float]:
        """The sort key: the loss. If a match ends the search, matches come first."""
        return self.settings.stop_at_match and not scored.matched, scored.loss

    def _is_good_enough(self, best: ScoredSuffix) -> bool:
        """Whether the settings end the search at this suffix."""
        if self.settings.stop_at_loss is not None and best.loss <= self.settings.stop_at_loss:
            return True
        return self.settings.stop_at_match and best.matched

    def _is_budget_spent(self) -> bool:
        """Whether the query budget allows not even one more suffix."""
        return not self.objectives.affordable([self.start])

    def _step(self, number: int, best: ScoredSuffix, ends: bool) -> SearchStep:
        """The step of this number with a test case for each behavior."""
        # With a spent budget this is the last step that is recorded, though the search was to go on.
        is_last = ends or self._is_budget_spent()
        cases = [self._case(i, number, best, is_last) for i in range(len(self.behaviors))]
        return SearchStep(number, tuple(cases), best.loss)

    def _case(self, behavior: int, number: int, best: ScoredSuffix, is_last: bool) -> TestCase:
        """The test case of the behavior of this index. The last one's loss is measured again on the deployed text."""
        objective = self.objectives.on_target_model[behavior]
        details: dict[str, object] = {
            "suffix": best.suffix.text,
            "suffix_tokens": len(best.suffix.ids),
            "place": self.settings.place,
            "loss": float(best.losses[behavior]),
            "steps": number,
            "dropped": self.dropped,
            "not_finite": self.not_finite,
        }
        if is_last:
            (deployed,) = objective.position.encode([best.suffix.text])
            loss_deployed, matched = objective.loss.loss_without_cache(deployed)
            details["loss_deployed"] = loss_deployed
            details["matched"] = matched
        return TestCase(
            self.behaviors[behavior].id, "gcg", objective.position.prompt(best.suffix.text), details=details
        )

    def _open_draft(self) -> objectives.Objectives | None:
        """The objectives on the draft model; None without one."""
        if not self.settings.models:
            return None
        (draft,) = self.settings.models
        engine = self.setup.open_model(draft)
        return objectives.build_objectives(self.behaviors, [engine], self.settings, self.setup)
