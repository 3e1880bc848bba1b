"""One caller's connection, which is cut where the caller keeps the server waiting.

uvicorn alone waits for ever: for a head that never ends, for a body that goes on after its request was refused, and for
a caller that does not read what it is sent.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from safereason.guard.server.refusal import Refusal

_BEFORE_AN_ANSWER = (h11.IDLE, h11.SEND_RESPONSE)


class Connection(H11Protocol):
    """HTTP/1.1 with deadlines."""

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, Any], patience: float) -> None:
        """Takes what uvicorn gives a protocol.

        Args:
            config: uvicorn's.
            state: What all connections of a server share.
            app_state: What the app's start left.
            patience: Seconds that the head of a request may take, and as many that the caller may take to read.
        """
        super().__init__(config, state, app_state)
        self._patience = patience
        self._head: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None
        self.since = self.loop.time()
        """When it began to wait, by the loop's clock."""

    @property
    def waits(self) -> bool:
        """Whether it is the caller's turn: to send the rest of a request, or another one."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all waiting."""
        _cancel(self._head)
        _cancel(self._reading)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Takes in what has arrived; with the head of a request the wait is over."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and not self.cycle.response_complete:
            self.since = self.loop.time()
            _cancel(self._head)

    def on_response_complete(self) -> None:
        """Begins to wait for the next request, which may be there already."""
        self._await_head()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Gives the caller so long to read what was sent."""
        super().pause_writing()
        self._reading = self.loop.call_later(self._patience, self.transport.abort)

    def resume_writing(self) -> None:
        """Goes on to send."""
        _cancel(self._reading)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP, or has too long a head."""
        self._end(Refusal(400, "invalid_http", "this is no HTTP/1.1 request, or its head is too long"))

    def give_way(self) -> None:
        """Ends at once, so that another caller has room."""
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
        if self.conn.trailing_data[0]:
            self._end(Refusal(408, "header_timeout", f"the request took over {self._patience:g} s to begin"))
        self.transport.close()
        self._head = self.loop.call_later(self._patience, self.transport.abort)

    def _end(self, refusal: Refusal) -> None:
        """Says why, where nothing has been answered yet, and ends the connection."""
        if self.conn.our_state in _BEFORE_AN_ANSWER:
            answer = refusal.response()
            headers = [*answer.raw_headers, (b"connection", b"close")]
            phrase = HTTPStatus(answer.status_code).phrase.encode()
            head = h11.Response(status_code=answer.status_code, headers=headers, reason=phrase)
            parts = (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(part) or b"" for part in parts))
        if self.cycle is not None:
            self.cycle.disconnected = True  # what the app is about to answer goes nowhere
        self.transport.close()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
