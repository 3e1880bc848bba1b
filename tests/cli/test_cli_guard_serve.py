"""`guard serve`: what it refuses before it loads a model, and the installed program from its start to its end."""

import http.client
import json
import os
import re
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import micro
import pytest
from program import Running, python_started, started

from safereason.cli import errors
from safereason.cli.app import app
from safereason.guard.guard_prompt import GuardPrompt
from safereason.guard.policy import Category, Policy
from safereason.guard.prompt import GuardTemplates
from safereason.guard.server.keys import VARIABLE
from safereason.recipe.schema import Sampling

PATIENCE = 120.0
WITH_FILES = """
import resource
from safereason.cli.app import main

resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
main()
"""
"""The program with a limit of open files."""


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guard that writes for a while, and no verdict."""
    folder = micro.save_model(tmp_path_factory.mktemp("guard"))
    policy = Policy("small", "Small", (Category("A", "Rudeness"),))
    GuardPrompt(policy, GuardTemplates(), True, Sampling(max_new_tokens=400)).save(folder)
    return folder


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert errors.guarded(lambda: app(["guard", "serve", *map(str, arguments)], standalone_mode=False)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.rstrip("\n")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "error: which guard? name a run"),
        (["--model", "./nowhere"], "error: ./nowhere: no such model"),
        (["--host", "0.0.0.0"], "error: --host 0.0.0.0: others than this machine reach it; give $SAFEREASON_API_KEYS"),
        (["--host", "::"], "error: --host ::: others than this machine reach it"),
        (["--host", "my.host"], "error: --host my.host: others than this machine reach it"),
        (["--keys-file", "nowhere"], "error: nowhere: cannot be read"),
        (["--policy", "nowhere"], "error: nowhere: no such policy"),
        (["--mapping", "nowhere.yaml"], "error: nowhere.yaml: cannot be read"),
        (["--threshold", "nan"], "error: Invalid value for '--threshold'"),
        (["--threshold", "1.5"], "error: Invalid value for '--threshold'"),
        (["--timeout", "inf"], "error: Invalid value for '--timeout'"),
        (["--timeout", "nan"], "error: Invalid value for '--timeout'"),
        (["--max-batch", "0"], "error: Invalid value for '--max-batch'"),
        (["--max-new-tokens", "0"], "error: Invalid value for '--max-new-tokens'"),
        (["--max-connections", "99999999"], "error: --max-connections 99999999: this process may open "),
        (["--unparsed", "safe"], "error: Invalid value for '--unparsed'"),
        (["--no-keys", "--host", "192.0.2.1"], "error: 192.0.2.1:8000: cannot be listened at"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(guard, capsys, arguments, error):
    named = [] if not arguments or "--model" in arguments else ["--model", guard]
    assert refusal(capsys, *named, *arguments).startswith(error)


def test_keys_and_no_keys_exclude_each_other(guard, capsys, monkeypatch):
    monkeypatch.setenv(VARIABLE, "a-key")
    assert "drop it, or --keys-file and $" in refusal(capsys, "--model", guard, "--no-keys")
    monkeypatch.setenv(VARIABLE, "")
    assert "SAFEREASON_API_KEYS: holds no key" in refusal(capsys, "--model", guard)


def test_a_port_in_use_is_known_before_the_model_is_loaded(guard, capsys, monkeypatch):
    monkeypatch.setattr(
        "safereason.engines.engine_spec.open_engine_here", lambda *_, **__: pytest.fail("it was loaded")
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        error = refusal(capsys, "--model", guard, "--port", port, "--policy", "default")
    assert error == f"error: 127.0.0.1:{port}: cannot be listened at (address already in use); choose --host and --port"


@contextmanager
def serving(
    guard: Path, *arguments: object, files: int | None = None, **environment: str
) -> Iterator[tuple[Running, int, list[str]]]:
    """The installed program once it listens: process, port and what it said until then.

    It may open so many files, where a number is given.
    """
    words = ["guard", "serve", "--model", guard, "--port", "0", *map(str, arguments)]
    process: Running
    if files is None:
        process = started(*words, **environment)
    else:
        process = python_started(WITH_FILES.format(files=files), *words, **environment)
    watch = threading.Timer(PATIENCE, process.kill)
    watch.start()
    try:
        assert process.stderr is not None
        lines = []
        while not (match := re.search(r"answers at http://127\.0\.0\.1:(\d+) under policy small", "".join(lines[-1:]))):
            lines.append(process.stderr.readline())
            assert lines[-1], f"it ended: {lines}"
        yield process, int(match[1]), lines
    finally:
        watch.cancel()
        process.kill()
        process.wait()


def request(port: int, path: str, body: object = None, key: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    connection.request("GET" if body is None else "POST", path, json.dumps(body) if body else None, headers)
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply.status, text


def until(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come about")


@pytest.mark.parametrize(("sent", "code", "last"), [(signal.SIGTERM, 0, ""), (signal.SIGINT, 130, "interrupted\n")])
def test_a_signal_lets_the_request_in_flight_end(guard, sent, code, last):
    with serving(guard, "--samples", 8) as (process, port, lines), ThreadPoolExecutor(1) as pool:
        assert lines[0].startswith("policy small has no mapping: whatever is unsafe is 'illicit'")
        in_flight = pool.submit(request, port, "/v1/guard", {"prompt": "a cake"})
        until(lambda: "safereason_batch_size_count 1.0" in request(port, "/metrics")[1])
        process.send_signal(sent)
        status, text = in_flight.result(PATIENCE)
        out, err = process.communicate(timeout=PATIENCE)
        with pytest.raises(ConnectionRefusedError):
            request(port, "/healthz")
    assert (status, json.loads(text)["model"]) == (200, guard.name)
    assert (process.returncode, out, err) == (code, "", last)


def test_a_batch_that_nobody_waits_for_does_not_hold_up_the_end(guard):
    with serving(guard, "--samples", 2000, "--timeout", 0.5) as (process, port, _):
        assert request(port, "/v1/guard", {"prompt": "a cake"})[0] == 503
        process.terminate()
        assert process.communicate(timeout=PATIENCE) == ("", "")
    assert process.returncode == 0


def test_keys_a_mapping_and_limits_reach_the_server(guard, tmp_path):
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text('A: [harassment]\n"*": [hate]\n')
    options = ("--mapping", mapping, "--unparsed", "flag", "--max-chars", 20, "--max-body-bytes", 300)
    with serving(guard, *options, **{VARIABLE: "the-key"}) as (process, port, lines):
        assert len(lines) == 1
        assert request(port, "/v1/moderations", {"input": "a"})[0] == 401
        status, text = request(port, "/v1/moderations", {"input": "a"}, "the-key")
        assert request(port, "/v1/moderations", {"input": "a" * 21}, "the-key")[0] == 422
        assert request(port, "/v1/moderations", {"input": "a" * 300}, "the-key")[0] == 413
        process.terminate()
        out, err = process.communicate(timeout=PATIENCE)
    result = json.loads(text)["results"][0]
    assert (status, result["flagged"], result["category_scores"]["hate"]) == (200, True, 1.0)
    assert (process.returncode, out, err) == (0, "", "")


def test_300_callers_that_say_nothing_neither_stop_the_server_nor_fill_its_log(guard):
    """With a limit of 200 files, as asyncio alone takes connections, nothing answered and stderr filled."""
    with serving(guard, files=200) as (process, port, _):
        connections = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(300)]
        for caller in connections:
            with suppress(OSError):
                caller.sendall(b"GET /healthz HTTP/1.1\r\nHost: ")
        assert request(port, "/healthz")[0] == 200
        assert request(port, "/v1/guard", {"prompt": ""})[0] == 200
        for caller in connections:
            caller.close()
        process.terminate()
        assert process.communicate(timeout=PATIENCE) == ("", "")


def test_where_no_file_is_left_one_line_says_so_and_the_server_lives_on(guard):
    with serving(guard) as (process, port, _):
        assert request(port, "/healthz")[0] == 200
        open_now = len(os.listdir(f"/proc/{process.pid}/fd"))
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (open_now + 3, hard))
        connections = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(20)]
        assert request(port, "/healthz")[0] == 200
        for caller in connections:
            caller.close()
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert request(port, "/healthz")[0] == 200
        process.terminate()
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err.count("\n")) == (0, "", 1)
    assert err.startswith("no connection can be taken now (OSError: [Errno 24] Too many open files); lower --max-conn")


def test_keys_are_read_anew_at_sighup(guard, tmp_path):
    file = tmp_path / "keys.txt"
    file.write_text("the-first-key\n")
    with serving(guard, "--keys-file", file) as (process, port, _):
        assert request(port, "/metrics", key="the-first-key")[0] == 200
        file.write_text("the-second-key\n")
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        assert process.stderr.readline() == f"{file}: read anew, 1 keys in all\n"
        assert [request(port, "/metrics", key=f"the-{n}-key")[0] for n in ("first", "second")] == [401, 200]
        file.write_text("a key\n")
        process.send_signal(signal.SIGHUP)
        assert process.stderr.readline().startswith(f"the keys stay as they were: {file}: key 1 holds a space")
        assert request(port, "/metrics", key="the-second-key")[0] == 200
        process.terminate()
        assert process.communicate(timeout=PATIENCE) == ("", "")


def test_a_hang_up_without_keys_to_read_ends_it_as_any_command(guard):
    with serving(guard) as (process, port, _):
        assert request(port, "/healthz")[0] == 200
        process.send_signal(signal.SIGHUP)
        assert process.communicate(timeout=PATIENCE) == ("", "interrupted by SIGHUP\n")
        assert process.returncode == 129


def test_names_and_tokens_of_a_verdict_reach_the_server(guard):
    options = ("--allowed-hosts", "guard.example,other.example", "--allowed-hosts", "third", "--max-new-tokens", 7)
    with serving(guard, *options) as (_, port, _log):
        for name, status in (("guard.example", 200), ("third:80", 200), ("localhost", 200), ("evil.example", 421)):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request("POST", "/v1/guard", b'{"prompt": "a"}', {"Host": name})
            reply = connection.getresponse()
            document = json.loads(reply.read())
            assert reply.status == status
            if status == 200:
                assert document["reason"] == "the guard gave no verdict before its token limit"
            connection.close()
