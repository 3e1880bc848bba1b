"""`safereason data`: sources, rows as a person reads them, and files checked line by line."""

import json
import re
from pathlib import Path

import pytest
from program import refusal_line, safereason
from terminal import on_terminal

from safereason.cli import data_ls, data_verify
from safereason.data.example import Example, write_parquet
from safereason.data.sources import SOURCES
from safereason.recipe.load import load
from safereason.recipe.named import shipped

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


def test_ls_names_every_source_with_its_licence_size_and_splits():
    listed = json.loads(safereason("data", "ls", "--json").stdout)
    assert [source["name"] for source in listed] == list(SOURCES)
    assert all(source["licence"] and source["serves"] for source in listed)
    assert [source["size"] for source in listed] == [source.rows for source in SOURCES.values()]
    assert [source["gated"] for source in listed] == [source.gated for source in SOURCES.values()]


def test_ls_says_which_recipes_need_a_source():
    needing = {source["name"]: source["recipes"] for source in json.loads(safereason("data", "ls", "--json").stdout)}
    assert {"tars-smoke", "tars-evidence"} <= set(needing["sample-brief"])
    assert needing["sample-verdicts"] == ["rsafe-smoke"]
    for path in shipped():
        known = data_ls.uses_by_source(load(path.stem)).keys() & needing.keys()
        assert {name for name, recipes in needing.items() if path.stem in recipes} == known


def test_ls_fits_into_120_columns():
    lines = safereason("data", "ls").stdout.splitlines()
    assert len(lines) == len(SOURCES) + 1
    assert max(map(len, lines)) <= 120
    code, output = on_terminal("data", "ls")
    assert code == 0
    plain = re.sub(r"\x1b\[[\d;]*m", "", output).rstrip("\n").split("\n")
    assert max(map(len, plain)) <= 120
    assert sum(any(line.split()[:1] == [name] for name in SOURCES) for line in plain) == len(SOURCES)
    assert len([line for line in plain if line.strip()]) == len(SOURCES) + 2


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (None, "?"),
        (0, "0"),
        (999, "999"),
        (1000, "1.0k"),
        (1319, "1.3k"),
        (9949, "9.9k"),
        (9950, "10k"),
        (79_421, "79k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (1_039_785, "1.0M"),
        (25_000_000, "25M"),
    ],
)
def test_a_size_takes_four_characters_at_most(rows, text):
    assert data_ls.size(rows) == text


def test_recipes_are_counted_by_family():
    assert data_ls.count_by_family(["rsafe", "rsafe-sft", "tars-1.5b"]) == "2 rsafe, 1 tars"
    assert data_ls.count_by_family([]) == ""


def test_ls_of_a_recipe_says_what_its_sources_are_for(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: tars-smoke\ndata: {without_sources: [sample-brief]}\neval: {benign: xstest}\n")
    assert data_ls.uses_by_source(load(str(recipe))) == {
        "sample": [("training", "train"), ("tests", "test")],
        "xstest": [("tests", "test")],
    }
    assert data_ls.uses_by_source(load("tars-smoke"))["sample-brief"] == [("traces", "train")]
    both = load("rsafe-ood-category", ["guard.eval.sets=[{source: aegis2}, {source: aegis2, split: train, skip: 9}]"])
    assert data_ls.uses_by_source(both)["aegis2"] == [("tests", "test"), ("tests", "train")]


def test_ls_of_a_recipe_says_what_is_there_and_how_to_get_the_rest(tmp_path):
    home = tmp_path / "home"
    done = safereason("data", "ls", "--recipe", "rsafe", "--json", SAFEREASON_DATA_HOME=str(home))
    listed = {source["name"]: source for source in json.loads(done.stdout)}
    assert done.returncode == 0
    assert not any(source["there"] for source in listed.values())
    assert all(str(home) in source["why_not"] and "https://" in source["why_not"] for source in listed.values())
    assert "accept the terms at https://" in listed["wildguardtest"]["why_not"]
    assert "accept the terms" not in listed["beavertails"]["why_not"]
    lines = safereason("data", "ls", "--recipe", "tars-smoke").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["sample", "sample-brief"]
    assert all(line.endswith("  there") for line in lines[1:])


def test_ls_of_a_recipe_downloads_nothing(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: tars-smoke\neval: {behaviors: harmbench, benign: wildguardtest}\n")
    own = {
        "SAFEREASON_DATA_HOME": "",
        "SAFEREASON_CACHE": str(tmp_path),
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "0",
    }
    done = safereason("data", "ls", "--recipe", recipe, **own)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("not on this machine yet; what reads it downloads https://") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_ls_of_a_recipe_names_a_source_that_nobody_knows(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: tars-smoke\neval: {behaviors: harmbnch, benign: missing.jsonl}\n")
    listed = {s["name"]: s for s in json.loads(safereason("data", "ls", "--recipe", recipe, "--json").stdout)}
    assert listed["harmbnch"]["why_not"] == "source harmbnch: is not known; did you mean harmbench?"
    assert listed["missing.jsonl"]["why_not"].startswith("missing.jsonl: cannot be read")


def test_verify_counts_good_rows(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", GOOD, "", {**GOOD, "id": "mine/2"})
    done = safereason("data", "verify", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}: ok, 2 rows\n", "")


def test_verify_names_every_bad_row_by_its_line_and_counts_them_by_kind(tmp_path):
    path = write_rows(
        tmp_path / "rows.jsonl",
        GOOD,
        "{torn",
        {**GOOD, "id": "mine/2", "kind": "evil"},
        ["a list"],
        {**GOOD, "id": "mine/3", "prompt": " "},
        GOOD,
        {**GOOD, "id": "mine/4", "kind": "worse"},
    )
    done = safereason("data", "verify", path)
    assert done.returncode == 2
    assert [line.removeprefix(f"{path}:").partition(":")[0] for line in done.stdout.splitlines()] == list("234567")
    assert "`id` 'mine/1' is that of line 1 too" in done.stdout
    counts = done.stderr.splitlines()
    assert counts[0] == "        2  `kind` is …"
    assert {line.strip() for line in counts[1:-1]} == {
        "1  not JSON",
        "1  not an object",
        "1  `prompt` is empty",
        "1  the `id` of an earlier row",
    }
    assert counts[-1] == f"error: {path}: 6 of 7 rows are bad; mend or delete them"
    document = json.loads(safereason("data", "verify", path, "--json").stdout)
    assert [problem["line"] for problem in document["problems"]] == [2, 3, 4, 5, 6, 7]
    assert (document["rows"], document["bad"], document["problems_left_out"]) == (7, 6, 0)
    assert document["kinds"]["`kind` is …"] == 2


def test_verify_lists_a_bounded_number_of_problems_as_json(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", *["{"] * (data_verify.LISTED + 7))
    document = json.loads(safereason("data", "verify", path, "--json").stdout)
    assert (len(document["problems"]), document["problems_left_out"]) == (data_verify.LISTED, 7)
    assert document["bad"] == document["rows"] == data_verify.LISTED + 7


def test_verify_escapes_what_would_act_on_the_terminal(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", {**GOOD, "kind": "\u202e\ud800"}, {**GOOD, "\x1b[2J": "x"})
    done = safereason("data", "verify", path)
    assert not {"\x1b", "\u202e"} & set(done.stdout + done.stderr)
    assert "\\x1b[2J" in done.stdout


def test_verify_reads_parquet_too(traces):
    assert safereason("data", "verify", traces).stdout == f"{traces}: ok, 19 rows\n"


@pytest.mark.parametrize("command", ["verify", "show"])
@pytest.mark.parametrize("name", ["missing.jsonl", "missing.parquet", "broken.parquet", "rows.txt"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, command, name):
    (tmp_path / "broken.parquet").write_text("no parquet")
    done = safereason("data", command, tmp_path / name)
    assert done.returncode == 2
    assert refusal_line(done).startswith(f"error: {tmp_path / name}: ")
