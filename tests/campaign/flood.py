"""A flood of requests against a real `guard serve`: damaged bodies and headers, bytes that are no HTTP, slow callers.

Only the loopback address is asked, and only the server that this part starts and stops itself.
"""

import contextlib
import http.client
import itertools
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from campaign import damage
from campaign.bench import new_folder, prepare
from campaign.tally import Tally
from campaign.worker import environment_of, strings

CLIENTS = 16
PATIENCE = 120.0
"""Seconds after which a reply counts as lost."""
START = 600.0
"""Seconds that the server has to start, on a busy machine."""
SILENT = 64
"""Connections that say nothing, held while others ask."""
SLOW = 8
"""Callers that send a byte at a time."""
GROWTH = 300 * 2**20
"""Bytes that the server may grow by; its first requests are not counted."""
STDERR = 2**20
"""Bytes that it may write to stderr."""
ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)")
GOOD = {"prompt": "How is bread baked?"}
BODIES: tuple[tuple[str, Any], ...] = (
    ("/v1/guard", {"prompt": "hello", "response": "hi", "model": "m"}),
    ("/v1/guard", {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}),
    ("/v1/guard", {"messages": [{"role": "user", "content": [{"type": "text", "text": "u"}]}]}),
    ("/v1/moderations", {"input": "hello", "model": "omni-moderation-latest"}),
    ("/v1/moderations", {"input": ["hello", "there"]}),
    ("/v1/moderations", {"input": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "x"}}]}),
)
PATHS = (
    "/",
    "/healthz",
    "/metrics",
    "/v1/guard",
    "/v1/moderations",
    "/v1/models",
    "/docs",
    "/openapi.json",
    "/v1/../x",
    "/%00",
    "/%ff",
    "/" + "a" * 3000,
    "/v1/guard?x=%zz",
    "//v1//guard",
    "/v1/guard/",
    "*",
    "http://other/v1/guard",
)
METHODS = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW")
GARBAGE = (
    b"\x00" * 64,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET\r\n\r\n",
    b"POST /v1/guard HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 2000 + b"\r\n",
    b"\r\n\r\n\r\n",
    b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n{}",
    b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{}",
    b"POST /v1/guard HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
)


@dataclass
class Flood:
    """The server, and what its callers met."""

    port: int
    process: "subprocess.Popen[bytes]"
    tally: Tally
    deadline: float
    statuses: dict[int, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, status: int | None, kind: str, about: Any) -> None:
        """One request; None is a reply that did not come."""
        with self._lock:
            self.tally.tried()
            if status is None:
                self.tally.fault("lost", f"no reply to {kind}", about)
                return
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status >= 500:
                self.tally.fault("wrong_codes", f"{kind}: status {status}", about)

    def memory(self) -> int:
        """Bytes that the server holds."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def is_up(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None


def run(folder: Path, tally: Tally, deadline: float, seed: int, requests: int) -> dict[int, int]:
    """Sends `requests` requests; gives how often each status was the answer."""
    prepare(folder / "bench")
    with _served(folder, tally, deadline) as flood:
        first = _verdict(flood)
        _callers(flood, seed, min(400, requests))
        before = flood.memory()
        with _open_connections(flood), _slow(flood, seed):
            _callers(flood, seed + 1, requests - min(400, requests))
        if not flood.is_up():
            tally.fault("lost", "the server ended", {"code": flood.process.returncode})
            return flood.statuses
        last = _verdict(flood)
        if last != first:
            tally.fault("different", "the same text gets another verdict", {"first": first, "last": last})
        if flood.memory() - before > GROWTH:
            tally.fault("wrong_codes", "the server's memory grew", {"before": before, "after": flood.memory()})
    return flood.statuses


@contextlib.contextmanager
def _served(folder: Path, tally: Tally, deadline: float) -> Iterator[Flood]:
    """`guard serve` as it is typed, until SIGTERM; it ends with 0 and has printed no traceback."""
    scratch = new_folder(folder, f"server-{time.monotonic_ns()}")
    bench, stderr = folder / "bench", scratch / "stderr"
    words = strings(
        "guard",
        "serve",
        "--model",
        bench / "guard",
        "--policy",
        bench / "rules.yaml",
        "--port",
        0,
        "--timeout",
        300,
        "--max-body-bytes",
        65536,
    )
    with stderr.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "safereason", *words],
            env=environment_of(scratch),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=err,
            cwd=scratch,
        )
    try:
        yield Flood(_port(process, stderr), process, tally, deadline)
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            tally.fault("wrong_codes", "the server does not end by SIGTERM", {})
            return
        if code != 0:
            tally.fault("wrong_codes", f"the server ends with {code}", {"stderr": stderr.read_text()[-3000:]})
        text = stderr.read_text(errors="replace")
        if "Traceback" in text or "unexpected" in text:
            tally.fault("tracebacks", "the server prints a traceback", {"stderr": text[-6000:]})
        if len(text) > STDERR:
            tally.fault("wrong_codes", "the server floods stderr", {"bytes": len(text), "stderr": text[:2000]})
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _port(process: "subprocess.Popen[bytes]", stderr: Path) -> int:
    for _ in range(int(START * 20)):
        if match := ADDRESS.search(stderr.read_text(errors="replace")):
            return int(match[1])
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {stderr.read_text()[-2000:]}")


def _verdict(flood: Flood) -> Any:
    status, body = _ask(
        flood.port, "POST", "/v1/guard", json.dumps(GOOD).encode(), {"Content-Type": "application/json"}
    )
    if status != 200:
        flood.tally.fault("wrong_codes", f"a plain request: status {status}", {"body": body[:500]})
        return None
    document = json.loads(body)
    return {key: document.get(key) for key in ("label", "score", "categories")}


def _ask(port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for key, value in headers.items():
            connection.putheader(key, value)
        if body is not None and "Content-Length" not in headers and "Transfer-Encoding" not in headers:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        if body:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before it was sent whole
                connection.send(body)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def _callers(flood: Flood, seed: int, requests: int) -> None:
    numbers = itertools.count()

    def call(_: int) -> None:
        while (number := next(numbers)) < requests:
            if time.monotonic() > flood.deadline or not flood.is_up():
                with flood._lock:
                    flood.tally.put_off()
                continue
            draw = random.Random(f"{seed}/{number}")
            draw.choices(KINDS, WEIGHTS)[0](flood, draw)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(call, range(CLIENTS)))


def _send(flood: Flood, kind: str, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
    about = {"method": method, "path": path, "headers": headers, "body": repr(body)[:4000]}
    try:
        status, _ = _ask(flood.port, method, path, body, headers)
    except (OSError, http.client.HTTPException, ValueError) as error:
        flood.count(None, kind, {**about, "error": repr(error)})
    else:
        flood.count(status, kind, about)


def _body(flood: Flood, draw: random.Random) -> None:
    """A body of the schema with a part of it damaged; such a one may be a good one still."""
    path, good = draw.choice(BODIES)
    body = damage.as_json(good, draw)
    _send(flood, "a damaged body", "POST", path, body, {"Content-Type": "application/json"})


def _refused(flood: Flood, draw: random.Random) -> None:
    """A body that is refused, so that no guard is asked."""
    path, good = draw.choice(BODIES)
    body = draw.choice(
        (
            damage.content(json.dumps(good).encode(), draw) + b"}",
            b"[" * damage.DEEP,
            b'{"a":' * damage.DEEP,
            b"",
            b"null",
            b'{"prompt": ' + b"9" * 5000 + b"}",
            b'{"prompt": NaN}',
            b'{"prompt": "' + b"x" * 70000 + b'"}',
            b"\xff\xfe{}",
            json.dumps({"prompt": damage.odd_value(draw) or 0, "unknown": 1}).encode("utf-8", "replace"),
            b'{"prompt": "\\ud800", "response": 5}',
            json.dumps({"input": [[1, 2], {"a": 1}]}).encode(),
        )
    )
    _send(flood, "a body that is refused", "POST", path, body, {"Content-Type": "application/json"})


def _headers(flood: Flood, draw: random.Random) -> None:
    """Headers of all kinds around a body that is refused."""
    headers = draw.choice(
        (
            {
                "Content-Type": draw.choice(
                    ("text/plain", "application/xml", "application/json; charset=x", "a" * 300, "/")
                )
            },
            {"Authorization": draw.choice(("Bearer", "Bearer \xe9", "Basic !", "x" * 3000))},
            {"Host": draw.choice(("", "evil.example", "127.0.0.1:1", "[::1]", "a" * 250))},
            {"Content-Encoding": "gzip", "Content-Type": "application/json"},
            {"X-" + "a" * draw.randrange(1, 200): "b" * draw.randrange(0, 3000)},
            {"Range": "bytes=0-5"},
            {"Upgrade": "websocket", "Connection": "Upgrade"},
            {"Expect": "100-continue"},
            {"Cookie": "; " * 500},
            {"Accept": "*/*;q=x"},
            {"Content-Length": "2", "Connection": "close"},
        )
    )
    _send(flood, "odd headers", "POST", draw.choice(("/v1/guard", "/v1/moderations")), b"{}", headers)


def _paths(flood: Flood, draw: random.Random) -> None:
    _send(flood, "odd methods and paths", draw.choice(METHODS), draw.choice(PATHS), None, {})


def _garbage(flood: Flood, draw: random.Random) -> None:
    """Bytes that are no HTTP: refused or hung up on, and nobody else notices."""
    raw = draw.choice(GARBAGE)
    if draw.random() < 0.5:
        raw = damage.content(raw, draw)
    status = 0
    try:
        with socket.create_connection(("127.0.0.1", flood.port), timeout=PATIENCE) as connection:
            connection.sendall(raw)
            if draw.random() < 0.7:
                connection.shutdown(socket.SHUT_WR)
                if match := re.match(rb"HTTP/1\.[01] (\d+)", connection.recv(4096)):
                    status = int(match[1])
    except ConnectionRefusedError:
        flood.count(None, "bytes that are no HTTP", {"sent": repr(raw)[:2000]})
        return
    except OSError:  # hung up on
        pass
    flood.count(status, "bytes that are no HTTP", {"sent": repr(raw)[:2000]})


KINDS: tuple[Callable[[Flood, random.Random], None], ...] = (_body, _refused, _headers, _paths, _garbage)
WEIGHTS = (3, 40, 20, 17, 20)


@contextlib.contextmanager
def _open_connections(flood: Flood) -> Iterator[None]:
    """Connections that send nothing or half a header, while others are answered."""
    with contextlib.ExitStack() as stack:
        for number in range(SILENT):
            with contextlib.suppress(OSError):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", flood.port), timeout=PATIENCE))
                if number % 2:
                    connection.sendall(b"POST /v1/guard HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ")
        yield


@contextlib.contextmanager
def _slow(flood: Flood, seed: int) -> Iterator[None]:
    """Callers that send a good request a few bytes at a time; each is answered in the end."""
    body = json.dumps(GOOD).encode()
    head = (
        f"POST /v1/guard HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    pieces = [head, *(body[i : i + 4] for i in range(0, len(body), 4))]

    def call(number: int) -> None:
        try:
            with socket.create_connection(("127.0.0.1", flood.port), timeout=PATIENCE) as connection:
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(0.2)
                match = re.match(rb"HTTP/1\.1 (\d+)", connection.recv(4096))
        except OSError as error:
            flood.count(None, "a slow request", {"error": repr(error)})
            return
        flood.count(int(match[1]) if match else None, "a slow request", {})

    with ThreadPoolExecutor(SLOW) as pool:
        futures = [pool.submit(call, seed + number) for number in range(SLOW)]
        yield
        for future in futures:
            future.result()
