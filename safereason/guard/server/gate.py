"""What a request passes before anything reads it: its key, then the size and the pace of its body."""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safereason.guard.server.keys import Keys
from safereason.guard.server.refusal import Refusal
from safereason.guard.server.settings import Limits

OPEN = ("/healthz", "/readyz")
"""Paths that need no key, so that whatever starts the server can watch it."""


class Gate:
    """Lets requests through to an app."""

    def __init__(self, app: ASGIApp, keys: Keys, limits: Limits) -> None:
        self.app = app
        self.keys = keys
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a request, or passes it on with a body that ends in time and in size."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(Headers(scope=scope), scope["path"])
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        await self.app(scope, self._limited(receive), send)

    def _check(self, headers: Headers, path: str) -> None:
        if self.keys and path not in OPEN:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            if not (self.keys.admit(key.strip().encode("latin-1")) and scheme.lower() == "bearer"):
                raise Refusal(
                    401, "invalid_api_key", "no key, or a wrong one; send `Authorization: Bearer KEY`",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.limits.max_body:
            raise self._too_large()

    def _limited(self, receive: Receive) -> Receive:
        """Raises where the body grows too large or comes too slowly; the framework passes these errors on."""
        received, more = 0, True
        deadline = time.monotonic() + self.limits.timeout

        async def limited() -> Message:
            nonlocal received, more
            if not more:  # what comes after the body is the caller's leaving, whenever that is
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                raise Refusal(408, "body_timeout", f"the body took over {self.limits.timeout:g} s to arrive") from None
            received += len(message.get("body", b""))
            more = message.get("more_body", False)
            if received > self.limits.max_body:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> Refusal:
        return Refusal(413, "body_too_large", f"the body is over {self.limits.max_body} bytes; send less at a time")
