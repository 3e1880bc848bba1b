"""`safereason data`: sources, rows as a person reads them, and files checked line by line."""

import json
from pathlib import Path

import pytest
from program import safereason, said_once

from safereason.cli import rows
from safereason.data.example import Example, write_parquet
from safereason.data.sources import SOURCES

GOOD = {"id": "mine/1", "prompt": "How do I kill a process?", "kind": "ambiguous", "source": "mine"}


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def traces(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "traces.parquet"
    reasoned = Example("mine/1", "Steal a car?", "harmful", "mine", reasoning="Theft hurts.", answer="I can't help.")
    write_parquet(path, [reasoned, *(Example(f"mine/{n}", f"Question {n}?", "harmless", "mine") for n in range(2, 20))])
    return path


def test_ls_names_every_source_with_its_licence_and_splits():
    listed = json.loads(safereason("data", "ls", "--json").stdout)
    assert [source["name"] for source in listed] == list(SOURCES)
    assert all(source["licence"] and source["serves"] for source in listed)
    assert len(safereason("data", "ls").stdout.splitlines()) == len(SOURCES) + 1


def test_verify_counts_good_rows(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", GOOD, "", {**GOOD, "id": "mine/2"})
    done = safereason("data", "verify", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: ok, 2 rows\n", "")


def test_verify_names_every_bad_row_by_its_line(tmp_path):
    path = write_rows(
        tmp_path / "rows.jsonl",
        GOOD,
        "{torn",
        {**GOOD, "id": "mine/2", "kind": "evil"},
        ["a list"],
        {**GOOD, "id": "mine/3", "prompt": " "},
        GOOD,
        {**GOOD, "id": "mine/4", "colour": "red"},
    )
    done = safereason("data", "verify", path)
    assert done.returncode == 2
    assert [line.removeprefix(f"{path}:").partition(":")[0] for line in done.stdout.splitlines()] == list("234567")
    assert "`id` 'mine/1' is that of line 1 too" in done.stdout
    assert done.stderr == f"error: {path}: 6 of 7 rows are bad; mend or delete them\n"
    document = json.loads(safereason("data", "verify", path, "--json").stdout)
    assert [problem["line"] for problem in document["problems"]] == [2, 3, 4, 5, 6, 7]
    assert document["rows"] == 7


def test_verify_reads_parquet_too(traces):
    assert safereason("data", "verify", traces).stdout == f"{traces}: ok, 19 rows\n"


@pytest.mark.parametrize("command", ["verify", "show"])
@pytest.mark.parametrize("name", ["missing.jsonl", "missing.parquet", "broken.parquet", "rows.txt"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, command, name):
    (tmp_path / "broken.parquet").write_text("no parquet")
    done = safereason("data", command, tmp_path / name)
    assert done.returncode == 2
    assert said_once(done).startswith(f"error: {tmp_path / name}: ")


def test_show_pages_through_rows(traces):
    first = safereason("data", "show", traces).stdout
    assert first.count("── id=mine/") == 10
    later = safereason("data", "show", traces, "--skip", 10, "--limit", 3).stdout
    assert [line.split()[1] for line in later.splitlines() if line.startswith("──")] == ["11", "12", "13"]


def test_show_chooses_a_kind(traces):
    shown = json.loads(safereason("data", "show", traces, "--kind", "harmful", "--json").stdout)
    assert [row["id"] for row in shown] == ["mine/1"]
    none = safereason("data", "show", traces, "--kind", "ambiguous")
    assert (none.returncode, none.stdout, none.stderr) == (0, "", f"{traces}: no such row\n")


def test_show_escapes_what_would_act_on_the_terminal(tmp_path):
    path = write_rows(
        tmp_path / "rollouts.jsonl", {"id": "a\x1b[2J", "text": "hi\x1b]0;title\x07\u202e\nthere", "total": None}
    )
    shown = safereason("data", "show", path).stdout
    assert "\x1b" not in shown
    assert "  hi\\x1b]0;title\\x07\\u202e\n  there\n" in shown


def test_show_of_a_folder_that_is_no_run_says_what_to_name(tmp_path):
    done = safereason("data", "show", tmp_path)
    assert done.returncode == 2
    assert said_once(done) == f"error: {tmp_path}: no run directory; name a run or one of its .parquet or .jsonl files"


def test_rendered_marks_the_trained_part_token_for_token(traces, micro_model):
    shown, prompt = json.loads(
        safereason("data", "show", traces, "--rendered", "--model", micro_model, "--limit", 2, "--json").stdout
    )
    text = "<think>\nTheft hurts.\n</think>\n\nI can't help."
    assert shown["rendered"]["trained"] == f"{text}<|im_end|>"
    assert shown["rendered"]["trained_tokens"] == len(text.encode()) + 1
    assert shown["rendered"]["given"] == "<|im_start|>user\nSteal a car?<|im_end|>\n<|im_start|>assistant\n"
    assert (prompt["rendered"]["trained"], prompt["rendered"]["trained_tokens"]) == ("", 0)


def test_rendered_for_a_person(capsys):
    rows.print_row(7, GOOD, {"given": "ask\n", "given_tokens": 2, "trained": "say\x1b", "trained_tokens": 3})
    rows.print_row(8, GOOD, {"given": "ask", "given_tokens": 2, "trained": "", "trained_tokens": 0})
    head = "id=mine/1  kind=ambiguous  source=mine"
    assert capsys.readouterr().out == (
        f"── 7 ── {head}\ngiven (2 tokens, not trained):\n  ask\n  \ntrained (3 tokens):\n  say\\x1b\n\n"
        f"── 8 ── {head}\ngiven (2 tokens, not trained):\n  ask\ntrained: nothing; the model writes from here\n\n"
    )


def test_rendered_for_a_guard_is_what_the_guard_is_asked(tmp_path, micro_model):
    file, recipe = tmp_path / "rows.jsonl", tmp_path / "own.yaml"
    row = {"id": "o/1", "prompt": "Hi", "response": "Go away", "kind": "harmless", "source": "o", "label": "unsafe",
           "reasoning": "It is rude.", "answer": r"\boxed{unsafe}"}  # fmt: skip
    file.write_text(json.dumps(row) + "\n")
    recipe.write_text(f"extends: rsafe-smoke\nmodel: {micro_model}\n")
    (shown,) = json.loads(safereason("data", "show", file, "--rendered", "--recipe", recipe, "--json").stdout)
    assert "<BEGIN AGENT REPLY>\nGo away\n<END AGENT REPLY>" in shown["rendered"]["given"]
    assert shown["rendered"]["trained"] == "<think>\nIt is rude.\n</think>\n\n\\boxed{unsafe}<|im_end|>"


def test_rendered_needs_a_tokenizer(traces):
    done = safereason("data", "show", traces, "--rendered")
    assert done.returncode == 2
    assert said_once(done) == "error: --rendered needs a tokenizer; name one with --recipe or --model"


def test_attack_direct_writes_test_cases_that_a_shell_can_pipe(tmp_path):
    lines = safereason("attack", "direct", "--behaviors", "sample", "--limit", 3).stdout.splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"behavior_id", "attack", "prompt"}] * 3
    out = tmp_path / "cases.jsonl"
    assert safereason("attack", "direct", "--behaviors", "sample", "--limit", 3, "--out", out).returncode == 0
    assert out.read_text().splitlines() == lines
    again = safereason("attack", "direct", "--behaviors", "sample", "--out", out)
    assert again.returncode == 2
    assert said_once(again).startswith(f"error: {out}: exists already")
