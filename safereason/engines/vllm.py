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
from typing import TYPE_CHECKING, Any

from safereason.engines.base import (
    Completion,
    Conversation,
    Likelihood,
    OnFinish,
    Sampling,
    TokenChoice,
    Usage,
    request_seed,
)
from safereason.errors import InputError, StageFailed, one_line
from safereason.text import chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VARIABLE = "SAFEREASON_VLLM"
"""Environment variable with further arguments of `vllm.LLM` as a JSON object."""
INSTALL = "pip install 'safereason[vllm]'"
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM has room for; others go into the next larger one."""

Job = tuple[int, int]
"""Conversation index and number of the completion."""
Requests = Mapping[Job, tuple[list[int], Any]]
"""Prompt ids and vLLM's sampling parameters, by job."""


def is_installed() -> bool:
    """Whether vLLM, or one of its builds by another name, can be imported."""
    return importlib.util.find_spec("vllm") is not None


def open_vllm(
    location: str, tokenizer: "PreTrainedTokenizerBase", *, name: str, precision: str, base: str | None = None
) -> "VLLMEngine":
    """Loads a model into vLLM, on one GPU unless `$SAFEREASON_VLLM` says otherwise.

    Args:
        location: Folder or hub id.
        tokenizer: What prompts are written with.
        name: What the engine is called.
        precision: `fp32` or `bf16`.
        base: Where `location` holds adapters, the model they belong to.

    Raises:
        InputError: vLLM is missing or cannot load it, or the variable is no mapping of what vLLM may be told.
    """
    if not is_installed():
        raise InputError(f"{name}: vLLM is not installed; run `{INSTALL}`")
    adapters: dict[str, Any] = {"enable_lora": True, "max_lora_rank": _rank(location)} if base else {}
    arguments = {
        "model": base or location,
        "tokenizer": tokenizer.name_or_path or location,
        "dtype": DTYPES[precision],
        "enable_prefix_caching": True,
        "trust_remote_code": False,
        "seed": 0,  # of what has none of its own: nothing here
        **adapters,
    }
    arguments |= _settings(name, arguments.keys())
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import LLM
    from vllm.lora.request import LoRARequest

    try:
        llm = LLM(**arguments)
    except Exception as error:
        raise InputError(
            f"{name}: vLLM cannot open it ({one_line(error)}); VLLM_LOGGING_LEVEL=INFO says more, "
            f"and {VARIABLE} sets what it is given"
        ) from error
    return VLLMEngine(llm, tokenizer, name=name, adapter=LoRARequest("adapter", 1, location) if base else None)


class VLLMEngine:
    """Generates on a model that vLLM has loaded, with an adapter where there is one."""

    def __init__(self, llm: Any, tokenizer: "PreTrainedTokenizerBase", *, name: str, adapter: Any = None) -> None:
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
        *,
        n: int = 1,
        seed: int = 0,
        stop: Sequence[str] = (),
        prefix: str = "",
        done: Collection[int] = (),
        on_finish: OnFinish | None = None,
        choices: int = 0,
        alone: bool = False,
    ) -> list[list[Completion]]:
        """See `Engine.generate`. A prompt that leaves no room for a completion gets one that says so."""
        done = set(done)
        rendered = {i: chat.render(self.tokenizer, c, prefix) for i, c in enumerate(conversations) if i not in done}
        prompts = {i: chat.ids_of(self.tokenizer, prompt.text) for i, prompt in rendered.items()}
        finished: dict[Job, Completion] = {}

        def finish(job: Job, completion: Completion) -> None:
            finished[job] = completion
            if on_finish is not None:
                on_finish(*job, completion)

        requests: dict[Job, tuple[list[int], Any]] = {}
        for i, prompt in prompts.items():
            for k in range(n):
                if problem := self._no_room(len(prompt)):
                    finish((i, k), Completion("", (), "error", rendered[i].opening, problem, lasts=True))
                else:
                    drawn = request_seed(seed, 0 if alone else i, k)
                    requests[i, k] = (prompt, self._parameters(sampling, len(prompt), drawn, stop, choices))
        with closing(self._run(requests)) as outputs:
            for job, output in outputs:
                finish(job, self._completion(output, rendered[job[0]].opening, stop, choices))
        return [[] if i in done else [finished[i, k] for k in range(n)] for i in range(len(conversations))]

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
                "leave out `vllm/`, or merge the adapter"
            )

        # The written token's rank is worked out by counting, the likeliest one's is 1: where both are one, it is 1.
        read = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1, detokenize=False)
        prompts = [self._ids(conversation, prefix) for conversation in conversations]
        targets = [list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in continuations]
        requests: dict[Job, tuple[list[int], Any]] = {}
        for i, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
            if problem := self._no_room(len(prompt) + len(target)):
                raise InputError(problem)
            if target:
                requests[i, 0] = ([*prompt, *target], read)
        found = [Likelihood((), True)] * len(prompts)
        with closing(self._run(requests)) as outputs:
            for (i, _), output in outputs:
                if isinstance(output, str):
                    raise InputError(f"{self.name}: {output}")
                found[i] = _likelihood(output.prompt_logprobs[len(prompts[i]) :], targets[i])
        return found

    def room(self, conversation: Conversation) -> int:
        """Tokens that the model can write after a conversation; none, or fewer, where it is too long to be read."""
        return self._context - len(self._ids(conversation, ""))

    def _ids(self, conversation: Conversation, prefix: str) -> list[int]:
        return chat.prompt_ids(self.tokenizer, conversation, prefix)

    def _no_room(self, length: int) -> str:
        """What is wrong with so many tokens to read; empty where nothing is."""
        if length < self._context:
            return ""
        return f"{self.name}: a prompt has {length} tokens and the model reads {self._context}; shorten it"

    def _parameters(self, sampling: Sampling, length: int, seed: int, stop: Sequence[str], choices: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            max_tokens=min(sampling.max_new_tokens, self._context - length),
            seed=seed,
            stop=list(stop),
            stop_token_ids=[chat.end_of_turn(self.tokenizer)],  # vLLM knows the model's own
            logprobs=choices or None,
            detokenize=bool(stop),  # texts are read from the ids; vLLM needs its own to see where one stops
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _run(self, requests: Requests) -> Generator[tuple[Job, Any], None, None]:
        """Yields jobs with vLLM's output as they end, or with why vLLM refuses them."""
        engine = self.llm.llm_engine
        open_jobs: dict[str, Job] = {}
        try:
            for job, (ids, parameters) in requests.items():
                number = f"{self.name}/{next(self._numbers)}"
                try:
                    engine.add_request(number, {"prompt_token_ids": ids}, parameters, lora_request=self._adapter)
                except Exception as error:  # vLLM's own class has no base of Python's beside it
                    yield job, one_line(error)
                else:
                    open_jobs[number] = job
            while open_jobs:
                for output in self._step():
                    if output.finished and output.request_id in open_jobs:
                        yield open_jobs.pop(output.request_id), output
        finally:
            if open_jobs:  # the caller was interrupted: the next call is not to find what this one asked for
                engine.abort_request(list(open_jobs))

    def _step(self) -> Any:
        try:
            return self.llm.llm_engine.step()
        except Exception as error:
            raise StageFailed(
                f"{self.name}: vLLM ended ({one_line(error)}); VLLM_LOGGING_LEVEL=INFO says more"
            ) from error

    def _completion(self, output: Any, prefix: str, stop: Sequence[str], choices: int) -> Completion:
        if isinstance(output, str):
            return Completion("", (), "error", prefix, output)
        (written,) = output.outputs
        ids = tuple(written.token_ids)
        usage = Usage(len(output.prompt_token_ids), len(ids))
        text = chat.decoded(self.tokenizer, ids)
        text = text[: min((text.find(s) for s in stop if s in text), default=len(text))]
        if written.finish_reason not in ("stop", "length"):
            return Completion(text, ids, "error", prefix, f"vLLM ended it: {written.finish_reason}", usage=usage)
        listed = tuple(self._choice(*each) for each in zip(ids, written.logprobs, strict=True)) if choices else ()
        return Completion(text, ids, written.finish_reason, prefix, choices=listed, usage=usage)

    def _choice(self, token: int, logprobs: Mapping[int, Any]) -> TokenChoice:
        ranked = sorted(logprobs.items(), key=lambda item: item[1].rank)
        listed = tuple((self._piece(other), float(found.logprob)) for other, found in ranked)
        return TokenChoice(self._piece(token), listed)

    def _piece(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))


def _likelihood(rows: Sequence[Mapping[int, Any]], target: Sequence[int]) -> Likelihood:
    written = [row[token] for row, token in zip(rows, target, strict=True)]
    return Likelihood(tuple(float(each.logprob) for each in written), all(each.rank == 1 for each in written))


def _settings(name: str, owned: Collection[str]) -> dict[str, Any]:
    """What the variable says.

    Raises:
        InputError: It is no JSON object, or names an argument that is decided here.
    """
    said = os.environ.get(VARIABLE, "").strip() or "{}"
    try:
        found = json.loads(said)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f'{name}: {VARIABLE} is no JSON object; it looks like {{"tensor_parallel_size": 4}}')
    if taken := sorted(found.keys() & {*owned, "logprobs_mode"}):
        raise InputError(f"{name}: {VARIABLE}: {taken[0]} is decided by the model and its precision; leave it out")
    return found


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
