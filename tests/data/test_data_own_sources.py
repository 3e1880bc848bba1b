"""A person's own data: files with the columns of examples, and descriptions of files with other columns."""

import csv
import json
from pathlib import Path

import published
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.data import sources
from safereason.data.example import Example, write_parquet
from safereason.data.sources import files
from safereason.errors import InputError

SHORT = "file: own.csv\ncolumns: {prompt: question}\nkind: harmful\n"
FULL = """\
title: What my users asked
licence: CC0-1.0
file: rows/own.{suffix}
columns:
  {{prompt: question, id: number, category: topic, reasoning: thought, answer: said, response: reply, target: start}}
kind: {{column: type, values: {{bad: harmful, ok: harmless}}}}
label: {{column: toxic, unsafe: ["1"], safe: ["0"]}}
"""
ROW = {
    "number": "7",
    "question": "How, \n“so”?",
    "topic": "travel",
    "thought": None,
    "said": None,
    "reply": "Thus.",
    "start": None,
    "type": "ok",
    "toxic": "0",
    "more": "not read",
}


@pytest.fixture
def describe(tmp_path):
    """Writes a description and its file, and gives the source's name."""

    def write(text, records=None, data="own.csv"):
        (tmp_path / "own.yaml").write_text(text)
        if records is not None:
            published.write(tmp_path / data, records)
        return str(tmp_path / "own.yaml")

    return write


def error_of(name, split="train"):
    with pytest.raises(InputError) as error:
        sources.get(name).load(split)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_your_own_file_is_a_source(tmp_path, suffix):
    path = tmp_path / f"own.{suffix}"
    rows = [Example("own/1", "hello", "harmless", "own"), Example("own/2", "hi", "harmless", "own", None, "a", "b")]
    if suffix == "parquet":
        write_parquet(path, rows)
    else:
        published.write(path, [vars(row) for row in rows])
    source = sources.get(str(path))
    assert source.load("train") == source.load("test") == rows
    assert source.traces("train") == rows[1:]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "csv.gz", "tsv.xz", "json.xz", "jsonl.gz"])
def test_a_table_with_the_columns_of_examples_is_a_source(tmp_path, suffix):
    rows = [
        Example("own/1", 'hel"lo,\t\n', "harmless", "own", response=" "),
        Example("own/2", "hi", "harmful", "own", None, "a", "b", label="unsafe"),
    ]
    path = published.write(tmp_path / f"own.{suffix}", [vars(row) for row in rows])
    assert sources.get(str(path)).load("train") == rows
    assert sources.get(str(path)).traces("train") == rows[1:]


def test_columns_may_be_left_out_of_a_table(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("﻿kind,id,source,prompt\nharmless,own/1,own,hello\n")
    assert sources.get(str(path)).load("test") == [Example("own/1", "hello", "harmless", "own")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,prompt,kind,source\na,,harmful,own\n", "row 1: `prompt` is null; text is expected"),
        ("id,prompt,kind,source\na,p,evil,own\n", "row 1: `kind` is 'evil'"),
        ("id,prompt,kind,source,x\na,p,harmful,own,1\n", "row 1: unknown column 'x'"),
        ("id,prompt,kind\na,p,harmful\n", "row 1: no column 'source'"),
        ("id,prompt,kind,source\na,p,harmful,own\na,p,harmful,own\n", "the id 'a' is there more than once"),
        ("id,prompt,kind,source\na,p,harmful,own\nb,p\n", "cannot be read after row 1 (line 3 has fewer cells"),
        ("id,prompt,kind,source\na,p,harmful,own,5\n", "cannot be read after row 0 (line 2 has more cells"),
        ('id,prompt,kind,source\na,"p,harmful,own\nb,p,harmful,own\n', "cannot be read after row 0 ("),
        ("id,prompt,kind,source,id\na,p,harmful,own,b\n", "cannot be read after row 0 (its header has 'id' 2 times)"),
        ("id,prompt,kind,source\n", "holds no row; mend the file"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(tmp_path, text, message):
    path = tmp_path / "own.csv"
    path.write_text(text)
    assert error_of(str(path)).startswith(f"{path}: {message}")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv", "tsv", "json", "jsonl.gz", "yaml", "yml"])
def test_a_file_that_is_not_there_is_named(tmp_path, suffix):
    assert error_of(str(tmp_path / f"own.{suffix}")).startswith(f"{tmp_path}/own.{suffix}: ")


def test_your_own_file_needs_ids_that_differ(tmp_path):
    row = {"id": "own/1", "prompt": "hello", "kind": "harmless", "source": "own"}
    path = published.write(tmp_path / "own.jsonl", [row, {**row, "id": "own/2"}, row, "no row"])
    examples = sources.get(str(path)).stream("train")
    assert [next(examples).id, next(examples).id] == ["own/1", "own/2"]
    with pytest.raises(InputError, match="'own/1' is there more than once"):
        next(examples)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet", "csv.xz"])
def test_a_description_maps_columns_kinds_and_labels(describe, tmp_path, suffix):
    records = [
        ROW,
        {**ROW, "number": "8", "type": "bad", "toxic": "1", "thought": "Hm.", "said": "No.", "start": "Sure"},
    ]
    name = describe(FULL.format(suffix=suffix), records, f"rows/own.{suffix}")
    source = sources.get(name)
    first, second = source.load("train")
    assert first == Example("own/7", "How, \n“so”?", "harmless", "own", "travel", response="Thus.", label="safe")
    assert (second.kind, second.label, second.target) == ("harmful", "unsafe", "Sure")
    assert source.traces("test") == [second]
    assert (source.name, source.title, source.licence) == (name, "What my users asked", "CC0-1.0")
    assert (source.serves, source.rows, source.gated) == (("train", "test"), None, False)
    assert source.page == str(tmp_path / f"rows/own.{suffix}")


def test_the_shortest_description(describe):
    source = sources.get(describe(SHORT, [{"question": "a"}, {"question": "b"}]))
    assert source.load("test") == [Example("own/1", "a", "harmful", "own"), Example("own/2", "b", "harmful", "own")]
    assert source.reasoned is None


def test_values_that_are_no_text_are_written_as_text(describe):
    text = (
        "file: own.jsonl\ncolumns: {prompt: q, id: n, category: topics}\n"
        'kind: {column: bad, values: {"true": harmful, "0": harmless, "1": ambiguous}}\n'
        "label: {column: score, unsafe: [1, true, 0.5], safe: [0, low]}\n"
    )
    rows = [(True, 1, ["a", "b"]), (0, 0.0, []), (1.0, True, None), (True, 0.5, "c"), (0, None, "c"), (0, "low", "c")]
    name = describe(
        text,
        [
            {"q": "p", "n": n, "bad": bad, "score": score, "topics": topics}
            for n, (bad, score, topics) in enumerate(rows)
        ],
        "own.jsonl",
    )
    examples = sources.get(name).load("train")
    assert [(e.id, e.kind, e.label, e.category) for e in examples] == [
        ("own/0", "harmful", "unsafe", "a; b"),
        ("own/1", "harmless", "safe", None),
        ("own/2", "ambiguous", "unsafe", None),
        ("own/3", "harmful", "unsafe", "c"),
        ("own/4", "harmless", None, "c"),
        ("own/5", "harmless", "safe", "c"),
    ]


def test_only_the_columns_that_are_named_are_read_of_parquet(describe, monkeypatch):
    read, requested = sources.base.parquet_rows, []

    def recording(path, columns):
        requested.append(columns)
        return read(path, columns)

    monkeypatch.setattr(sources.base, "parquet_rows", recording)
    sources.get(describe(FULL.format(suffix="parquet"), [ROW], "rows/own.parquet")).load("train")
    assert sorted(requested[0]) == sorted(ROW.keys() - {"more"})


def test_a_description_says_what_it_serves(describe):
    name = describe(f"{SHORT}serves: [test]\n", [{"question": "a"}])
    assert [e.prompt for e in sources.get(name).load("test")] == ["a"]
    assert error_of(name) == f"source {name}: has no train split, only test; name another source"


def test_a_file_of_the_hub_lies_in_the_data_home_under_the_descriptions_name(describe, tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path / "home"))
    text = (
        f"hub: {{repo: me/mine, file: data/t.parquet, revision: {'0a' * 20}}}\ncolumns: {{prompt: q}}\nkind: harmful\n"
    )
    name = describe(text, [{"q": "a"}], "home/own/data/t.parquet")
    source = sources.get(name)
    assert [e.id for e in source.load("train")] == ["own/1"]
    assert source.page == "https://huggingface.co/datasets/me/mine"
    assert files.inputs(name) == [Path(name)]
    (tmp_path / "home/own/data/t.parquet").unlink()
    assert f"put https://huggingface.co/datasets/me/mine/resolve/{'0a' * 20}/data/t.parquet there" in error_of(name)


def test_the_files_that_a_source_is_read_from(describe, tmp_path):
    name = describe(SHORT, [{"question": "a"}])
    assert files.inputs(name) == [tmp_path / "own.yaml", tmp_path / "own.csv"]
    assert files.inputs("some/rows.jsonl.gz") == [Path("some/rows.jsonl.gz")]
    assert files.inputs("xstest") == []


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, "", "is empty; a data source is a mapping with `file:` or `hub:`, `columns:` and `kind:`"),
        (1, "- file", "a data source is a mapping with `file:` or `hub:`, `columns:` and `kind:`, not a list"),
        (3, SHORT.replace("harmful", "evil"), "kind: should be one of harmful, harmless, ambiguous, or a mapping"),
        (
            3,
            SHORT.replace("harmful", "{column: type}"),
            "kind: should be a kind, or a mapping with `column` and `values`",
        ),
        (3, SHORT.replace("harmful", "{column: t, values: {a: evil}}"), "kind.values.a: should be 'harmful', "),
        (
            3,
            SHORT.replace("harmful", "{colum: t, values: {a: harmful}}"),
            "kind.colum: unknown key; did you mean column?",
        ),
        (2, SHORT.replace("prompt", "promt"), "columns.promt: unknown key; did you mean prompt?"),
        (2, SHORT.replace("{prompt: question}", "question"), "columns: should be a mapping of keys to values"),
        (2, SHORT.replace("question", "3"), "columns.prompt: should be a string, not 3"),
        (1, SHORT.replace("file: own.csv\n", ""), "file: is missing; name a file, or one of the Hub under `hub`"),
        (
            1,
            SHORT.replace("own.csv", "own.xlsx"),
            'file: should be a .csv, .tsv, .json, .jsonl or .parquet file, not "own',
        ),
        (2, SHORT.replace("columns", "colums"), "colums: unknown key; did you mean columns?"),
        (4, f"{SHORT}serves: [dev]\n", "serves[0]: should be 'train' or 'test', not \"dev\""),
        (4, f"{SHORT}serves: []\n", "serves: is empty; name train, test or both, or delete the line"),
        (4, f"{SHORT}hub: {{repo: a/b, file: c.csv, revision: main}}\n", "hub.revision: should be a commit in full"),
        (1, f"{SHORT}hub: {{repo: a/b, file: c.csv, revision: {'0' * 40}}}\n", "file: is here and `hub` is too"),
        (
            4,
            f"{SHORT}label: {{column: a, unsafe: [1], safe: ['1']}}\n",
            "label: `safe` and `unsafe` list a value twice",
        ),
        (4, f"{SHORT}label: {{column: a, unsafe: [x]}}\n", "label.safe: is missing"),
        (4, f"{SHORT}kind: harmless\n", "'kind' is here twice (line 3 too); keep one"),
    ],
)
def test_a_mistake_in_a_description_is_one_line_with_its_place(describe, line, text, message):
    name = describe(text)
    place = name if not text else f"{name}:{line}"
    assert error_of(name).startswith(f"{place}: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, "`question` is blank; a prompt is expected"),
        ({"question": None}, "`question` is blank; a prompt is expected"),
        ({"question": 3}, "`question` is 3; text is expected"),
        ({"reply": ["a"]}, "`reply` is ['a']; text is expected"),
        ({"topic": ["a", 1]}, "`topic` is ['a', 1]; text is expected"),
        ({"number": None}, "`number` is None; a text or a whole number is expected"),
        ({"number": True}, "`number` is True; a text or a whole number is expected"),
        ({"type": "odd"}, "`type` is 'odd'; 'bad' or 'ok' is expected"),
        ({"type": None}, "`type` is null; 'bad' or 'ok' is expected"),
        ({"toxic": "2"}, "`toxic` is '2'; '0' or '1' is expected"),
    ],
)
def test_a_bad_row_is_named_by_file_row_and_column(describe, tmp_path, change, message):
    name = describe(FULL.format(suffix="jsonl"), [ROW, {**ROW, "number": 8, **change}], "rows/own.jsonl")
    assert error_of(name) == f"{tmp_path}/rows/own.jsonl: row 2: {message}"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_column_that_is_missing_is_named_with_those_there_are(describe, tmp_path, suffix):
    name = describe(FULL.format(suffix=suffix), [{"question": "q", "number": "1"}], f"rows/own.{suffix}")
    message = error_of(name)
    assert message.startswith(f"{tmp_path}/rows/own.{suffix}: ")
    assert "no column `t" in message
    assert "only question, number" in message
    assert message.endswith(f"mend the file or {name}")


def test_ids_of_a_column_have_to_differ(describe, tmp_path):
    name = describe(FULL.format(suffix="csv"), [ROW, ROW], "rows/own.csv")
    assert error_of(name).startswith(f"{tmp_path}/rows/own.csv: the id 'own/7' is there more than once")


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
CELLS = st.fixed_dictionaries(
    {
        "the question": TEXT.filter(lambda text: text.strip()),
        "topic": st.none() | TEXT,
        "thought": st.none() | TEXT,
        "said": st.none() | TEXT,
        "reply": st.none() | TEXT,
        "start": st.none() | TEXT,
        "type": st.sampled_from(["a", "b"]),
        "toxic": st.sampled_from([None, "yes", "no"]),
    }
)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
@given(rows=st.lists(CELLS, min_size=1, max_size=5))
def test_rows_come_through_every_format_as_they_are(tmp_path_factory, suffix, rows):
    folder = tmp_path_factory.mktemp("own")
    published.write(folder / f"rows.{suffix}", rows)
    (folder / "own.yaml").write_text(
        f"file: rows.{suffix}\n"
        "columns: {prompt: the question, category: topic, reasoning: thought, answer: said, response: reply, "
        "target: start}\n"
        "kind: {column: type, values: {a: harmful, b: ambiguous}}\n"
        'label: {column: toxic, unsafe: ["yes"], safe: ["no"]}\n'
    )
    table = suffix in ("csv", "tsv")  # there an empty cell is null
    expected = [
        Example(
            f"own/{n}",
            row["the question"],
            {"a": "harmful", "b": "ambiguous"}[row["type"]],
            "own",
            *((row[name] or None if table else row[name]) for name in ("topic", "thought", "said", "reply")),
            label={"yes": "unsafe", "no": "safe", None: None}[row["toxic"]],
            target=row["start"] or None if table else row["start"],
        )
        for n, row in enumerate(rows, start=1)
    ]
    assert sources.get(str(folder / "own.yaml")).load("train") == expected


def test_a_cell_may_be_as_long_as_a_reasoning_trace(tmp_path):
    long = "because " * 40_000
    row = {"id": "own/1", "prompt": "p", "kind": "harmful", "source": "own", "reasoning": long, "answer": "a"}
    path = published.write(tmp_path / "own.csv", [row])
    assert sources.get(str(path)).load("train")[0].reasoning == long
    assert csv.field_size_limit() > len(long) > 131_072


def test_a_row_that_is_nested_too_deeply_is_one_line(tmp_path):
    path = tmp_path / "own.json"
    path.write_text('[{"a": ' + "[" * 200_000)
    assert error_of(str(path)).startswith(f"{path}: cannot be read after row 0 (")
    path.write_text(json.dumps([["no object"]]))
    assert error_of(str(path)).startswith(f"{path}: cannot be read after row 0 (a JSON object is expected, not a list)")
