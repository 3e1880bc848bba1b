"""Losses and gradients against computations that share nothing with them."""

from typing import Any

import micro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from safereason.attacks.whitebox.loss import TargetLoss
from safereason.errors import StageFailed

IDS = st.lists(st.integers(0, 255), min_size=1, max_size=12)


def llama(seed: int = 0, **changes: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(micro.config(**changes)).eval()


def windowed() -> MistralForCausalLM:
    """Attention that sees eight tokens back: what is computed of a beginning cannot be kept."""
    torch.manual_seed(0)
    shape = {k: getattr(micro.config(), k) for k in ("vocab_size", "hidden_size", "intermediate_size")}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return MistralForCausalLM(MistralConfig(**shape, **heads, sliding_window=8)).eval()


MODELS = {"llama": llama(), "windowed": windowed()}


def expected(model: Any, prompt: list[int], target: list[int]) -> float:
    logits = model(torch.tensor([prompt + target])).logits[0]
    return float(cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(target)))


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=25)
@given(
    base=st.lists(st.integers(0, 255), min_size=2, max_size=30),
    edits=st.lists(st.tuples(st.integers(0, 29), IDS), min_size=1, max_size=8),
    target=IDS,
    budget=st.sampled_from([1, 40, 10_000]),
    overhead=st.sampled_from([0, 16, 10_000]),
)
def test_losses_of_prompts_of_any_length_are_those_of_whole_passes(
    name: str, base: list[int], edits: list[tuple[int, list[int]]], target: list[int], budget: int, overhead: int
) -> None:
    model = MODELS[name]
    loss = TargetLoss(model, target)
    loss._budget, loss._overhead = budget, overhead
    prompts = [base[:place] + ids + base[place + 1 :] for place, ids in edits]
    with torch.no_grad():
        expected_losses = [expected(model, prompt, target) for prompt in prompts]
    for _ in range(2):  # the second time with whatever the first one left behind
        assert loss.losses(prompts).values.tolist() == pytest.approx(expected_losses, abs=1e-4)
    loss.gradient(base, slice(0, 1))
    assert loss.losses(prompts).values.tolist() == pytest.approx(expected_losses, abs=1e-4)
    assert [loss.loss_without_cache(prompt)[0] for prompt in prompts] == pytest.approx(expected_losses, abs=1e-4)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_losses_and_gradient_on_a_deeper_llama_with_grouped_heads(heads: int) -> None:
    model = llama(3, num_hidden_layers=6, hidden_size=128, num_attention_heads=4, num_key_value_heads=heads)
    prompt, target = list(range(40, 100)), list(range(20))
    loss = TargetLoss(model, target)
    span = slice(30, 50)
    torch.testing.assert_close(loss.gradient(prompt, span), one_hot_gradient(model, prompt, target, span))
    prompts = [[*prompt[:i], 7, *prompt[i + 1 :]] for i in range(30, 50)]
    with torch.no_grad():
        expected_losses = [expected(model, changed, target) for changed in prompts]
    assert loss.losses(prompts).values.tolist() == pytest.approx(expected_losses, abs=1e-4)


def one_hot_gradient(model: Any, prompt: list[int], target: list[int], span: slice) -> torch.Tensor:
    """By autograd through one-hot rows of the whole text, nothing held."""
    table = model.get_input_embeddings().weight.detach()
    ids = torch.tensor(prompt + target)
    one_hot = torch.nn.functional.one_hot(ids, table.shape[0]).to(table.dtype).requires_grad_()
    logits = model(inputs_embeds=(one_hot @ table)[None]).logits[0]
    cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(target)).backward()
    return one_hot.grad[span]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("span", [slice(0, 3), slice(4, 9), slice(11, 12)])
def test_the_gradient_is_that_of_the_one_hot_rows(name: str, span: slice) -> None:
    model, prompt, target = MODELS[name], list(range(60, 72)), [5, 9, 3]
    loss = TargetLoss(model, target)
    loss.cache_prefix([60, 61, 1, 2, 3])  # of another prompt, and of no use past its second token
    torch.testing.assert_close(loss.gradient(prompt, span), one_hot_gradient(model, prompt, target, span))


def test_the_gradient_is_what_a_small_step_changes() -> None:
    model, prompt, target, h = llama(1), list(range(60, 72)), [5, 9, 3], 1e-2
    gradient = TargetLoss(model, target).gradient(prompt, slice(4, 9))
    table = model.get_input_embeddings().weight.detach()

    def stepped(place: int, token: int, size: float) -> float:
        vectors = table[torch.tensor(prompt + target)].clone()
        vectors[place] += size * table[token]
        with torch.no_grad():
            logits = model(inputs_embeds=vectors[None]).logits[0]
        return float(cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(target)))

    for place, token in [(4, 0), (6, 200), (8, 77)]:
        slope = (stepped(place, token, h) - stepped(place, token, -h)) / (2 * h)
        assert float(gradient[place - 4, token]) == pytest.approx(slope, rel=0.01, abs=1e-4)


def test_mellowmax_lies_between_the_mean_and_the_worst_token() -> None:
    model, prompt, target = MODELS["llama"], list(range(12)), [5, 9, 3]
    logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
    tokens = cross_entropy(logits, torch.tensor(target), reduction="none").detach()
    for alpha in (0.5, 4.0):
        mellowmax = float((alpha * tokens).exp().mean().log() / alpha)
        assert float(tokens.mean()) < mellowmax < float(tokens.max())
        loss = TargetLoss(model, target, mellowmax=alpha)
        assert float(loss.losses([prompt]).values) == pytest.approx(mellowmax, abs=1e-5)
        assert loss.loss_without_cache(prompt)[0] == pytest.approx(mellowmax, abs=1e-5)


def test_matched_is_what_greedy_decoding_writes() -> None:
    model = MODELS["llama"]
    prompts = [list(range(i, i + 9)) for i in range(6)]
    written = model.generate(torch.tensor([prompts[2]]), max_new_tokens=5, do_sample=False)[0, 9:].tolist()
    loss = TargetLoss(model, written)
    assert loss.losses(prompts).matched.tolist() == [loss.loss_without_cache(prompt)[1] for prompt in prompts]
    assert loss.loss_without_cache(prompts[2])[1]
    assert not all(loss.losses(prompts).matched.tolist())


def test_a_batch_that_does_not_fit_is_halved_and_the_next_one_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    model, target = llama(2), [1, 2]
    loss = TargetLoss(model, target)
    prompts = [[i, *range(9)] for i in range(16)]
    expected_losses = loss.losses(prompts).values
    sizes: list[int] = []
    forward = type(model).forward

    def small(self: Any, input_ids: Any = None, **named: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > room:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, input_ids=input_ids, **named)

    monkeypatch.setattr(type(model), "forward", small)
    room = 5
    torch.testing.assert_close(loss.losses(prompts).values, expected_losses)
    assert max(sizes) == 16
    first, sizes[:] = list(sizes), []
    for _ in range(4):
        torch.testing.assert_close(loss.losses(prompts).values, expected_losses)
    assert max(sizes[-4:]) <= room < max(first)
    room = 0
    with pytest.raises(StageFailed, match="out of memory for a single prompt"):
        loss.losses(prompts)


def test_a_model_in_training_is_left_in_training() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=2)).train()
    loss = TargetLoss(model, [3, 4])
    values = loss.losses([[1, 2, 5], [1, 2, 6]]).values.tolist()
    assert model.training
    model.eval()
    with torch.no_grad():
        assert values == pytest.approx(
            [expected(model, [1, 2, 5], [3, 4]), expected(model, [1, 2, 6], [3, 4])], abs=1e-5
        )
