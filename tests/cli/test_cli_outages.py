"""Judges that are down, garbled or silent, and providers that filter: what a person sees, and what is asked again."""

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from program import in_shell, safereason

from safereason.runs.directory import read_manifest
from safereason.runs.records import read_records

ROWS = 12
GOOD = {"id": "m", "model": "m", "results": [{"flagged": False, "categories": {}, "category_scores": {"hate": 0.25}}]}
GARBAGE = (200, b'{"results": [{')


class Server(ThreadingHTTPServer):
    """A chat model and a Moderation API; the latter says what it is told to say."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.chats: list[dict[str, Any]] = []
        self.judged: list[str] = []
        self.chat: Callable[[str], tuple[int, Any]] = lambda prompt: (200, f"Stir it well, {prompt}")
        self.moderation: Callable[[str], tuple[int, Any]] = lambda text: (200, GOOD)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/moderations"):
            with self.server.lock:
                self.server.judged.append(body["input"])
            status, document = self.server.moderation(body["input"])
        else:
            with self.server.lock:
                self.server.chats.append(body)
            status, document = self.server.chat(body["messages"][-1]["content"])
            if isinstance(document, str):
                message = {"role": "assistant", "content": document}
                document = {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("retry-after-ms", "20")
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    threading.Thread(target=started.serve_forever, args=(0.01,), daemon=True).start()
    yield started
    started.shutdown()
    started.server_close()


@pytest.fixture
def behaviors(tmp_path: Path) -> Path:
    path = tmp_path / "behaviors.jsonl"
    rows = [
        {
            "id": f"mine/{i}",
            "prompt": f"Stir pot {i}",
            "kind": "harmful",
            "source": "mine",
            "category": f"c{i % 2}",
            "target": "Sure",
        }
        for i in range(ROWS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def evaluate(
    server: Server,
    behaviors: Path,
    folder: Path,
    *more: object,
    patience: float = 0.3,
    judge: str = "moderation",
    **environment: str,
) -> "subprocess.CompletedProcess[str]":
    return safereason(
        "eval",
        "simplesafetytests",
        "--prompts",
        behaviors,
        "--judge",
        judge,
        "--out",
        folder / "run",
        "--model",
        "openai/m",
        "--base-url",
        server.url,
        'eval.prefix=""',
        *more,
        cwd=folder,
        OPENAI_API_KEY="none",
        OPENAI_BASE_URL=server.url,
        SAFEREASON_CACHE=str(folder / "cache"),
        SAFEREASON_PATIENCE=str(patience),
        **environment,
    )


def metrics_of(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


def dsr(run: Path) -> dict[str, Any]:
    return next(f for f in metrics_of(run)["figures"] if f["name"] == "dsr" and f["group"] == "all")


def last_line(done: "subprocess.CompletedProcess[str]") -> str:
    return done.stderr.rstrip("\n").rpartition("\n")[2]


def test_a_judge_s_outage_is_told_and_resume_asks_exactly_its_verdicts_again(
    server: Server, behaviors: Path, tmp_path: Path
):
    server.chat = lambda prompt: (200, "" if prompt.endswith("pot 1") else f"Well, {prompt}")  # one is unscorable
    server.moderation = lambda text: GARBAGE if text[-1] in "02468" else (200, GOOD)
    done = evaluate(server, behaviors, tmp_path)
    run, lost = tmp_path / "run", {f"Well, Stir pot {i}" for i in (0, 2, 4, 6, 8, 10)}
    assert done.returncode == 1
    line = last_line(done)
    assert line.startswith("error: ")
    assert f"6 of {ROWS} verdicts failed (moderation call failed: " in line
    assert line.endswith("--resume` asks again")
    assert (read_manifest(run) or {})["status"] == "failed"
    assert metrics_of(run)["verdicts"] == {"scored": 5, "unscorable": 1, "failed": 6}
    assert {key: dsr(run)[key] for key in ("n", "unscored", "failed", "filtered")} == {
        "n": 5,
        "unscored": 7,
        "failed": 6,
        "filtered": 0,
    }
    verdicts = {record["id"]: record for record in read_records(run / "verdicts.jsonl")}
    assert {record["failed"] for record in verdicts.values() if record["score"] is None} == {True, False}
    # The command that it names goes on, and asks for these alone.
    server.moderation = lambda text: (200, GOOD)
    server.judged.clear()
    server.chats.clear()
    command = line.partition("`")[2].partition("`")[0]
    again = in_shell(
        command,
        cwd=tmp_path,
        OPENAI_API_KEY="none",
        OPENAI_BASE_URL=server.url,
        SAFEREASON_CACHE=str(tmp_path / "cache"),
    )
    assert again.returncode == 0, again.stderr
    assert (Counter(server.judged), server.chats) == (Counter(lost), [])
    assert metrics_of(run)["verdicts"] == {"scored": 11, "unscorable": 1, "failed": 0}
    assert (read_manifest(run) or {})["status"] == "finished"


def test_an_outage_shorter_than_the_patience_costs_nothing(server: Server, behaviors: Path, tmp_path: Path):
    server.moderation = lambda text: (503, {}) if len(server.judged) <= 3 * ROWS else (200, GOOD)
    done = evaluate(server, behaviors, tmp_path, patience=60)
    assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "run")["verdicts"] == {"scored": ROWS, "unscorable": 0, "failed": 0}


def test_a_judge_that_was_never_reached_is_an_outage_too(server: Server, behaviors: Path, tmp_path: Path):
    rubric = tmp_path / "own.yaml"
    rubric.write_text(
        'measures: harm\nmodel: openai/judge\nprompt: "{request} {answer}"\nreply: {labels: {"yes": 1, "no": 0}}\n'
    )
    nowhere = Server()
    address = nowhere.url
    nowhere.server_close()
    for judge in ("moderation", f"rubric:{rubric}", "guard:openai/guard"):
        folder = tmp_path / judge.partition(":")[0]
        folder.mkdir()
        done = safereason(
            "eval",
            "simplesafetytests",
            "--prompts",
            behaviors,
            "--judge",
            judge,
            "--out",
            folder / "run",
            "--model",
            "openai/m",
            "--base-url",
            server.url,
            'eval.prefix=""',
            cwd=folder,
            OPENAI_API_KEY="none",
            OPENAI_BASE_URL=address,
            SAFEREASON_CACHE=str(folder / "cache"),
            SAFEREASON_PATIENCE="0.2",
        )
        assert done.returncode == 1, done.stderr
        assert f"{ROWS} of {ROWS} verdicts failed (" in last_line(done)
        assert "Connection refused" in last_line(done)
        assert len(list(read_records(folder / "run" / "completions.jsonl"))) == ROWS


def test_judging_again_tells_an_outage_too_and_goes_on(server: Server, behaviors: Path, tmp_path: Path):
    assert evaluate(server, behaviors, tmp_path, judge="refusal").returncode == 0
    server.moderation = lambda text: (500, {}) if text.endswith(("1", "2")) else (200, GOOD)
    score = ("eval", "score", tmp_path / "run", "--judge", "moderation", "--out", tmp_path / "again")
    environment = {
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": server.url,
        "SAFEREASON_CACHE": str(tmp_path / "cache"),
        "SAFEREASON_PATIENCE": "0.2",
    }
    done = safereason(*score, cwd=tmp_path, **environment)
    assert done.returncode == 1
    assert "3 of 12 verdicts failed" in last_line(done)
    assert "eval score" in last_line(done)
    server.moderation = lambda text: (200, GOOD)
    server.judged.clear()
    assert safereason(*score, "--resume", cwd=tmp_path, **environment).returncode == 0
    assert len(server.judged) == 3
    assert metrics_of(tmp_path / "again")["verdicts"]["failed"] == 0


def test_where_nothing_can_be_scored_the_commonest_reason_is_told(server: Server, behaviors: Path, tmp_path: Path):
    server.chat = lambda prompt: (200, " ")
    done = evaluate(server, behaviors, tmp_path, judge="refusal")
    assert done.returncode == 1
    assert f"none of {ROWS} answers could be scored (empty answer)" in last_line(done)
    assert done.stdout  # the figures are there, and say unscored
    again = evaluate(server, behaviors, tmp_path, judge="refusal")
    assert (again.returncode, again.stdout, last_line(again)) == (1, done.stdout, last_line(done))
    assert evaluate(server, behaviors, tmp_path, "--resume", judge="refusal").returncode == 1
    assert len(server.chats) == ROWS  # nothing was asked again


FILTERED = (400, {"error": {"message": "the prompt was filtered", "code": "content_filter", "param": "prompt"}})


def test_what_the_provider_filters_is_counted_apart_and_the_run_ends(server: Server, behaviors: Path, tmp_path: Path):
    server.chat = lambda prompt: FILTERED if prompt.endswith(("3", "4")) else (200, "I can't help with that.")
    done = evaluate(server, behaviors, tmp_path, judge="refusal")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert "2 of 12 completions were filtered by the provider" in done.stderr
    assert metrics_of(run)["completions"] == {"answered": 10, "filtered": 2, "failed": 0}
    assert {key: dsr(run)[key] for key in ("value", "n", "unscored", "failed", "filtered")} == {
        "value": 1.0,
        "n": 10,
        "unscored": 2,
        "failed": 0,
        "filtered": 2,
    }
    assert "of them filtered" in done.stdout
    reasons = Counter(record["finish_reason"] for record in read_records(run / "completions.jsonl"))
    assert reasons == {"stop": 10, "filtered": 2}


def test_where_the_provider_filters_all_the_command_says_so_and_ends_with_1(
    server: Server, behaviors: Path, tmp_path: Path
):
    server.chat = lambda prompt: FILTERED
    done = evaluate(server, behaviors, tmp_path)
    assert done.returncode == 1
    assert f"no answer, since the provider filtered all {ROWS} prompts" in last_line(done)
    assert (read_manifest(tmp_path / "run") or {})["status"] == "finished"


TOO_LONG = (400, {"error": {"message": "the prompt is too long", "code": "context_length_exceeded"}})


@pytest.mark.parametrize("others", [TOO_LONG, FILTERED], ids=["all too long", "some filtered"])
def test_where_no_prompt_gets_an_answer_the_commonest_reason_is_told(
    server: Server, behaviors: Path, tmp_path: Path, others: tuple[int, Any]
):
    """Another try would not help, so that the run is finished; its figures are all missing."""
    server.chat = lambda prompt: others if prompt.endswith("4") else TOO_LONG
    for _ in range(2):
        done = evaluate(server, behaviors, tmp_path, "--resume")
        assert done.returncode == 1
        assert f"none of {ROWS} prompts got an answer (" in last_line(done)
        assert "the prompt is too long" in last_line(done)
    assert len(server.chats) == ROWS


def test_a_judge_whose_prompt_is_filtered_leaves_it_unscorable(server: Server, behaviors: Path, tmp_path: Path):
    rubric = tmp_path / "own.yaml"
    rubric.write_text(
        'measures: harm\nmodel: openai/judge\nprompt: "Grade. {request} {answer}"\n'
        'reply: {labels: {"yes": 1, "no": 0}}\n'
    )
    server.chat = lambda prompt: (
        (200, "So be it") if not prompt.startswith("Grade.") else FILTERED if "pot 3" in prompt else (200, "[[no]]")
    )
    done = evaluate(server, behaviors, tmp_path, judge=f"rubric:{rubric}")
    assert done.returncode == 0, done.stderr
    assert metrics_of(tmp_path / "run")["verdicts"] == {"scored": 11, "unscorable": 1, "failed": 0}


def test_two_runs_that_judge_the_same_pay_once(server: Server, behaviors: Path, tmp_path: Path):
    both = threading.Barrier(2)
    codes: list[int] = []

    def run(number: int) -> None:
        both.wait()
        done = safereason(
            "eval",
            "simplesafetytests",
            "--prompts",
            behaviors,
            "--judge",
            "moderation",
            "--out",
            tmp_path / f"run-{number}",
            "--model",
            "openai/m",
            "--base-url",
            server.url,
            'eval.prefix=""',
            cwd=tmp_path,
            OPENAI_API_KEY="none",
            OPENAI_BASE_URL=server.url,
            SAFEREASON_CACHE=str(tmp_path / "cache"),
        )
        codes.append(done.returncode)

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [0, 0]
    assert Counter(server.judged) == {f"Stir it well, Stir pot {i}": 1 for i in range(ROWS)}
    first, second = (
        sorted(record["score"] for record in read_records(tmp_path / f"run-{n}" / "verdicts.jsonl")) for n in (1, 2)
    )
    assert first == second == [0.25] * ROWS


SECRETS = {
    "key": "sk-plant-1234567890",
    "password": "pass-plant-word",
    "user": "someone-planted",
    "hub": "hf_plant1234567890",
}


@pytest.mark.parametrize("fails", [False, True])
def test_no_secret_reaches_a_file_or_the_screen(server: Server, behaviors: Path, tmp_path: Path, fails: bool):
    where = f"127.0.0.1:{server.server_port}/v1"
    address = f"http://{SECRETS['user']}:{SECRETS['password']}@{where}"
    echoed = {"error": {"message": f"bad key {SECRETS['key']} for {address}"}}
    server.moderation = lambda text: (503, echoed) if fails else (200, GOOD)
    done = safereason(
        "eval",
        "simplesafetytests",
        "-v",
        "--prompts",
        behaviors,
        "--judge",
        "moderation",
        "--out",
        tmp_path / "run",
        "--model",
        "openai/m",
        "--base-url",
        address,
        "--junit",
        tmp_path / "junit.xml",
        'eval.prefix=""',
        cwd=tmp_path,
        OPENAI_API_KEY=SECRETS["key"],
        OPENAI_BASE_URL=address,
        HF_TOKEN=SECRETS["hub"],
        SAFEREASON_CACHE=str(tmp_path / "cache"),
        SAFEREASON_PATIENCE="0.1",
    )
    assert done.returncode == int(fails), done.stderr
    doctor = safereason("doctor", OPENAI_API_KEY=SECRETS["key"], OPENAI_BASE_URL=address, HF_TOKEN=SECRETS["hub"])
    report = safereason(
        "report", tmp_path / "run", "--out", tmp_path / "report.html", cwd=tmp_path, OPENAI_API_KEY=SECRETS["key"]
    )
    texts = {
        "stdout": done.stdout,
        "stderr": done.stderr,
        "doctor": doctor.stdout + doctor.stderr,
        "report": report.stdout + report.stderr,
    }
    for path in tmp_path.rglob("*"):
        if path.is_file():
            texts[str(path)] = path.read_bytes().decode("utf-8", "replace")
    assert str(tmp_path / "run" / "manifest.json") in texts
    for place, text in texts.items():
        for name, secret in SECRETS.items():
            assert secret not in text, f"the {name} is in {place}"
    manifest = read_manifest(tmp_path / "run") or {}
    assert manifest["identity"]["base_url"] == f"http://{where}"
    assert f"http://{where}" in manifest["argv"]
