"""Objectives of a shared suffix: on each model, each behavior's prompt with it shall lead to the target text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safereason.attacks.base import Setup
from safereason.attacks.gcg_settings import GCGSettings
from safereason.attacks.meter import Meter
from safereason.attacks.target_position import require_target_text, text_before_target
from safereason.attacks.whitebox.loss import PromptLosses, TargetLoss
from safereason.attacks.whitebox.suffix import Suffix, SuffixPosition, TokenIds, find_suffix_position
from safereason.data.example import Example
from safereason.engines.base import Engine, LocalEngine, require_local
from safereason.errors import InputError


@dataclass(frozen=True)
class Objective:
    """One term of a search's loss: one behavior on one model."""

    position: SuffixPosition
    loss: TargetLoss
    shares_vocabulary: bool
    """Whether its tokenizer is the target model's, so that suffixes are the same ids and its gradient counts."""
    on_target_model: bool
    """Whether its model is the target model, so that each loss is a query."""


class Objectives:
    """All objectives of a search. The meter counts their queries and tokens."""

    def __init__(self, objectives: Sequence[Objective], meter: Meter) -> None:
        """Checks that the prompts agree on the initial suffix.

        Raises:
            InputError: They split it into different tokens.
        """
        self.objectives = tuple(objectives)
        self._meter = meter
        self.on_target_model: list[Objective] = []
        self._shared_positions: list[SuffixPosition] = []
        for objective in self.objectives:
            if objective.on_target_model:
                self.on_target_model.append(objective)
            if objective.shares_vocabulary:
                self._shared_positions.append(objective.position)
        for other in self._shared_positions[1:]:
            first = self._shared_positions[0]
            # The ids of one suffix are put into all prompts, so they have to mean the same text in each.
            if other.start != first.start or other.lead != first.lead:
                raise InputError(
                    "the behaviors' prompts cut the first suffix into different tokens; start from another one"
                )

    def read(self, candidates: Sequence[TokenIds]) -> list[Suffix]:
        """The candidates that survive the way through text in every prompt of the target model's tokenizer."""
        if not candidates:
            return []
        first, *others = self._shared_positions
        suffixes = first.read(candidates)
        for other in others:
            suffixes = other.surviving(suffixes)
        return suffixes

    def affordable(self, suffixes: list[Suffix]) -> list[Suffix]:
        """The first suffixes, as many as the query budget allows."""
        if self._meter.queries_left is None:
            return suffixes
        # One suffix costs a query for each behavior.
        return suffixes[: self._meter.queries_left // len(self.on_target_model)]

    def losses(self, suffixes: Sequence[Suffix]) -> tuple[Tensor, Tensor]:
        """The loss [G, N] of each objective after each suffix, and whether each target text was matched [G, N].

        Raises:
            SpentError: The suffixes exceed the query budget.
        """
        self._meter.charge(len(suffixes) * len(self.on_target_model))
        values: list[Tensor] = []
        matched: list[Tensor] = []
        for objective in self.objectives:
            losses = self._prompt_losses(objective, suffixes)
            values.append(losses.values)
            matched.append(losses.matched)
        return torch.stack(values), torch.stack(matched)

    def _prompt_losses(self, objective: Objective, suffixes: Sequence[Suffix]) -> PromptLosses:
        """The losses of one objective after each suffix."""
        if objective.shares_vocabulary:
            prompts = [objective.position.ids(suffix.ids) for suffix in suffixes]
        else:
            # Another tokenizer gives the suffix other ids, so its text is encoded.
            prompts = objective.position.encode([suffix.text for suffix in suffixes])
        tokens = sum(map(len, prompts)) + len(prompts) * len(objective.loss.target_ids)
        self._meter.count_tokens(tokens, 0)
        return objective.loss.losses(prompts)

    def gradient(self, suffix: TokenIds) -> Tensor:
        """The gradient [n, V] at a suffix's one-hot tokens.

        With several objectives, it is the sum of their gradients, each normalised to length 1 at each position (paper's
        code), so that no model or behavior dominates the others.
        """
        gradients: list[Tensor] = []
        for objective in self.objectives:
            if objective.shares_vocabulary:
                prompt = objective.position.ids(suffix)
                self._meter.count_tokens(len(prompt) + len(objective.loss.target_ids), 0)
                gradients.append(objective.loss.gradient(prompt, objective.position.span))
        if len(gradients) == 1:
            return gradients[0]
        size = min(gradient.shape[1] for gradient in gradients)  # tables of one vocabulary may differ in their padding
        normalised: list[Tensor] = []
        for gradient in gradients:
            length = gradient.norm(dim=-1, keepdim=True).clamp(min=1e-12)
            # On the CPU, as the models may be on different devices.
            normalised.append((gradient / length).cpu()[:, :size])
        return torch.stack(normalised).sum(0)


def build_objectives(
    behaviors: Sequence[Example], engines: Sequence[Engine], settings: GCGSettings, setup: Setup
) -> Objectives:
    """The objectives of all behaviors on some models.

    A suffix is ids of the target model's tokenizer. A model with another tokenizer reads suffixes as text, and its
    gradient does not count.

    Args:
        behaviors: Behaviors with target texts.
        engines: Models to optimise on.
        settings: Initial suffix, position of the target texts, and mellowmax of the losses.
        setup: Target model, whether or not it is one of the engines, its generation prefix, and the meter.

    Raises:
        InputError: A model is none of transformers, a behavior has no target text, or the initial suffix does not fit a
            prompt.
    """
    target_model = require_local(setup.target_model, "attack gcg")
    opening = text_before_target(setup.prefix, settings.place)
    objectives: list[Objective] = []
    for engine in engines:
        local_engine = require_local(engine, "attack gcg")
        shares_vocabulary = _shares_vocabulary(local_engine, target_model)
        for behavior in behaviors:
            target_text = require_target_text("gcg", behavior)
            target_ids = local_engine.tokenizer(target_text, add_special_tokens=False)["input_ids"]
            suffix_position = find_suffix_position(local_engine.tokenizer, behavior.prompt, settings.start, opening)
            length = len(suffix_position.ids(suffix_position.start.ids)) + len(target_ids)
            _check_length(behavior, local_engine, length)
            objective = Objective(
                position=suffix_position,
                loss=TargetLoss(local_engine.model, target_ids, settings.mellowmax),
                shares_vocabulary=shares_vocabulary,
                on_target_model=local_engine is target_model,
            )
            objectives.append(objective)
    return Objectives(objectives, setup.meter)


def _shares_vocabulary(engine: LocalEngine, target_model: LocalEngine) -> bool:
    """Whether an engine's tokenizer has the same ids for the same tokens as the target model's."""
    return engine is target_model or engine.tokenizer.get_vocab() == target_model.tokenizer.get_vocab()


def _check_length(behavior: Example, engine: LocalEngine, length: int) -> None:
    """Refuses a prompt that, with its target text, is longer than the model's context."""
    # A model that also reads images keeps these figures in a configuration of its text part.
    if length > engine.model.config.get_text_config().max_position_embeddings:
        raise InputError(
            f"attack gcg: behavior {behavior.id} has {length} tokens with its target; "
            f"{engine.name} does not read that many"
        )
