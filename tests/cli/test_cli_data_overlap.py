"""`safereason data overlap`: counts, lists and exit codes, and the tables of the page that tells of it."""

import inspect
import json
import re
import shlex
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from program import refusal_line, safereason

from safereason.cli import errors
from safereason.cli.app import app
from safereason.cli.data_overlap import overlap as command
from safereason.data import sources
from safereason.data.example import Example, write_parquet
from safereason.data.overlap import build_indexes, compare_rows
from safereason.recipe.schema import Hygiene
from safereason.runs.records import write_json

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "check-for-overlap.md"
QUESTION = "Explain to a beginner how the tides of the sea follow the moon and why there are two of them a day."


def overlap(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command as the program runs it, without the seconds that a process takes to start."""
    argv = ["data", "overlap", *map(str, arguments)]
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = errors.guarded(lambda: app(argv, standalone_mode=False))
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def write_rows(path: Path, *prompts: str) -> Path:
    rows = [{"id": f"{path.stem}/{n}", "prompt": p, "kind": "harmless", "source": "o"} for n, p in enumerate(prompts)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def mine(tmp_path):
    wrapped = f"Nine other words stand here first. {QUESTION}" * 2
    return write_rows(tmp_path / "mine.jsonl", QUESTION.upper(), QUESTION[:-1], wrapped, "Why is the sky blue?")


@pytest.fixture
def theirs(tmp_path):
    return write_rows(tmp_path / "theirs.jsonl", "What is rain made of?", QUESTION)


def test_rows_are_counted_by_the_strongest_check(mine, theirs):
    done = safereason("data", "overlap", mine, "--against", theirs)
    header, row = (re.split(r" {2,}", line) for line in done.stdout.splitlines())
    assert header == ["looked at", "against", "rows", "exact", "near 0.8", "13 words", "any"]
    assert row == [str(mine), str(theirs), "4", "1", "1", "1", "3"]
    assert (done.returncode, done.stderr) == (0, "")


def test_checks_can_be_turned_off(mine, theirs):
    line = overlap(mine, "--against", theirs, "--near", 0, "--words", 0).stdout.splitlines()[1]
    assert line.split()[2:] == ["4", "1", "–", "–", "1"]
    (pair,) = json.loads(overlap(mine, theirs, "--words", 5, "--near", 0, "--json").stdout)["pairs"]
    assert pair == {
        "looked_at": str(mine),
        "against": str(theirs),
        "rows": 4,
        "exact": 1,
        "near": 0,
        "words": 2,
        "any": 3,
    }


def test_the_list_names_both_rows_and_acts_on_no_terminal(tmp_path, theirs):
    mine = write_rows(tmp_path / "mine.jsonl", f"\x1b[2J{QUESTION}\u202e", "nothing")
    done = overlap(mine, "--against", theirs, "--list")
    (line,) = done.stdout.splitlines()
    assert json.loads(line) == {
        "looked_at": str(mine),
        "id": "mine/0",
        "against": str(theirs),
        "of": "theirs/1",
        "how": "near",
        "similarity": 0.967,
        "shared": None,
        "text": f"\\x1b[2J{QUESTION}"[:83],
        "of_text": QUESTION[:80],
    }
    assert "\x1b" not in line
    document = json.loads(overlap(mine, theirs, "--list", "--json").stdout)
    assert document["overlaps"] == [json.loads(line)]
    assert (document["near_duplicate"], document["shared_words"]) == (0.8, 13)


def test_every_two_are_compared_where_nothing_is_named_against(mine, theirs, tmp_path):
    third = write_rows(tmp_path / "third.jsonl", "What is rain made of?")
    pairs = json.loads(overlap(mine, theirs, third, "--json").stdout)["pairs"]
    assert [(Path(p["looked_at"]).stem, Path(p["against"]).stem, p["rows"], p["any"]) for p in pairs] == [
        ("mine", "theirs", 4, 3),
        ("mine", "third", 4, 0),
        ("theirs", "third", 2, 1),
    ]


def test_a_bar_for_scripts(mine, theirs, tmp_path):
    done = overlap(mine, "--against", theirs, "--fail-on-overlap")
    assert done.returncode == 3
    assert done.stderr == "error: 3 overlaps found; --list names them\n"
    assert len(done.stdout.splitlines()) == 2
    clean = write_rows(tmp_path / "clean.jsonl", "Why is the sky blue?")
    assert overlap(clean, "--against", theirs, "--fail-on-overlap").returncode == 0


def test_a_data_run_is_its_prompts_and_its_traces(tmp_path, theirs):
    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "manifest.json", {"stage": "data", "status": "finished"})
    write_parquet(
        run / "train.parquet", [Example("o/1", QUESTION, "harmless", "o"), Example("o/2", "Hi", "harmless", "o")]
    )
    write_parquet(
        run / "traces.parquet",
        [
            Example("o/1", QUESTION, "harmless", "o", reasoning="r", answer="a"),
            Example("o/3", "What is rain made of", "harmless", "o"),
        ],
    )
    (pair,) = json.loads(overlap(run, "--against", theirs, "--json").stdout)["pairs"]
    assert (pair["rows"], pair["exact"], pair["near"]) == (3, 1, 1)
    write_json(run / "manifest.json", {"stage": "data", "status": "failed"})
    for folder in (run, tmp_path):
        done = overlap(folder, "--against", theirs)
        assert done.returncode == 2
        assert (
            refusal_line(done)
            == f"error: {folder}: no finished run of `data build`; name one, a file of examples or a source"
        )


def test_a_source_is_all_it_serves_or_one_split(theirs):
    counted = json.loads(overlap("sample", "sample-harmless", "--json").stdout)["pairs"]
    assert counted[0]["rows"] == len({e.id for split in ("train", "test") for e in sources.get("sample").load(split)})
    one = json.loads(overlap("sample:test", "--against", theirs, "--json").stdout)["pairs"]
    assert (one[0]["looked_at"], one[0]["rows"]) == ("sample:test", len(sources.get("sample").load("test")))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["sample"], "sample: what is it compared with? name it with --against, such as a benchmark"),
        (["sample", "./rows.jsonl", "rows.jsonl"], "rows.jsonl: is named twice; a set is not compared with itself"),
        (["sample", "--against", "sample"], "sample: is named twice; a set is not compared with itself"),
        (["sample", "--against", "tars"], "source tars: is not known; "),
        (
            ["sample", "rows.jsonl", "--words", "4"],
            "--words 4: at least 5 words in a row are compared; 0 does not look",
        ),
        (["sample", "rows.jsonl", "--near", "0.05"], "--near 0.05: texts so far apart have nothing in common; "),
        (["sample:dev", "sample"], "source sample:dev: is not known; "),
    ],
)
def test_what_cannot_be_compared_is_one_line(arguments, error):
    done = overlap(*arguments)
    assert done.returncode == 2
    assert refusal_line(done).startswith(f"error: {error}")


def test_each_source_that_cannot_be_had_is_a_line_and_nothing_is_printed(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path))
    done = overlap("sample", "toxicchat", tmp_path / "a.jsonl", "xstest", "xstest:test")
    assert (done.returncode, done.stdout) == (2, "")
    error_lines = done.stderr.splitlines()
    assert [re.split("[/:]", line.removeprefix(f"error: {tmp_path}/"))[0] for line in error_lines] == [
        "toxicchat",
        "a.jsonl",
        "xstest",
    ]


@pytest.mark.parametrize("place", [0, 1])
def test_a_set_without_rows_passes_no_bar(tmp_path, theirs, place):
    sets = [theirs, write_rows(tmp_path / "empty.jsonl")]
    looked_at, against = sets[1 - place], sets[place]
    done = overlap(looked_at, "--against", against, "--fail-on-overlap")
    assert done.returncode == 2
    assert refusal_line(done).startswith(f"error: {sets[1]}: holds no row, so that nothing can be found in it")


def test_a_bad_row_ends_it_with_nothing_printed(tmp_path, theirs):
    bad = write_rows(tmp_path / "bad.jsonl", "fine", " ")
    done = overlap(theirs, bad)
    assert done.returncode == 2
    assert refusal_line(done) == f"error: {bad}: row 2: `prompt` is empty"


def test_the_defaults_are_those_of_a_recipe():
    defaults = inspect.signature(command).parameters
    assert (defaults["near"].default, defaults["words"].default) == (Hygiene().near_duplicate, Hygiene().shared_words)


def tables(page: str) -> list[list[list[str]]]:
    """The cells of each table, without its header."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE)
    tables_of_page = []
    for block in blocks:
        rows = block.splitlines()[2:]
        tables_of_page.append([[cell.strip() for cell in row.strip("|").split("|")] for row in rows])
    return tables_of_page


def test_the_page_has_what_the_public_sets_share(data_home):
    page = PAGE.read_text()
    (line,) = re.findall(r"^safereason data overlap (harmbench .*)$", page, re.MULTILINE)
    pairs = json.loads(overlap(*shlex.split(line), "--json").stdout)["pairs"]
    assert len(pairs) == 21
    measured = [[str(value) for value in pair.values()] for pair in pairs if pair["any"]]
    assert tables(page)[1] == measured


def test_the_page_has_what_other_thresholds_would_find(data_home):
    names = ["harmbench", "xstest", "star1", "jailbreakbench", "advbench", "openai-moderation", "simplesafetytests"]
    sets = {name: sources.get(name).load(sources.get(name).serves[0]) for name in names}
    safe, unsafe = ([e for e in sets["xstest"] if e.kind == kind] for kind in ("harmless", "harmful"))
    measured = []
    for near in (0.9, 0.8, 0.7, 0.6):
        indexes = build_indexes({**sets, "unsafe": unsafe}, Hygiene(near_duplicate=near, shared_words=None))
        later = {name: {other: indexes[other] for other in names[place:]} for place, name in enumerate(names, start=1)}
        hits = []
        for name in names:
            for _, matches in compare_rows(sets[name], later[name]):
                hits += matches
        mistaken = sum(bool(matches) for _, matches in compare_rows(safe, {"unsafe": indexes["unsafe"]}))
        measured.append([str(near), str(sum(hit.match.how == "near" for hit in hits)), str(mistaken)])
    assert tables(PAGE.read_text())[2] == measured


def test_the_page_has_what_two_halves_share(data_home):
    (line,) = re.findall(r"^safereason data overlap (openai-moderation-half.*) --list$", PAGE.read_text(), re.MULTILINE)
    (pair,) = json.loads(overlap(*shlex.split(line), "--json").stdout)["pairs"]
    sentence = (
        f"{pair['rows']} rows in the half of OpenAI Moderation to train on, {pair['any']} are in the\nother half, "
        f"{pair['near']} nearly and {pair['words']} by their words"
    )
    assert sentence in PAGE.read_text()


def test_known_overlaps_are_found(data_home):
    done = overlap("jailbreakbench", "--against", "advbench", "--list")
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({hit["id"] for hit in hits}) == len(hits) == 12
    assert {hit["how"] for hit in hits} == {"exact", "near"}
