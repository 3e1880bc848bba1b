"""Packed log-probabilities against the plain ones, on groups of every shape."""

import architectures
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from safereason.training import shared_prefix
from safereason.training.shared_prefix import completion_logps, is_supported

VOCABULARY = 40
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)


def make_model(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


MODELS = {
    "llama": make_model(LlamaConfig(**SIZE, tie_word_embeddings=True)),
    "qwen2": make_model(Qwen2Config(**SIZE, tie_word_embeddings=False)),
    "eager": make_model(LlamaConfig(**SIZE, attn_implementation="eager")),
    "granite": make_model(GraniteConfig(**SIZE, logits_scaling=8.0)),
    "cohere": make_model(AutoConfig.for_model("cohere", **SIZE, logit_scale=0.1)),
    "adapters": get_peft_model(make_model(LlamaConfig(**SIZE)), LORA).eval(),
}


def batch(prompts: list[list[int]], rows: list[tuple[int, list[int]]]) -> tuple[Tensor, Tensor, int]:
    """Ids and mask [B, P + C] of rows (which prompt, its completion), prompts padded left and completions right."""
    width, length = max(map(len, prompts)), max(len(completion) for _, completion in rows)
    ids = torch.zeros(len(rows), width + length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (number, completion) in enumerate(rows):
        prompt = prompts[number]
        first, last = width - len(prompt), width + len(completion)
        ids[i, first:last] = torch.tensor([*prompt, *completion])
        mask[i, first:last] = 1
    return ids, mask, length


def plain(model, ids: Tensor, mask: Tensor, length: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Each row alone, without its padding."""
    logps, entropies = torch.zeros(len(ids), length), torch.zeros(len(ids), length)
    for i in range(len(ids)):
        row = ids[i][mask[i].bool()]
        count = int(mask[i, -length:].sum())
        if count == 0:
            continue
        scores = (model(input_ids=row[None], use_cache=False).logits[0].float() / temperature).log_softmax(-1)
        scores = scores[len(row) - count - 1 : -1]
        logps[i, :count] = scores.gather(1, row[-count:, None])[:, 0]
        entropies[i, :count] = torch.distributions.Categorical(logits=scores).entropy()
    return logps, entropies


@st.composite
def ragged(draw):
    """Prompts of 1 … 12 tokens, behind a common part of 0 … 50, with 1 … 4 completions of 0 … 9 tokens each, one token
    at least; rows in any order."""
    token = st.integers(1, VOCABULARY - 1)
    prompts = draw(st.lists(st.lists(token, min_size=1, max_size=12), min_size=1, max_size=3, unique_by=tuple))
    common = draw(st.lists(token, max_size=50))
    prompts = [[*common, *prompt] for prompt in prompts]
    completions = st.lists(st.lists(token, max_size=9), min_size=1, max_size=4)
    rows = [(i, completion) for i in range(len(prompts)) for completion in draw(completions)]
    rows = draw(st.permutations(rows))
    return prompts, [(0, [1]), *rows] if not any(completion for _, completion in rows) else list(rows)


@settings(max_examples=60)
@given(ragged(), st.sampled_from(list(MODELS)), st.sampled_from([0.6, 1.0]), st.sampled_from([8, 90, 1024]))
def test_the_plain_computation_gives_the_same(drawn, name, temperature, row):
    ids, mask, length = batch(*drawn)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_prefix, "ROW_TOKENS", row)
        patch.setattr(shared_prefix, "LEAST_COMMON_TOKENS", 2)
        result = completion_logps(MODELS[name], ids, mask, length, temperature)
        expected = plain(MODELS[name], ids, mask, length, temperature)
    torch.testing.assert_close(result[0], expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result[1], expected[1], rtol=1e-4, atol=1e-5)


PROMPTS = [[3, 1, 4, 1, 5, 9, 2], [6, 5], [3, 5, 8, 9]]
ROWS = [(1, [7, 7, 2]), (0, [1]), (2, [8, 3, 3, 9, 1]), (0, [2, 4, 6, 8]), (1, [7, 7]), (0, [2, 4])]


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_same(name):
    model = MODELS[name]
    ids, mask, length = batch(PROMPTS, ROWS)
    weights = torch.randn(len(ROWS), length, generator=torch.Generator().manual_seed(0))
    result, expected = (
        _gradients(model, *compute(model, ids, mask, length, 0.7), weights) for compute in (completion_logps, plain)
    )
    trained = {key for key, weight in model.named_parameters() if weight.requires_grad}
    assert result.keys() == expected.keys() == trained
    for key, gradient in expected.items():
        torch.testing.assert_close(result[key], gradient, rtol=1e-4, atol=1e-5)


def _gradients(model, logps: Tensor, entropies: Tensor, weights: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    ((logps - 0.3 * entropies) * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_each_prompt_is_run_once(monkeypatch):
    model, shapes = MODELS["llama"], []
    ids, mask, length = batch(PROMPTS, ROWS)
    monkeypatch.setattr(model.model, "forward", _recording(model.model.forward, shapes))
    completion_logps(model, ids, mask, length, 1.0)
    # Six prompt tokens but the last, and each completion of the longest group behind a copy of the last.
    assert shapes == [(3, 6 + max(1 + 4 + 2, 3 + 2, 5))]


def test_what_all_prompts_begin_with_is_run_once_a_row(monkeypatch):
    model, shapes, policy = MODELS["llama"], [], list(range(1, 37))
    ids, mask, length = batch([[*policy, *prompt] for prompt in PROMPTS], ROWS)
    monkeypatch.setattr(model.model, "forward", _recording(model.model.forward, shapes))
    completion_logps(model, ids, mask, length, 1.0)
    # 36 for all, then what is left of each prompt but its last token, and all completions;
    # [3 …] and [3 …] differ later.
    assert shapes == [(1, 36 + (6 + 1 + 3) + (1 + 4 + 2 + 3 + 2 + 5))]
    whole = float(mask.sum())
    assert shared_prefix.gain(ids, mask, length) == pytest.approx(whole / shapes[0][1])
    assert shared_prefix.gain(*batch(PROMPTS, ROWS)) < 2


def _recording(forward, shapes: list):
    def recording(*arguments, **named):
        shapes.append(tuple(named["input_ids"].shape))
        return forward(*arguments, **named)

    return recording


def test_logits_are_projected_in_chunks_of_any_size(monkeypatch):
    ids, mask, length = batch(PROMPTS, ROWS)
    whole = completion_logps(MODELS["llama"], ids, mask, length, 1.0)
    monkeypatch.setattr(shared_prefix, "CHUNK_TOKENS", 3)
    torch.testing.assert_close(completion_logps(MODELS["llama"], ids, mask, length, 1.0), whole)


@pytest.mark.parametrize("name", MODELS)
def test_plain_models_are_supported(name):
    assert is_supported(MODELS[name])


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SIZE),
        MistralConfig(**SIZE, sliding_window=16),
        Qwen2Config(**SIZE, use_sliding_window=True, sliding_window=16, max_window_layers=0),
        Qwen2Config(**SIZE, use_sliding_window=True, sliding_window=16, max_window_layers=1),
        LlamaConfig(**SIZE, attn_implementation="flex_attention"),
        LlamaConfig(**SIZE, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
        FalconConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True),
        *map(architectures.tiny_config, ("mpt", "bloom", "gpt_neo", "qwen3_5_text", "mamba2", "llama4_text")),
    ],
    ids=[
        "windows and a cap",
        "windowed",
        "windowed layers",
        "a windowed layer",
        "other mask",
        "stretched positions",
        "biases of positions",
        "mpt",
        "bloom",
        "gpt_neo",
        "linear attention",
        "a state alone",
        "chunks",
    ],
)
def test_what_would_not_be_exact_is_not_supported(config):
    assert not is_supported(make_model(config))


def test_a_mistral_without_a_window_is_supported():
    assert is_supported(make_model(MistralConfig(**SIZE, sliding_window=None)))


def test_adapters_on_the_head_are_not_supported():
    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM", init_lora_weights=False)
    assert not is_supported(get_peft_model(make_model(LlamaConfig(**SIZE)), config))


def test_an_architecture_that_nobody_has_tried_is_not_supported():
    model = make_model(LlamaConfig(**SIZE))
    model.config.model_type = "llama99"
    assert not is_supported(model)
