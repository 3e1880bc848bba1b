"""The embedding-space attack on the micro model, against computations of its own."""

from math import log

import micro
import pytest
import torch
from transformers import LlamaForCausalLM

from safereason.attacks import embedding
from safereason.attacks.base import SearchStep, Setup
from safereason.attacks.embedding import EmbeddingSettings
from safereason.attacks.meter import Meter, Metered, SpentError
from safereason.attacks.soft_prompt import SoftPrompt, build_layout
from safereason.data.example import Example
from safereason.engines.base import Sampling
from safereason.engines.openai import OpenAIEngine
from safereason.engines.transformers import TransformersEngine
from safereason.errors import InputError
from safereason.text import chat

BEHAVIOR = Example(id="b/1", prompt="Name a colour.", kind="harmful", source="b", target="Sure, red")
SMALL = EmbeddingSettings(tokens=5, steps=12, learning_rate=0.05)
BRIEF = Sampling(temperature=0.0, max_new_tokens=16)


@pytest.fixture
def engine() -> TransformersEngine:
    torch.manual_seed(1)
    config = micro.config(tie_word_embeddings=False)
    config.initializer_range = 0.4
    return TransformersEngine(LlamaForCausalLM(config), micro.tokenizer(), name="micro")


def run(engine, settings: EmbeddingSettings = SMALL, **setup) -> list[SearchStep]:
    return list(embedding.search_embedding([BEHAVIOR], settings, Setup(engine, sampling=BRIEF, **setup)))


def ids(engine: TransformersEngine, text: str) -> list[int]:
    return engine.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(("optimizer", "rate"), [("sign", 0.05), ("adam", 0.1)])
def test_the_loss_falls_far_below_that_of_the_text_it_begins_with(engine, optimizer, rate):
    steps = run(engine, EmbeddingSettings(tokens=5, steps=40, learning_rate=rate, optimizer=optimizer))
    losses = [step.value for step in steps[1:]]
    assert len(losses) == 42  # of the start, 40 steps, and again with the completion
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]
    assert steps[-1].cases[0].details["loss"] == losses[-1]


@pytest.mark.parametrize(("place", "prefix"), [("reasoning", "<think>\n"), ("answer", "<think>\n\n</think>\n\n")])
def test_the_first_loss_is_that_of_the_text_that_the_vectors_begin_as(engine, place, prefix):
    steps = run(engine, SMALL.model_copy(update={"place": place, "steps": 1}), prefix="<think>\n")
    prompt = f"{BEHAVIOR.prompt}{'!' * 5}"  # " !" ends in the token of an exclamation mark here
    [likelihood] = engine.loglikelihood([chat.user(prompt)], [BEHAVIOR.target], prefix=prefix)
    assert steps[1].value == pytest.approx(-likelihood.total / len(likelihood.token_logprobs), rel=1e-5)


def test_a_step_is_the_gradients_sign(engine):
    around, target = build_layout(engine, BEHAVIOR.prompt, ""), ids(engine, BEHAVIOR.target)
    soft = SoftPrompt(engine, 3)
    vectors = soft.start.clone().requires_grad_()
    embed = engine.model.get_input_embeddings()
    with torch.enable_grad():
        parts = [embed(torch.tensor(around.before)), vectors, embed(torch.tensor(around.after + target))]
        logits = engine.model(inputs_embeds=torch.cat(parts)[None]).logits[0, -len(target) - 1 : -1]
        loss = -logits.log_softmax(-1)[range(len(target)), target].mean()
        loss.backward()
    engine.model.zero_grad()
    losses = soft.optimise(around, target, 1e-3, "sign")
    assert next(losses) == pytest.approx(loss.item(), rel=1e-5)
    second = next(losses)
    moved = soft.start - 1e-3 * vectors.grad.sign()
    assert second == pytest.approx(soft.loss_of(moved, around, target).item(), rel=1e-5)
    assert second < loss.item()
    torch.testing.assert_close(soft.best, moved)
    assert all(parameter.grad is None for parameter in engine.model.parameters())


def test_the_completion_is_what_the_model_generates_from_the_embeddings(engine):
    around = build_layout(engine, BEHAVIOR.prompt, "<think>\n")
    soft = SoftPrompt(engine, 5)
    losses = soft.optimise(around, ids(engine, BEHAVIOR.target), 0.05, "sign")
    for _ in range(4):
        next(losses)
    text, written = soft.completion(around, 16)
    embed = engine.model.get_input_embeddings()
    parts = [embed(torch.tensor(around.before)), soft.best, embed(torch.tensor(around.after))]
    inputs = torch.cat(parts)[None].detach()
    expected = engine.model.generate(
        inputs_embeds=inputs,
        attention_mask=torch.ones(inputs.shape[:2]),
        do_sample=False,
        max_new_tokens=16,
        pad_token_id=256,
    )[0]
    assert text == engine.tokenizer.decode(expected, skip_special_tokens=True)
    assert written == len(expected)


def test_the_model_ends_its_own_turn(engine):
    around = build_layout(engine, BEHAVIOR.prompt, "")
    soft = SoftPrompt(engine, 5)
    losses = soft.optimise(around, [*ids(engine, "Red"), 258], 0.1, "adam")
    while next(losses) > 0.01:
        pass
    assert soft.completion(around, 16) == ("Red", 4)


def test_the_case_holds_what_was_written_after_the_models_own_prefix(engine):
    # Ten starts that differ by far more than rounding does all come below the bound within 189 steps.
    settings = EmbeddingSettings(tokens=40, steps=300, learning_rate=0.03, optimizer="adam")
    [case] = run(engine, settings, prefix="<think>\n")[-1].cases
    bound = log(2) / len(ids(engine, BEHAVIOR.target))
    assert case.details["loss"] < bound, "above it, a token of the target need not be the likeliest"
    assert case.completion.startswith("Sure, red")
    assert (case.prompt, case.prefix) == (BEHAVIOR.prompt, None)
    assert case.details["moved"] > 0
    vocabulary = engine.model.get_input_embeddings().weight
    assert case.details["vocabulary_norm"] == pytest.approx(vocabulary.norm(dim=1).mean().item(), rel=1e-6)


def test_it_is_the_same_each_time_and_leaves_the_model_as_it_was(engine):
    engine.model.train()
    before = {name: weight.clone() for name, weight in engine.model.state_dict().items()}
    assert run(engine) == run(engine)
    assert engine.model.training
    assert all(torch.equal(weight, before[name]) for name, weight in engine.model.state_dict().items())


@pytest.mark.parametrize("most", [1, 2, 7, 13, 14, 15, None])
def test_the_last_query_of_a_budget_is_kept_for_the_completion(engine, most):
    meter = Meter(max_queries=most)
    steps = run(Metered(engine, meter, is_target=True), meter=meter)
    assert meter.queries == min(most or 14, 14)  # 13 losses and a completion
    assert len(steps) == meter.queries + 1
    assert steps[-1].cases[0].completion is not None
    assert 0 < meter.completion_tokens <= BRIEF.max_new_tokens
    assert (steps[-1].value is None) == (most == 1)
    per_query = (
        len(build_layout(engine, BEHAVIOR.prompt, "").before + build_layout(engine, BEHAVIOR.prompt, "").after) + 5
    )
    assert meter.prompt_tokens == meter.queries * per_query + (meter.queries - 1) * len(ids(engine, BEHAVIOR.target))


def test_no_budget_leaves_the_behavior_alone(engine):
    steps = embedding.search_embedding([BEHAVIOR], SMALL, Setup(engine, meter=Meter(max_queries=0)))
    assert next(steps).cases[0].prompt == BEHAVIOR.prompt
    with pytest.raises(SpentError):
        next(steps)


def test_a_behavior_without_a_target_and_an_engine_without_weights_are_refused(engine):
    bare = Example(id="b/2", prompt="Name a colour.", kind="harmful", source="b")
    with pytest.raises(InputError, match="attack embedding: behavior b/2 has no target"):
        next(embedding.search_embedding([bare], SMALL, Setup(engine)))
    server = OpenAIEngine("m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(InputError, match="attack embedding: needs the weights"):
        next(embedding.search_embedding([BEHAVIOR], SMALL, Setup(server)))


def test_the_vectors_stand_at_the_end_of_the_users_text(engine):
    around = build_layout(engine, "Hi", "<think>\n")
    assert engine.tokenizer.decode(around.before) == "<|im_start|>user\nHi"
    assert engine.tokenizer.decode(around.after) == "<|im_end|>\n<|im_start|>assistant\n<think>\n"
    engine.tokenizer.chat_template = "{{ messages[0]['content'] }}{{ messages[0]['content'] }}"
    with pytest.raises(InputError, match="micro: its chat template changes what the user says"):
        build_layout(engine, "Hi", "")
