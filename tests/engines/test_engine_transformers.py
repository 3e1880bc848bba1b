"""The transformers engine on a micro model, against `model.generate` and direct computation."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import engine_contract
import micro
import pytest
import torch
from engine_contract import EngineContract
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from safereason.engines.base import Completion, GenerateOptions, Usage
from safereason.engines.open import open_engine
from safereason.engines.spec import ModelSpec
from safereason.engines.transformers import SHARE_FROM, TransformersEngine, common_length, end_of_turn_ids
from safereason.errors import InputError, StageFailed
from safereason.recipe.schema import Sampling
from safereason.text import chat
from safereason.text.chat import user

TEXTS = ("a", "a much longer second prompt", "three!", "four four four", "and the fifth one")
PROMPTS = [user(text) for text in TEXTS]
POLICY = "".join(map(chr, (*range(33, 97), *range(123, 127))))
"""All printable characters that the texts are not written in, so that a penalty on them comes from here alone."""
UNDER_POLICY = [user(POLICY + text) for text in TEXTS]
SAMPLED = Sampling(temperature=1.0, max_new_tokens=24)
GREEDY = Sampling(temperature=0.0, max_new_tokens=24)
ENDS = [*range(235, 256), 258]
"""Token ids that end a turn in these tests: about one in twelve, so that rows end at different lengths."""

Ids = list[list[tuple[int, ...]]]


def build(**changes: Any) -> LlamaForCausalLM:
    """Untied and with wide weights, so that what it writes depends on all it read; in double precision, so that the
    layout of a batch does not show in the last bit of a draw."""
    torch.manual_seed(1)
    changed = micro.config(tie_word_embeddings=False, **changes)
    changed.initializer_range = 0.4
    model = LlamaForCausalLM(changed).double()
    model.generation_config.eos_token_id = ENDS
    return model


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return build()


def engine(model: LlamaForCausalLM, batch_tokens: int = 16_384) -> TransformersEngine:
    return TransformersEngine(model, micro.tokenizer(), name="micro", batch_tokens=batch_tokens)


class TestContract(EngineContract):
    """What every engine keeps."""

    @pytest.fixture(scope="class")
    def reference(self, tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
        opened = open_engine(ModelSpec.parse(str(engine_contract.save_model(tmp_path_factory.mktemp("contract")))))
        assert isinstance(opened, TransformersEngine)
        return opened

    @pytest.fixture(scope="class")
    def engine(self, reference: TransformersEngine) -> TransformersEngine:
        """The same model a prompt at a time."""
        return TransformersEngine(reference.model, reference.tokenizer, name="apart", batch_tokens=1)


def ids(completions: list[list[Completion]]) -> Ids:
    return [[c.token_ids for c in row] for row in completions]


def generated(model: LlamaForCausalLM, prompt: list[int], **options: Any) -> list[int]:
    """What `model.generate` writes after `prompt`, greedily."""
    text = torch.tensor([prompt])
    mask = torch.ones_like(text)
    out = model.generate(text, attention_mask=mask, do_sample=False, max_new_tokens=24, pad_token_id=256, **options)
    return out[0, len(prompt) :].tolist()


@contextmanager
def hooked(model: LlamaForCausalLM, hook: Callable[[torch.Tensor, torch.Tensor], None]) -> Iterator[None]:
    """Runs `hook(input_ids, attention_mask)` before each forward pass; there is no mask where nothing is padded."""
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: hook(kwargs["input_ids"], kwargs.get("attention_mask")), with_kwargs=True
    )
    try:
        yield
    finally:
        handle.remove()


def test_the_micro_model_ends_its_turns_at_different_lengths(model: LlamaForCausalLM):
    completions = [c for row in engine(model).generate(PROMPTS, SAMPLED, GenerateOptions(n=4)) for c in row]
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    assert len({len(c.token_ids) for c in completions}) > 5


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_is_what_generate_writes(model: LlamaForCausalLM, penalty: float):
    sampling = GREEDY.model_copy(update={"repetition_penalty": penalty})
    completions = engine(model).generate(PROMPTS, sampling)
    tokenizer = micro.tokenizer()
    expected = [generated(model, chat.prompt_ids(tokenizer, p), repetition_penalty=penalty) for p in PROMPTS]
    assert [list(row[0].token_ids) for row in completions] == expected
    assert [row[0].text for row in completions] == [tokenizer.decode(e, skip_special_tokens=True) for e in expected]
    assert [row[0].finish_reason == "stop" for row in completions] == [e[-1] in ENDS for e in expected]


def test_a_prefix_is_gone_on_from(model: LlamaForCausalLM):
    completions = engine(model).generate(PROMPTS, GREEDY, GenerateOptions(prefix="<think>\n"))
    prompts = [chat.prompt_ids(micro.tokenizer(), p, "<think>\n") for p in PROMPTS]
    assert [list(row[0].token_ids) for row in completions] == [generated(model, p) for p in prompts]
    assert {row[0].prefix for row in completions} == {"<think>\n"}
    assert completions[0][0].full_text == "<think>\n" + completions[0][0].text


def test_usage_counts_prompt_and_completion_whatever_a_batch_shares(model: LlamaForCausalLM):
    completions = engine(model).generate(UNDER_POLICY, SAMPLED, GenerateOptions(n=2, prefix="<think>\n"))
    for prompt, row in zip(UNDER_POLICY, completions, strict=True):
        read = len(chat.prompt_ids(micro.tokenizer(), prompt, "<think>\n"))
        assert [c.usage for c in row] == [Usage(read, len(c.token_ids)) for c in row]


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_how_rows_are_batched_does_not_show(model: LlamaForCausalLM, penalty: float):
    sampling = Sampling(temperature=0.8, top_p=0.95, repetition_penalty=penalty, max_new_tokens=12)
    apart = engine(model, batch_tokens=1).generate(PROMPTS, sampling, GenerateOptions(n=3, seed=4))
    for batch_tokens in (130, 200, 333, 600, 16_384):
        assert ids(engine(model, batch_tokens).generate(PROMPTS, sampling, GenerateOptions(n=3, seed=4))) == ids(apart)


def test_completions_of_a_shared_prompt_are_those_of_prompts_run_apart(model: LlamaForCausalLM):
    rows = []
    with hooked(model, lambda input_ids, mask: rows.append(len(input_ids))):
        together = engine(model).generate(PROMPTS[:2], SAMPLED, GenerateOptions(n=4))
        first = rows[0]
        apart = engine(model, batch_tokens=1).generate(PROMPTS[:2], SAMPLED, GenerateOptions(n=4))
    assert first == 2, "each prompt is read once for its four completions"
    assert ids(together) == ids(apart)
    assert len({c.token_ids for c in together[0]}) == 4


def test_a_batch_keeps_to_its_budget(model: LlamaForCausalLM):
    sizes = []
    with hooked(model, lambda input_ids, mask: sizes.append(mask.shape)):
        engine(model, batch_tokens=250).generate(PROMPTS, SAMPLED, GenerateOptions(n=4))
    longest = max(len(chat.prompt_ids(micro.tokenizer(), p)) for p in PROMPTS)
    assert max(rows for rows, _ in sizes) > 1
    assert all(rows == 1 or rows * (width + 1) <= 250 + longest for rows, width in sizes)


def test_finished_rows_leave_the_batch(model: LlamaForCausalLM):
    rows = []
    with hooked(model, lambda input_ids, mask: rows.append(len(input_ids))):
        engine(model).generate(PROMPTS, SAMPLED, GenerateOptions(n=4))
    assert rows[1] == 20
    assert rows[-1] < 10


@pytest.mark.parametrize("batch_tokens", [120, 16_384])
def test_what_is_done_leaves_the_others_as_they_were(model: LlamaForCausalLM, batch_tokens: int):
    whole = engine(model, batch_tokens).generate(PROMPTS, SAMPLED, GenerateOptions(n=2))
    finished: list[int] = []
    resumed = engine(model, batch_tokens).generate(
        PROMPTS,
        SAMPLED,
        GenerateOptions(n=2, done={0, 3}, on_finish=lambda index, number, completion: finished.append(index)),
    )
    assert resumed == [[], whole[1], whole[2], [], whole[4]]
    assert sorted(finished) == [1, 1, 2, 2, 4, 4]


def test_nothing_runs_where_all_is_done_or_nothing_is_asked(model: LlamaForCausalLM):
    def refuse(input_ids: Any, mask: Any) -> None:
        raise AssertionError("the model was run")

    with hooked(model, refuse):
        assert engine(model).generate(PROMPTS, SAMPLED, GenerateOptions(done=range(5))) == [[]] * 5
        assert engine(model).generate([], SAMPLED) == []


def test_a_stop_text_ends_a_completion_and_is_cut_off(model: LlamaForCausalLM):
    whole = max((row[0] for row in engine(model).generate(PROMPTS, SAMPLED)), key=lambda c: len(c.token_ids))
    first, second = [c for c in whole.text if c.isascii()][1:3]
    completions = engine(model).generate(PROMPTS, SAMPLED, GenerateOptions(stop=[second, first]))
    cut = [row[0] for row in completions if whole.text.startswith(row[0].text)]
    assert whole.text[: whole.text.index(first)] in [c.text for c in cut]
    assert all(first not in row[0].text and second not in row[0].text for row in completions)
    assert all(c.finish_reason == "stop" and len(c.token_ids) < len(whole.token_ids) for c in cut)


def test_a_completion_ends_where_the_context_does(model: LlamaForCausalLM):
    small = build(max_position_embeddings=64)
    small.generation_config.eos_token_id = None
    prompts = [chat.prompt_ids(micro.tokenizer(), p) for p in PROMPTS]
    keeps = [p for p, ids in zip(PROMPTS, prompts, strict=True) if len(ids) < 63]
    completions = engine(small).generate(keeps, Sampling(max_new_tokens=50))
    rooms = [64 - len(ids) for ids in prompts if len(ids) < 63]
    assert min(rooms) < 50
    for row, room in zip(completions, rooms, strict=True):
        assert row[0].finish_reason == "stop" or len(row[0].token_ids) == min(room, 50)
    assert "length" in {row[0].finish_reason for row in completions}


def test_a_prompt_longer_than_the_context_costs_the_others_nothing():
    small = engine(build(max_position_embeddings=40))
    lengths = [len(chat.prompt_ids(micro.tokenizer(), p)) for p in PROMPTS]
    long = [i for i, length in enumerate(lengths) if length >= 40]
    assert 0 < len(long) < len(PROMPTS)
    finished: list[tuple[int, int]] = []
    completions = small.generate(
        PROMPTS, SAMPLED, GenerateOptions(n=2, seed=3, on_finish=lambda i, k, _: finished.append((i, k)))
    )
    assert sorted(finished) == [(i, k) for i in range(len(PROMPTS)) for k in range(2)]
    for i, row in enumerate(completions):
        assert [c.finish_reason == "error" for c in row] == [i in long] * 2
        assert [c.usage is None for c in row] == [i in long] * 2
    errors = {c.error for i in long for c in completions[i]}
    assert errors == {f"micro: a prompt has {lengths[i]} tokens and the model reads 40; shorten it" for i in long}
    assert small.generate(PROMPTS, SAMPLED, GenerateOptions(n=2, seed=3, done=long)) == [
        [] if i in long else row for i, row in enumerate(completions)
    ]
    with pytest.raises(InputError, match=r"a prompt has .* tokens and the model reads 40; shorten it"):
        small.loglikelihood(PROMPTS, ["a"] * len(PROMPTS))


def out_of_memory(limit: int, error: Exception) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """A device that holds `limit` rows."""

    def hook(input_ids: torch.Tensor, mask: torch.Tensor) -> None:
        if len(input_ids) > limit:
            raise error

    return hook


ALLOCATIONS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
]


@pytest.mark.parametrize("error", ALLOCATIONS, ids=["torch", "cuda", "cublas", "cpu"])
@pytest.mark.parametrize("limit", [1, 3, 7])
def test_a_batch_that_does_not_fit_is_halved(model: LlamaForCausalLM, error: Exception, limit: int):
    expected = engine(model).generate(PROMPTS, SAMPLED, GenerateOptions(n=3))
    calls = Counter()
    with hooked(model, out_of_memory(limit, error)):
        completions = engine(model).generate(
            PROMPTS,
            SAMPLED,
            GenerateOptions(n=3, on_finish=lambda index, number, completion: calls.update([(index, number)])),
        )
    assert ids(completions) == ids(expected)
    assert calls == Counter((i, k) for i in range(5) for k in range(3))


def test_memory_that_runs_out_midway_costs_no_finished_completion(model: LlamaForCausalLM):
    expected = engine(model).generate(PROMPTS, SAMPLED, GenerateOptions(n=4))
    calls: list[tuple[int, int]] = []
    finished_before = []

    def hook(input_ids: torch.Tensor, mask: torch.Tensor) -> None:
        if not finished_before and len(calls) >= 5:
            finished_before.extend(calls)
            raise torch.OutOfMemoryError

    with hooked(model, hook):
        completions = engine(model).generate(
            PROMPTS,
            SAMPLED,
            GenerateOptions(n=4, on_finish=lambda index, number, completion: calls.append((index, number))),
        )
    assert 5 <= len(finished_before) < 20
    assert ids(completions) == ids(expected)
    assert len(calls) == len(set(calls)) == 20


def test_a_batch_that_did_not_fit_makes_the_later_ones_smaller(model: LlamaForCausalLM):
    small = engine(model)
    sizes: list[int] = []

    def hook(input_ids: torch.Tensor, mask: torch.Tensor) -> None:
        sizes.append(len(input_ids))
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError

    prompts = [user(f"prompt {i}") for i in range(8)]
    with hooked(model, hook):
        first = small.generate(prompts, SAMPLED)
        assert max(sizes) == 8
        tried = [size for size in sizes if size > 3]
        sizes.clear()
        assert ids(small.generate(prompts, SAMPLED)) == ids(first)
        assert max(sizes) <= 3, "no batch is tried again that cannot fit"
    assert tried == [8, 4, 4], "its halves were laid out before the first of them failed"


@pytest.mark.parametrize("error", ALLOCATIONS, ids=["torch", "cuda", "cublas", "cpu"])
@pytest.mark.parametrize("limit", [1, 2])
def test_likelihoods_and_states_that_do_not_fit_are_halved(model: LlamaForCausalLM, error: Exception, limit: int):
    texts = [f"text {i}" for i in range(len(PROMPTS))]
    likelihoods = engine(model).loglikelihood(PROMPTS, texts)
    states = engine(model).last_states(PROMPTS)
    small = engine(model)
    with hooked(model, out_of_memory(limit, error)):
        halved = small.loglikelihood(PROMPTS, texts)
    for likelihood, expected in zip(halved, likelihoods, strict=True):
        assert likelihood.token_logprobs == pytest.approx(expected.token_logprobs)
    with hooked(model.base_model, out_of_memory(limit, error)):
        torch.testing.assert_close(engine(model).last_states(PROMPTS), states)
    sizes: list[int] = []
    with hooked(model, lambda input_ids, mask: sizes.append(len(input_ids))):
        small.loglikelihood(PROMPTS, texts)
    assert max(sizes) < len(PROMPTS), "the smaller batch is kept"


def test_a_single_text_that_does_not_fit_fails_the_stage(model: LlamaForCausalLM):
    with (
        hooked(model, out_of_memory(0, torch.OutOfMemoryError())),
        pytest.raises(StageFailed, match="micro: out of memory for a single text; shorten it"),
    ):
        engine(model).loglikelihood(PROMPTS, ["a"] * len(PROMPTS))


def test_a_single_completion_that_does_not_fit_fails_the_stage(model: LlamaForCausalLM):
    with (
        hooked(model, out_of_memory(0, torch.OutOfMemoryError())),
        pytest.raises(StageFailed, match=r"micro: out of memory.*sampling.max_new_tokens"),
    ):
        engine(model).generate(PROMPTS, SAMPLED)


def test_another_error_of_the_model_is_not_taken_for_lack_of_memory(model: LlamaForCausalLM):
    with hooked(model, out_of_memory(0, RuntimeError("shapes differ"))), pytest.raises(RuntimeError, match="shapes"):
        engine(model).generate(PROMPTS, SAMPLED)


def tokens_of(prompts: list[chat.Conversation]) -> list[list[int]]:
    return [chat.prompt_ids(micro.tokenizer(), prompt) for prompt in prompts]


def alike(rows: list[list[int]]) -> int:
    """Tokens that all begin with."""
    return len(list(takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))))


def shapes_of(engine: TransformersEngine, prompts: list[chat.Conversation], **named: Any) -> list[tuple[int, ...]]:
    """Rows and tokens of each forward pass."""
    shapes: list[tuple[int, ...]] = []
    with hooked(engine.model, lambda input_ids, mask: shapes.append(tuple(input_ids.shape))):
        engine.generate(prompts, SAMPLED, GenerateOptions(**named))
    return shapes


def test_what_a_batch_of_prompts_begins_with_is_computed_once(model: LlamaForCausalLM):
    rows = tokens_of(UNDER_POLICY)
    common, longest = alike(rows), max(map(len, rows))
    assert common > SHARE_FROM
    shapes = shapes_of(engine(model), UNDER_POLICY, n=2)
    assert shapes[:3] == [(1, common), (5, longest - common), (10, 1)]
    assert {columns for _, columns in shapes[3:]} == {1}
    again = shapes_of(engine(model), [UNDER_POLICY[1]] * 3)
    assert again[:3] == [(1, longest - 1), (3, 1), (3, 1)], "one token of each is left to go on from"


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_after_a_common_beginning_greedy_is_what_generate_writes(model: LlamaForCausalLM, penalty: float):
    sampling = GREEDY.model_copy(update={"repetition_penalty": penalty})
    completions = engine(model).generate(UNDER_POLICY, sampling)
    expected = [generated(model, row, repetition_penalty=penalty) for row in tokens_of(UNDER_POLICY)]
    assert [list(row[0].token_ids) for row in completions] == expected


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_completions_after_a_common_beginning_are_those_of_prompts_run_apart(attention: str, penalty: float):
    model = build()
    model.set_attn_implementation(attention)
    sampling = Sampling(temperature=0.9, top_p=0.95, repetition_penalty=penalty, max_new_tokens=16)
    apart = ids(engine(model, batch_tokens=1).generate(UNDER_POLICY, sampling, GenerateOptions(n=3, seed=2)))
    assert len({len(row) for rows in apart for row in rows}) > 3, "rows retire at different times"
    for batch_tokens in (500, 1100, 16_384):
        assert ids(engine(model, batch_tokens).generate(UNDER_POLICY, sampling, GenerateOptions(n=3, seed=2))) == apart
    resumed = engine(model).generate(UNDER_POLICY, sampling, GenerateOptions(n=3, seed=2, done=[1, 4]))
    assert ids(resumed) == [[] if i in (1, 4) else row for i, row in enumerate(apart)]


def test_a_short_common_beginning_is_not_worth_it(model: LlamaForCausalLM):
    short = SHARE_FROM - alike(tokens_of([user("b"), user("c")]))
    at, below = ([user("x" * letters + end) for end in "bc"] for letters in (short, short - 1))
    assert shapes_of(engine(model), at)[0] == (1, SHARE_FROM)
    assert shapes_of(engine(model), below)[0] == (2, len(tokens_of(below)[0]))


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6), min_size=1, max_size=5), st.integers(60, 66))
def test_the_common_beginning_leaves_a_token_of_each_prompt(ends: list[list[int]], length: int):
    prompts = [[7] * length + end for end in ends]
    expected = min(alike(prompts), min(map(len, prompts)) - 1)
    assert common_length(prompts, SHARE_FROM) == (expected if len(prompts) > 1 and expected >= SHARE_FROM else 0)


@pytest.mark.parametrize("limit", [1, 4])
def test_a_batch_with_a_common_beginning_that_does_not_fit_is_halved(model: LlamaForCausalLM, limit: int):
    expected = engine(model).generate(UNDER_POLICY, SAMPLED, GenerateOptions(n=2, choices=2))
    calls = Counter()
    with hooked(model, out_of_memory(limit, torch.OutOfMemoryError())):
        completions = engine(model).generate(
            UNDER_POLICY,
            SAMPLED,
            GenerateOptions(n=2, choices=2, on_finish=lambda i, k, completion: calls.update([(i, k)])),
        )
    assert ids(completions) == ids(expected)
    assert calls == Counter((i, k) for i in range(5) for k in range(2))
    assert all(len(c.choices) == len(c.token_ids) for row in completions for c in row)


def test_a_model_with_sliding_windows_does_not_share(model: LlamaForCausalLM):
    changed = {
        key: value
        for key, value in micro.config(tie_word_embeddings=False).to_dict().items()
        if key in MistralConfig().to_dict() and key not in ("architectures", "model_type")
    }
    torch.manual_seed(1)
    sliding = MistralForCausalLM(MistralConfig(**{**changed, "sliding_window": 24, "initializer_range": 0.4})).double()
    sliding.generation_config.eos_token_id = ENDS
    rows = tokens_of(UNDER_POLICY)
    assert shapes_of(engine(sliding), UNDER_POLICY)[0] == (5, max(map(len, rows)))
    together, apart = (
        engine(sliding, size).generate(UNDER_POLICY, SAMPLED, GenerateOptions(n=2)) for size in (16_384, 1)
    )
    assert ids(together) == ids(apart)


def listed_directly(
    model: LlamaForCausalLM, prompt: list[int], written: tuple[int, ...], count: int
) -> list[list[tuple[str, float]]]:
    """The likeliest tokens at each place of what was written, from one pass over all of it."""
    decode = micro.tokenizer().decode
    with torch.no_grad():
        rows = model(torch.tensor([[*prompt, *written]])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    listed = []
    for scores, token in zip(rows, written, strict=True):
        likeliest = scores.argsort(descending=True)[:count].tolist()
        chosen = likeliest if token in likeliest else [*likeliest, token]
        listed.append([(decode([i]), float(scores[i])) for i in chosen])
    return listed


@pytest.mark.parametrize("batch_tokens", [1, 300, 16_384])
@pytest.mark.parametrize("prompts", [PROMPTS, UNDER_POLICY], ids=["apart", "common"])
def test_choices_are_the_model_s_own_before_penalty_temperature_and_truncation(
    model: LlamaForCausalLM, prompts: list[chat.Conversation], batch_tokens: int
):
    model.eval()
    shaped = Sampling(temperature=1.5, top_p=0.9, top_k=9, repetition_penalty=1.6, max_new_tokens=10)
    completions = engine(model, batch_tokens).generate(prompts, shaped, GenerateOptions(n=2, seed=1, choices=3))
    assert ids(completions) == ids(
        engine(model, batch_tokens).generate(prompts, shaped, GenerateOptions(n=2, seed=1))
    ), "they change no draw"
    counts = Counter()
    for prompt, row in zip(tokens_of(prompts), completions, strict=True):
        for completion in row:
            direct = listed_directly(model, prompt, completion.token_ids, 3)
            assert [c.text for c in completion.choices] == [micro.tokenizer().decode([i]) for i in completion.token_ids]
            for choice, expected in zip(completion.choices, direct, strict=True):
                counts[len(choice.likeliest)] += 1
                assert choice.text in dict(choice.likeliest)
                assert [text for text, _ in choice.likeliest] == [text for text, _ in expected]
                assert [p for _, p in choice.likeliest] == pytest.approx([p for _, p in expected], abs=1e-4)
    assert counts.keys() == {3, 4}, "some that were drawn are not among the likeliest, and stand behind them"


def test_the_greedy_token_stands_first_and_all_tokens_share_one(model: LlamaForCausalLM):
    (whole,) = engine(model).generate(PROMPTS[:1], GREEDY, GenerateOptions(choices=1000))[0]
    for choice in whole.choices:
        assert len(choice.likeliest) == 259
        assert choice.likeliest[0][0] == choice.text
        assert choice.likeliest[0][1] == max(logprob for _, logprob in choice.likeliest)
        assert sum(math.exp(logprob) for _, logprob in choice.likeliest) == pytest.approx(1.0, abs=1e-4)
    (one,) = engine(model).generate(PROMPTS[:1], GREEDY, GenerateOptions(choices=1))[0]
    assert [c.likeliest for c in one.choices] == [c.likeliest[:1] for c in whole.choices]
    (none,) = engine(model).generate(PROMPTS[:1], GREEDY)[0]
    assert (none.choices, none.token_ids) == ((), whole.token_ids)


def test_a_prompt_without_room_has_no_choices():
    small = engine(build(max_position_embeddings=40))
    completions = small.generate(PROMPTS, SAMPLED, GenerateOptions(choices=2))
    assert {c.finish_reason == "error" for row in completions for c in row} == {True, False}
    assert all(len(c.choices) == len(c.token_ids) for row in completions for c in row)
    assert all(not c.choices for row in completions for c in row if c.finish_reason == "error")


@pytest.mark.parametrize("prompts", [PROMPTS, UNDER_POLICY], ids=["apart", "common"])
def test_alone_means_whichever_stand_beside_it(model: LlamaForCausalLM, prompts: list[chat.Conversation]):
    by_itself = ids([engine(model).generate([prompt], SAMPLED, GenerateOptions(n=2, seed=3))[0] for prompt in prompts])
    assert ids(engine(model).generate(prompts, SAMPLED, GenerateOptions(n=2, seed=3, alone=True))) == by_itself
    turned = engine(model).generate([*prompts[::-1], prompts[0]], SAMPLED, GenerateOptions(n=2, seed=3, alone=True))
    assert ids(turned) == [*by_itself[::-1], by_itself[0]]
    some = engine(model).generate(prompts, SAMPLED, GenerateOptions(n=2, seed=3, alone=True, done=[0, 2]))
    assert ids(some) == [[] if i in (0, 2) else row for i, row in enumerate(by_itself)]
    otherwise = ids(engine(model).generate(prompts, SAMPLED, GenerateOptions(n=2, seed=3)))
    assert [a == b for a, b in zip(otherwise, by_itself, strict=True)] == [True, False, False, False, False]


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_run_in_evaluation_mode_and_put_back(training: bool):
    model = build(attention_dropout=1) if training else build()
    model.train(training)
    modes = []
    with hooked(model, lambda input_ids, mask: modes.append(model.training)):
        engine(model).generate(PROMPTS, GREEDY)
        engine(model).loglikelihood(PROMPTS[:1], ["b"])
        assert model.training is training
        with hooked(model, out_of_memory(0, torch.OutOfMemoryError())), pytest.raises(StageFailed):
            engine(model).generate(PROMPTS, GREEDY)
    assert model.training is training
    assert not any(modes)


def direct(model: LlamaForCausalLM, prompt: list[int], target: list[int]) -> tuple[list[float], bool]:
    """Log-probabilities of `target` after `prompt`, alone and without tricks."""
    with torch.no_grad():
        rows = model(torch.tensor([prompt + target])).logits[0].float().log_softmax(-1)[len(prompt) - 1 : -1]
    target_ids = torch.tensor(target)
    return rows[torch.arange(len(target)), target_ids].tolist(), bool((rows.argmax(-1) == target_ids).all())


@pytest.mark.parametrize("batch_tokens", [1, 100, 16_384])
@pytest.mark.parametrize("prefix", ["", "<think>\n"])
def test_likelihoods_are_those_of_a_direct_computation(model: LlamaForCausalLM, batch_tokens: int, prefix: str):
    model.eval()
    tokenizer = micro.tokenizer()
    continuations = ["Sure", "I cannot help with that.", "x", "no", "a longer continuation than the others"]
    likelihoods = engine(model, batch_tokens).loglikelihood(PROMPTS, continuations, prefix=prefix)
    for likelihood, prompt, text in zip(likelihoods, PROMPTS, continuations, strict=True):
        target = tokenizer(text, add_special_tokens=False)["input_ids"]
        logprobs, greedy = direct(model, chat.prompt_ids(tokenizer, prompt, prefix), target)
        assert likelihood.token_logprobs == pytest.approx(logprobs, abs=1e-5)
        assert likelihood.is_greedy is greedy
        assert likelihood.total == pytest.approx(sum(logprobs), abs=1e-4)


def test_a_greedy_continuation_is_known_as_such(model: LlamaForCausalLM):
    tokenizer = micro.tokenizer()
    written = engine(model).generate(PROMPTS, Sampling(temperature=0.0, max_new_tokens=1))
    letters = [p for p, row in zip(PROMPTS, written, strict=True) if row[0].text.isascii() and row[0].text]
    texts = [row[0].text for row in written if row[0].text.isascii() and row[0].text]
    assert texts
    assert all(likelihood.is_greedy for likelihood in engine(model).loglikelihood(letters, texts))
    others = [next(c for c in "xyz" if c != text) for text in texts]
    assert not any(likelihood.is_greedy for likelihood in engine(model).loglikelihood(letters, others))
    assert tokenizer.decode(tokenizer(texts[0])["input_ids"]) == texts[0]


def test_an_empty_continuation_is_certain(model: LlamaForCausalLM):
    empty, other = engine(model).loglikelihood(PROMPTS[:2], ["", "b"])
    assert (empty.token_logprobs, empty.total, empty.is_greedy) == ((), 0.0, True)
    assert other.total < 0


def test_a_tokenizer_without_chat_template_is_refused(model: LlamaForCausalLM):
    plain = engine(model)
    plain.tokenizer.chat_template = None
    with pytest.raises(InputError, match="chat template"):
        plain.generate(PROMPTS, SAMPLED)


@pytest.mark.parametrize(("configured", "expected"), [(None, {258}), (7, {7, 258}), ([7, 258], {7, 258})])
def test_a_turn_ends_at_the_tokenizer_s_and_the_model_s_tokens(
    model: LlamaForCausalLM, configured: Any, expected: set[int]
):
    kept = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = configured
    try:
        assert end_of_turn_ids(model, micro.tokenizer()) == expected
    finally:
        model.generation_config.eos_token_id = kept


def test_rotary_embeddings_that_stretch_with_the_longest_row_do_not_change_the_others():
    """Past what a model was first trained on, positions are encoded otherwise, in all rows that are read together."""
    factors = {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 40, "factor": 8.0}
    stretched = build(rope_parameters={**rope, **factors}, max_position_embeddings=320)
    lengths = [len(row) for row in tokens_of(PROMPTS)]
    assert min(lengths) < 40 < max(lengths)
    assert min(lengths) + GREEDY.max_new_tokens > 40, "one goes past the bound while it is written"
    completions = engine(stretched).generate(PROMPTS, GREEDY)
    for prompt, row in zip(tokens_of(PROMPTS), completions, strict=True):
        written: list[int] = []
        for token in row[0].token_ids:
            with torch.no_grad():
                logits = stretched(torch.tensor([[*prompt, *written]]), use_cache=False).logits[0, -1]
            assert int(logits.argmax()) == token
            written.append(token)
