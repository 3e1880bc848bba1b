"""Servers of models and judges that fail for a while, in every way a server can.

Each command asks a server that answers at first, then fails, and is well again when the command goes on. Then what it
recorded is what it records of a server that never failed, and no request that was answered is asked again.
"""

import contextlib
import hashlib
import http.server
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign import records
from campaign.bench import new_folder, prepare
from campaign.commands import Place
from campaign.tally import Tally
from campaign.worker import Done, Job, Pool, joined, strings

HEALTHY = 5
"""Requests that are answered before the outage."""
PATIENCE = {"SAFEREASON_PATIENCE": "3", "SAFEREASON_TIMEOUT": "3"}
"""Seconds for which a failing server is asked again, and that it has for an answer; minutes by default."""
SIGNS = ("--resume", "resume", "goes on")
"""One of them stands in what is said of an incomplete run."""


@dataclass
class Flaky:
    """A chat and moderation server that fails as it is told."""

    fails: Callable[["Flaky", http.server.BaseHTTPRequestHandler], None] | None = None
    left: int = HEALTHY
    """Requests still answered before it fails."""
    answered: Counter[str] = field(default_factory=Counter)
    """Requests by what they ask."""
    requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    port: int = 0

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """One request."""
        length = int(handler.headers.get("Content-Length") or 0)
        body = json.loads(handler.rfile.read(length) or b"{}")
        what = json.dumps([body.get("messages"), body.get("input"), body.get("seed")], sort_keys=True)
        with self.lock:
            self.requests += 1
            is_well = self.fails is None or self.left > 0
            if is_well:
                self.left -= 1
                self.answered[what] += 1
        if is_well:
            reply(handler, 200, json.dumps(_answer(body, what)).encode())
        else:
            assert self.fails is not None
            self.fails(self, handler)


def _answer(body: dict[str, Any], what: str) -> dict[str, Any]:
    """What a well server says: it depends on nothing but what is asked."""
    drawn = hashlib.sha256(what.encode()).digest()[0]
    if "input" in body:
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        result = {
            "flagged": drawn > 127,
            "categories": {"harassment": drawn > 127},
            "category_scores": {"harassment": drawn / 255},
        }
        return {"id": "m", "model": "m", "results": [result] * len(texts)}
    text = f"<think>\nhm\n</think>\n\nverdict: {'gives' if drawn > 127 else 'declines'} \\boxed{{safe}} {drawn}"
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": body.get("model", "m"),
        "choices": [choice],
        "usage": usage,
    }


def reply(
    handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes, kind: str = "application/json"
) -> None:
    """A whole reply."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    if status == 429:
        handler.send_header("Retry-After", "1")
    handler.end_headers()
    handler.wfile.write(body)


def _hang_up(server: Flaky, handler: http.server.BaseHTTPRequestHandler) -> None:
    """As a server does whose process is gone."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def _cut(server: Flaky, handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"index": 0, "mess')
    handler.close_connection = True


def _silent(server: Flaky, handler: http.server.BaseHTTPRequestHandler) -> None:
    with contextlib.suppress(OSError):
        handler.connection.settimeout(60.0)
        handler.connection.recv(1)
    handler.close_connection = True


def _says(status: int, body: bytes, kind: str = "application/json") -> Callable[..., None]:
    return lambda server, handler: reply(handler, status, body, kind)


NOTHING = json.dumps({"choices": [], "results": []}).encode()
NULLS = json.dumps(
    {
        "choices": [{"index": 0, "finish_reason": "stop", "message": None}],
        "results": [{"flagged": None, "categories": None, "category_scores": None}],
    }
).encode()
OUTAGES: dict[str, Callable[..., None]] = {
    "down": _hang_up,
    "status 500": _says(500, b'{"error": {"message": "broken"}}'),
    "a storm of 429": _says(429, b'{"error": {"message": "slow down"}}'),
    "JSON that is none": _says(200, b'{"choices": [{"index": 0, '),
    "HTML": _says(200, b"<html><body>Bad gateway</body></html>", "text/html"),
    "HTML with status 502": _says(502, b"<html><body>Bad gateway</body></html>", "text/html"),
    "a body that is cut": _cut,
    "no results": _says(200, NOTHING),
    "nulls": _says(200, NULLS),
    "an error with status 200": _says(200, b'{"error": {"message": "overloaded"}, "choices": null, "results": null}'),
    "a list": _says(200, b"[1, 2, 3]"),
    "no answer": _silent,
}


class _Listening(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Callers hang up; that is no news."""


@contextlib.contextmanager
def served(server: Flaky) -> Iterator[str]:
    """The address of a server until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            server.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with _Listening(("127.0.0.1", 0), Handler) as listening:
        server.port = listening.server_port
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.port}/v1"
        finally:
            listening.shutdown()


@dataclass(frozen=True)
class Asker:
    """A command that asks a server."""

    name: str
    argv: Callable[[Place, str], tuple[str, ...]]
    is_judge: bool = False
    """Whether the server is asked about answers, and not for them; its address is in the environment then."""


RUBRIC = """measures: refusal
prompt: 'Q {request} A {answer}'
reply: {pattern: "verdict: ([a-z]+)", labels: {gives: 0, declines: 1}}
max_new_tokens: 16
"""


def _eval(place: Place, url: str) -> tuple[str, ...]:
    return strings(
        "eval",
        "xstest",
        "--recipe",
        place.home / "tiny.yaml",
        "--model",
        "openai/m",
        "--base-url",
        url,
        "--limit",
        14,
        "--root",
        place.root,
    )


def _judged(judge: str) -> Callable[[Place, str], tuple[str, ...]]:
    def argv(place: Place, url: str) -> tuple[str, ...]:
        return strings(
            "eval",
            "score",
            next(place.whole.glob("eval/xstest/*")),
            "--judge",
            judge.format(home=place.home),
            "--root",
            place.root,
        )

    return argv


def _traces(place: Place, url: str) -> tuple[str, ...]:
    return strings(
        "data",
        "traces",
        "--recipe",
        place.home / "tiny-traces.yaml",
        "--model",
        "openai/m",
        "--base-url",
        url,
        "--limit",
        12,
        "data.teacher.samples=1",
        "data.teacher.prefix=''",
        "--root",
        place.root,
    )


def _guard(place: Place, url: str) -> tuple[str, ...]:
    return strings(
        "guard",
        "classify",
        place.home / "few.jsonl",
        "--model",
        "openai/m",
        "--base-url",
        url,
        "--policy",
        place.home / "rules.yaml",
        "--out",
        place.root / "verdicts.jsonl",
    )


ASKERS = (
    Asker("eval", _eval),
    Asker("a judge by rubric", _judged("rubric:{home}/rubric.yaml@openai/m"), is_judge=True),
    Asker("data traces", _traces),
    Asker("guard classify", _guard),
)


def run(folder: Path, pool: Pool, tally: Tally, deadline: float, most: int) -> None:
    """Tries each outage on each command, `most` in all, other pairs first."""
    prepare(folder / "bench")
    bench = folder / "bench"
    (bench / "rubric.yaml").write_text(RUBRIC)
    (bench / "few.jsonl").write_text("".join((bench / "asked.jsonl").read_text().splitlines(keepends=True)[:14]))
    _make_answers(folder, pool)
    expected = {asker.name: _uninterrupted(asker, folder, pool, tally) for asker in ASKERS}
    # Along the diagonal, so that a few trials have each outage and each command.
    pairs = [
        (ASKERS[(i + shift) % len(ASKERS)], outage) for shift in range(len(ASKERS)) for i, outage in enumerate(OUTAGES)
    ]

    def carry_out(pair: tuple[Asker, str]) -> None:
        if time.monotonic() > deadline:
            tally.put_off()
        else:
            _try(*pair, folder, pool, tally, expected[pair[0].name])

    pool.each(carry_out, pairs[:most])


def _make_answers(folder: Path, pool: Pool) -> None:
    """The evaluation whose answers are judged."""
    root = folder / "answers"
    if root.exists():
        return
    words = (
        "eval",
        "xstest",
        "--recipe",
        folder / "bench" / "tiny.yaml",
        "--model",
        folder / "bench" / "model",
        "--limit",
        14,
        "--root",
        root,
    )
    done = pool.run(Job(strings(*words), str(new_folder(folder, f"answers-{time.monotonic_ns()}"))))
    if done.code:
        raise RuntimeError(done.err)


def _start(
    asker: Asker, place: Place, folder: Path, pool: Pool, url: str, more: tuple[str, ...] = ()
) -> tuple[Done, tuple[str, ...]]:
    argv = (*asker.argv(place, url), *more)
    environment = {**PATIENCE, "SAFEREASON_CACHE": str(folder / "cache")}
    if asker.is_judge:
        environment["OPENAI_BASE_URL"] = url
    return pool.run(Job(argv, str(folder), environment=environment, timeout=120.0)), argv


def _uninterrupted(asker: Asker, folder: Path, pool: Pool, tally: Tally) -> Path:
    scratch = new_folder(folder, f"well-{time.monotonic_ns()}")
    place = Place(folder / "bench", folder / "answers", new_folder(scratch, "root"))
    with served(Flaky()) as url:
        done, argv = _start(asker, place, scratch, pool, url)
    if done.code:
        about = {"typed": joined(argv), "err": done.err[-2000:]}
        tally.fault("wrong_codes", f"{asker.name}: fails with a server that is well", about)
    return place.root


def _try(asker: Asker, outage: str, folder: Path, pool: Pool, tally: Tally, expected: Path) -> None:
    tally.tried()
    scratch = new_folder(folder, f"outage-{time.monotonic_ns()}")
    place = Place(folder / "bench", folder / "answers", new_folder(scratch, "root"))
    server = Flaky(OUTAGES[outage])
    name = f"{asker.name}: {outage}"
    with served(server) as url:
        done, argv = _start(asker, place, scratch, pool, url)
        about: dict[str, Any] = {"command": name, "typed": joined(argv), "code": done.code, "err": done.err[-3000:]}
        _check_failed(name, done, tally, about)
        before = sum(server.answered.values())
        server.fails = None
        again, _ = _start(asker, place, scratch, pool, url, ("--resume",))
    about |= {"then": again.code, "then said": again.err[-3000:], "answered before": before}
    if again.code != 0:
        tally.fault("wrong_codes", f"{name}: goes on with {again.code}", about)
    if "Traceback" in again.err or "error: unexpected" in again.err:
        tally.fault("tracebacks", f"{name}: going on prints a traceback", about)
    twice = sum(number - 1 for number in server.answered.values() if number > 1)
    if twice:
        tally.fault("doubled", f"{name}: what was answered is asked again", {**about, "twice": twice}, number=twice)
    _compare(name, place.root, expected, tally, about)


def _check_failed(name: str, done: Done, tally: Tally, about: dict[str, Any]) -> None:
    """An outage that lasts ends the command as incomplete, and it says how one goes on."""
    if not done.ended:
        tally.fault("wrong_codes", f"{name}: does not end", about)
    elif done.code != 1:
        tally.fault("wrong_codes", f"{name}: ends with {done.code}", about)
    elif not any(sign in done.err for sign in SIGNS):
        tally.fault("wrong_codes", f"{name}: does not say how one goes on", about)
    if "Traceback" in done.err or "error: unexpected" in done.err:
        tally.fault("tracebacks", f"{name}: prints a traceback", about)


def _compare(name: str, result: Path, expected: Path, tally: Tally, about: dict[str, Any]) -> None:
    """The records beside those of a server that never failed; a run's name and identity hold no address."""
    logs = [{path.name: path for path in folder.rglob("*.jsonl")} for folder in (result, expected)]
    for file in sorted(logs[1]):
        if file not in logs[0]:
            tally.fault("lost", f"{name}: {file} is missing", about)
            continue
        for column, number, what in records.differences(logs[0][file], logs[1][file], result, expected):
            tally.fault(column, f"{name}: {file}: {column}", {**about, "what": what}, [logs[0][file]], number)
