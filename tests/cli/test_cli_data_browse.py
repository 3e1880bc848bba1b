"""`safereason data show`: rows found, chosen, paged through, and rendered as the tokens that are trained on."""

import json
import re
import shlex
from itertools import count
from pathlib import Path

import micro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program import refusal_line, safereason
from terminal import on_terminal

from safereason.cli import rendered, rows
from safereason.data.example import Example, write_parquet
from safereason.errors import InputError
from safereason.recipe.load import load

GOOD = {"id": "mine/1", "prompt": "How do I kill a process?", "kind": "ambiguous", "source": "mine"}


def write_rows(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


def numbers(output: str) -> list[int]:
    return [int(line.split()[1]) for line in output.splitlines() if line.startswith("── ")]


@pytest.fixture(scope="module")
def traces(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "traces.parquet"
    reasoned = Example("mine/1", "Steal a car?", "harmful", "mine", reasoning="Theft hurts.", answer="I can't help.")
    write_parquet(path, [reasoned, *(Example(f"mine/{n}", f"Question {n}?", "harmless", "mine") for n in range(2, 20))])
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    rows = (
        {"id": "a/1", "kind": "harmful", "source": "a", "label": "unsafe", "category": "Theft; Fraud", "prompt": "Rob"},
        {"id": "b/1", "kind": "harmless", "source": "b", "label": "safe", "category": "Fraud alerts", "prompt": "ask"},
        {"id": "b/2", "kind": "harmless", "source": "b", "label": None, "category": None, "text": "I'm SORRY, Straße"},
        {"id": "b/2", "set": "b", "expected": "safe", "label": "unsafe", "categories": ["U1", "fraud"], "tokens": 5},
    )
    return write_rows(tmp_path_factory.mktemp("mixed") / "mixed.jsonl", *rows)


def test_show_pages_through_rows(traces):
    first = safereason("data", "show", traces)
    assert numbers(first.stdout) == list(range(1, 11))
    assert first.stderr == "10 rows; --limit N shows more\n"
    later = safereason("data", "show", traces, "--skip", 10, "--limit", 3)
    assert (numbers(later.stdout), later.stderr) == ([11, 12, 13], "")


def test_show_chooses_a_kind(traces):
    printed_rows = json.loads(safereason("data", "show", traces, "--kind", "harmful", "--json").stdout)
    assert [row["id"] for row in printed_rows] == ["mine/1"]
    none = safereason("data", "show", traces, "--kind", "ambiguous")
    assert (none.returncode, none.stdout, none.stderr) == (0, "", f"{traces}: no such row as --kind ambiguous\n")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--source", "b"], [2, 3]),
        (["--label", "unsafe"], [1, 4]),
        (["--id", "b/2"], [3, 4]),
        (["--category", "fraud"], [1, 4]),
        (["--category", "theft", "--label", "safe"], []),
        (["--match", "sorry"], [3]),
        (["--match", "STRASSE"], [3]),
        (["--match", "r", "--kind", "harmful"], [1]),
        (["--label", "unsafe", "--skip", 1], [4]),
    ],
)
def test_show_chooses_rows_by_what_they_hold(mixed, options, expected):
    assert numbers(safereason("data", "show", mixed, *options).stdout) == expected


@pytest.mark.parametrize("value", [None, 5, ["Fraud", 5], "x; fraud", ["x"], {"a": 1}])
def test_a_category_of_any_type_is_compared(value):
    expected = value in (["Fraud", 5], "x; fraud")
    assert rows.Filter(category="fraud").keeps({"category": value}) == expected


@given(skip=st.integers(0, 5), limit=st.integers(0, 5), kinds=st.lists(st.sampled_from("xyz"), max_size=12))
def test_skip_and_limit_count_the_rows_that_are_wanted(skip, limit, kinds):
    expected = [number for number, kind in enumerate(kinds, start=1) if kind == "x"][skip : skip + limit]
    chosen = rows.select([{"kind": kind} for kind in kinds], rows.Filter(kind="x"), skip, limit)
    assert [number for number, _ in chosen] == expected


def test_rows_are_read_as_they_are_asked_for():
    endless = ({"id": str(number)} for number in count())
    assert list(rows.select(endless, rows.Filter(match="7"), 2, 1)) == [(28, {"id": "27"})]


def test_show_of_a_source_as_what_it_serves(tmp_path):
    train, test = (
        json.loads(safereason("data", "show", "sample", *split, "--json", "--limit", 500).stdout)
        for split in ([], ["--split", "test"])
    )
    assert train
    assert test
    assert not {row["id"] for row in train} & {row["id"] for row in test}
    assert all("reasoning" not in row for row in train)
    reasoned = json.loads(safereason("data", "show", "sample", "--traces", "--json", "--limit", 3).stdout)
    assert all(row["reasoning"] and row["answer"] for row in reasoned)
    (tmp_path / "sample").mkdir()
    assert json.loads(safereason("data", "show", "sample", "--limit", 1, "--json", cwd=tmp_path).stdout) == train[:1]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["harmbnch"], "source harmbnch: is not known; did you mean harmbench?"),
        (["harmbench", "--split", "train"], "source harmbench: has no train split, only test; name another source"),
        (["xstest", "--traces"], "source xstest: has no reasoning traces"),
        (["no/such"], "no/such: no such file or run; `safereason data ls` lists the sources"),
        (["mine.jsonl", "--split", "test"], "mine.jsonl: --split is for data sources, and this is none"),
        (["mine.jsonl", "--traces"], "mine.jsonl: --traces is for data sources, and this is none"),
        (["mine.yaml"], "mine.yaml: "),
    ],
)
def test_show_of_what_is_not_there_says_what_to_do(tmp_path, arguments, error):
    done = safereason("data", "show", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert refusal_line(done).startswith(f"error: {error}")


def test_show_of_a_described_file_shows_it_as_examples_and_the_file_itself_as_it_is(tmp_path):
    (tmp_path / "mine.csv").write_text("question,topic\nHow old is the sun?,space\n")
    (tmp_path / "mine.yaml").write_text(
        "file: mine.csv\ncolumns: {prompt: question, category: topic}\nkind: harmless\n"
    )
    (described,) = json.loads(safereason("data", "show", tmp_path / "mine.yaml", "--json").stdout)
    assert (described["prompt"], described["kind"], described["category"]) == (
        "How old is the sun?",
        "harmless",
        "space",
    )
    (raw,) = json.loads(safereason("data", "show", tmp_path / "mine.csv", "--json").stdout)
    assert raw == {"question": "How old is the sun?", "topic": "space"}


@pytest.mark.parametrize(
    ("stage", "files", "expected_id"),
    [
        ("data", ["train", "traces", "validation"], "train"),
        ("data/traces", ["replies", "traces", "verdicts"], "traces"),
        ("data/traces", ["replies"], "replies"),
        ("rl", ["metrics", "rollouts"], "rollouts"),
        ("guard/rl", ["metrics", "rollouts", "validation"], "rollouts"),
        ("eval/guard", ["predictions"], "predictions"),
        ("eval/harmbench", ["completions", "verdicts"], "completions"),
    ],
)
def test_show_of_a_run_shows_what_its_stage_is_about(tmp_path, stage, files, expected_id):
    run = tmp_path / "run"
    for name in files:
        write_rows(run / f"{name}.jsonl", {"id": name})
        if name in ("train", "traces"):
            (run / f"{name}.jsonl").unlink()
            pq.write_table(pa.Table.from_pylist([{"id": name}]), run / f"{name}.parquet")
    (run / "manifest.json").write_text(json.dumps({"stage": stage}))
    done = safereason("data", "show", run, "--json")
    assert json.loads(done.stdout) == [{"id": expected_id}]
    others = {file.name for file in run.iterdir()} - {"manifest.json"}
    assert all((name in done.stderr) == (len(files) > 1) for name in others)


def test_show_of_a_run_without_rows_names_its_files(tmp_path):
    write_rows(tmp_path / "metrics.jsonl", {})
    (tmp_path / "manifest.json").write_text('{"stage": "guard/sft"}')
    done = safereason("data", "show", tmp_path)
    assert done.returncode == 2
    assert (
        refusal_line(done) == f"error: {tmp_path}: which rows of this guard/sft run? name a file of it: metrics.jsonl"
    )


def test_show_of_a_folder_that_is_no_run_says_what_to_name(tmp_path):
    done = safereason("data", "show", tmp_path)
    assert done.returncode == 2
    assert (
        refusal_line(done) == f"error: {tmp_path}: no run directory; name a run or one of its .parquet or .jsonl files"
    )


def test_show_escapes_what_would_act_on_the_terminal(tmp_path):
    path = write_rows(
        tmp_path / "rollouts.jsonl", {"id": "a\x1b[2J", "text": "hi\x1b]0;title\x07\u202e\nthere", "total": None}
    )
    stdout = safereason("data", "show", path).stdout
    assert "\x1b" not in stdout
    assert "  hi\\x1b]0;title\\x07\\u202e\n  there\n" in stdout


JSON = st.recursive(
    st.none() | st.booleans() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(JSON))
def test_json_that_is_written_as_it_comes_is_one_list(documents):
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        rows.print_json_rows(iter(documents))
    assert json.loads(out.getvalue()) == documents
    assert out.getvalue().endswith("]\n")


def test_a_terminal_pages_through_all_rows(traces):
    code, output = on_terminal("data", "show", traces)
    assert (code, numbers(output)) == (0, list(range(1, 20)))


def test_a_terminal_without_a_pager_gets_the_first_rows(traces):
    code, output = on_terminal("data", "show", traces, "--no-pager", PAGER="false")
    assert (code, numbers(output)) == (0, list(range(1, 11)))
    assert output.endswith("10 rows; --limit N shows more\n")
    code, output = on_terminal("data", "show", traces, "--limit", 2, PAGER="false")
    assert (code, numbers(output)) == (0, [1, 2])


def test_less_is_asked_to_end_by_itself_where_all_is_on_one_screen(traces):
    code, output = on_terminal("data", "show", traces, "--kind", "harmful", PAGER="less")
    assert (code, numbers(output)) == (0, [1])


def test_a_pager_that_is_left_early_ends_it_well(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", *({**GOOD, "id": str(n), "prompt": "x" * 2000} for n in range(2000)))
    code, output = on_terminal("data", "show", path, PAGER="head -n 5")
    assert (code, numbers(output)) == (0, [1, 2])


def test_a_bad_row_ends_the_paging_after_those_before_it(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", GOOD, GOOD, "{torn", GOOD)
    code, output = on_terminal("data", "show", path)
    assert (code, numbers(output)) == (2, [1, 2])
    assert output.splitlines()[-1].startswith(f"error: {path}:3: not JSON")


def test_a_terminal_says_that_no_row_is_wanted(traces):
    assert on_terminal("data", "show", traces, "--id", "none") == (0, f"{traces}: no such row as --id none\n")


def test_rendered_marks_the_trained_part_token_for_token(traces, micro_model):
    trace, prompt = json.loads(
        safereason("data", "show", traces, "--rendered", "--model", micro_model, "--limit", 2, "--json").stdout
    )
    text = "<think>\nTheft hurts.\n</think>\n\nI can't help."
    assert trace["rendered"]["trained"] == f"{text}<|im_end|>"
    assert trace["rendered"]["trained_tokens"] == len(text.encode()) + 1
    assert trace["rendered"]["given"] == "<|im_start|>user\nSteal a car?<|im_end|>\n<|im_start|>assistant\n"
    assert (prompt["rendered"]["trained"], prompt["rendered"]["trained_tokens"]) == ("", 0)


def test_a_colour_terminal_shows_the_trained_part_in_colour(traces, micro_model):
    arguments = ("--rendered", "--model", micro_model, "--kind", "harmful")
    code, output = on_terminal("data", "show", traces, *arguments, PAGER="less")
    assert code == 0
    assert "\x1b[32mTheft hurts.\x1b[" in output
    assert "  Steal a car?<|im_end|>\x1b" in output


@pytest.mark.parametrize(
    ("is_terminal", "environment", "coloured"),
    [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False), (False, {}, False)],
)
def test_colour_is_for_terminals_that_show_it(monkeypatch, is_terminal, environment, coloured):
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert rows.has_colour() == coloured


def test_rendered_for_a_person():
    part = {"given": "ask\n", "given_tokens": 2, "trained": "say\x1b", "trained_tokens": 3, "too_long": False}
    head = "id=mine/1  kind=ambiguous  source=mine"
    assert rows.text_of_row(7, GOOD, part, coloured=False) == (
        f"── 7 ── {head}\ngiven (2 tokens, not trained):\n  ask\n  \ntrained (3 tokens):\n  say\\x1b\n\n"
    )
    assert (
        "given (2 tokens, not trained):\n  ask\n  \ntrained (3 tokens):\n  \x1b[32msay\\x1b\x1b[0m\n"
        in rows.text_of_row(7, GOOD, part, coloured=True)
    )
    long = rows.text_of_row(7, GOOD, {**part, "too_long": True}, coloured=False)
    assert "trained (3 tokens; the whole is longer than SFT takes, and is left out):" in long
    nothing = {"given": "ask", "given_tokens": 2, "trained": "", "trained_tokens": 0, "too_long": False}
    assert rows.text_of_row(8, {**GOOD, "text": "wrote"}, nothing, coloured=True) == (
        f"── 8 ── {head}\ngiven (2 tokens, not trained):\n  ask\ntrained: nothing; the model writes from here\n"
        "text:\n  wrote\n\n"
    )


def test_rendered_for_a_guard_is_what_the_guard_is_asked(tmp_path, micro_model):
    file, recipe = tmp_path / "rows.jsonl", tmp_path / "own.yaml"
    row = {
        "id": "o/1",
        "prompt": "Hi",
        "response": "Go away",
        "kind": "harmless",
        "source": "o",
        "label": "unsafe",
        "reasoning": "It is rude.",
        "answer": r"\boxed{unsafe}",
    }
    file.write_text(json.dumps(row) + "\n")
    recipe.write_text(f"extends: rsafe-smoke\nmodel: {micro_model}\n")
    (shown_row,) = json.loads(safereason("data", "show", file, "--rendered", "--recipe", recipe, "--json").stdout)
    assert "<BEGIN AGENT REPLY>\nGo away\n<END AGENT REPLY>" in shown_row["rendered"]["given"]
    assert shown_row["rendered"]["trained"] == "<think>\nIt is rude.\n</think>\n\n\\boxed{unsafe}<|im_end|>"


TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
MAX_TOKENS = 60


@pytest.fixture(scope="module")
def trained(micro_model):
    """(renderer, tokenizer) of a model with a small limit of tokens."""
    recipe = load("tars-smoke", [f"model={json.dumps(str(micro_model))}", f"sft.max_tokens={MAX_TOKENS}"])
    return rendered.renderer(recipe.model, recipe), micro.tokenizer()


@settings(max_examples=60)
@given(
    prompt=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip),
    reasoning=TEXT,
    answer=TEXT,
)
def test_what_is_rendered_is_what_sft_trains_on(trained, prompt, reasoning, answer):
    from safereason.training import sft

    render, tokenizer = trained
    example = Example("x/1", prompt, "harmful", "x", reasoning=reasoning, answer=answer)
    tokenized = sft.tokenize(tokenizer, [example], MAX_TOKENS)
    parts = render({"prompt": prompt, "reasoning": reasoning, "answer": answer})
    assert (bool(parts["trained_tokens"]), parts["too_long"]) == (
        not tokenized.empty_reasoning,
        bool(tokenized.too_long),
    )
    for row in tokenized.rows:
        split = row["completion_mask"].index(1)
        assert (parts["given_tokens"], parts["trained_tokens"]) == (split, len(row["input_ids"]) - split)
        assert parts["given"] + parts["trained"] == tokenizer.decode(row["input_ids"])
        assert parts["given"] == tokenizer.decode(row["input_ids"][:split])


def test_a_guard_that_does_not_reason_is_trained_on_its_verdict_alone(micro_model):
    recipe = load("rsafe-sft-noreason", [f"model={json.dumps(str(micro_model))}"])
    row = {"prompt": "Hi", "reasoning": "It is rude.", "answer": r"\boxed{unsafe}"}
    assert rendered.renderer(recipe.model, recipe)(row)["trained"] == "\\boxed{unsafe}<|im_end|>"


def test_what_a_model_wrote_is_not_shown_as_trained_and_its_prefix_is_given(micro_model):
    row = {"prompt": "Hi", "prefix": "<think>\n", "text": "Hm.\n</think>\n\nHi.", "reasoning": "Hm.", "answer": "Hi."}
    parts = rendered.renderer(str(micro_model), None)(row)
    assert parts["given"].endswith("<|im_start|>assistant\n<think>\n")
    assert parts["trained_tokens"] == 0


def test_a_space_that_a_tokenizer_drops_at_a_beginning_is_shown(tmp_path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"▁ask": 0, "▁say": 1, "</s>": 2, "?": 3}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    core.decoder = decoders.Metaspace(prepend_scheme="always")
    core.add_special_tokens(["</s>"])
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", chat_template=template)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.decode([1]) == "say"
    recipe = load("rsafe-sft-noreason")
    parts = rendered.renderer(str(tmp_path), recipe)({"prompt": "ask", "answer": "say"})
    assert (parts["trained"], parts["trained_tokens"]) == (" say</s>", 2)


def test_rendered_needs_a_tokenizer(traces):
    done = safereason("data", "show", traces, "--rendered")
    assert done.returncode == 2
    assert refusal_line(done) == "error: --rendered needs a tokenizer; name one with --recipe or --model"


def test_what_is_no_text_is_not_rendered(micro_model):
    parts = rendered.renderer(str(micro_model), None)({"prompt": "Hi", "answer": 5, "reasoning": ["x"], "prefix": None})
    assert parts["trained_tokens"] == 0
    assert parts["given"] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_rendered_needs_prompts(micro_model):
    with pytest.raises(InputError, match="--rendered: a row has no text `prompt`"):
        rendered.renderer(str(micro_model), None)({"id": "x", "score": 1.0})


PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "look-at-data.md"
BLOCKS = re.findall(r"```bash\n([^\n]+)\n```\n+```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
SHOWN = {command: text for command, text in BLOCKS if command != "safereason data ls"}
"""What is printed by command; the table of all sources changes with every recipe that is added."""


@pytest.mark.parametrize("command", SHOWN)
def test_the_page_about_looking_at_data_shows_what_is_printed(tmp_path, command):
    (rows_of_the_page,) = re.findall(r"```json\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mine.jsonl").write_text(rows_of_the_page)
    done = safereason(*shlex.split(command)[1:], cwd=tmp_path)
    printed = iter((done.stdout + done.stderr).splitlines())
    assert [line for line in SHOWN[command].splitlines() if line not in printed] == []
