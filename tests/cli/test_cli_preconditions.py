"""What is refused before anything is loaded, asked of the network, or searched for."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import refusal_line, safereason

UNTRAINED = ("--model", "embedded/smollm2-135m")
NOT_THERE = "org/not-there"


@pytest.fixture
def refused(tmp_path: Path):
    """Runs a command that is refused with code 2 in one line, and writes nothing."""

    def run(*words: object, **environment: str) -> str:
        root = tmp_path / "runs"
        done = safereason(*words, "--root", root, **environment)
        assert done.returncode == 2, done.stderr
        assert [path for path in root.rglob("*") if path.is_file()] == []
        return refusal_line(done)

    return run


@pytest.mark.parametrize("judge", ["harmbench", f"guard:{NOT_THERE}", f"rubric:deliberative@{NOT_THERE}"])
def test_a_judge_that_is_nowhere_is_refused_at_once(refused, judge):
    line = refused("eval", "harmbench", "--prompts", "sample", *UNTRAINED, "--judge", judge)
    assert "is not in the cache of the Hub's client, and HF_HUB_OFFLINE forbids to fetch it" in line


def test_a_hub_that_does_not_answer_is_asked_once(refused):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        line = refused(
            "eval",
            "harmbench",
            "--prompts",
            "sample",
            *UNTRAINED,
            "--judge",
            "harmbench",
            HF_HUB_OFFLINE="0",
            HF_ENDPOINT=address,
            NO_PROXY="127.0.0.1",
        )
    assert line.startswith(
        "error: cais/HarmBench-Llama-2-13b-cls: is not in the cache of the Hub's client, and the Hub"
    )
    assert "cannot be reached" in line


@pytest.fixture
def hub() -> Iterator[tuple[str, list[bytes]]]:
    """Address of a Hub that has no model, and the requests it got."""
    requests: list[bytes] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=_not_found, args=(server, requests), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", requests


def _not_found(server: socket.socket, requests: list[bytes]) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            requests.append(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def test_the_hub_is_asked_once_and_says_why_it_has_no_model(refused, hub):
    address, requests = hub
    line = refused(
        "eval",
        "xstest",
        "--prompts",
        "sample",
        "--model",
        NOT_THERE,
        HF_HUB_OFFLINE="0",
        HF_ENDPOINT=address,
        NO_PROXY="127.0.0.1",
    )
    assert f"{NOT_THERE}: the Hub has no such model for you (HTTP 404)" in line
    assert (
        sum(f"/models/{NOT_THERE}".encode() in request for request in requests) == 1
    )  # the client asks other things too


ATTACKS = {
    "many-shot": (
        "attack.settings.many-shot.shots is 128, but the bundled sample has 50; set "
        "attack.settings.many-shot.shots=50 or less"
    ),
    "gcg": "behaviors have no target",
    "embedding": "behaviors have no target",
    "random-search": "behaviors have no target",
    "autodan": "behaviors have no target",
    "human": "attack.settings.human.file",
    "pair": "which model writes its prompts? name one with attack.attacker=MODEL",
    "tap": "which model writes its prompts? name one with attack.attacker=MODEL",
    "pap": "which model writes its prompts? name one with attack.attacker=MODEL",
    "best-of-n": "what judges the answers? name a judge with attack.judge=JUDGE",
}
"""What is missing for each attack on the bundled sample."""


@pytest.mark.parametrize("name", ATTACKS)
def test_what_an_attack_lacks_is_said_before_its_target_is_looked_for(refused, name):
    overrides = ("attack.judge=refusal",) if name == "human" else ()
    assert ATTACKS[name] in refused("attack", name, "--model", NOT_THERE, "--prompts", "sample", *overrides)


@pytest.mark.parametrize("name", ["many-shot", "gcg", "pair"])
def test_an_evaluation_says_it_before_the_first_of_its_attacks_searches(refused, name):
    words = ("eval", "harmbench", "--prompts", "sample", *UNTRAINED, "--attacks", f"direct,prefill,{name}")
    assert ATTACKS[name] in refused(*words)
    assert ATTACKS[name] in refused(*words, "--dry-run")


def test_the_remedies_work(tmp_path):
    shots = ("attack", "many-shot", "--prompts", "sample", "--limit", 1, "attack.settings.many-shot.shots=50")
    assert safereason(*shots, "--root", tmp_path).returncode == 0
    file = tmp_path / "behaviors.jsonl"
    row = {"id": "a/1", "prompt": "Something", "kind": "harmful", "source": "a", "target": "Sure"}
    file.write_text(json.dumps(row))
    planned = safereason("attack", "gcg", "--model", NOT_THERE, "--prompts", file, "--dry-run")
    assert planned.returncode == 0, planned.stderr


def test_weights_behind_a_server_are_refused_at_once(refused):
    line = refused("attack", "embedding", "--model", "openai/gpt", "--prompts", "harmbench")
    assert "needs the weights, so a model of transformers; openai/gpt does not show them" in line
