"""From an app to a process that listens, and ends as it should."""

import ipaddress
import math
import os
import signal
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from safereason.console import say
from safereason.errors import InputError
from safereason.guard.server.settings import Limits


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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


class Server(uvicorn.Server):
    """Says when it listens; logs no request."""

    def __init__(self, app: FastAPI, limits: Limits, ready: str) -> None:
        # In flight a request may still send its body for `timeout`, and then wait as long for its verdict.
        patience = math.ceil(2 * limits.timeout) + 1
        super().__init__(
            uvicorn.Config(
                app, access_log=False, log_config=None, server_header=False, timeout_graceful_shutdown=patience
            )
        )
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        if self.started:
            say(self._ready)


def serve(app: FastAPI, bound: socket.socket, limits: Limits, ready: str) -> None:
    """Answers until SIGTERM or Ctrl-C; requests in flight are answered first, within their time.

    Args:
        app: As `create_app` makes it.
        bound: Where to listen.
        limits: Those of the app.
        ready: Said once it listens.
    """
    server = Server(app, limits, ready)

    def end(*_: Any) -> None:
        server.should_exit = True

    # uvicorn handles the signal and raises it again when it is done; this one is there so that the process lives on.
    before = signal.signal(signal.SIGTERM, end)
    try:
        server.run([bound])
    finally:
        signal.signal(signal.SIGTERM, before)
        if app.state.batcher.busy:  # over questions that nobody waits for any more
            sys.stderr.flush()
            os._exit(0)
