"""HTTP/1.1 connections with deadlines, for callers that keep the server waiting.

uvicorn alone waits without end for three things: a head that never ends, a body that goes on after its request was
refused, and a caller that does not read its answer.
"""

import asyncio
from http import HTTPStatus

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from safereason.guard.server.refusal import RequestRefused

_BEFORE_AN_ANSWER = (h11.IDLE, h11.SEND_RESPONSE)


class DeadlineProtocol(H11Protocol):
    """Connection of HTTP/1.1 whose requests have deadlines, so that no caller holds one by silence."""

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, object], patience: float) -> None:
        """A connection, with the arguments of uvicorn's protocol and a deadline.

        Args:
            config: uvicorn's configuration.
            state: State that all connections of a server share.
            app_state: State from the app's start.
            patience: Seconds for the head of a request to arrive, and also for the caller to read an answer.
        """
        super().__init__(config, state, app_state)
        self._patience = patience
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self.since = self.loop.time()
        """Start of the current wait, by the loop's clock."""

    @property
    def waits(self) -> bool:
        """Whether it is the caller's turn: to send the rest of a request, or another one."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the wait for the first request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops all timers."""
        _cancel(self._head)
        _cancel(self._reading)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Processes the bytes that have arrived. A complete head ends the wait for it."""
        before = self.cycle
        super().handle_events()
        # uvicorn starts a new cycle with each head.
        if self.cycle is not before and not self.cycle.response_complete:
            self.since = self.loop.time()
            _cancel(self._head)

    def on_response_complete(self) -> None:
        """Starts the wait for the next request."""
        # Before uvicorn's own handling: a pipelined request is processed in there, and ends the wait at once.
        self._await_head()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Starts the wait for a caller that does not read what was sent."""
        super().pause_writing()
        self._reading = self.loop.call_later(self._patience, self.transport.abort)

    def resume_writing(self) -> None:
        """Ends the wait: the caller reads again."""
        _cancel(self._reading)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuses bytes that are not HTTP, or too long a head, in the shape of all other errors."""
        self._end(RequestRefused(400, "invalid_http", "this is no HTTP/1.1 request, or its head is too long"))

    def give_way(self) -> None:
        """Ends the connection at once, so that another caller has room."""
        # The transport reports the end only later, and the room is counted before.
        self.connections.discard(self)
        self.transport.abort()

    def _await_head(self) -> None:
        self.since = self.loop.time()
        _cancel(self._head)
        self._head = self.loop.call_later(self._patience, self._give_up)

    def _give_up(self) -> None:
        if self.transport.is_closing():  # but the caller does not read the last of it
            self.transport.abort()
            return
        # An idle connection is closed without a word. Only one that began a request gets an answer.
        if self.conn.trailing_data[0]:
            self._end(RequestRefused(408, "header_timeout", f"the request took over {self._patience:g} s to begin"))
        self.transport.close()
        # `close` waits until the rest is sent, which a caller that reads nothing could delay without end.
        self._head = self.loop.call_later(self._patience, self.transport.abort)

    def _end(self, refusal: RequestRefused) -> None:
        """Answers with a refusal, unless an answer has begun, and ends the connection."""
        if self.conn.our_state in _BEFORE_AN_ANSWER:
            answer = refusal.response()
            headers = [*answer.raw_headers, (b"connection", b"close")]
            phrase = HTTPStatus(answer.status_code).phrase.encode()
            head = h11.Response(status_code=answer.status_code, headers=headers, reason=phrase)
            content = b""
            for part in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                content += self.conn.send(part) or b""
            # In one write, so that the answer is not cut by the end that follows.
            self.transport.write(content)
        if self.cycle is not None:
            self.cycle.disconnected = True  # what the app is about to answer goes nowhere
        self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
