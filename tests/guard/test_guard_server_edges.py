"""What reaches a server before a key is looked at: slow heads, many connections, bodies of two lengths, other names."""

import errno
import http.client
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from guard_server import PATIENCE, Question, Scripted, Served, serve, until

from safereason.errors import InputError
from safereason.guard.server import keys, questions, run
from safereason.guard.server.hosts import Hosts, listed
from safereason.guard.server.settings import Limits, ServerSettings

QUICK = Limits(header_timeout=0.3)
JSON = b"Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serve(Scripted()) as served:
        yield served


@pytest.fixture(scope="module")
def impatient() -> Iterator[Served]:
    with serve(Scripted(), ServerSettings(limits=QUICK)) as served:
        yield served


def dial(server: Served) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def left_over(connection: socket.socket) -> bytes:
    """All that still comes, until the other side ends."""
    try:
        return b"".join(iter(lambda: connection.recv(65536), b""))
    except ConnectionResetError:
        return b""


def exchange(server: Served, *raw: bytes) -> bytes:
    with dial(server) as connection:
        for part in raw:
            connection.sendall(part)
        return left_over(connection)


def code_of(reply: bytes) -> tuple[int, str]:
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.mark.parametrize("begun", [b"GET /heal", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_head_that_never_ends_is_refused_and_its_connection_ended(impatient: Served, begun: bytes):
    assert code_of(exchange(impatient, begun)) == (408, "header_timeout")


def test_a_head_that_grows_a_little_at_a_time_is_not_waited_for_either(impatient: Served):
    with dial(impatient) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        connection.settimeout(0.02)
        reply = b""
        for _ in range(int(PATIENCE / 0.02)):
            try:
                connection.sendall(b"x")
                received = connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
            if not received:
                break
            reply += received
        else:
            pytest.fail("it was waited for")
    assert reply.startswith(b"HTTP/1.1 408 ")


def test_a_connection_that_says_nothing_is_ended_without_a_word(impatient: Served):
    assert exchange(impatient) == b""


def test_a_body_that_goes_on_after_its_refusal_is_not_read_for_ever(capfd):
    with serve(Scripted(), ServerSettings(keys=keys.Keys((b"none",)), limits=QUICK)) as server:
        head = b"POST /v1/guard HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert exchange(server, head, b"4\r\nabcd\r\n").startswith(b"HTTP/1.1 401 ")
        assert code_of(exchange(server, head + b"no chunk\r\n"))[0] == 400
        with dial(server) as connection:
            connection.sendall(head)
            assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")
            connection.sendall(b"no chunk\r\n")
            left_over(connection)
    assert capfd.readouterr().err == "it listens\n"


def test_a_caller_that_reads_nothing_is_not_waited_for(impatient: Served):
    payload = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4000
    with dial(impatient) as connection:
        connection.setblocking(False)
        sent = 0
        while sent < len(payload):
            try:
                sent += connection.send(payload[sent : sent + 65536])
            except BlockingIOError:
                break
            except OSError:
                return
        until(lambda: _is_reset(connection))


def _is_reset(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (errno.ECONNRESET, errno.EPIPE)


def test_requests_sent_at_once_are_answered_one_after_the_other(impatient: Served):
    one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    reply = exchange(impatient, one * 20 + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert reply.count(b"HTTP/1.1 200 OK") == 21


def test_a_connection_is_kept_for_the_next_request(server: Served):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE)
    for _ in range(3):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        kept = connection.sock
        assert kept is not None
    connection.close()


def test_who_says_nothing_makes_room_for_who_asks():
    limits = Limits(max_connections=5, header_timeout=PATIENCE)
    with serve(Scripted(), ServerSettings(limits=limits)) as server, ExitStack() as connections:
        for _ in range(30):
            silent = connections.enter_context(dial(server))
            silent.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert server.request("/healthz")[0] == 200
        assert server.request("/v1/guard", {"prompt": "a"})[0] == 200


def test_where_all_are_at_work_another_one_is_turned_away():
    guard = Scripted()
    guard.open.clear()
    limits = Limits(max_connections=2)
    with serve(guard, ServerSettings(limits=limits)) as server:
        threads = [threading.Thread(target=server.request, args=("/v1/guard", {"prompt": "a"})) for _ in range(2)]
        threads[0].start()
        assert guard.entered.acquire(timeout=PATIENCE)
        threads[1].start()
        until(lambda: len(server.app.state.batcher) == 1)
        assert code_of(exchange(server)) == (503, "too_many_connections")
        guard.open.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert server.request("/healthz")[0] == 200


def test_healthz_answers_while_judging_and_reading_are_held_up(monkeypatch: pytest.MonkeyPatch):
    guard, reading, go_on = Scripted(), threading.Semaphore(0), threading.Event()
    guard.open.clear()
    real = questions.of_guard

    def held_up(*args: object) -> Question:
        reading.release()
        assert go_on.wait(PATIENCE)
        return real(*args)

    monkeypatch.setattr(questions, "of_guard", held_up)
    with serve(guard) as server:
        statuses: list[int] = []
        body = {"prompt": "a", "padding": "<" + " " * 1_000_000}
        thread = threading.Thread(target=lambda: statuses.append(server.request("/v1/guard", body)[0]))
        thread.start()
        assert reading.acquire(timeout=PATIENCE)
        assert server.request("/healthz")[0] == 200
        go_on.set()
        assert guard.entered.acquire(timeout=PATIENCE)
        assert server.request("/healthz")[0] == 200
        guard.open.set()
        thread.join(PATIENCE)
    assert statuses == [200]


@pytest.mark.parametrize(
    "body",
    [
        b'{"input": [' + b"1," * 200_000 + b"1]}",
        b'{"input": [' + b"{}," * 200_000 + b"{}]}",
        b'{"messages": [' + b"1," * 200_000 + b"1]}",
        b'{"messages": [{"role": "user", "content": [' + b"1," * 200_000 + b"1]}]}",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_only_the_first_of_many_mistakes_is_looked_at(server: Served, body: bytes):
    """A list of half a million errors took ten seconds, in which the server answered nobody."""
    path = "/v1/guard" if b"messages" in body else "/v1/moderations"
    before = os.times()
    assert server.code(path, raw=body)[0] == 422
    hostile = os.times().user - before.user
    before = os.times()
    fair = {"input": "a", "prompt": "a", "padding": [1] * 200_000}
    assert server.request(path, fair)[0] == 200
    assert hostile < 10 * (os.times().user - before.user) + 0.5


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity"])
@pytest.mark.parametrize("path", ["/v1/guard", "/v1/moderations"])
def test_what_is_no_number_in_json_is_refused_by_name(server: Served, path: str, number: bytes):
    status, body, _ = server.request(path, raw=b'{"prompt": "a", "input": "a", "seed": ' + number + b"}")
    assert (status, body["error"]["code"]) == (400, "invalid_json")
    assert number.decode() in body["error"]["message"]


@pytest.mark.parametrize(
    "framing",
    [
        b"HTTP/1.1\r\nContent-Length: 15\r\nTransfer-Encoding: chunked\r\n",
        b"HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 15\r\n",
        b"HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_a_body_of_two_lengths_is_refused_and_nothing_after_it_is_read(server: Served, framing: bytes):
    raw = b"POST /v1/guard " + framing + b"Host: localhost\r\n" + JSON + b'\r\nf\r\n{"prompt": "a"}\r\n0\r\n\r\n'
    reply = exchange(server, raw + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert reply.count(b"HTTP/1.1 ") == 1
    assert code_of(reply) == (400, "ambiguous_length")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"POST /v1/guard HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
    ],
    ids=lambda raw: repr(raw[:30]),
)
def test_what_is_no_http_is_refused_in_the_one_shape_and_not_logged(server: Served, capfd, raw: bytes):
    reply = exchange(server, raw)
    assert not reply or code_of(reply) == (400, "invalid_http")
    assert capfd.readouterr().err == ""
    assert server.request("/healthz")[0] == 200


def test_many_headers_are_refused(server: Served):
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    assert code_of(exchange(server, head + b"X: y\r\n" * 200 + b"\r\n")) == (431, "headers_too_large")
    assert server.request("/healthz", headers={f"X{n}": "y" for n in range(60)})[0] == 200


@pytest.mark.parametrize("url", ["/" + "x" * 9000, "/healthz?" + "x" * 9000, "/v1/guard/" + "%C3%A9" * 9000])
def test_a_long_url_is_refused(server: Served, url: str):
    head = f"GET {url} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    assert code_of(exchange(server, head)) == (414, "url_too_long")


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "localhost."])
def test_this_machine_s_names_are_answered_to(server: Served, name: str):
    assert server.request("/healthz", headers={"Host": name})[0] == 200


@pytest.mark.parametrize(
    "name", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "", "192.0.2.1"]
)
@pytest.mark.parametrize("path", ["/healthz", "/v1/guard", "/nowhere"])
def test_other_names_are_refused_before_anything_else(server: Served, path: str, name: str):
    body = {"prompt": "a"} if path == "/v1/guard" else None
    assert server.code(path, body, headers={"Host": name}) == (421, "host_not_allowed")


def test_names_can_be_added_and_any_can_be_allowed():
    names = Hosts(("gpu-box", *listed(["guard.example, other.example", ""])))
    assert all(names.admit(host, "") for host in ("gpu-box:8000", "Guard.Example", "other.example", "localhost"))
    assert not names.admit("evil.example", "")
    assert Hosts(("*",)).admit("evil.example", "")


def test_the_address_at_which_a_request_arrived_is_a_name_of_the_server():
    assert Hosts().admit("10.0.0.7:8000", "10.0.0.7")
    assert Hosts().admit("10.0.0.7", "::ffff:10.0.0.7")
    assert Hosts().admit("[fd00::0:1]:8000", "fd00::1")
    assert not Hosts().admit("10.0.0.8", "10.0.0.7")
    assert not Hosts().admit("", "")


def test_half_of_the_files_may_be_connections(monkeypatch: pytest.MonkeyPatch):
    for files, requested, allowed in (
        (200, None, 100),
        (1_000_000, None, 1000),
        (None, None, 1000),
        (None, 7, 7),
        (200, 136, 136),
        (1, None, 1),
    ):
        monkeypatch.setattr(run, "_files_allowed", lambda files=files: files)
        assert run.connections_allowed(requested) == allowed
    monkeypatch.setattr(run, "_files_allowed", lambda: 200)
    with pytest.raises(InputError, match=r"--max-connections 137: this process may open 200 files; give 136 at most"):
        run.connections_allowed(137)


def test_keys_are_read_anew_and_what_cannot_be_read_changes_nothing(monkeypatch, tmp_path):
    monkeypatch.delenv(keys.VARIABLE, raising=False)
    file = tmp_path / "keys"
    file.write_text("\ufeff  first-key \r\n\n", encoding="utf-8")
    admitted = keys.read(file)
    assert admitted.admit(b"first-key")
    with serve(Scripted(), ServerSettings(keys=admitted)) as server:

        def status(key: str) -> int:
            return server.request("/v1/guard", {"prompt": "a"}, headers={"Authorization": f"Bearer {key}"})[0]

        file.write_text("second-key\nthird-key\n")
        assert keys.reread(admitted, file) == f"{file}: read anew, 2 keys in all"
        assert [status(key) for key in ("first-key", "second-key", "third-key")] == [401, 200, 200]
        for text in ("", " \n\n", "a secret key\n", "secr\x00et\n"):
            file.write_text(text)
            message = keys.reread(admitted, file)
            assert message.startswith(f"the keys stay as they were: {file}: ")
            assert "secr" not in message
        file.unlink()
        assert "cannot be read" in keys.reread(admitted, file)
        assert [status(key) for key in ("", "second-key")] == [401, 200]
