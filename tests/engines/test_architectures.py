"""Each causal architecture of transformers, as a tiny random model: what `engines.architectures` says of it is so."""

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import architectures as tiny
import micro
import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from trl.trainer.utils import add_fused_lm_head

from safereason.attacks.whitebox.loss import TargetLoss
from safereason.engines import architectures
from safereason.engines.base import GenerateOptions, Sampling
from safereason.engines.sampler import draw, uniforms
from safereason.engines.transformers import TransformersEngine
from safereason.text import chat
from safereason.training import logprobs, plain_head, shared_prefix

CLOSE = 1e-3
"""Nats: what rounding may cost a log-probability in fp32; a fault costs tenths at least."""
TEXTS = ("The first of the texts is much longer.", "Then two.", "Thirdly, a middling one.")
COMMON = "They all begin with this. "
PROMPTS = [chat.user(text) for text in TEXTS]
ALIKE = [chat.user(COMMON + text) for text in TEXTS]
DRAWN = Sampling(temperature=1.0, max_new_tokens=7)
GREEDY = Sampling(temperature=0.0, max_new_tokens=7)
ENDS = [*range(0, 40), 258]
"""Ids that end a turn: about one token in six, so that rows end at different lengths."""
TYPES = sorted({CONFIG_MAPPING[name].model_type: name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}.items())
"""Each `model_type` of a configuration, and the name that transformers finds it by."""


def built(name: str, **changes: Any) -> Any:
    model = tiny.tiny_model(name, **changes)
    model.generation_config = SimpleNamespace(eos_token_id=ENDS)
    return model


def passed(model: Any, ids: list[int]) -> Tensor:
    """Logits [L, V] of one row alone, in one pass over all of it: what everything is measured by."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


@torch.no_grad()
def predicted(model: Any, prompt: list[int], written: list[int]) -> Tensor:
    """Logits [T, V] of each written token, of a pass over the whole; or over what stands before each token.

    The two differ only where attention chooses the tokens it looks at: which of equal ones it takes hangs on how many
    there are.
    """
    if architectures.kind(model) in architectures.REREAD:
        return torch.stack([passed(model, [*prompt, *written[:t]])[-1] for t in range(len(written))])
    return passed(model, [*prompt, *written])[len(prompt) - 1 : -1]


def generates(model: Any, prompts: list[chat.Conversation]) -> float:
    """The largest difference of what the engine draws from, in nats; infinite where it draws other tokens."""
    tokenizer, worst = micro.tokenizer(), 0.0
    engine = TransformersEngine(model, tokenizer, name="tiny")
    for sampling, n in ((DRAWN, 2), (GREEDY, 1)):
        completions = engine.generate(prompts, sampling, GenerateOptions(n=n, seed=5, choices=4))
        for i, row in enumerate(completions):
            prompt = chat.prompt_ids(tokenizer, prompts[i])
            for k, completion in enumerate(row):
                logits = predicted(model, prompt, list(completion.token_ids))
                randoms = uniforms(5, i, k, sampling.max_new_tokens)[: len(logits)]
                listed = torch.tensor([[p for _, p in choice.likeliest[:4]] for choice in completion.choices])  # [T, 4]
                worst = max(worst, float((listed - logits.log_softmax(-1).topk(4).values).abs().max()))
                if draw(logits, randoms, sampling, None).tolist() != list(completion.token_ids):
                    worst = max(worst, _gap(logits, list(completion.token_ids), sampling))
    return worst


def _gap(logits: Tensor, written: list[int], sampling: Sampling) -> float:
    """Of a greedy completion: how far the written tokens are from the likeliest; any other draw must be the same."""
    if sampling.temperature > 0:
        return float("inf")
    logprobs = logits.log_softmax(-1)
    return float((logprobs.amax(-1) - logprobs.gather(-1, torch.tensor(written)[:, None])[:, 0]).max())


def texts() -> tuple[list[list[int]], list[list[int]]]:
    """Prompts and completions of a loss, of different lengths."""
    tokenizer = micro.tokenizer()
    completions = [list(tokenizer(text)["input_ids"]) for text in ("Yes, one.", "No.", "Perhaps")]
    return [chat.prompt_ids(tokenizer, prompt) for prompt in ALIKE], completions


def padded(left: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, mask and labels, each [3, L]: prompts padded on the left, or whole rows on the right."""
    rows = list(zip(*texts(), strict=True))
    before, after = max(len(p) for p, _ in rows), max(len(c) for _, c in rows)
    ids = torch.zeros(3, before + after, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for i, (prompt, completion) in enumerate(rows):
        start = before - len(prompt) if left else 0
        middle = start + len(prompt)
        ids[i, start : middle + len(completion)] = torch.tensor([*prompt, *completion])
        mask[i, start : middle + len(completion)] = 1
        labels[i, middle : middle + len(completion)] = torch.tensor(completion)
    return ids, mask, labels


def plain_logps(model: Any, temperature: float) -> list[Tensor]:
    """Log-probabilities of each completion, from a pass over its row alone."""
    all_logps = []
    for prompt, completion in zip(*texts(), strict=True):
        logps = (passed(model, [*prompt, *completion]) / temperature).log_softmax(-1)[len(prompt) - 1 : -1]
        all_logps.append(logps.gather(-1, torch.tensor(completion)[:, None])[:, 0])
    return all_logps


def trains(model: Any, install: bool) -> float:
    """The largest difference of the log-probabilities that TRL takes, or of their gradient relative to its size."""
    expected, expected_gradient = _with_gradient(model, lambda: torch.cat(plain_logps(model, 0.7)))
    kept, worst = model.forward, 0.0
    try:
        add_fused_lm_head(model, temperature=0.7, outputs=("log_probs", "entropy"))
        if install:
            plain_head.install(model, 0.7)
        for left in (True, False):
            ids, mask, labels = padded(left)

            def scored(ids: Tensor = ids, mask: Tensor = mask, labels: Tensor = labels) -> Tensor:
                output = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
                return output.log_probs[labels[:, 1:] != -100]

            logps, gradient = _with_gradient(model, scored)
            worst = max(worst, float((logps - expected).abs().max()), _apart(gradient, expected_gradient))
    finally:
        model.forward = kept
    return worst


def scores(model: Any) -> float:
    """As `trains`, of the log-probabilities that our own loop takes, without shared prompts."""
    expected, expected_gradient = _with_gradient(model, lambda: torch.cat(plain_logps(model, 0.7)))
    kept = model.forward
    try:
        logprobs.install(model, 0.7, shares_prefix=False)
        logps, gradient = _with_gradient(model, lambda: model(rows=logprobs.Rows(*texts())).logps)
    finally:
        model.forward = kept
    return max(float((logps - expected).abs().max()), _apart(gradient, expected_gradient))


def packs(model: Any) -> float:
    """As `trains`, of the computation with shared prompts."""
    expected, expected_gradient = _with_gradient(model, lambda: torch.cat(plain_logps(model, 0.7)))
    ids, mask, labels = padded(left=True)
    width = max(map(len, texts()[1]))
    counted = labels[:, -width:] != -100

    def shared() -> Tensor:
        return shared_prefix.completion_logps(model, ids, mask, width, 0.7)[0][counted]

    logps, gradient = _with_gradient(model, shared)
    return max(float((logps - expected).abs().max()), _apart(gradient, expected_gradient))


def _with_gradient(model: Any, compute: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Values, and the slope of their weighted sum by weight."""
    values = compute()
    weights = torch.linspace(-1, 1, len(values))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    slope = torch.autograd.grad((values * weights).sum(), trained, allow_unused=True)
    zeros = [torch.zeros_like(weight) for weight in trained]
    return values.detach(), [zero if part is None else part for part, zero in zip(slope, zeros, strict=True)]


def _apart(gradient: list[Tensor], expected: list[Tensor]) -> float:
    """The distance of two gradients, relative to their length."""
    difference = sum(float((a - b).square().sum()) for a, b in zip(gradient, expected, strict=True))
    return (difference / max(sum(float(b.square().sum()) for b in expected), 1e-12)) ** 0.5


def attacks(model: Any) -> float:
    """The largest difference of a target's loss after prompts whose beginning is held."""
    prompts, (target, *_) = texts()
    loss = TargetLoss(model, target)
    losses = loss.losses(prompts).values
    return float((losses - torch.tensor([loss.loss_without_cache(prompt)[0] for prompt in prompts])).abs().max())


def worst_of(measures: list[Callable[[], float]]) -> float:
    """The largest; infinite where one is more than rounding, or cannot be computed."""
    worst = 0.0
    try:
        for measure in measures:
            value = measure()
            if not value < CLOSE:  # NaN neither
                return float("inf")
            worst = max(worst, value)
    except Exception:  # whatever an architecture that cannot do it raises
        return float("inf")
    return worst


def could_batch(model: Any, patch: pytest.MonkeyPatch) -> float:
    patch.setattr(architectures, "BATCHED", {architectures.kind(model)})
    patch.setattr(architectures, "SHARED", set())
    return worst_of([lambda: generates(model, PROMPTS)])


def could_train(model: Any) -> float:
    return worst_of([lambda: trains(model, install=False)])


def could_project(model: Any, patch: pytest.MonkeyPatch) -> float:
    if not shared_prefix.has_linear_head(model):
        return float("inf")
    for name in ("PROJECTED", "TRAINED"):
        patch.setattr(architectures, name, {architectures.kind(model)})
    return worst_of([lambda: scores(model)])


def could_share(model: Any, patch: pytest.MonkeyPatch) -> float:
    if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return float("inf")
    for name in ("BATCHED", "SHARED"):
        patch.setattr(architectures, name, {architectures.kind(model)})
    patch.setattr("safereason.engines.transformers.SHARE_FROM", 8)
    patch.setattr(shared_prefix, "LEAST_COMMON_TOKENS", 8)
    if not shared_prefix.is_supported(model):
        return float("inf")
    return worst_of([lambda: attacks(model), lambda: packs(model), lambda: generates(model, ALIKE)])


NOT_TINY = {
    "blt": "has four models in one, whose sizes hang on one another",
    "dots3_note": "gives each layer sizes of its own, by its number",
    "dots3_note_text": "gives each layer sizes of its own, by its number",
    "gemma3n": "needs the package timm",
}
"""Types that no tiny model is made of here, and why; nothing is said of them, so that they take the plain way."""
QUICK = {
    "bloom",
    "falcon_h1",
    "gemma2",
    "gpt2",
    "gpt_neo",
    "granite",
    "lfm2",
    "llama",
    "mamba",
    "mamba2",
    "mistral",
    "mpt",
    "qwen2",
    "qwen3_5_text",
    "recurrent_gemma",
}
"""One or two of each kind, which every run of the tests tries; the others are tried by `-m slow`."""
LISTS = ("BATCHED", "TRAINED", "PROJECTED", "SHARED", "REREAD")


def each() -> list[Any]:
    """Types and names, marked."""
    return [pytest.param(kind, name, id=kind, marks=() if kind in QUICK else pytest.mark.slow) for kind, name in TYPES]


def unwindowed(name: str) -> dict[str, Any]:
    """What turns off the windows of a type's tiny model, where that can be done: sharing is never said of windows."""
    config = tiny.tiny_config(name).get_text_config(decoder=True)
    layers = getattr(config, "layer_types", None)
    if layers and set(layers) <= {"full_attention", "sliding_attention"}:
        return {"layer_types": ["full_attention"] * len(layers)}
    return {"sliding_window": None} if not layers and getattr(config, "sliding_window", None) else {}


@pytest.mark.parametrize(("kind", "name"), each())
def test_what_is_said_of_an_architecture_is_so(kind: str, name: str, monkeypatch: pytest.MonkeyPatch):
    """Generation and log-probabilities with their gradients, against one plain pass over each row alone.

    Where more could be said than is said, a warning names it.
    """
    if kind in architectures.REFUSED:
        pytest.skip(f"is refused: it {architectures.REFUSED[kind]}")
    if kind in NOT_TINY:
        pytest.skip(NOT_TINY[kind])
    model = built(name)
    kind = architectures.kind(model)  # of a model of texts and images, that of its texts may be another
    assert generates(model, PROMPTS) < CLOSE
    assert trains(model, install=True) < CLOSE
    assert scores(model) < CLOSE
    sharing = built(name, **changes) if (changes := unwindowed(name)) else model
    if kind in architectures.SHARED:
        assert could_share(sharing, monkeypatch) < CLOSE
    monkeypatch.undo()
    missed = [
        name
        for name, could in (
            ("BATCHED", lambda: could_batch(model, monkeypatch)),
            ("TRAINED", lambda: could_train(model)),
            ("PROJECTED", lambda: could_project(model, monkeypatch)),
            ("SHARED", lambda: could_share(sharing, monkeypatch)),
        )
        if kind not in getattr(architectures, name) and could() < CLOSE
    ]
    if missed:
        warnings.warn(f"{kind} could be added to {' and '.join(missed)} of engines/architectures.py", stacklevel=1)


def test_the_lists_name_types_that_transformers_has():
    known = {kind for kind, _ in TYPES}
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        parts = CONFIG_MAPPING[name].sub_configs.values()
        known |= {part.model_type for part in parts if getattr(part, "model_type", "")}
    for name in LISTS:
        assert getattr(architectures, name) <= known - architectures.REFUSED.keys(), name
    assert architectures.SHARED <= architectures.BATCHED & architectures.TRAINED & architectures.PROJECTED
    assert architectures.PROJECTED <= architectures.TRAINED
    assert not architectures.REREAD & architectures.BATCHED
    assert known >= architectures.REFUSED.keys() | architectures.ENCODERS | NOT_TINY.keys()


def test_an_architecture_that_is_not_listed_is_read_and_trained_a_row_at_a_time(monkeypatch: pytest.MonkeyPatch):
    model = built("llama")
    for name in LISTS:
        monkeypatch.setattr(architectures, name, frozenset())
    rows: list[tuple[int, ...]] = []
    # Whoever calls the model, and with whatever batch: what it reads is looked up here.
    handle = model.get_input_embeddings().register_forward_pre_hook(lambda _, args: rows.append(tuple(args[0].shape)))
    assert generates(model, ALIKE) < CLOSE
    assert trains(model, install=True) < CLOSE
    assert scores(model) < CLOSE
    handle.remove()
    assert {batch for batch, _ in rows} == {1}
    assert (1, 1) in rows, "its cache is used"
    assert not shared_prefix.is_supported(model)
