"""What a request passes before anything reads it: host, framing and key, then the size and the pace of its body."""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safereason.guard.server.hosts import Hosts
from safereason.guard.server.keys import Keys
from safereason.guard.server.paths import OPEN, answered_here
from safereason.guard.server.refusal import Refusal
from safereason.guard.server.settings import Limits

MOST_HEADERS = 100
"""Header lines of a request."""
MOST_HEADER_BYTES = 16_384
"""Bytes of a request's header lines, names and values."""
MOST_URL = 8192
"""Characters of a request's path and query; no endpoint takes a query, and proxies allow about as many."""
CLOSE = {"Connection": "close"}
"""After a request whose end is in doubt, what follows on its connection could be read as another one."""


class Gate:
    """Lets requests through to an app."""

    def __init__(self, app: ASGIApp, keys: Keys, limits: Limits, hosts: Hosts) -> None:
        self.app = app
        self.keys = keys
        self.limits = limits
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a request, or passes it on with a body that ends in time and in size."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
            return
        answer = answered_here(scope["method"], scope["path"])
        if answer is not None:
            await answer(scope, receive, send)
        else:
            await self.app(scope, self._limited(receive), send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._check_host(headers, (scope.get("server") or ("",))[0])
        _check_framing(headers, scope["http_version"])
        if len(headers) > MOST_HEADERS or sum(len(k) + len(v) for k, v in scope["headers"]) > MOST_HEADER_BYTES:
            most = f"at most {MOST_HEADERS} headers of {MOST_HEADER_BYTES} bytes are read"
            raise Refusal(431, "headers_too_large", most, headers=CLOSE)
        if len(scope["path"]) + len(scope["query_string"]) > MOST_URL:
            raise Refusal(414, "url_too_long", f"at most {MOST_URL} characters of a URL are read", headers=CLOSE)
        if self.keys and scope["path"] not in OPEN:
            scheme, _, key = headers.get("authorization", "").partition(" ")
            if not (self.keys.admit(key.strip().encode("latin-1")) and scheme.lower() == "bearer"):
                raise Refusal(
                    401,
                    "invalid_api_key",
                    "no key, or a wrong one; send `Authorization: Bearer KEY`",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.limits.max_body:
            raise self._too_large()

    def _check_host(self, headers: Headers, address: str) -> None:
        """Only programs older than HTTP/1.1, and so no browser, leave the name out."""
        host = headers.get("host")
        if host is not None and not self.hosts.admit(host, address):
            said = "this server does not go by the name in `Host`; whoever runs it can add it with --allowed-hosts"
            raise Refusal(421, "host_not_allowed", said, headers=CLOSE)

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
                said = f"the body took over {self.limits.timeout:g} s to arrive"
                raise Refusal(408, "body_timeout", said, headers=CLOSE) from None
            received += len(message.get("body", b""))
            more = message.get("more_body", False)
            if received > self.limits.max_body:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> Refusal:
        return Refusal(413, "body_too_large", f"the body is over {self.limits.max_body} bytes; send less at a time")


def _check_framing(headers: Headers, version: str) -> None:
    """Refuses a body of two lengths: a proxy in between could see another end, and another request after it."""
    if "transfer-encoding" not in headers:
        return
    if "content-length" in headers:
        said = "a body has either Content-Length or Transfer-Encoding: chunked; send one of them"
        raise Refusal(400, "ambiguous_length", said, headers=CLOSE)
    if version == "1.0":
        raise Refusal(400, "ambiguous_length", "HTTP/1.0 has no chunked bodies; send Content-Length", headers=CLOSE)
