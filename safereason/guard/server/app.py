"""Endpoints of the server."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from fastapi import Depends, FastAPI, Request, params
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic.json_schema import models_json_schema

import safereason
from safereason.console import say
from safereason.guard import policy as policies
from safereason.guard.base import GuardVerdict, OnVerdict
from safereason.guard.policy import Policy
from safereason.guard.prompt import Question
from safereason.guard.server import mapping as mappings
from safereason.guard.server import moderation, questions
from safereason.guard.server.batching import Batcher, GuardFailed, QueueFull, ServerClosing
from safereason.guard.server.gate import Gate
from safereason.guard.server.metrics import MeteredApp, ServerMetrics
from safereason.guard.server.paths import MODELS, Paths
from safereason.guard.server.reading import REFERENCE, body_schema, read_request
from safereason.guard.server.refusal import RequestRefused, add_handlers, invalid
from safereason.guard.server.schema import (
    ErrorBody,
    GuardRequest,
    GuardResponse,
    Health,
    ModelCard,
    Models,
    ModerationRequest,
    ModerationResponse,
    NamedCategory,
)
from safereason.guard.server.settings import ServerSettings

_REFUSALS: dict[int | str, dict[str, object]] = {
    status: {"model": ErrorBody} for status in (400, 401, 405, 408, 413, 414, 415, 421, 422, 429, 431, 500, 503)
}
"""Error answers of the endpoints, for /openapi.json."""


class ServedGuard(Protocol):
    """A guard that judges under several policies, and each question as if it were the only one."""

    name: str

    @property
    def policy(self) -> Policy:
        """The categories that the guard calls unsafe."""
        ...

    def under(self, policy: Policy) -> "ServedGuard":
        """The same guard under another policy."""
        ...

    def classify(
        self, questions: Sequence[Question], *, seed: int = 0, alone: bool = False, on_verdict: OnVerdict | None = None
    ) -> object:
        """See `ReasoningGuard.classify`. The server reads the verdicts from the callback alone."""
        ...


def create_app(guard: ServedGuard, settings: ServerSettings | None = None) -> FastAPI:
    """The app for a guard. `app.state.batcher` uses the guard once the app has started.

    Raises:
        InputError: A shipped policy or table is damaged.
    """
    settings = settings or ServerSettings()
    endpoints = _Endpoints(guard, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        endpoints.batcher.start()
        yield
        await asyncio.to_thread(endpoints.batcher.stop, settings.limits.timeout)

    app = _App(
        title="safereason guard",
        version=safereason.__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.batcher = endpoints.batcher
    _add_endpoints(app, endpoints, has_keys=bool(settings.keys))
    add_handlers(app)
    # The last one added sees a request first: one spelling of the path, then the metrics, then the gate.
    app.add_middleware(Gate, keys=settings.keys, limits=settings.limits, hosts=settings.hosts)
    app.add_middleware(MeteredApp, metrics=endpoints.measures)
    app.add_middleware(Paths)
    return app


def _add_endpoints(app: FastAPI, endpoints: "_Endpoints", *, has_keys: bool) -> None:
    dependencies: list[params.Depends] = []
    if has_keys:
        # It only puts the keys into /openapi.json. The gate checks them.
        dependencies.append(Depends(HTTPBearer(auto_error=False)))
    app.post(
        "/v1/moderations",
        response_model=ModerationResponse,
        openapi_extra=body_schema(ModerationRequest),
        responses=_REFUSALS,
        dependencies=dependencies,
    )(endpoints.moderations)
    app.post(
        "/v1/guard",
        response_model=GuardResponse,
        openapi_extra=body_schema(GuardRequest),
        responses=_REFUSALS,
        dependencies=dependencies,
    )(endpoints.guard)
    app.get(MODELS, response_model=Models, responses=_REFUSALS, dependencies=dependencies)(endpoints.models)
    # `path`, because a model's name may hold slashes.
    app.get(f"{MODELS}/{{name:path}}", response_model=ModelCard, responses={404: {"model": ErrorBody}})(endpoints.model)
    app.get("/healthz", response_model=Health)(endpoints.healthz)
    app.get("/readyz", response_model=Health, responses={503: {"model": Health}})(endpoints.readyz)
    app.get("/metrics", response_class=PlainTextResponse)(endpoints.metrics)


class _App(FastAPI):
    """An app with endpoints that read their bodies themselves, and with the schemas of these in /openapi.json."""

    def openapi(self) -> dict[str, Any]:
        """See `FastAPI.openapi`."""
        if self.openapi_schema is None:
            document = super().openapi()
            _, definitions = models_json_schema(
                [(ModerationRequest, "validation"), (GuardRequest, "validation")], ref_template=REFERENCE
            )
            document["components"]["schemas"].update(definitions["$defs"])
        return self.openapi_schema or {}


class _Endpoints:
    """The endpoints of one app."""

    def __init__(self, guard: ServedGuard, settings: ServerSettings) -> None:
        self._guard = guard
        self._settings = settings
        self._limits = settings.limits
        self._model = settings.model or guard.name
        self._began = int(time.time())
        self._mapping = settings.mapping or mappings.for_policy(guard.policy) or mappings.without_table()
        # The guard's own policy comes last: it wins over a shipped one of the same name.
        self._policies = {name: policies.load(name) for name in policies.shipped()} | {guard.policy.name: guard.policy}
        self.measures = ServerMetrics(lambda: len(self.batcher))
        self.batcher = Batcher(
            self._classify_batch,
            max_batch=self._limits.max_batch,
            max_wait=self._limits.max_wait,
            max_queue=self._limits.max_queue,
            on_batch=self.measures.batches.observe,
        )

    async def moderations(self, request: Request) -> ModerationResponse:
        """Judges texts as the Moderation API does."""

        def parse(body: ModerationRequest) -> list[Question]:
            return questions.of_moderation(body, self._limits)

        _, texts = await read_request(request, ModerationRequest, parse)
        verdicts = await self._verdicts(texts, self._guard.policy)
        for i, verdict in enumerate(verdicts):
            if verdict.unparsed and not self._settings.flag_unparsed:
                # No 5xx: a client would ask again, and the guard has been asked as often as it helps.
                which = f"input[{i}]" if len(verdicts) > 1 else "input"
                raise RequestRefused(422, "unparsed", f"{which}: {self._reason(verdict)}", param="input")
        return ModerationResponse(
            id=f"modr-{uuid.uuid4().hex}",
            model=self._model,
            results=[moderation.result(verdict, self._mapping, self._settings.threshold) for verdict in verdicts],
        )

    async def guard(self, request: Request) -> GuardResponse:
        """Judges the last turn of a conversation, and returns the full verdict."""

        def parse(body: GuardRequest) -> Question:
            return questions.of_guard(body, self._limits)

        body, question = await read_request(request, GuardRequest, parse)
        policy = self._guard.policy
        if body.policy is not None:
            policy = self._policy_named(body.policy)
        (verdict,) = await self._verdicts([question], policy)
        names = {category.id: category.name for category in policy.categories}
        return GuardResponse(
            label=verdict.label,
            score=verdict.score,
            categories=[NamedCategory(id=c, name=names[c]) for c in verdict.categories],
            reasoning=verdict.reasoning,
            unparsed=verdict.unparsed,
            reason=self._reason(verdict),
            policy=policy.name,
            model=self._model,
        )

    async def models(self) -> Models:
        """Lists the guard, for programs that expect a server with OpenAI's API."""
        return Models(data=[ModelCard(id=self._model, created=self._began)])

    async def model(self, name: str) -> ModelCard:
        """Describes the guard under its name."""
        if name != self._model:
            raise RequestRefused(404, "model_not_found", f"no such model; there is {self._model}", param="model")
        return ModelCard(id=self._model, created=self._began)

    async def healthz(self) -> Health:
        """Answers while the process lives."""
        return Health(status="ok")

    async def readyz(self) -> JSONResponse:
        """Tells whether a request would be accepted; the model is loaded before the server listens."""
        if self.batcher.ready:
            return JSONResponse({"status": "ready"}, 200)
        return JSONResponse({"status": "busy"}, 503)

    async def metrics(self) -> PlainTextResponse:
        """Metrics in the text format of Prometheus."""
        return PlainTextResponse(generate_latest(self.measures.registry), media_type=CONTENT_TYPE_LATEST)

    def _policy_named(self, name: str) -> Policy:
        if name not in self._policies:
            raise invalid("policy", f"no such policy; there are {', '.join(sorted(self._policies))}")
        return self._policies[name]

    async def _verdicts(self, batch: Sequence[Question], policy: Policy) -> list[GuardVerdict]:
        """The guard's verdicts, in order.

        Raises:
            Refusal: The queue is full or closed, the guard failed, or it took too long.
        """
        try:
            futures = self.batcher.submit(batch, policy)
            # A timeout cancels the futures, and the batcher skips those that still wait.
            waiting = asyncio.gather(*map(asyncio.wrap_future, futures))
            verdicts = await asyncio.wait_for(waiting, self._limits.timeout)
        except QueueFull:
            message = "too many questions wait; try again a little later"
            raise RequestRefused(429, "queue_full", message, headers={"Retry-After": "1"}) from None
        except ServerClosing:
            raise RequestRefused(503, "closing", "the server is about to end") from None
        except asyncio.TimeoutError:
            raise RequestRefused(503, "timeout", f"no verdict within {self._limits.timeout:g} s") from None
        except GuardFailed:
            raise RequestRefused(503, "guard_failed", "the guard failed; the server's log says more") from None
        for question, verdict in zip(batch, verdicts, strict=True):
            self.measures.count(verdict)
            if self._settings.log_prompts:
                _log_verdict(question, verdict)
        return verdicts

    def _reason(self, verdict: GuardVerdict) -> str | None:
        """Reason why there is no verdict, without the model's path, which is not for callers."""
        return verdict.reason and verdict.reason.replace(f"{self._guard.name}: ", "")

    def _classify_batch(self, policy: Policy, batch: Sequence[Question], deliver: OnVerdict) -> None:
        """Judges questions in the batcher's thread, and those without a verdict once more with the next seed."""
        guard = self._guard.under(policy)
        seed = self._settings.seed
        retried: list[int] = []

        def on_first_verdict(index: int, verdict: GuardVerdict) -> None:
            # A failed engine gave no text: there, another seed changes nothing.
            if verdict.unparsed and not verdict.failed and self._settings.retry_unparsed:
                retried.append(index)
            else:
                deliver(index, verdict)

        def on_second_verdict(index: int, verdict: GuardVerdict) -> None:
            deliver(retried[index], verdict)

        # `alone`, so that the verdict on a text does not depend on the rest of its batch.
        guard.classify(batch, seed=seed, alone=True, on_verdict=on_first_verdict)
        if retried:
            unparsed = [batch[i] for i in retried]
            guard.classify(unparsed, seed=seed + 1, alone=True, on_verdict=on_second_verdict)


def _log_verdict(question: Question, verdict: GuardVerdict) -> None:
    document = {"prompt": question.prompt, "response": question.response, "label": verdict.label, "text": verdict.text}
    say(json.dumps(document))  # ASCII, so that no text acts on the terminal
