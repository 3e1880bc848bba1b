"""The engine on any server that speaks OpenAI's chat API: vLLM, SGLang, llama.cpp, or a provider.

How it departs from a local engine:
1. A server need not honour `seed`, so that a second run of the same call may write other completions.
2. Token ids are not known: `Completion.token_ids` is empty, and log-likelihoods are not to be had.
3. A generation prefix is sent as a last assistant message to go on from, with the two fields by which vLLM and SGLang
   know it; most other servers refuse these fields or start a new turn.
4. `top_k` and `repetition_penalty` are no part of the API and are sent only where they are not at their defaults; a
   server that takes defaults from the model needs a setting against that (`docs/how-to/use-a-server.md`).
5. Alternatives to a token are those that the server lists, at most 20; some servers list none, and some give what is
   left after penalty and truncation.
6. Reasoning that a server returns in a field of its own is put back before the answer, between its tags
   (`replies.py`).
7. `Completion.usage` is the server's own count, where it gives one; providers bill by it.
8. A parameter that the server refuses is left out from then on, and it takes its own default (`dialect.py`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from threading import Thread
from typing import Any

import openai

from safereason.engines import replies, server
from safereason.engines.base import (
    Completion,
    CompletionIndex,
    Conversation,
    GenerateOptions,
    Likelihood,
    Message,
    Sampling,
    in_order,
    request_seed,
    text_before_stop,
)
from safereason.engines.dialect import Dialect, is_too_long
from safereason.engines.server import BadReply, Patience
from safereason.errors import InputError

CONCURRENCY = 16
"""Requests under way at a time."""
SECONDS_A_TRY = 600.0


class OpenAIEngine:
    """A model behind a server: one request a completion, several at a time."""

    # A server shows neither.
    tokenizer = None
    local = None

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = CONCURRENCY,
        patience: float | None = None,
        timeout: float | None = None,
    ) -> None:
        """Connects to `base_url`, else `$OPENAI_BASE_URL`, else OpenAI, with `api_key` or `$OPENAI_API_KEY`.

        Args:
            name: The model, as the server calls it.
            base_url: Address of the server, up to and with `/v1`.
            api_key: Where neither it nor the variable is set, a server of one's own is sent `none`.
            concurrency: Requests under way at a time.
            patience: Seconds for which a request that fails for a reason that may pass is tried again, in place of
                `$SAFEREASON_PATIENCE`; an address that never answered is given fewer.
            timeout: Seconds a try may take, in place of `$SAFEREASON_TIMEOUT`.

        Raises:
            InputError: The model has no name, the address is none, or the key is missing or no key.
        """
        if not name:
            raise InputError("openai/: name the model after it, as the server calls it")
        self.name = f"openai/{name}"
        self._model = name
        self._concurrency = concurrency
        self._connection = server.connect(self.name, base_url, api_key)
        if timeout is None:
            timeout = server.seconds(server.TIMEOUT, SECONDS_A_TRY)
        self._client = self._connection.client(timeout)
        self._patience = Patience(f"{self.name} at {self._connection.url}", patience, at_first=server.SECONDS_AT_FIRST)
        self._seconds = patience
        self._is_awaited = False
        self._dialect = Dialect(self.name)

    def be_awaited(self) -> None:
        """Gives an address that never answered the same patience as one that did, and errors in place of an exception.

        A judge runs after the completions, which were expensive: its server is assumed to be down, not misspelt.
        """
        self._is_awaited = True
        self._patience = Patience(self._patience.who, self._seconds)

    def generate(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling,
        options: GenerateOptions = GenerateOptions(),
    ) -> list[list[Completion]]:
        """See `Engine.generate`. `on_finish` is called in the caller's thread.

        A request that fails for good becomes a completion that says so, and so does one that the provider filters.

        Raises:
            InputError: The server was never reached, refuses the key, or knows no such model.
        """
        done = set(options.done)
        settings = self._settings(sampling, options)
        begun_turn: list[Message] = []
        if options.prefix:
            begun_turn.append({"role": "assistant", "content": options.prefix})

        def complete(job: CompletionIndex) -> Completion:
            index, number = job
            messages = [*conversations[index], *begun_turn]
            # Alone, a conversation draws as if it were the only one, which has index 0.
            seed_index = index
            if options.alone:
                seed_index = 0
            request = {**settings, "messages": messages, "seed": request_seed(options.seed, seed_index, number)}
            return self._complete(request, options)

        jobs: list[CompletionIndex] = []
        for index in range(len(conversations)):
            if index not in done:
                jobs.extend((index, number) for number in range(options.n))
        finished: dict[CompletionIndex, Completion] = {}
        for job, completion in _concurrently(complete, jobs, self._concurrency):
            finished[job] = completion
            if options.on_finish is not None:
                options.on_finish(*job, completion)
        return in_order(finished, len(conversations), options.n, done)

    def loglikelihood(
        self, conversations: Sequence[Conversation], continuations: Sequence[str], *, prefix: str = ""
    ) -> list[Likelihood]:
        """A server does not score a continuation of a conversation: its chat template is not known here.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{self.name}: a server does not give log-likelihoods; use a local engine")

    def _settings(self, sampling: Sampling, options: GenerateOptions) -> dict[str, object]:
        """The parameters that all requests of a call share."""
        extra: dict[str, object] = {}
        if sampling.top_k:
            extra["top_k"] = sampling.top_k
        if sampling.repetition_penalty != 1.0:
            extra["repetition_penalty"] = sampling.repetition_penalty
        if options.prefix:
            # A generation prompt, which is the default, would end the turn that the prefix begins.
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        settings: dict[str, object] = {
            "model": self._model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
        }
        if options.stop:
            settings["stop"] = list(options.stop)
        if extra:
            settings["extra_body"] = extra
        # The API refuses `top_logprobs` without `logprobs`.
        if options.choices:
            settings |= {"logprobs": True, "top_logprobs": options.choices}
        return settings

    def _reply(self, request: dict[str, object], prefix: str) -> Completion:
        """The server's completion of a request, sent in the server's dialect."""
        # The client's signature has a type for each parameter, and a server's dialect leaves some out.
        create: Any = self._client.chat.completions.with_raw_response.create
        while True:
            adapted = self._dialect.adapted(request)
            try:
                raw = create(**adapted)
                return replies.read(replies.parse(raw.http_response.content), prefix)
            except openai.APIStatusError as error:
                # Each refusal that teaches something takes a parameter away, so that this ends.
                if not self._dialect.learn(error, adapted):
                    raise

    def _complete(self, request: dict[str, object], options: GenerateOptions) -> Completion:
        prefix = options.prefix
        try:
            completion = self._patience.call(lambda: self._reply(request, prefix))
            # The server did not get the stop texts and may have gone on after one.
            if options.stop and self._dialect.drops("stop"):
                completion = replace(completion, text=text_before_stop(completion.text, options.stop))
            return completion
        except BadReply as error:
            # A filtered prompt is a result: a model behind a filter did not answer. It must not be retried as an error.
            if error.code == replies.CONTENT_FILTER:
                return Completion("", (), "filtered", prefix, server.reason_of(error))
            return Completion("", (), "error", prefix, server.reason_of(error))
        except openai.APIStatusError as error:
            if replies.is_filtered(error.body):
                return Completion("", (), "filtered", prefix, server.reason_of(error))
            if isinstance(error, server.OURS_TO_MEND):
                raise InputError(
                    f"{self.name}: {self._connection.url} refuses it ({server.reason_of(error)}); "
                    "check OPENAI_API_KEY, --base-url and the model's name"
                ) from error
            return Completion("", (), "error", prefix, server.reason_of(error), lasts=is_too_long(error))
        except openai.OpenAIError as error:
            # A server that answered, or took the connection and was slow, has the right address.
            is_silent = isinstance(error, openai.APITimeoutError) or server.was_answered(error)
            is_misspelt = isinstance(error, openai.APIConnectionError) and not is_silent
            if is_misspelt and not self._patience.was_heard and not self._is_awaited:
                proxy = self._connection.proxy()
                advice = "start the server or check --base-url"
                if proxy:
                    advice = f"requests go by the proxy in {proxy}: check that, or check --base-url"
                raise InputError(
                    f"{self.name}: {self._connection.url} cannot be reached ({server.reason_of(error)}); {advice}"
                ) from error
            return Completion("", (), "error", prefix, server.reason_of(error))


def _concurrently(
    call: Callable[[CompletionIndex], Completion], jobs: Sequence[CompletionIndex], concurrency: int
) -> Iterator[tuple[CompletionIndex, Completion]]:
    """Yields jobs with their completions, as they end; an error of `call` is raised here.

    The threads are daemons: one that waits for a server does not keep an interrupted program from ending.
    """
    waiting = deque(jobs)
    ended: SimpleQueue[tuple[CompletionIndex, Completion | Exception]] = SimpleQueue()

    def work() -> None:
        while True:
            try:
                job = waiting.popleft()
            except IndexError:
                return
            try:
                ended.put((job, call(job)))
            except Exception as error:
                # The error ends the whole call: no further request is sent.
                waiting.clear()
                ended.put((job, error))

    # Fewer threads than jobs: each one takes the next job when its own has ended.
    for _ in range(min(concurrency, len(jobs))):
        Thread(target=work, daemon=True).start()
    try:
        for _ in jobs:
            job, outcome = ended.get()
            if isinstance(outcome, Exception):
                raise outcome
            yield job, outcome
    finally:
        # The caller may have been interrupted: threads end after the request under way.
        waiting.clear()
