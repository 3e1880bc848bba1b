"""The engine on vLLM inside the process: continuous batching, prompts' beginnings kept, adapters, several GPUs.

How it departs from the transformers engine:
1. Its random numbers are vLLM's, so that the same seed draws other completions. Each one is a request with a seed of
   its own: neither order nor neighbours, nor what is already done, change its random numbers. What remains is rounding:
   how many requests run together decides how sums are cut, and a near-tie may fall the other way.
2. A prompt's completions share what it was computed to through vLLM's cache of beginnings, which may have lost it.
3. vLLM itself batches requests and makes room in memory.
4. Under an adapter it gives no likelihoods: vLLM leaves a part of the adapter out of them (vllm-project/vllm#51594).
"""

import importlib.util
import json
import os
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from safereason.engines.base import (
    Completion,
    CompletionIndex,
    Conversation,
    GenerateOptions,
    Likelihood,
    Sampling,
    TokenChoice,
    Usage,
    in_order,
    request_seed,
    text_before_stop,
)
from safereason.engines.memory import held_by_others
from safereason.engines.place import Place, shown_to_children
from safereason.errors import InputError, StageFailed, one_line
from safereason.text import chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm import LLM, RequestOutput, SamplingParams
    from vllm.logprobs import Logprob
    from vllm.lora.request import LoRARequest

VARIABLE = "SAFEREASON_VLLM"
"""Environment variable with further arguments of `vllm.LLM` as a JSON object."""
INSTALL = "pip install 'safereason[vllm]'"
MEMORY_SHARE = 0.9
"""Share of a GPU's memory that vLLM takes where it has the GPU for itself."""
FREE_SHARE = 0.95
"""Share of what is free on a GPU that vLLM takes beside models of this process."""
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM has room for; others go into the next larger one."""

Requests: TypeAlias = "Mapping[CompletionIndex, tuple[list[int], SamplingParams]]"
"""Prompt ids and vLLM's sampling parameters, by job."""


def is_installed() -> bool:
    """Whether vLLM, or one of its builds by another name, can be imported."""
    return importlib.util.find_spec("vllm") is not None


def can_sleep() -> bool:
    """Whether vLLM can give its memory back on this platform; its build for CPUs cannot."""
    from vllm.platforms import current_platform

    return bool(current_platform.is_sleep_mode_available() and current_platform.is_cumem_allocator_available())


def check_installed(name: str) -> None:
    """Refuses a model of vLLM's where that cannot be imported; `name` is the model's.

    Raises:
        InputError: It cannot.
    """
    if not is_installed():
        raise InputError(f"{name}: vLLM is not installed; run `{INSTALL}`")


def tensor_parallel() -> int:
    """GPUs that `$SAFEREASON_VLLM` spreads a model over; 1 where it does not say.

    Raises:
        InputError: The variable is no JSON object.
    """
    gpus = _settings("vllm", ()).get("tensor_parallel_size")
    if isinstance(gpus, int) and gpus > 0:
        return gpus
    return 1


def use_gpus(gpus: float) -> None:
    """Spreads the models that this process opens over its GPUs, where `$SAFEREASON_VLLM` does not say how.

    Args:
        gpus: Several GPUs, for tensor parallelism, or the share of one that this process has.

    Raises:
        InputError: The variable is no JSON object.
    """
    arguments: dict[str, object] = {}
    if gpus > 1:
        # By processes of its own: inside a worker of Ray's, vLLM might ask that Ray for more workers.
        arguments = {"tensor_parallel_size": int(gpus), "distributed_executor_backend": "mp"}
    elif gpus < 1:
        arguments = {"gpu_memory_utilization": round(MEMORY_SHARE * gpus, 3)}
    os.environ[VARIABLE] = json.dumps({**arguments, **_settings("vllm", ())})


def open_vllm(
    location: str,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    name: str,
    precision: str,
    base: str | None = None,
    place: Place | None = None,
) -> "VLLMEngine":
    """Loads a model into vLLM, on one GPU unless its place or `$SAFEREASON_VLLM` says otherwise.

    Args:
        location: Folder or hub id.
        tokenizer: Tokenizer that renders prompts and decodes completions.
        name: Name of the engine.
        precision: `fp32` or `bf16`.
        base: Where `location` holds adapters, the model they belong to.
        place: The GPUs that it lies on.

    Raises:
        InputError: vLLM is missing or cannot load it, or the variable is no mapping of vLLM's arguments.
    """
    check_installed(name)
    arguments: dict[str, object] = {
        "model": base or location,
        "tokenizer": tokenizer.name_or_path or location,
        "dtype": DTYPES[precision],
        "enable_prefix_caching": True,
        "trust_remote_code": False,
        # Each request has a seed of its own; this one only keeps vLLM from drawing one.
        "seed": 0,
    }
    if base:
        arguments |= {"enable_lora": True, "max_lora_rank": _rank(location)}
    arguments |= _placed(place) | _settings(name, arguments.keys())
    # Set before the import, which reads them. vLLM would log to stdout, where results go.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    try:
        with shown_to_children(place):
            llm = LLM(**arguments)
    except Exception as error:
        # What vLLM raises here seldom says that another process has taken the GPU.
        advice = held_by_others() or (
            f"VLLM_LOGGING_LEVEL=INFO says more, {VARIABLE} sets what it is given, and hf/ before the model's name "
            "takes transformers"
        )
        raise InputError(f"{name}: vLLM cannot open it ({one_line(error)}); {advice}") from error
    adapter = None
    if base:
        adapter = LoRARequest("adapter", 1, location)
    return VLLMEngine(llm, tokenizer, name=name, adapter=adapter)


def _placed(place: Place | None) -> dict[str, object]:
    """Arguments of vLLM for a place. Without one, a share of a GPU that holds models of this process already.

    vLLM counts what others hold towards its share, and refuses to start where the rest is too small.
    """
    if place is not None:
        return {"gpu_memory_utilization": place.share, "tensor_parallel_size": len(place.gpus)}
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return {}
    free, total = torch.cuda.mem_get_info()
    share = FREE_SHARE * free / total
    if share >= MEMORY_SHARE:
        return {}
    return {"gpu_memory_utilization": round(share, 3)}


class VLLMEngine:
    """Generates on a model that vLLM has loaded, with an adapter where there is one."""

    # vLLM does not show its weights.
    local = None

    def __init__(
        self, llm: "LLM", tokenizer: "PreTrainedTokenizerBase", *, name: str, adapter: "LoRARequest | None" = None
    ) -> None:
        self.llm = llm
        self.tokenizer = tokenizer
        self.name = name
        self._adapter = adapter
        self._context = int(llm.llm_engine.model_config.max_model_len)
        self._numbers = count()

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        options: GenerateOptions = GenerateOptions(),
    ) -> list[list[Completion]]:
        """See `Engine.generate`. A prompt that leaves no room for a completion gets one that says so."""
        done = set(options.done)
        rendered: dict[int, chat.RenderedPrompt] = {}
        prompts: dict[int, list[int]] = {}
        for i, conversation in enumerate(conversations):
            if i not in done:
                rendered[i] = chat.render(self.tokenizer, conversation, options.prefix)
                prompts[i] = chat.ids_of(self.tokenizer, rendered[i].text)
        finished: dict[CompletionIndex, Completion] = {}

        def finish(job: CompletionIndex, completion: Completion) -> None:
            finished[job] = completion
            if options.on_finish is not None:
                options.on_finish(*job, completion)

        requests: dict[CompletionIndex, tuple[list[int], SamplingParams]] = {}
        for i, prompt in prompts.items():
            for k in range(options.n):
                if problem := self._no_room(len(prompt)):
                    finish((i, k), Completion("", (), "error", rendered[i].opening, problem, lasts=True))
                    continue
                # Alone, a conversation draws as if it were the only one, which has index 0.
                seed = request_seed(options.seed, 0, k)
                if not options.alone:
                    seed = request_seed(options.seed, i, k)
                requests[i, k] = (prompt, self._parameters(sampling, len(prompt), seed, options))
        with closing(self._run(requests)) as outputs:
            for job, output in outputs:
                finish(job, self._completion(output, rendered[job[0]].opening, options))
        return in_order(finished, len(conversations), options.n, done)

    def batches(
        self, conversations: Sequence[Conversation], sampling: Sampling, options: GenerateOptions
    ) -> list[list[int]]:
        """See `TokenizerEngine.batches`. vLLM batches requests by itself: here each conversation is alone."""
        done = set(options.done)
        return [[i] for i in range(len(conversations)) if i not in done]

    def loglikelihood(
        self, conversations: Sequence[Conversation], continuations: Sequence[str], *, prefix: str = ""
    ) -> list[Likelihood]:
        """See `Engine.loglikelihood`.

        Raises:
            InputError: A prompt with its continuation is longer than what the model reads, or there is an adapter.
        """
        from vllm import SamplingParams

        if self._adapter is not None:
            raise InputError(
                f"{self.name}: vLLM's likelihoods under an adapter are wrong (vllm-project/vllm#51594); "
                "put `hf/` in place of `vllm/`, or merge the adapter"
            )

        # vLLM gives the likeliest token and the target's own, whose rank is 1 where the two are the same.
        read = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1, detokenize=False)
        prompts = [self._ids(conversation, prefix) for conversation in conversations]
        targets = [list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in continuations]
        requests: dict[CompletionIndex, tuple[list[int], SamplingParams]] = {}
        for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            if problem := self._no_room(len(prompt) + len(target)):
                raise InputError(problem)
            if target:
                requests[i, 0] = ([*prompt, *target], read)
        # An empty continuation is certain.
        likelihoods = [Likelihood((), True)] * len(prompts)
        with closing(self._run(requests)) as outputs:
            for (i, _), output in outputs:
                if isinstance(output, str):
                    raise InputError(f"{self.name}: {output}")
                likelihoods[i] = _likelihood(output.prompt_logprobs[len(prompts[i]) :], targets[i])
        return likelihoods

    def room(self, conversation: Conversation) -> int:
        """Tokens that the model can write after a conversation; none, or fewer, where it is too long to be read."""
        return self._context - len(self._ids(conversation, ""))

    def _ids(self, conversation: Conversation, prefix: str) -> list[int]:
        return chat.prompt_ids(self.tokenizer, conversation, prefix)

    def _no_room(self, length: int) -> str:
        """The problem of a prompt of so many tokens; empty where there is none."""
        if length < self._context:
            return ""
        return f"{self.name}: a prompt has {length} tokens and the model reads {self._context}; shorten it"

    def _parameters(self, sampling: Sampling, length: int, seed: int, options: GenerateOptions) -> "SamplingParams":
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=min(sampling.max_new_tokens, self._context - length),
            seed=seed,
            stop=list(options.stop),
            # The template's token; vLLM adds those of the generation settings by itself.
            stop_token_ids=[chat.end_of_turn(self.tokenizer)],
            logprobs=options.choices or None,
            # We decode the ids ourselves; vLLM needs a text only to find stop texts in it.
            detokenize=bool(options.stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _run(self, requests: Requests) -> Generator[tuple[CompletionIndex, "RequestOutput | str"], None, None]:
        """Yields jobs with vLLM's output as they end, or with why vLLM refuses them."""
        engine = self.llm.llm_engine
        open_jobs: dict[str, CompletionIndex] = {}
        try:
            for job, (ids, parameters) in requests.items():
                number = f"{self.name}/{next(self._numbers)}"
                try:
                    engine.add_request(number, {"prompt_token_ids": ids}, parameters, lora_request=self._adapter)
                # vLLM's own error class derives from `Exception` alone.
                except Exception as error:
                    yield job, one_line(error)
                else:
                    open_jobs[number] = job
            while open_jobs:
                for output in self._step():
                    if output.finished and output.request_id in open_jobs:
                        yield open_jobs.pop(output.request_id), output
        finally:
            # The caller was interrupted. Its requests would otherwise run on into the next call.
            if open_jobs:
                engine.abort_request(list(open_jobs))

    def _step(self) -> "list[RequestOutput]":
        try:
            outputs: list[RequestOutput] = self.llm.llm_engine.step()
            return outputs
        except Exception as error:
            raise StageFailed(
                f"{self.name}: vLLM ended ({one_line(error)}); VLLM_LOGGING_LEVEL=INFO says more"
            ) from error

    def _completion(self, output: "RequestOutput | str", prefix: str, options: GenerateOptions) -> Completion:
        if isinstance(output, str):
            return Completion("", (), "error", prefix, output)
        (generated,) = output.outputs
        ids = tuple(generated.token_ids)
        usage = Usage(len(output.prompt_token_ids), len(ids))
        text = chat.decoded(self.tokenizer, ids)
        text = text_before_stop(text, options.stop)
        if generated.finish_reason not in ("stop", "length"):
            return Completion(text, ids, "error", prefix, f"vLLM ended it: {generated.finish_reason}", usage=usage)
        listed: tuple[TokenChoice, ...] = ()
        if options.choices:
            listed = tuple(
                self._choice(token, logprobs) for token, logprobs in zip(ids, generated.logprobs, strict=True)
            )
        return Completion(text, ids, generated.finish_reason, prefix, choices=listed, usage=usage)

    def _choice(self, token: int, logprobs: Mapping[int, "Logprob"]) -> TokenChoice:
        ranked = sorted(logprobs.items(), key=lambda item: item[1].rank)
        listed = tuple((self._piece(other), float(entry.logprob)) for other, entry in ranked)
        return TokenChoice(self._piece(token), listed)

    def _piece(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))


def _likelihood(rows: Sequence[Mapping[int, "Logprob"]], target: Sequence[int]) -> Likelihood:
    entries = [row[token] for row, token in zip(rows, target, strict=True)]
    logprobs = tuple(float(entry.logprob) for entry in entries)
    return Likelihood(logprobs, is_greedy=all(entry.rank == 1 for entry in entries))


def _settings(name: str, owned: Collection[str]) -> dict[str, object]:
    """The arguments in `$SAFEREASON_VLLM`.

    Raises:
        InputError: It is no JSON object, or names an argument that is decided here.
    """
    text = os.environ.get(VARIABLE, "").strip() or "{}"
    try:
        settings = json.loads(text)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f'{name}: {VARIABLE} is no JSON object; it looks like {{"tensor_parallel_size": 4}}')
    # `logprobs_mode` would change what `TokenChoice` and `Likelihood` promise.
    if taken := sorted(settings.keys() & {*owned, "logprobs_mode"}):
        raise InputError(f"{name}: {VARIABLE}: {taken[0]} is decided by the model and its precision; leave it out")
    return settings


def _rank(folder: str) -> int:
    """The least rank that vLLM has room for and that an adapter fits in.

    Raises:
        InputError: It fits in none.
    """
    rank = int(json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8")).get("r", 0))
    fitting = [room for room in RANKS if room >= rank]
    if not fitting:
        raise InputError(f"{folder}: an adapter of rank {rank} is more than vLLM takes ({RANKS[-1]}); merge it first")
    return fitting[0]
