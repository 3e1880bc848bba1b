"""The endpoints, from a request to the guard and back."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic.json_schema import models_json_schema

import safereason
from safereason.console import say
from safereason.guard import policy as policies
from safereason.guard.base import Finding, OnFinding
from safereason.guard.policy import Policy
from safereason.guard.prompt import Question
from safereason.guard.server import mapping as mappings
from safereason.guard.server import moderation, questions
from safereason.guard.server.batching import Batcher, Closing, GuardFailed, QueueFull
from safereason.guard.server.gate import Gate
from safereason.guard.server.metrics import Measured, Metrics
from safereason.guard.server.paths import MODELS, Paths
from safereason.guard.server.reading import REFERENCE, read, taken
from safereason.guard.server.refusal import Refusal, add_handlers, invalid
from safereason.guard.server.schema import (
    ErrorBody,
    GuardRequest,
    GuardResponse,
    Health,
    Model,
    Models,
    ModerationRequest,
    ModerationResponse,
    NamedCategory,
)
from safereason.guard.server.settings import Settings

_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 405, 408, 413, 414, 415, 421, 422, 429, 431, 500, 503)
}


class ServedGuard(Protocol):
    """A guard that can be asked under several policies, and judges each question as if it were the only one."""

    name: str

    @property
    def policy(self) -> Policy:
        """What it calls unsafe."""
        ...

    def under(self, policy: Policy) -> "ServedGuard":
        """The same guard under another policy."""
        ...

    def classify(
        self, questions: Sequence[Question], *, seed: int = 0, alone: bool = False, on_finding: OnFinding | None = None
    ) -> Any:
        """See `ReasoningGuard.classify`."""
        ...


def create_app(guard: ServedGuard, settings: Settings | None = None) -> FastAPI:
    """An app that answers for a guard; `app.state.batcher` asks it once the app has started.

    Raises:
        InputError: A shipped policy or table is damaged.
    """
    settings = settings or Settings()
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
    asked: dict[str, Any] = {"responses": _REFUSALS}
    if settings.keys:
        asked["dependencies"] = [Depends(HTTPBearer(auto_error=False))]  # for /openapi.json; the gate checks
    moderations = {"response_model": ModerationResponse, "openapi_extra": taken(ModerationRequest), **asked}
    app.post("/v1/moderations", **moderations)(endpoints.moderations)
    app.post("/v1/guard", response_model=GuardResponse, openapi_extra=taken(GuardRequest), **asked)(endpoints.guard)
    app.get(MODELS, response_model=Models, **asked)(endpoints.models)
    app.get(f"{MODELS}/{{name:path}}", response_model=Model, responses={404: {"model": ErrorBody}})(endpoints.model)
    app.get("/healthz", response_model=Health)(endpoints.healthz)
    app.get("/readyz", response_model=Health, responses={503: {"model": Health}})(endpoints.readyz)
    app.get("/metrics", response_class=PlainTextResponse)(endpoints.metrics)
    add_handlers(app)
    app.add_middleware(Gate, keys=settings.keys, limits=settings.limits, hosts=settings.hosts)
    app.add_middleware(Measured, metrics=endpoints.measures)
    app.add_middleware(Paths)
    return app


class _App(FastAPI):
    """An app whose endpoints read their bodies themselves, and say in /openapi.json what these are."""

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
    """What one app answers with."""

    def __init__(self, guard: ServedGuard, settings: Settings) -> None:
        self._guard = guard
        self._settings = settings
        self._limits = settings.limits
        self._model = settings.model or guard.name
        self._began = int(time.time())
        self._mapping = settings.mapping or mappings.for_policy(guard.policy) or mappings.without_table()
        self._policies = {name: policies.load(name) for name in policies.shipped()} | {guard.policy.name: guard.policy}
        self.measures = Metrics(lambda: len(self.batcher))
        self.batcher = Batcher(
            self._judge,
            max_batch=self._limits.max_batch,
            max_wait=self._limits.max_wait,
            max_queue=self._limits.max_queue,
            on_batch=self.measures.batches.observe,
        )

    async def moderations(self, request: Request) -> ModerationResponse:
        """Judges texts as the Moderation API does."""
        _, asked = await read(request, ModerationRequest, lambda body: questions.of_moderation(body, self._limits))
        findings = await self._findings(asked, self._guard.policy)
        for i, finding in enumerate(findings):
            if finding.unparsed and not self._settings.flag_unparsed:
                # No 5xx: a client would ask again, and the guard has been asked as often as it helps.
                which = f"input[{i}]" if len(findings) > 1 else "input"
                raise Refusal(422, "unparsed", f"{which}: {self._reason(finding)}", param="input")
        return ModerationResponse(
            id=f"modr-{uuid.uuid4().hex}",
            model=self._model,
            results=[moderation.result(finding, self._mapping, self._settings.threshold) for finding in findings],
        )

    async def guard(self, request: Request) -> GuardResponse:
        """Judges the last turn of a conversation, and says all that the guard says."""
        body, question = await read(request, GuardRequest, lambda body: questions.of_guard(body, self._limits))
        policy = self._policies.get(body.policy) if body.policy is not None else self._guard.policy
        if policy is None:
            raise invalid("policy", f"no such policy; there are {', '.join(sorted(self._policies))}")
        finding = (await self._findings([question], policy))[0]
        names = {category.id: category.name for category in policy.categories}
        return GuardResponse(
            label=finding.label,
            score=finding.score,
            categories=[NamedCategory(id=c, name=names[c]) for c in finding.categories],
            reasoning=finding.reasoning,
            unparsed=finding.unparsed,
            reason=self._reason(finding),
            policy=policy.name,
            model=self._model,
        )

    async def models(self) -> Models:
        """Lists the guard, as programs expect of a server with OpenAI's API."""
        return Models(data=[Model(id=self._model, created=self._began)])

    async def model(self, name: str) -> Model:
        """Tells whether a model is the guard."""
        if name != self._model:
            raise Refusal(404, "model_not_found", f"no such model; there is {self._model}", param="model")
        return Model(id=self._model, created=self._began)

    async def healthz(self) -> Health:
        """Says that the process lives."""
        return Health(status="ok")

    async def readyz(self) -> Any:
        """Says whether a request would be taken; the model is loaded before the server listens."""
        ready = self.batcher.ready
        return JSONResponse({"status": "ready" if ready else "busy"}, 200 if ready else 503)

    async def metrics(self) -> PlainTextResponse:
        """Counters for Prometheus."""
        return PlainTextResponse(generate_latest(self.measures.registry), media_type=CONTENT_TYPE_LATEST)

    async def _findings(self, asked: Sequence[Question], policy: Policy) -> list[Finding]:
        """What the guard finds, in order, or the refusal that says why there is nothing."""
        try:
            futures = self.batcher.submit(asked, policy)
            waiting = asyncio.gather(*map(asyncio.wrap_future, futures))
            findings = await asyncio.wait_for(waiting, self._limits.timeout)
        except QueueFull:
            said = "too many questions wait; try again a little later"
            raise Refusal(429, "queue_full", said, headers={"Retry-After": "1"}) from None
        except Closing:
            raise Refusal(503, "closing", "the server is about to end") from None
        except asyncio.TimeoutError:
            raise Refusal(503, "timeout", f"no verdict within {self._limits.timeout:g} s") from None
        except GuardFailed:
            raise Refusal(503, "guard_failed", "the guard failed; the server's log says more") from None
        for question, finding in zip(asked, findings, strict=True):
            self.measures.count(finding)
            if self._settings.log_prompts:
                _log(question, finding)
        return findings

    def _reason(self, finding: Finding) -> str | None:
        """Why there is no verdict; where the model lies is not for callers."""
        return finding.reason and finding.reason.replace(f"{self._guard.name}: ", "")

    def _judge(self, policy: Policy, asked: Sequence[Question], deliver: OnFinding) -> None:
        """Asks the guard, and once more with the next seed where there is no verdict; in the batcher's thread."""
        guard, seed, again = self._guard.under(policy), self._settings.seed, list[int]()

        def first(index: int, finding: Finding) -> None:
            if finding.unparsed and not finding.failed and self._settings.ask_again:
                again.append(index)
            else:
                deliver(index, finding)

        guard.classify(asked, seed=seed, alone=True, on_finding=first)
        if again:
            unparsed = [asked[i] for i in again]
            guard.classify(unparsed, seed=seed + 1, alone=True, on_finding=lambda i, f: deliver(again[i], f))


def _log(question: Question, finding: Finding) -> None:
    document = {"prompt": question.prompt, "response": question.response, "label": finding.label, "text": finding.text}
    say(json.dumps(document))  # ASCII, so that no text acts on the terminal
