"""What a shared suffix is to bring about: for each model and each behavior, its target after its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safereason.attacks.meter import Meter
from safereason.attacks.placing import Place, opening, target_of
from safereason.attacks.whitebox import slot
from safereason.attacks.whitebox.loss import Scored, TargetLoss
from safereason.attacks.whitebox.slot import Ids, Slot, Suffix
from safereason.data.example import Example
from safereason.engines.base import Engine
from safereason.engines.transformers import TransformersEngine
from safereason.errors import InputError


@dataclass(frozen=True)
class Goal:
    """One behavior on one model."""

    slot: Slot
    loss: TargetLoss
    speaks: bool
    """Whether its tokenizer is the target model's, so that suffixes are the same ids and its gradient counts."""
    is_target: bool
    """Whether its model is the target of the attack, so that what it scores is a query."""


class Goals:
    """All of them. Whatever is scored counts in the meter."""

    def __init__(self, goals: Sequence[Goal], meter: Meter) -> None:
        self.goals = tuple(goals)
        self.targets = tuple(goal for goal in self.goals if goal.is_target)
        self._meter = meter
        slots = [goal.slot for goal in self.goals if goal.speaks]
        if any(s.start != slots[0].start or s.lead != slots[0].lead for s in slots):
            raise InputError(
                "the behaviors' prompts cut the first suffix into different tokens; start from another one"
            )

    def read(self, found: Sequence[Ids]) -> list[Suffix]:
        """The suffixes that every prompt of the target's tokenizer reads as they were written."""
        first, *others = [goal.slot for goal in self.goals if goal.speaks]
        suffixes = first.read(found) if found else []
        for other in others:
            suffixes = other.surviving(suffixes)
        return suffixes

    def affordable(self, suffixes: list[Suffix]) -> list[Suffix]:
        """The first of them: as many as the target may still be asked about."""
        most = self._meter.most
        return suffixes if most is None else suffixes[: (most - self._meter.queries) // len(self.targets)]

    def losses(self, suffixes: Sequence[Suffix]) -> tuple[Tensor, Tensor]:
        """Loss [G, N] of each goal after each suffix, and whether each was matched.

        Raises:
            SpentError: The target may not be asked so often.
        """
        self._meter.ask(len(suffixes) * len(self.targets))
        scored = [self._scored(goal, suffixes) for goal in self.goals]
        return torch.stack([s.values for s in scored]), torch.stack([s.matched for s in scored])

    def _scored(self, goal: Goal, suffixes: Sequence[Suffix]) -> Scored:
        if goal.speaks:
            prompts = [goal.slot.ids(suffix.ids) for suffix in suffixes]
        else:
            prompts = goal.slot.encode([suffix.text for suffix in suffixes])
        self._meter.took(sum(map(len, prompts)) + len(prompts) * len(goal.loss.target), 0)
        return goal.loss.losses(prompts)

    def gradient(self, suffix: Ids) -> Tensor:
        """[n, V]: of the only goal; else the sum of all that speak, each of length one at each place."""
        found = []
        for goal in self.goals:
            if goal.speaks:
                prompt = goal.slot.ids(suffix)
                self._meter.took(len(prompt) + len(goal.loss.target), 0)
                found.append(goal.loss.gradient(prompt, goal.slot.span))
        if len(found) == 1:
            return found[0]
        size = min(slope.shape[1] for slope in found)  # tables of one vocabulary may be padded to different sizes
        units = [(slope / slope.norm(dim=-1, keepdim=True).clamp(min=1e-12)).cpu()[:, :size] for slope in found]
        return torch.stack(units).sum(0)


def of_models(
    attack: str,
    behaviors: Sequence[Example],
    engines: Sequence[Engine],
    meter: Meter,
    *,
    target: TransformersEngine,
    start: str,
    prefix: str,
    place: Place,
    mellowmax: float | None,
) -> Goals:
    """The goals of all behaviors on some models.

    A suffix is ids of the target's tokenizer. A model with another one is given texts, and its gradient does not count.

    Raises:
        InputError: A model is none of transformers, a behavior has no target, or `start` cannot stand in a prompt.
    """
    goals = []
    for engine in (weights(attack, engine) for engine in engines):
        tokenizer = engine.tokenizer
        speaks = engine is target or tokenizer.get_vocab() == target.tokenizer.get_vocab()
        for behavior in behaviors:
            text = target_of(attack, behavior)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            place_of = slot.find(tokenizer, behavior.prompt, start, opening(prefix, place))
            length = len(place_of.ids(place_of.start.ids)) + len(ids)
            if length > engine.model.config.get_text_config().max_position_embeddings:
                raise InputError(
                    f"attack {attack}: behavior {behavior.id} has {length} tokens with its target; "
                    f"{engine.name} does not read that many"
                )
            goals.append(Goal(place_of, TargetLoss(engine.model, ids, mellowmax), speaks, engine is target))
    return Goals(goals, meter)


def weights(attack: str, engine: Engine) -> TransformersEngine:
    """The engine as one whose weights are at hand.

    Raises:
        InputError: It is another one.
    """
    if not isinstance(engine, TransformersEngine):
        raise InputError(
            f"attack {attack}: needs the weights, so a model of transformers; {engine.name} does not show them"
        )
    return engine
