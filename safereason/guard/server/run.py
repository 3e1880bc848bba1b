"""The server process: it listens, bounds its connections, and shuts down in order."""

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
from types import FrameType

import uvicorn
from fastapi import FastAPI

from safereason.console import say
from safereason.errors import InputError, one_line
from safereason.guard.server.connection import DeadlineProtocol
from safereason.guard.server.refusal import RequestRefused
from safereason.guard.server.settings import Limits

BACKLOG = 1024
"""Connections that the system queues until the server accepts them."""
MOST_CONNECTIONS = 1000
"""Most connections of a process without a limit of open files."""
RESERVE = 64
"""Open files that are left for the model, its libraries and a connection that is being refused."""
RETRY = 0.1
"""Seconds until the next try after a connection could not be accepted."""
BETWEEN_COMPLAINTS = 60.0
"""Least seconds between two log lines about that."""


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to an address. It does not listen yet, so a port in use is known before a model is loaded.

    Raises:
        InputError: The address is not one of this machine, or it is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        # Without it, the port stays taken for a minute after the server ends.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{host}:{port}: cannot be listened at ({reason.lower()}); choose --host and --port"
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    if ":" in host:  # an address of IPv6
        host = f"[{host}]"
    return f"http://{host}:{port}"


def connections_allowed(requested: int | None) -> int:
    """Most connections that may be open at a time: the requested number, or half of this process's open files.

    Raises:
        InputError: This process may not open so many files.
    """
    files = _files_allowed()
    if files is None:
        return requested or MOST_CONNECTIONS
    if requested is not None and requested > files - RESERVE:
        most = max(1, files - RESERVE)
        raise InputError(
            f"--max-connections {requested}: this process may open {files} files; "
            f"give {most} at most, or raise the limit with `ulimit -n`"
        )
    return requested or max(1, min(MOST_CONNECTIONS, files // 2))


def _files_allowed() -> int | None:
    """The soft limit of open files; None without a limit."""
    try:
        import resource
    except ImportError:  # Windows counts sockets apart
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


class Server(uvicorn.Server):
    """A server that accepts connections only while there is room, and that logs no requests."""

    def __init__(self, app: FastAPI, limits: Limits, ready: str, on_hangup: Callable[[], None] | None = None) -> None:
        """A server that does not listen yet.

        Args:
            app: An app of `create_app`.
            limits: The app's limits.
            ready: Log line once the server listens.
            on_hangup: Called at SIGHUP; by default SIGHUP ends the server.
        """
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
        """Whether SIGHUP ended the server."""
        self._accepting: list[asyncio.Task[None]] = []
        self._complained = -math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the app and begins to listen.

        It accepts connections itself, because asyncio's own way opens files until there are none left.
        """
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(uvicorn.config.STARTUP_FAILURE)
        # uvicorn's shutdown closes the asyncio servers in this list. There are none.
        self.servers = []
        loop = asyncio.get_running_loop()
        for listener in sockets or []:
            listener.setblocking(False)
            listener.listen(BACKLOG)
            self._accepting.append(loop.create_task(self._accept(listener)))
        self._handle_hangup(loop)
        self.started = True
        say(self._ready)

    def _handle_hangup(self, loop: asyncio.AbstractEventLoop) -> None:
        # Under `nohup` SIGHUP is ignored, and stays ignored unless a callback was given.
        is_ignored = self._on_hangup is None and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        # Only the main thread may set handlers; tests run servers in others.
        if is_ignored or threading.current_thread() is not threading.main_thread():
            return
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup or self._hang_up)

    def _hang_up(self) -> None:
        self.should_exit = True
        self.is_hung_up = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accepts no more connections, and lets the open ones end."""
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        await super().shutdown(sockets)

    async def _accept(self, listener: socket.socket) -> None:
        """Accepts connections until the task is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                caller, _ = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                # Most likely there are no files left. An idle connection makes room for the next try.
                self._complain(error)
                self._make_room()
                await asyncio.sleep(RETRY)
                continue
            if len(self.server_state.connections) >= self._limits.max_connections and not self._make_room():
                _turn_away(caller)
                continue
            with suppress(OSError):  # it has gone again
                await loop.connect_accepted_socket(self._new_connection, caller)

    def _new_connection(self) -> DeadlineProtocol:
        return DeadlineProtocol(self.config, self.server_state, self.lifespan.state, self._limits.header_timeout)

    def _make_room(self) -> bool:
        """Ends the connection that has waited longest for its caller; false if all are at work."""
        longest: DeadlineProtocol | None = None
        for connection in self.server_state.connections:
            if not isinstance(connection, DeadlineProtocol) or not connection.waits:
                continue
            if longest is None or connection.since < longest.since:
                longest = connection
        if longest is None:
            return False
        longest.give_way()
        return True

    def _complain(self, error: OSError) -> None:
        """Logs that no connection can be accepted, but not at every try."""
        if time.monotonic() - self._complained < BETWEEN_COMPLAINTS:
            return
        self._complained = time.monotonic()
        remedy = ""
        if error.errno in (errno.EMFILE, errno.ENFILE):
            remedy = "; lower --max-connections or raise `ulimit -n`"
        say(f"no connection can be taken now ({one_line(error)}){remedy}; the server goes on trying")


def _turn_away(caller: socket.socket) -> None:
    """Answers that there is no room, as far as the caller listens, and closes the connection."""
    answer = RequestRefused(
        503, "too_many_connections", "too many connections are open; try again a little later"
    ).response()
    lines = [b"HTTP/1.1 503 Service Unavailable", b"Connection: close", b"Retry-After: 1"]
    for name, value in answer.raw_headers:
        lines.append(b"%s: %s" % (name, value))
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    # One call that does not block: a caller that does not read must not hold up the accept loop.
    with caller, suppress(OSError):
        caller.send(head + bytes(answer.body))


def serve(
    app: FastAPI, bound: socket.socket, limits: Limits, ready: str, on_hangup: Callable[[], None] | None = None
) -> None:
    """Serves until SIGTERM or Ctrl-C. Requests in flight are answered first, within their time.

    Args:
        app: An app of `create_app`.
        bound: Socket to listen on.
        limits: The app's limits.
        ready: Log line once it listens.
        on_hangup: Called at SIGHUP. Without it SIGHUP ends the server too, and is raised again afterwards.
    """
    server = Server(app, limits, ready, on_hangup)

    def end(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn handles the signal and raises it again when it is done; this one is there so that the process lives on.
    before = signal.signal(signal.SIGTERM, end)
    hangup = signal.getsignal(signal.SIGHUP)
    try:
        server.run([bound])
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, hangup)
        # The guard's thread may be busy with questions that nobody waits for any more. Nothing can interrupt it, so the
        # process ends here.
        if app.state.batcher.busy:
            sys.stderr.flush()
            os._exit(0)
    if server.is_hung_up:
        signal.raise_signal(signal.SIGHUP)
