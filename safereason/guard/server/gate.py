"""Checks of a request before anything reads it: host, framing, headers and key, then size and pace of its body."""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from safereason.guard.server.hosts import Hosts
from safereason.guard.server.keys import Keys
from safereason.guard.server.paths import WITHOUT_KEY, answer_without_endpoint
from safereason.guard.server.refusal import RequestRefused
from safereason.guard.server.settings import Limits

MOST_HEADERS = 100
"""Most header lines of a request."""
MOST_HEADER_BYTES = 16_384
"""Most bytes of a request's headers, names and values together."""
MOST_URL = 8192
"""Characters of a request's path and query; no endpoint takes a query, and proxies allow about as many."""
CLOSE_CONNECTION = {"Connection": "close"}
"""Header for refusals of requests whose end is in doubt: the rest of the body could be read as another request."""


class Gate:
    """Middleware that passes an app only the requests that it should read."""

    def __init__(self, app: ASGIApp, keys: Keys, limits: Limits, hosts: Hosts) -> None:
        self.app = app
        self.keys = keys
        self.limits = limits
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a request, or passes it on with a body that is bounded in time and size."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
        except RequestRefused as refusal:
            await refusal.response()(scope, receive, send)
            return
        # After the check, so that a caller without a key does not learn which methods there are.
        answer = answer_without_endpoint(scope["method"], scope["path"])
        if answer is not None:
            await answer(scope, receive, send)
        else:
            await self.app(scope, self._bounded(receive), send)

    def _check(self, scope: Scope) -> None:
        """Checks everything that is known before the body.

        Raises:
            Refusal: A check failed.
        """
        headers = Headers(scope=scope)
        address = (scope.get("server") or ("",))[0]
        self._check_host(headers, address)
        _check_framing(headers, scope["http_version"])
        _check_header_size(scope)
        if scope["path"] not in WITHOUT_KEY:
            self._check_key(headers)
        # The announced length saves reading the body. `_bounded` counts the bytes that really come.
        length = headers.get("content-length", "")
        # Twenty digits are above any limit, and int() takes quadratic time for a number of thousands of digits.
        if length.isdecimal() and int(length[:20]) > self.limits.max_body:
            raise self._too_large()

    def _check_host(self, headers: Headers, address: str) -> None:
        host = headers.get("host")
        # Only programs older than HTTP/1.1, and so no browser, leave the header out.
        if host is None or self.hosts.admit(host, address):
            return
        message = "this server does not go by the name in `Host`; whoever runs it can add it with --allowed-hosts"
        raise RequestRefused(421, "host_not_allowed", message, headers=CLOSE_CONNECTION)

    def _check_key(self, headers: Headers) -> None:
        if not self.keys:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if self.keys.admit(key.strip().encode("latin-1")) and scheme.lower() == "bearer":
            return
        raise RequestRefused(
            401,
            "invalid_api_key",
            "no key, or a wrong one; send `Authorization: Bearer KEY`",
            headers={"WWW-Authenticate": "Bearer"},
        )

    def _bounded(self, receive: Receive) -> Receive:
        """The body's messages, with an error if it grows too large or comes too slowly; the framework passes it on."""
        received = 0
        more = True
        deadline = time.monotonic() + self.limits.timeout

        async def receive_bounded() -> Message:
            nonlocal received, more
            if not more:  # after the body there is only the caller's disconnect, which may come at any time
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except asyncio.TimeoutError:
                message_text = f"the body took over {self.limits.timeout:g} s to arrive"
                raise RequestRefused(408, "body_timeout", message_text, headers=CLOSE_CONNECTION) from None
            received += len(message.get("body", b""))
            more = message.get("more_body", False)
            if received > self.limits.max_body:
                raise self._too_large()
            return message

        return receive_bounded

    def _too_large(self) -> RequestRefused:
        return RequestRefused(
            413, "body_too_large", f"the body is over {self.limits.max_body} bytes; send less at a time"
        )


def _check_framing(headers: Headers, version: str) -> None:
    """Refuses a body with two lengths.

    A proxy in between could see another end than the server, and smuggle in another request after it.
    """
    if "transfer-encoding" not in headers:
        return
    if "content-length" in headers:
        message = "a body has either Content-Length or Transfer-Encoding: chunked; send one of them"
        raise RequestRefused(400, "ambiguous_length", message, headers=CLOSE_CONNECTION)
    if version == "1.0":
        raise RequestRefused(
            400, "ambiguous_length", "HTTP/1.0 has no chunked bodies; send Content-Length", headers=CLOSE_CONNECTION
        )


def _check_header_size(scope: Scope) -> None:
    if len(scope["path"]) + len(scope["query_string"]) > MOST_URL:
        message = f"at most {MOST_URL} characters of a URL are read"
        raise RequestRefused(414, "url_too_long", message, headers=CLOSE_CONNECTION)
    lines = scope["headers"]
    size = sum(len(name) + len(value) for name, value in lines)
    if len(lines) > MOST_HEADERS or size > MOST_HEADER_BYTES:
        message = f"at most {MOST_HEADERS} headers of {MOST_HEADER_BYTES} bytes are read"
        raise RequestRefused(431, "headers_too_large", message, headers=CLOSE_CONNECTION)
