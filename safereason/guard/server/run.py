"""From an app to a process that listens, and ends as it should."""

import asyncio
import errno
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import FastAPI

from safereason.console import say
from safereason.errors import InputError, one_line
from safereason.guard.server.connection import Connection
from safereason.guard.server.refusal import Refusal
from safereason.guard.server.settings import Limits

BACKLOG = 1024
"""Connections that the system holds until the server takes them."""
MOST_CONNECTIONS = 1000
"""Connections, where the process may open files without end."""
RESERVE = 64
"""Files that are left for the model, its libraries and a connection that is being refused."""
RETRY = 0.1
"""Seconds until the next try, where no connection can be taken."""
BETWEEN_COMPLAINTS = 60.0
"""Seconds between two lines about that."""


def bind(host: str, port: int) -> socket.socket:
    """Takes an address; nothing is answered there yet, so that a port in use is known before a model is loaded.

    Raises:
        InputError: The address is none of this machine's, or it is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{host}:{port}: cannot be listened at ({reason.lower()}); choose --host and --port"
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """The address as one types it."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def connections_allowed(wanted: int | None) -> int:
    """How many connections may be open at a time: half of the files that this process may open, or as many as asked.

    Raises:
        InputError: This process may not open so many files.
    """
    files = _files_allowed()
    if files is None:
        return wanted or MOST_CONNECTIONS
    if wanted is not None and wanted > files - RESERVE:
        most = max(1, files - RESERVE)
        raise InputError(
            f"--max-connections {wanted}: this process may open {files} files; "
            f"give {most} at most, or raise the limit with `ulimit -n`"
        )
    return wanted or max(1, min(MOST_CONNECTIONS, files // 2))


def _files_allowed() -> int | None:
    """The soft limit of files; None where there is none."""
    try:
        import resource
    except ImportError:  # Windows counts sockets apart
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


class Server(uvicorn.Server):
    """Takes connections as long as there is room; says when it listens, and logs no request."""

    def __init__(self, app: FastAPI, limits: Limits, ready: str, on_hangup: Callable[[], None] | None = None) -> None:
        # In flight a request may still send its body for `timeout`, and then wait as long for its verdict.
        patience = math.ceil(2 * limits.timeout) + 1
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                log_level="error",
                server_header=False,
                timeout_graceful_shutdown=patience,
            )
        )
        self._limits = limits
        self._ready = ready
        self._on_hangup = on_hangup
        self.is_hung_up = False
        """Whether SIGHUP asked it to end."""
        self._doors: list[asyncio.Task[None]] = []
        self._complained = -math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen. asyncio's own way to take connections opens files until there are none left."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(uvicorn.config.STARTUP_FAILURE)
        self.servers = []
        loop = asyncio.get_running_loop()
        for listener in sockets or []:
            listener.setblocking(False)
            listener.listen(BACKLOG)
            self._doors.append(loop.create_task(self._take(listener)))
        is_heard = self._on_hangup is not None or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        if is_heard and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup or self._hang_up)
        self.started = True
        say(self._ready)

    def _hang_up(self) -> None:
        self.should_exit = self.is_hung_up = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more connections and lets those at work end."""
        for door in self._doors:
            door.cancel()
        await asyncio.gather(*self._doors, return_exceptions=True)
        await super().shutdown(sockets)

    async def _take(self, listener: socket.socket) -> None:
        """Takes connections until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                caller, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._complain(error)
                self._make_room()
                await asyncio.sleep(RETRY)
                continue
            if len(self.server_state.connections) >= self._limits.max_connections and not self._make_room():
                _turn_away(caller)
                continue
            with suppress(OSError):  # it has gone again
                await loop.connect_accepted_socket(self._connection, caller)

    def _connection(self) -> Connection:
        return Connection(self.config, self.server_state, self.lifespan.state, self._limits.header_timeout)

    def _make_room(self) -> bool:
        """Ends the connection that has waited longest for its caller; false where all are at work."""
        open_now = [each for each in self.server_state.connections if isinstance(each, Connection)]
        waiting = [each for each in open_now if each.waits]
        if not waiting:
            return False
        min(waiting, key=lambda each: each.since).give_way()
        return True

    def _complain(self, error: OSError) -> None:
        if time.monotonic() - self._complained < BETWEEN_COMPLAINTS:
            return
        self._complained = time.monotonic()
        files = error.errno in (errno.EMFILE, errno.ENFILE)
        remedy = "; lower --max-connections or raise `ulimit -n`" if files else ""
        say(f"no connection can be taken now ({one_line(error)}){remedy}; the server goes on trying")


def _turn_away(caller: socket.socket) -> None:
    """Answers that there is no room, as far as the caller listens."""
    answer = Refusal(503, "too_many_connections", "too many connections are open; try again a little later").response()
    body = bytes(answer.body)
    lines = [b"HTTP/1.1 503 Service Unavailable", b"Connection: close", b"Retry-After: 1"]
    lines += [b"%s: %s" % header for header in answer.raw_headers]
    with caller, suppress(OSError):
        caller.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)


def serve(
    app: FastAPI, bound: socket.socket, limits: Limits, ready: str, on_hangup: Callable[[], None] | None = None
) -> None:
    """Answers until SIGTERM or Ctrl-C; requests in flight are answered first, within their time.

    Args:
        app: As `create_app` makes it.
        bound: Where to listen.
        limits: Those of the app.
        ready: Said once it listens.
        on_hangup: Called at SIGHUP, which otherwise ends it too, and is raised again then.
    """
    server = Server(app, limits, ready, on_hangup)

    def end(*_: Any) -> None:
        server.should_exit = True

    # uvicorn handles the signal and raises it again when it is done; this one is there so that the process lives on.
    before, hangup = signal.signal(signal.SIGTERM, end), signal.getsignal(signal.SIGHUP)
    try:
        server.run([bound])
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, hangup)
        if app.state.batcher.busy:  # over questions that nobody waits for any more
            sys.stderr.flush()
            os._exit(0)
    if server.is_hung_up:
        signal.raise_signal(signal.SIGHUP)
