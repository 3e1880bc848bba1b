"""Embedding-space attack: a soft prompt, the upper bound for white-box attacks (Schwinn et al., arXiv 2402.09063).

Vectors in place of token embeddings follow the user's text. Gradient descent moves them until the model gives the
target text a high likelihood. No text makes the model read these vectors again, so the test case holds the model's
completion.

Deviations:
1. The text goes through the model's chat template, and the vectors come at the end of the user's turn.
2. The vectors with the lowest loss are kept, where the original keeps the last ones.
3. The model's completion follows its own generation prefix, for either `place` of the target text.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from safereason.attacks.base import Attack, AttackSettings, Need, SearchStep, Setup, TestCase
from safereason.attacks.target_position import (
    TargetPosition,
    check_target_texts,
    require_target_text,
    text_before_target,
)
from safereason.data.example import Example
from safereason.engines.base import require_local


class EmbeddingSettings(AttackSettings):
    """The figures of the original where it has them."""

    tokens: int = Field(20, ge=1)
    """Vectors of the soft prompt."""
    steps: int = Field(100, ge=1)
    """Gradient steps."""
    learning_rate: float = Field(0.01, gt=0.0)
    """Size of a step in each coordinate, at the scale of embeddings; the released code's."""
    optimizer: Literal["sign", "adam"] = "sign"
    """Whether a step follows the gradient's sign alone, as in the paper, or is Adam's."""
    place: TargetPosition = "reasoning"
    """Position of the target text in a reasoning model's completion: after its generation prefix, or as its answer."""


def search_embedding(behaviors: Sequence[Example], settings: EmbeddingSettings, setup: Setup) -> Iterator[SearchStep]:
    """Optimises a soft prompt for a behavior. Each loss is a step, and the completion is the last one.

    A loss is one query, and so is the completion; the last query of the budget is reserved for the completion.

    Raises:
        InputError: The behavior has no target text, or the engine gives no access to its weights.
    """
    # One behavior for each search: embeddings are optimised for its prompt and its target text alone.
    [behavior] = behaviors
    target_text = require_target_text("embedding", behavior)
    # Heavy imports come after the cheap check, which needs no torch.
    from safereason.attacks.soft_prompt import SoftPrompt, build_layout

    engine = require_local(setup.target_model, "attack embedding")
    yield SearchStep(0, (TestCase(behavior.id, "embedding", behavior.prompt),))
    target_ids = list(engine.tokenizer(target_text, add_special_tokens=False)["input_ids"])
    layout = build_layout(engine, behavior.prompt, text_before_target(setup.prefix, settings.place))
    soft_prompt = SoftPrompt(engine, settings.tokens)
    length = len(layout.before) + settings.tokens + len(layout.after)
    losses = soft_prompt.optimise(layout, target_ids, settings.learning_rate, settings.optimizer)
    meter = setup.meter
    number = 0
    # A loop with a counter instead of `range`: the budget may end it earlier, and it leaves one query over.
    while number <= settings.steps and (meter.queries_left is None or meter.queries_left > 1):
        meter.charge(1)
        next(losses)
        meter.count_tokens(length + len(target_ids), 0)
        number += 1
        case = TestCase(behavior.id, "embedding", behavior.prompt, details={"loss": soft_prompt.loss})
        yield SearchStep(number, (case,), soft_prompt.loss)
    meter.charge(1)
    # The evaluation's own prefix, without the closed reasoning that the target text may have been placed after.
    layout = build_layout(engine, behavior.prompt, setup.prefix)
    text, written = soft_prompt.completion(layout, setup.sampling.max_new_tokens)
    meter.count_tokens(length, written)
    details = {"loss": soft_prompt.loss, **soft_prompt.norms()}
    case = TestCase(behavior.id, "embedding", behavior.prompt, completion=text, details=details)
    yield SearchStep(number + 1, (case,), soft_prompt.loss)


def check_embedding(behaviors: Sequence[Example], settings: EmbeddingSettings, available: frozenset[Need]) -> None:
    """Refuses behaviors without a target text."""
    check_target_texts("embedding", behaviors)


ATTACK = Attack(
    "embedding",
    "A soft prompt of embeddings that no token has: the upper bound for white-box attacks",
    search_embedding,
    frozenset({"weights"}),
    EmbeddingSettings,
    check=check_embedding,
)
