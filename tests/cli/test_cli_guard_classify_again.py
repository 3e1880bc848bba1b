"""`safereason guard classify --out` a second time: at once, when it is finished, and after what it read has changed."""

import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import micro
import micro_guard
import openai_server
import pytest
from fastapi.responses import JSONResponse
from program import safereason, started

from safereason.cli import errors
from safereason.cli.app import app
from safereason.engines.open import open_engine
from safereason.engines.spec import ModelSpec
from safereason.engines.weights import _hash

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a guard of known verdicts and its policy, `house.yaml`."""
    folder = micro_guard.save_guard(tmp_path_factory.mktemp("guard"))
    (folder / "house.yaml").write_text(micro_guard.POLICY)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process, as the program does; gives the exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        words = ["guard", "classify", *map(str, arguments)]
        code = errors.guarded(lambda: app(words, standalone_mode=False))
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return rows_file(tmp_path / "rows.jsonl", *(f"question {i}" for i in range(5)))


def rows_file(path: Path, *prompts: str) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt, "id": f"r{i}"}) + "\n" for i, prompt in enumerate(prompts)))
    return path


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_of_two_at_once_one_writes_and_the_other_says_so_in_one_line(guard: Path, rows: Path, tmp_path: Path):
    out = tmp_path / "out.jsonl"
    words = ("guard", "classify", "--model", str(guard), "--policy", str(guard / "house.yaml"))
    first = started(*words, "--out", out)
    assert first.stdin is not None
    while not (tmp_path / ".out.jsonl.lock").exists() or not out.exists():
        assert first.poll() is None, first.stderr
        time.sleep(0.02)
    (tmp_path / "another name").symlink_to(out)
    for how in ((), ("--resume",), ("--overwrite",)):
        for name in (out, tmp_path / "another name"):
            second = safereason(*words, rows, "--out", name, *how)
            stderr = f"error: {name}: another process is writing this file; wait for it, or name another --out\n"
            assert (second.returncode, second.stdout, second.stderr) == (1, "", stderr)
    assert out.read_bytes() == b""
    first.communicate(rows.read_text())
    assert first.returncode == 0
    assert [record["row"] for record in records(out)] == [1, 2, 3, 4, 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "another name",
        "out.jsonl",
        "out.jsonl.meta.json",
        "rows.jsonl",
    ]


def test_the_lock_of_a_killed_process_is_none(run: Run, guard: Path, rows: Path, tmp_path: Path):
    (tmp_path / ".out.jsonl.lock").write_text("")
    assert run(rows, "--model", guard, "--out", tmp_path / "out.jsonl")[0] == 0
    assert not (tmp_path / ".out.jsonl.lock").exists()


def test_a_finished_output_prints_its_result_again_and_ends_with_the_same_code(
    run: Run, guard: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out.jsonl"
    arguments = (rows, "--model", guard, "--policy", guard / "house.yaml", "--out", out, "--threshold", "0")
    code, _, first = run(*arguments, "--fail-on", "unsafe")
    assert code == 3
    assert first.splitlines()[-2].startswith("5 rows: 5 unsafe, 0 safe, 0 unparsed; ")
    content = out.read_bytes()
    monkeypatch.setattr(
        "safereason.engines.engine_spec.open_engine_here", lambda *_, **__: pytest.fail("it was loaded")
    )
    for how in ((), ("--resume",)):
        code, _, stderr = run(*arguments, "--fail-on", "unsafe", *how)
        lines = stderr.splitlines()
        assert (code, lines[1]) == (3, "error: --fail-on unsafe: 5 of 5 rows (1, 2, 3, 4, 5)")
        assert lines[0].startswith("5 rows (5 from before): 5 unsafe, 0 safe, 0 unparsed; ")
        assert run(*arguments, "--fail-on", "unparsed", *how)[0] == 0
    out.write_bytes(content + bytes(20))  # as a file system can leave the end of a file after a crash
    assert run(*arguments, "--fail-on", "unparsed")[0] == 0
    assert out.read_bytes() == content
    # Other settings, or another number of rows, are another result.
    assert run(*arguments, "--seed", "1")[0] == 2
    assert run(*arguments, "--limit", "3")[0] == 2


def test_an_output_that_lost_rows_is_not_finished(run: Run, guard: Path, rows: Path, tmp_path: Path):
    out = tmp_path / "out.jsonl"
    arguments = (rows, "--model", guard, "--policy", guard / "house.yaml", "--out", out)
    assert run(*arguments)[0] == 0
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    assert run(*arguments)[0] == 2
    code, _, stderr = run(*arguments, "--resume")
    assert (code, out.read_bytes()) == (0, whole)
    assert "5 rows (3 from before): " in stderr


@pytest.mark.parametrize("damage", ["null", "[]", "{"])
def test_a_damaged_note_beside_the_output_is_one_line(run: Run, guard: Path, rows: Path, tmp_path: Path, damage: str):
    arguments = (rows, "--model", guard, "--out", tmp_path / "out.jsonl", "--resume")
    (tmp_path / "out.jsonl").write_text("")
    (tmp_path / "out.jsonl.meta.json").write_text(damage)
    code, _, stderr = run(*arguments)
    assert code == 2
    assert stderr.startswith(f"error: {tmp_path}/out.jsonl.meta.json: ")
    assert stderr.count("\n") == 1


def test_a_resume_names_what_changed_in_the_input_or_in_the_model(
    run: Run, guard: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    mine, out = tmp_path / "mine", tmp_path / "out.jsonl"
    shutil.copytree(guard, mine)
    arguments = ("--policy", guard / "house.yaml", "--out", out, "--resume")
    assert run(rows, "--model", mine, *arguments)[0] == 0
    content = out.read_bytes()

    text = rows.read_text()
    rows.write_text(text.replace("question 3", "question X"))
    changed = f"error: {out}: the input changed since: its first 5 rows are not those that were judged; "
    assert run(rows, "--model", mine, *arguments) == (2, "", f"{changed}use --overwrite or another --out\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(rows.read_bytes())))
    code, _, stderr = run("-", "--model", mine, *arguments)
    assert (code, changed in stderr) == (2, True)
    assert out.read_bytes() == content
    rows.write_text(text)

    weights = mine / "model.safetensors"
    times, old = weights.stat(), weights.read_bytes()
    weights.write_bytes(old[:-1] + bytes([old[-1] ^ 1]))
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    _hash.cache_clear()  # the command is a process of its own
    code, _, stderr = run(rows, "--model", mine, *arguments)
    assert code == 2
    assert "was written otherwise (model_contents)" in stderr
    weights.write_bytes(old)

    # Where the two lie, and when they were copied there, changes nothing.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "other.jsonl").write_text(text)
    shutil.move(mine, elsewhere / "guard")
    code, _, stderr = run(elsewhere / "other.jsonl", "--model", elsewhere / "guard", *arguments)
    assert code == 0, stderr
    assert stderr.startswith("5 rows (5 from before): ")
    assert out.read_bytes() == content


def test_a_row_can_be_mended_and_rows_added_before_a_resume(run: Run, guard: Path, rows: Path, tmp_path: Path):
    out, whole, text = tmp_path / "out.jsonl", tmp_path / "whole.jsonl", rows.read_text()
    arguments = ("--model", guard, "--policy", guard / "house.yaml")
    rows.write_text(text.replace('"question 3"', "3"))
    assert run(rows, *arguments, "--out", out)[0] == 2
    assert len(records(out)) == 3
    rows.write_text(text)
    assert run(rows, *arguments, "--out", out, "--resume")[0] == 0
    with rows.open("a") as file:
        file.write('{"prompt": "one more"}\n')
    assert run(rows, *arguments, "--out", out)[0] == 2
    code, _, stderr = run(rows, *arguments, "--out", out, "--resume")
    assert (code, "6 rows (5 from before): " in stderr) == (0, True)
    assert run(rows, *arguments, "--out", whole)[0] == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai_server.Server]:
    """A server that calls everything safe."""

    def choice(body: dict[str, Any]) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": "\\boxed{safe}"}, "finish_reason": "stop", "logprobs": None}

    model = micro.save_model(tmp_path_factory.mktemp("served"))
    with openai_server.serve(open_engine(ModelSpec.parse(str(model)))) as running:
        running.choice = choice
        yield running


def test_rows_the_guard_could_not_be_asked_about_are_asked_about_again_on_a_resume(run: Run, server, tmp_path: Path):
    rows = rows_file(tmp_path / "rows.jsonl", *("a broken one" if i in (1, 66) else f"row {i}" for i in range(70)))
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    arguments = (rows, "--model", "openai/any", "--base-url", server.url)
    assert run(*arguments, "--out", whole)[0] == 0
    server.status_of = lambda body: 400 if "broken" in body["messages"][-1]["content"] else 200
    try:
        failed = run(*arguments, "--out", out)
        again = run(*arguments, "--out", out)
        still = run(*arguments, "--out", out, "--resume")
    finally:
        server.status_of = lambda body: 200
    for code, _, stderr in (failed, again, still):
        assert code == 1
        assert (
            stderr.splitlines()[-1]
            == "error: the guard could not be asked about 2 of 70 rows (2, 67); --resume asks again"
        )
    assert again[2].startswith("70 rows (70 from before): 0 unsafe, 68 safe, 2 unparsed; ")
    before = len(server.requests)
    code, _, stderr = run(*arguments, "--out", out, "--resume")
    assert code == 0
    assert "70 rows (68 from before): 0 unsafe, 70 safe, 0 unparsed; " in stderr
    assert len(server.requests) - before == 2
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        ({"message": "filtered", "code": "content_filter"}, "filtered"),
        ({"message": "too long", "code": "context_length_exceeded"}, "too long"),
    ],
)
def test_rows_that_a_server_refuses_are_not_blamed_on_the_guard(
    run: Run, server, tmp_path: Path, refusal: dict[str, str], reason: str
):
    server.raw = JSONResponse({"error": refusal}, 400)
    try:
        code, _, stderr = run(
            rows_file(tmp_path / "rows.jsonl", "a"), "--model", "openai/any", "--base-url", server.url
        )
    finally:
        server.raw = None
    assert code == 1
    assert reason in stderr
    assert stderr.rstrip().endswith("change the rows or the guard")


def test_a_limit_of_tokens_is_kept_and_said_once(run: Run, micro_model: Path, guard: Path, rows: Path, tmp_path: Path):
    arguments = (rows, "--model", micro_model, "--policy", guard / "house.yaml", "--out", tmp_path / "out.jsonl")
    code, _, stderr = run(*arguments, "--max-new-tokens", "5")
    assert code == 1
    assert "error: no verdict on any of 5 rows; the commonest reason, " in stderr
    written = records(tmp_path / "out.jsonl")
    cut = sum(record["reason"].endswith("before its token limit") for record in written)
    assert cut
    assert stderr.count("no verdict within 5 tokens; --max-new-tokens sets this limit") == 1
    assert f"0 unsafe, 0 safe, 5 unparsed ({cut} of them cut at the limit of tokens); " in stderr
    code, _, stderr = run(*arguments, "--max-new-tokens", "6", "--resume")
    assert code == 2
    assert "guide.sampling.max_new_tokens" in stderr
