"""Embedding-space attack: a soft prompt, the upper bound for white-box attacks (Schwinn et al., arXiv 2402.09063).

Vectors in the place of tokens' embeddings follow the user's text and are moved along the gradient until the model gives
the target's tokens a high likelihood. No text makes the model read them again, so the test case holds what the model
wrote after them.

Deviations:
1. The text goes through the model's chat template, and the vectors stand at the end of the user's turn.
2. The vectors with the lowest loss are kept, where the original keeps the last ones.
3. What the model writes follows its own generation prefix, wherever `place` had the target.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field

from safereason.attacks import base
from safereason.attacks.base import Attack, Need, Setup, Step, TestCase
from safereason.attacks.meter import unwrapped
from safereason.attacks.placing import Place, check_targets, opening, target_of
from safereason.data.example import Example
from safereason.errors import InputError


class Settings(base.Settings):
    """The figures of the original where it has them."""

    tokens: int = Field(20, ge=1)
    """Vectors of the soft prompt."""
    steps: int = Field(100, ge=1)
    """Steps along the gradient."""
    learning_rate: float = Field(0.01, gt=0.0)
    """Length of a step in each coordinate, at the scale of embeddings; the released code's."""
    optimizer: Literal["sign", "adam"] = "sign"
    """Whether a step goes by the gradient's sign alone, as the paper's, or as Adam has it."""
    place: Place = "reasoning"
    """Where a reasoning model is to write the target: right after its generation prefix, or as its answer."""


def search(behaviors: Sequence[Example], settings: Any, setup: Setup) -> Iterator[Step]:
    """Finds a soft prompt for a behavior; a step for each of its losses, and a last one with what the model wrote.

    A loss is one query, and so is the completion; the last query that may be asked is kept for it.

    Raises:
        InputError: The behavior has no target, or the engine gives no access to its weights.
    """
    [behavior] = behaviors
    goal = target_of("embedding", behavior)
    engine = unwrapped(setup.target)
    if not hasattr(engine, "model"):
        raise InputError(f"attack embedding: needs the weights, so a model of transformers; {engine.name} is none")
    from safereason.attacks.soft_prompt import SoftPrompt, layout

    yield Step(0, (TestCase(behavior.id, "embedding", behavior.prompt),))
    target = list(engine.tokenizer(goal, add_special_tokens=False)["input_ids"])
    around = layout(engine, behavior.prompt, opening(setup.prefix, settings.place))
    soft = SoftPrompt(engine, settings.tokens)
    length = len(around.before) + settings.tokens + len(around.after)
    losses = soft.optimise(around, target, settings.learning_rate, settings.optimizer)
    number = 0
    meter = setup.meter
    while number <= settings.steps and (meter.most is None or meter.queries + 1 < meter.most):
        meter.ask(1)
        next(losses)
        meter.took(length + len(target), 0)
        number += 1
        yield Step(
            number, (TestCase(behavior.id, "embedding", behavior.prompt, details={"loss": soft.loss}),), soft.loss
        )
    meter.ask(1)
    around = layout(engine, behavior.prompt, setup.prefix)
    text, written = soft.completion(around, setup.sampling.max_new_tokens)
    meter.took(length, written)
    details = {"loss": soft.loss, **soft.norms()}
    case = TestCase(behavior.id, "embedding", behavior.prompt, completion=text, details=details)
    yield Step(number + 1, (case,), soft.loss)


def check(behaviors: Sequence[Example], settings: Any, at_hand: frozenset[Need]) -> None:
    """Refuses behaviors without a target."""
    check_targets("embedding", behaviors)


ATTACK = Attack(
    "embedding",
    "A soft prompt of embeddings that no token has: the upper bound for white-box attacks",
    search,
    frozenset({"weights"}),
    Settings,
    check=check,
)
