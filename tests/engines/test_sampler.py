"""The sampler against transformers' own logits processors."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from safereason.engines.sampler import draw, uniforms
from safereason.recipe.schema import Sampling

POINTS = 4096
PINNED = [0.48217694743247674, 0.7875071847522576, 0.6401649020104021]
# Steps of 1/64 and no two alike: how ties at the k-th place are broken is nobody's contract.
LOGITS = st.lists(st.integers(-400, 400), min_size=2, max_size=24, unique=True).map(
    lambda values: torch.tensor(values, dtype=torch.float32) / 64
)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.3, 0.6, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 5, 1000]),
    top_p=st.sampled_from([0.05, 0.3, 0.9, 0.99, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.2, 3.0]),
)


def reference(logits: Tensor, prompt: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities as transformers' `generate` makes them, [V]."""
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)])
    processors.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    processors.append(TopPLogitsWarper(sampling.top_p))
    return processors(prompt[None], logits[None].clone())[0].double().softmax(-1)


def frequencies(logits: Tensor, seen: Tensor, sampling: Sampling) -> Tensor:
    """How often each token is drawn over an even grid of uniform numbers, [V]."""
    grid = (torch.arange(POINTS, dtype=torch.float64) + 0.5) / POINTS
    tokens = draw(logits.expand(POINTS, -1), grid, sampling, seen.expand(POINTS, -1))
    return torch.bincount(tokens, minlength=len(logits)).double() / POINTS


@given(logits=LOGITS, sampling=SAMPLINGS, data=st.data())
def test_tokens_are_drawn_with_the_probabilities_of_transformers(
    logits: Tensor, sampling: Sampling, data: st.DataObject
):
    prompt = torch.tensor(data.draw(st.lists(st.integers(0, len(logits) - 1), min_size=1)))
    seen = torch.zeros(len(logits), dtype=torch.bool).scatter(0, prompt, True)
    unfiltered = reference(logits, prompt, sampling.model_copy(update={"top_p": 1.0}))
    # A token on the very border of the nucleus is in or out by the last bit; equal ones by their order.
    border = (unfiltered.sort(descending=True).values.cumsum(-1) - sampling.top_p).abs().min()
    assume(sampling.top_p == 1.0 or border > 1e-5)
    assume(len(set(unfiltered[unfiltered > 0].tolist())) == int((unfiltered > 0).sum()))
    expected = reference(logits, prompt, sampling)
    shares = frequencies(logits, seen, sampling)
    assert (shares - expected).abs().max() <= 1.01 / POINTS
    assert not shares[expected == 0].any()
    assert shares[expected > 2 / POINTS].all()


@given(logits=LOGITS, uniform=st.floats(0, 1, exclude_max=True), penalty=st.sampled_from([1.0, 1.5]))
def test_temperature_zero_takes_the_likeliest_after_the_penalty(logits: Tensor, uniform: float, penalty: float):
    seen = torch.zeros(1, len(logits), dtype=torch.bool)
    seen[0, logits.argmax()] = True
    sampling = Sampling(temperature=0.0, repetition_penalty=penalty, top_p=0.1, top_k=3)
    token = draw(logits[None], torch.tensor([uniform]), sampling, seen)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(logits.argmax()[None, None], logits[None].clone()).argmax()
    assert token.tolist() == [int(expected)]


@given(rows=st.integers(1, 6), width=st.integers(2, 40), sampling=SAMPLINGS, seed=st.integers(0, 1000))
def test_a_row_does_not_depend_on_its_neighbours(rows: int, width: int, sampling: Sampling, seed: int):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, width, generator=generator)
    numbers = torch.rand(rows, generator=generator, dtype=torch.float64)
    seen = torch.rand(rows, width, generator=generator) < 0.3
    together = draw(logits, numbers, sampling, seen)
    apart = [draw(logits[i : i + 1], numbers[i : i + 1], sampling, seen[i : i + 1]) for i in range(rows)]
    assert together.tolist() == torch.cat(apart).tolist()


@pytest.mark.parametrize("uniform", [0.0, 0.999999999999, 1 - 2**-53])
@pytest.mark.parametrize("top_k", [0, 2])
def test_the_ends_of_the_unit_interval_draw_tokens_that_can_be_drawn(uniform: float, top_k: int):
    logits = torch.tensor([[float("-inf"), 1.0, float("-inf"), 1.5, 0.5, float("-inf")]])
    token = draw(logits, torch.tensor([uniform], dtype=torch.float64), Sampling(top_k=top_k))
    assert token.item() in ({1, 3} if top_k else {1, 3, 4})


def test_the_logits_are_left_as_they_were():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    sampling = Sampling(top_k=1, top_p=0.5, repetition_penalty=2.0, temperature=0.5)
    draw(logits, torch.tensor([0.5]), sampling, torch.tensor([[True, True, True]]))
    assert logits.tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_half_precision_logits_are_drawn_from_in_single_precision(dtype: torch.dtype):
    logits = torch.tensor([[0.0, 3.0, 1.0]], dtype=dtype)
    assert draw(logits, torch.tensor([0.2], dtype=torch.float64), Sampling(top_p=0.9)).tolist() == [1]


def test_random_numbers_are_pinned_and_belong_to_one_completion():
    numbers = uniforms(0, 0, 0, 3)
    assert numbers.tolist() == uniforms(0, 0, 0, 8)[:3].tolist()
    assert torch.allclose(numbers, torch.tensor(PINNED, dtype=torch.float64), atol=1e-12)
    others = [uniforms(1, 0, 0, 3), uniforms(0, 1, 0, 3), uniforms(0, 0, 1, 3), uniforms(0, 10, 0, 3)]
    assert len({tuple(o.tolist()) for o in (numbers, *others)}) == 5


def test_random_numbers_are_uniform():
    numbers = torch.cat([uniforms(0, i, 0, 64) for i in range(200)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    deciles = torch.histc(numbers.float(), bins=10, min=0, max=1) / len(numbers)
    assert (deciles - 0.1).abs().max() < 0.015
