"""Checks of engines: greedy tokens, bf16, the log-probabilities of samplers, and a full memory."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from gpu_trial import Trial

from safereason.engines import vllm
from safereason.engines.base import Completion, GenerateOptions
from safereason.engines.open import load_model, load_tokenizer, open_engine
from safereason.engines.spec import ModelSpec
from safereason.engines.transformers import BATCH_TOKENS, SHARE_FROM, TransformersEngine, common_length
from safereason.recipe.schema import Precision, Sampling
from safereason.text.chat import Conversation, prompt_ids, user
from safereason.training import logprobs
from safereason.training.logprobs import Rows

TEXTS = (
    "Name a river.",
    "What is the capital of Peru, and on which coast does it lie?",
    "How long do eggs boil?",
    "Write a line about the sea.",
    "Why is the sky blue in the morning and red in the evening?",
    "Two words for cold.",
    "List three tools of a carpenter and say what each is good for.",
    "Is a whale a fish?",
    "Tell a child what a library is.",
    "Count to five.",
    "What do bees do in winter, when there are no flowers that they could visit?",
    "A rhyme for tree, please.",
)
RULES = (
    "Answer as the keeper of a small museum would. " + "Be brief, be kind, name no dates, and end with a question. " * 8
)
"""A beginning that all prompts of a batch share, longer than `SHARE_FROM` in any tokenizer."""
GREEDY = Sampling(temperature=0.0, max_new_tokens=24)
SAMPLED = Sampling(temperature=1.0, max_new_tokens=24)
TIE = 1e-3
"""Nats between the two likeliest tokens under which rounding may choose either."""
LEAST_AGREEMENT = 0.75
"""Least share of prompts whose first token in bf16 is the one in fp32."""
DISTANCE = {"fp32": 1e-3, "bf16": 0.05}
"""Most nats, on average over tokens, between the log-probabilities of a sampler and of the training, by precision."""
ROOM = 0.6
"""Share of what a batch needs that a full memory leaves it: half of the batch fits."""


def open_on(
    device: str, folder: Path, precision: Precision = "fp32", batch_tokens: int = BATCH_TOKENS
) -> TransformersEngine:
    """Our engine on a device."""
    tokenizer = load_tokenizer(ModelSpec.parse(str(folder)))
    model = load_model(str(folder), precision, device, tokenizer=tokenizer)
    assert model.device.type == device
    return TransformersEngine(model, tokenizer, name=f"{folder.name} on {device}", batch_tokens=batch_tokens)


def parted(expected: Sequence[Completion], results: Sequence[Completion]) -> list[float]:
    """Of each completion that differs: the nats between the expected one's two likeliest tokens where the two part."""
    gaps: list[float] = []
    for one, other in zip(expected, results, strict=True):
        pairs = list(zip(one.token_ids, other.token_ids, strict=False))
        differing = [place for place, (ours, theirs) in enumerate(pairs) if ours != theirs]
        if differing:
            (_, first), (_, second), *_ = one.choices[differing[0]].likeliest
            gaps.append(first - second)
        else:
            assert len(one.token_ids) == len(other.token_ids), "the same tokens end at the same place"
    return gaps


def greedy_tokens(trial: Trial, *, model: str) -> None:
    """Greedy tokens in fp32 are the CPU's: of one batch, of prompts with a common beginning, and of left-over rows."""
    reference = open_on("cpu", trial.models[model])
    engine = open_on(trial.device, trial.models[model])
    plain = [user(text) for text in TEXTS]
    under_rules = [user(RULES + text) for text in TEXTS]
    assert common_length([prompt_ids(engine.tokenizer, prompt) for prompt in under_rules], SHARE_FROM) > 0
    longest = max(len(prompt_ids(engine.tokenizer, prompt)) for prompt in plain) + GREEDY.max_new_tokens
    layouts = {
        "one batch": (plain, BATCH_TOKENS),
        "a common beginning": (under_rules, BATCH_TOKENS),
        # Twelve prompts of two rows each, of which five rows fill a batch.
        "left-over rows": (plain, 5 * longest),
    }
    for name, (conversations, budget) in layouts.items():
        expected, cpu_seconds = _generated(reference, conversations, budget)
        results, seconds = _generated(engine, conversations, budget)
        gaps = parted(expected, results)
        trial.note(f"{name}: tokens a second", sum(len(c.token_ids) for c in results) / seconds, "tokens/s")
        trial.note(f"{name}: the CPU's time, of the device's", cpu_seconds / seconds, "ratio")
        trial.note(f"{name}: completions that differ", len(gaps), f"of {len(results)}", "near-ties alone")
        assert all(gap < TIE for gap in gaps), f"{name}: they part where the two likeliest are {gaps} nats apart"


def _generated(
    engine: TransformersEngine, conversations: Sequence[Conversation], budget: int
) -> tuple[list[Completion], float]:
    """Two greedy completions of each conversation, with the two likeliest tokens, and the seconds that they took."""
    engine.batch_tokens = budget
    start = time.monotonic()
    rows = engine.generate(conversations, GREEDY, GenerateOptions(n=2, choices=2))
    return [completion for row in rows for completion in row], time.monotonic() - start


def first_tokens_in_bf16(trial: Trial, *, model: str) -> None:
    """The first greedy token in bf16 is for most prompts that of fp32."""
    first = Sampling(temperature=0.0, max_new_tokens=1)
    ids: dict[str, list[tuple[int, ...]]] = {}
    for precision in ("fp32", "bf16"):
        engine = open_on(trial.device, trial.models[model], precision)
        conversations = [user(start + text) for start in ("", RULES) for text in TEXTS]
        ids[precision] = [row[0].token_ids for row in engine.generate(conversations, first)]
    same = sum(ours == theirs for ours, theirs in zip(ids["fp32"], ids["bf16"], strict=True))
    share = same / len(ids["fp32"])
    trial.note("prompts with the first token of fp32", share, "share", f"≥ {LEAST_AGREEMENT}")
    assert share >= LEAST_AGREEMENT


def sampler_logprobs(trial: Trial, *, model: str, precision: Precision, engine: str) -> None:
    """A sampler's log-probabilities of what it draws are those that the training computes."""
    if engine == "vllm" and not vllm.is_installed():
        pytest.skip("vLLM is not installed")
    folder = trial.models[model]
    tokenizer = load_tokenizer(ModelSpec.parse(str(folder)))
    trained = load_model(str(folder), "fp32", trial.device, tokenizer=tokenizer)
    arithmetic = torch.autocast(trial.device, torch.bfloat16, enabled=precision == "bf16")
    conversations = [user(text) for text in TEXTS]
    options = GenerateOptions(n=2, choices=1)
    if engine == "vllm":
        arguments = {"gpu_memory_utilization": 0.2, "enforce_eager": True, "max_model_len": 256}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(vllm.VARIABLE, json.dumps(arguments))
            sampler = open_engine(ModelSpec.parse(f"vllm/{folder}"), precision=precision)
        rows = sampler.generate(conversations, SAMPLED, options)
    else:
        # As in GRPO: our engine draws on the very model that is trained.
        with arithmetic:
            rows = TransformersEngine(trained, tokenizer, name="trained").generate(conversations, SAMPLED, options)
    drawn = [completion for row in rows for completion in row]
    # The drawn token is the likeliest one, or comes after it.
    sampled = [choice.likeliest[-1][1] for completion in drawn for choice in completion.choices]
    prompts = [prompt_ids(tokenizer, conversation) for conversation in conversations for _ in range(options.n)]
    distance = distance_to_training(trained, prompts, [c.token_ids for c in drawn], sampled, arithmetic)
    bound = DISTANCE[precision]
    trial.note("mean distance of log-probabilities", distance, "nats", f"≤ {bound}")
    assert distance <= bound


def distance_to_training(
    trained,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    sampled: Sequence[float],
    arithmetic: torch.autocast,
) -> float:
    """The mean distance in nats between a sampler's log-probabilities and the training's, the larger of two ways.

    The training computes them with each prompt once for all its completions, or row by row.
    """
    distances: list[float] = []
    for shares_prefix in (True, False):
        logprobs.install(trained, temperature=1.0, shares_prefix=shares_prefix)
        with torch.no_grad(), arithmetic:
            computed = trained(rows=Rows(prompts, completions)).logps.cpu()
        distances.append(float((computed - torch.tensor(sampled)).abs().mean()))
    return max(distances)


def full_memory(trial: Trial, *, model: str, work: str, rows: int, words: int) -> None:
    """A batch that a full memory does not hold is halved, and gives what a memory with room gives."""
    engine = open_on(trial.device, trial.models[model], batch_tokens=1 << 20)
    full = TransformersEngine(engine.model, engine.tokenizer, name="full", batch_tokens=engine.batch_tokens)
    # They part in their first word, so that no beginning is computed once for all.
    conversations = [user(f"{number} " + "stones and rivers " * words) for number in range(rows)]
    expected, needed = _with_peak(trial.device, lambda: WORK[work](engine, conversations))
    assert engine.batch_tokens == 1 << 20, "the first call had room"
    with scarce(trial.device, engine.model, rows, needed):
        results = WORK[work](full, conversations)
    differing = sum(_differ(one, other) for one, other in zip(expected, results, strict=True))
    trial.note("memory of the whole batch", needed / 2**30, "GiB")
    trial.note("tokens of a batch afterwards", full.batch_tokens, "tokens", f"< {engine.batch_tokens}")
    trial.note("results that differ", differing, f"of {len(expected)}", "≤ 2 %")
    assert full.batch_tokens < engine.batch_tokens
    assert differing <= len(expected) // 50


Results = list[tuple[float, ...]]
"""Numbers of each row: token ids, or log-probabilities."""


def _generate(engine: TransformersEngine, conversations: Sequence[Conversation]) -> Results:
    """The token ids of greedy completions."""
    return [row[0].token_ids for row in engine.generate(conversations, GREEDY.model_copy(update={"max_new_tokens": 4}))]


def _read(engine: TransformersEngine, conversations: Sequence[Conversation]) -> Results:
    """The log-probabilities of an answer's tokens."""
    likelihoods = engine.loglikelihood(conversations, ["Stones and rivers, by all means."] * len(conversations))
    return [likelihood.token_logprobs for likelihood in likelihoods]


def _differ(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two rows differ by more than rounding."""
    return one != pytest.approx(other, abs=1e-2)


WORK: dict[str, Callable[[TransformersEngine, Sequence[Conversation]], Results]] = {
    "generation": _generate,
    "likelihoods": _read,
}


def _with_peak(device: str, work: Callable[[], Results]) -> tuple[Results, int]:
    """The results of some work, and the bytes that it took of a GPU beside what was there; 0 of a CPU."""
    if device == "cpu":
        return work(), 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = work()
    return results, torch.cuda.max_memory_allocated() - before


@contextmanager
def scarce(device: str, model, rows: int, needed: int) -> Iterator[None]:
    """Context in which so many rows do not fit, and half of them do.

    A GPU's memory is taken but for `ROOM` of the bytes needed. On a CPU the model refuses more than `ROOM` of the rows.
    """
    if device == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        ballast = torch.empty(free - int(ROOM * needed), dtype=torch.uint8, device=device)
        try:
            yield
        finally:
            del ballast
            torch.cuda.empty_cache()
        return

    def refuse(module, positional, named) -> None:
        if len(named["input_ids"]) > ROOM * rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    handle = model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
