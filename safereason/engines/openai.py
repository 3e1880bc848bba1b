"""The engine on any server that speaks OpenAI's chat API: vLLM, SGLang, llama.cpp, or a provider.

How it departs from a local engine:
1. A server need not honour `seed`, so that a second run of the same call may write other completions.
2. Token ids are not known: `Completion.token_ids` is empty, and log-likelihoods are not to be had.
3. A generation prefix is sent as a last assistant message to go on from, with the two fields by which vLLM and SGLang
   know it; most other servers refuse these fields or start a new turn.
4. `top_k` and `repetition_penalty` are no part of the API and are sent only where they are not at their defaults; a
   server that takes its own defaults from the model must be told not to (`docs/how-to/use-a-server.md`).
5. Alternatives to a token are those that the server lists, at most 20; some servers list none, and some give what is
   left after penalty and truncation.
6. Reasoning that a server returns in a field of its own is put back before the answer, between its tags.
7. `Completion.usage` is what the server says, if it says it; providers bill by it.
"""

import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any, Literal

import openai

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
from safereason.errors import InputError, one_line
from safereason.text import reasoning

CONCURRENCY = 16
"""Requests under way at a time."""
RETRIES = 5
"""Of a request that met 408, 409, 429, 5xx or a lost connection; the client waits longer each time."""
SECONDS_A_REQUEST = 600.0

_OURS_TO_MEND = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
_CUT_SHORT = ("content_filter", "abort", "error")
"""Reasons to finish that are neither the model's end nor the limit."""

Job = tuple[int, int]
"""Conversation index and number of the completion."""


class OpenAIEngine:
    """Asks a server, one request a completion, several at a time."""

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = CONCURRENCY,
        retries: int = RETRIES,
        timeout: float = SECONDS_A_REQUEST,
    ) -> None:
        """Connects to `base_url`, else `$OPENAI_BASE_URL`, else OpenAI, with `api_key` or `$OPENAI_API_KEY`.

        Args:
            name: The model, as the server calls it.
            base_url: Address of the server, up to and with `/v1`.
            api_key: Where neither it nor the variable is set, a server of one's own is sent `none`.
            concurrency: Requests under way at a time.
            retries: Further tries of a request that failed for a reason that may pass.
            timeout: Seconds a try may take.

        Raises:
            InputError: The model has no name, the address is none, or OpenAI's key is missing.
        """
        address = base_url or os.environ.get("OPENAI_BASE_URL")
        key = api_key or os.environ.get("OPENAI_API_KEY") or ("none" if address else None)
        if not name:
            raise InputError("openai/: name the model after it, as the server calls it")
        if key is None:
            raise InputError(f"openai/{name}: OPENAI_API_KEY is not set; set it, or give the --base-url of a server")
        if address and not address.startswith(("http://", "https://")):
            raise InputError(f"--base-url {address}: is no address; it looks like http://localhost:8000/v1")
        self.name = f"openai/{name}"
        self._model = name
        self._concurrency = concurrency
        self._client = openai.OpenAI(api_key=key, base_url=address, max_retries=retries, timeout=timeout)
        self._answered = False
        self._lists_choices = True

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
        """See `Engine.generate`. `on_finish` is called in the caller's thread.

        A request that fails for good becomes a completion that says so.

        Raises:
            InputError: The server cannot be reached, refuses the key, or knows no such model.
        """
        done = set(done)
        settings = self._settings(sampling, stop, prefix)
        if choices:
            settings |= {"logprobs": True, "top_logprobs": choices}
        going_on = [{"role": "assistant", "content": prefix}] if prefix else []

        def ask(job: Job) -> Completion:
            messages = [*conversations[job[0]], *going_on]
            drawn = request_seed(seed, 0 if alone else job[0], job[1])
            return self._ask({**settings, "messages": messages, "seed": drawn}, prefix)

        jobs = [(i, k) for i in range(len(conversations)) if i not in done for k in range(n)]
        finished: dict[Job, Completion] = {}
        for job, completion in _concurrently(ask, jobs, self._concurrency):
            finished[job] = completion
            if on_finish is not None:
                on_finish(*job, completion)
        return [[] if i in done else [finished[i, k] for k in range(n)] for i in range(len(conversations))]

    def loglikelihood(
        self, conversations: Sequence[Conversation], continuations: Sequence[str], *, prefix: str = ""
    ) -> list[Likelihood]:
        """A server does not score a continuation of a conversation: its chat template is not known here.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{self.name}: a server does not give log-likelihoods; use a local engine")

    def _settings(self, sampling: Sampling, stop: Sequence[str], prefix: str) -> dict[str, Any]:
        """What every request of a call has in common."""
        extra: dict[str, Any] = {}
        if sampling.top_k:
            extra["top_k"] = sampling.top_k
        if sampling.repetition_penalty != 1.0:
            extra["repetition_penalty"] = sampling.repetition_penalty
        if prefix:
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        return {
            "model": self._model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            **({"stop": list(stop)} if stop else {}),
            **({"extra_body": extra} if extra else {}),
        }

    def _create(self, request: dict[str, Any]) -> Any:
        """The server's reply; without alternatives where it refuses to list them, from then on."""
        without = {key: value for key, value in request.items() if key not in ("logprobs", "top_logprobs")}
        if not self._lists_choices:
            return self._client.chat.completions.create(**without)
        try:
            return self._client.chat.completions.create(**request)
        except openai.BadRequestError as error:
            if "logprobs" not in request or "logprob" not in str(error).lower():
                raise
            self._lists_choices = False
            return self._client.chat.completions.create(**without)

    def _ask(self, request: dict[str, Any], prefix: str) -> Completion:
        try:
            reply = self._create(request)
            self._answered = True
            return _completion(reply.choices[0], prefix, _usage(reply))
        except _OURS_TO_MEND as error:
            raise InputError(
                f"{self.name}: {self._client.base_url} refuses it ({one_line(error)}); "
                "check OPENAI_API_KEY, --base-url and the model's name"
            ) from error
        except openai.APIConnectionError as error:
            if not self._answered and not isinstance(error, openai.APITimeoutError):
                raise InputError(
                    f"{self.name}: {self._client.base_url} cannot be reached ({one_line(error.__cause__ or error)}); "
                    "start the server or check --base-url"
                ) from error
            return _failed(error, prefix)
        except openai.OpenAIError as error:
            self._answered = self._answered or isinstance(error, openai.APIStatusError)
            return _failed(error, prefix)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            return Completion("", (), "error", prefix, f"the server's reply holds no completion ({one_line(error)})")


def _completion(choice: Any, prefix: str, usage: Usage | None) -> Completion:
    # Half a surrogate pair is legal in JSON and in no file.
    text = _written(choice.message, prefix).encode("utf-8", "replace").decode()
    if choice.finish_reason in _CUT_SHORT:
        return Completion(text, (), "error", prefix, f"the server ended it: {choice.finish_reason}", usage=usage)
    reason: Literal["stop", "length"] = "length" if choice.finish_reason == "length" else "stop"
    return Completion(text, (), reason, prefix, choices=tuple(_choices(choice)), usage=usage)


def _usage(reply: Any) -> Usage | None:
    """What the server counted, where it says both."""
    said = getattr(reply, "usage", None)
    read, written = getattr(said, "prompt_tokens", None), getattr(said, "completion_tokens", None)
    return Usage(read, written) if isinstance(read, int) and isinstance(written, int) else None


def _choices(choice: Any) -> Iterator[TokenChoice]:
    """Tokens with what the server says might have stood in their place; the written one is always among it."""
    for token in getattr(getattr(choice, "logprobs", None), "content", None) or ():
        listed = [(other.token, float(other.logprob)) for other in getattr(token, "top_logprobs", None) or ()]
        # Several parts of a character may be written alike, so that this is no mapping.
        if token.token not in dict(listed):
            listed.append((token.token, float(token.logprob)))
        yield TokenChoice(token.token, tuple(listed))


def _written(message: Any, prefix: str) -> str:
    """The text as the model wrote it: reasoning that the server split off is put back."""
    thoughts = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    content = message.content or ""
    if not thoughts:
        return str(content)
    thoughts = thoughts.strip("\n")
    # Where nothing follows it, the reasoning was never closed.
    text = reasoning.join(thoughts, content.lstrip("\n")) if content else f"{reasoning.PREFIX}{thoughts}"
    return text.removeprefix(reasoning.PREFIX) if reasoning.OPEN in prefix else text


def _failed(error: Exception, prefix: str) -> Completion:
    return Completion("", (), "error", prefix, one_line(error))


def _concurrently(
    call: Callable[[Job], Completion], jobs: Sequence[Job], concurrency: int
) -> Iterator[tuple[Job, Completion]]:
    """Yields jobs with what `call` made of them, as they end; what `call` raises is raised here.

    The threads are daemons: one that waits for a server does not keep an interrupted program from ending.
    """
    waiting = deque(jobs)
    ended: SimpleQueue[tuple[Job, Completion | Exception]] = SimpleQueue()

    def work() -> None:
        while True:
            try:
                job = waiting.popleft()
            except IndexError:
                return
            try:
                ended.put((job, call(job)))
            except Exception as error:
                waiting.clear()  # it ends the call: nothing more is to be asked
                ended.put((job, error))

    for _ in range(min(concurrency, len(jobs))):
        Thread(target=work, daemon=True).start()
    try:
        for _ in jobs:
            job, outcome = ended.get()
            if isinstance(outcome, Exception):
                raise outcome
            yield job, outcome
    finally:
        waiting.clear()
