"""A stand-in for vLLM's public API, generated from its recorded signatures, on a real model of transformers.

with fake_vllm.installed() as loaded:
    open_engine(ModelSpec.parse("vllm/…"))

What vLLM does not take is refused, and what it does not give is not there. The request that came last ends first.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.machinery import ModuleSpec
from inspect import Parameter, Signature
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import vllm_signatures
from transformers import AutoModelForCausalLM, AutoTokenizer

from safereason.engines.sampler import draw
from safereason.recipe.schema import Sampling

DEFAULTS = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "repetition_penalty": 1.0,
    "max_tokens": 16,
    "seed": None,
    "stop": None,
    "stop_token_ids": None,
    "logprobs": None,
    "prompt_logprobs": None,
    "detokenize": True,
}
"""Of vLLM's sampling parameters that the stand-in reads."""
MOST_LOGPROBS = 20


def _checked(name: str) -> Any:
    """Refuses arguments that vLLM's callable of this name does not take; gives those it is called with, by name."""
    names = vllm_signatures.recorded()[name]
    signature = Signature([Parameter(each, Parameter.POSITIONAL_OR_KEYWORD, default=None) for each in names])
    return lambda *args, **named: dict(signature.bind(*args, **named).arguments)


def _record(name: str, **values: Any) -> SimpleNamespace:
    """What vLLM gives, with no attribute that it does not have."""
    return SimpleNamespace(**_checked(name)(**values))


class LLMEngine:
    """One request after the other, the last one first."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(arguments["model"], dtype=arguments["dtype"]).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(arguments["tokenizer"])
        limit = arguments.get("max_model_len") or self.model.config.max_position_embeddings
        self.model_config = SimpleNamespace(max_model_len=limit)
        ends = self.model.generation_config.eos_token_id
        self.ends = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id}
        self.takes_adapters = arguments.get("enable_lora", False)
        self.waiting: list[dict[str, Any]] = []
        self.broken: Exception | None = None
        """Raised by the next step."""

    def add_request(self, *args: Any, **named: Any) -> str:
        request = _checked("LLMEngine.add_request")(*args, **named)
        ids, params = request["prompt"]["prompt_token_ids"], request["params"]
        if len(ids) + params.max_tokens > self.model_config.max_model_len:
            raise ValueError("longer than the maximum model length")
        if (params.logprobs or 0) > MOST_LOGPROBS:
            raise ValueError(f"more than {MOST_LOGPROBS} logprobs")
        if params.stop and not params.detokenize:
            raise ValueError("stop strings need detokenize")
        if request.get("lora_request") and not self.takes_adapters:
            raise ValueError("LoRA is not enabled")
        assert request["request_id"] not in {other["request_id"] for other in self.waiting}
        self.waiting.append(request)
        return f"{request['request_id']}-internal"

    def abort_request(self, *args: Any, **named: Any) -> None:
        gone = _checked("LLMEngine.abort_request")(*args, **named)["request_ids"]
        self.waiting = [request for request in self.waiting if request["request_id"] not in gone]

    def step(self) -> list[Any]:
        if self.broken:
            raise self.broken
        assert self.waiting, "vLLM would wait for ever"
        request = self.waiting.pop()
        prompt, params = request["prompt"]["prompt_token_ids"], request["params"]
        with self._adapted(request.get("lora_request")) as model, torch.inference_mode():
            written = self._written(model, prompt, params)
            read = self._read(model, prompt, params.prompt_logprobs) if params.prompt_logprobs is not None else None
        return [
            _record(
                "RequestOutput",
                request_id=request["request_id"],
                finished=True,
                prompt_token_ids=prompt,
                prompt_logprobs=read,
                outputs=[written],
            )
        ]

    @contextmanager
    def _adapted(self, adapter: Any) -> Iterator[Any]:
        if adapter is None:
            yield self.model
            return
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(self.model, adapter.lora_path)
        try:
            yield adapted
        finally:
            self.model = adapted.unload()

    def _written(self, model: Any, prompt: list[int], params: Any) -> Any:
        sampling = Sampling(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            repetition_penalty=params.repetition_penalty,
            max_new_tokens=params.max_tokens,
        )
        generator = torch.Generator().manual_seed(params.seed or 0)
        ids, listed, reason, cache, left = [], [], "length", None, list(prompt)
        for _ in range(params.max_tokens):
            output = model(torch.tensor([left]), past_key_values=cache, use_cache=True)
            cache, logits = output.past_key_values, output.logits[:, -1].float()
            seen = torch.zeros(logits.shape, dtype=torch.bool)
            seen[0, [*prompt, *ids]] = True
            token = int(draw(logits, torch.rand(1, generator=generator, dtype=torch.float64), sampling, seen))
            if params.logprobs is not None:
                listed.append(self._listed(logits[0], token, params.logprobs))
            ids.append(token)
            left = [token]
            text = self.tokenizer.decode(ids, skip_special_tokens=True)
            if token in (*self.ends, *(params.stop_token_ids or ())) or any(stop in text for stop in params.stop or ()):
                reason = "stop"
                break
        return _record(
            "CompletionOutput",
            index=0,
            text="",
            token_ids=ids,
            finish_reason=reason,
            logprobs=listed if params.logprobs is not None else None,
        )

    def _read(self, model: Any, prompt: list[int], most: int) -> list[Any]:
        rows = model(torch.tensor([prompt])).logits[0]
        return [None, *(self._listed(row, token, most) for row, token in zip(rows, prompt[1:], strict=False))]

    def _listed(self, logits: torch.Tensor, token: int, most: int) -> dict[int, Any]:
        """The token with the rank that counting gives, then the likeliest ones with theirs."""
        logprobs = logits.float().log_softmax(-1)
        ids = logprobs.topk(most).indices
        ranks = {token: int((logprobs >= logprobs[token]).sum())} | {int(i): k + 1 for k, i in enumerate(ids)}
        return {i: _record("Logprob", logprob=float(logprobs[i]), rank=rank) for i, rank in ranks.items()}


@contextmanager
def installed() -> Iterator[list[dict[str, Any]]]:
    """Puts the stand-in where vLLM would be; gives what each `LLM` was made with."""
    loaded: list[dict[str, Any]] = []

    class LLM:
        def __init__(self, *args: Any, **named: Any) -> None:
            loaded.append(_checked("LLM")(*args, **named))
            self.llm_engine = LLMEngine(loaded[-1])

    def parameters(*args: Any, **named: Any) -> Any:
        return _record("SamplingParams", **{**DEFAULTS, **_checked("SamplingParams")(*args, **named)})

    kinds = Enum("RequestOutputKind", vllm_signatures.recorded()["RequestOutputKind"])
    modules = {
        "vllm": {"LLM": LLM, "SamplingParams": parameters},
        "vllm.sampling_params": {"SamplingParams": parameters, "RequestOutputKind": kinds},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": lambda *args: _named_in_order(args)},
    }
    stand_ins = {name: _module(name, contents) for name, contents in modules.items()}
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        yield loaded
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def _named_in_order(args: tuple[Any, ...]) -> SimpleNamespace:
    return _record("LoRARequest", **dict(zip(("lora_name", "lora_int_id", "lora_path"), args, strict=True)))


def _module(name: str, contents: dict[str, Any]) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(contents)
    return module
