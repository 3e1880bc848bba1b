"""Rows in: JSONL and CSV, whatever they hold, a row at a time."""

import csv
import gzip
import io
import json
import lzma
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safereason.errors import InputError
from safereason.guard import rows
from safereason.guard.prompt import Question
from safereason.guard.rows import LONGEST, InputRow, count_lines, fields_of, opened, read_input_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PROMPT = TEXT.filter(str.strip)
IDS = st.one_of(st.none(), TEXT, st.integers(-99, 99), st.floats(allow_nan=False, allow_infinity=False))
QUESTIONS = st.lists(st.builds(Question, PROMPT, st.none() | TEXT), max_size=6)


def jsonl(*documents: Any) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def rows_of(content: bytes, form: Any = "jsonl", **fields: str) -> list[InputRow]:
    return list(read_input_rows(io.BytesIO(content), "in", form, fields))


def refusal(content: bytes, form: Any = "jsonl", **fields: str) -> str:
    with pytest.raises(InputError) as caught:
        rows_of(content, form, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(QUESTIONS, st.lists(IDS, min_size=6, max_size=6), st.booleans(), st.booleans())
def test_jsonl_is_read_back(questions: list[Question], ids: list[Any], ascii_only: bool, bare_end: bool):
    documents = [{"prompt": q.prompt, "response": q.response, "id": i} for q, i in zip(questions, ids, strict=False)]
    lines = [json.dumps(document, ensure_ascii=ascii_only) for document in documents]
    text = "\n".join(lines) + ("" if bare_end else "\n")
    assert rows_of(text.encode()) == [
        InputRow(number, q, i) for number, (q, i) in enumerate(zip(questions, ids, strict=False), start=1)
    ]


@given(QUESTIONS, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from(["prompt", "what was asked"]))
@example([Question('a "quoted"\n\nline, and more', " ")], "\r\n", True, "prompt")
def test_csv_is_read_back(questions: list[Question], end: str, marked: bool, column: str):
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerow([column, "other", "response"])
    for q in questions:
        writer.writerow([q.prompt, "", q.response or ""])
    content = (b"\xef\xbb\xbf" if marked else b"") + out.getvalue().encode()
    expected = [InputRow(n, Question(q.prompt, q.response or None)) for n, q in enumerate(questions, start=1)]
    assert rows_of(content, "csv", prompt=column) == expected


@given(st.binary(max_size=80), st.sampled_from(["jsonl", "csv"]))
def test_whatever_comes_is_rows_or_one_refusal_with_its_line(content: bytes, form: Any):
    outcome: list[str] = []
    try:
        outcome = [row.question.prompt.strip() for row in rows_of(content, form)]
    except InputError as error:
        place = re.match(r"in:\d+: ", str(error))
        outcome = [place.group() if place else ""]
    assert all(outcome)


def test_columns_are_mapped():
    content = jsonl({"instruction": "a", "output": "b", "key": "k", "prompt": "not this"})
    assert rows_of(content, prompt="instruction", response="output", id="key") == [InputRow(1, Question("a", "b"), "k")]
    assert rows_of(b"text,answer\na,b\n", "csv", prompt="text", response="answer") == [InputRow(1, Question("a", "b"))]
    assert fields_of(["prompt=a=b", "id=key"]) == {"prompt": "a=b", "id": "key"}


@pytest.mark.parametrize("text", ["prompt", "promt=x", "prompt=", "=x", ""])
def test_a_mapping_of_another_form_is_refused(text: str):
    with pytest.raises(InputError, match="FIELD=COLUMN is expected, with FIELD one of prompt, response, messages, id"):
        fields_of([text])


@pytest.mark.parametrize("other", ["prompt=a", "response=a"])
def test_messages_and_prompt_exclude_each_other(other: str):
    with pytest.raises(InputError, match="messages excludes prompt and response"):
        fields_of(["messages=m", other])


def test_a_conversation_is_a_question_about_its_last_turn():
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    assert rows_of(jsonl({"messages": turns}, {"messages": turns[:1]})) == [
        InputRow(1, Question("hi", "ho")),
        InputRow(2, Question("hi")),
    ]
    both = jsonl({"prompt": "p", "messages": turns})
    assert rows_of(both) == [InputRow(1, Question("p"))]
    assert rows_of(both, messages="messages") == [InputRow(1, Question("hi", "ho"))]


def test_an_empty_response_is_one_in_jsonl_and_none_in_csv():
    assert rows_of(jsonl({"prompt": "a", "response": ""})) == [InputRow(1, Question("a", ""))]
    assert rows_of(b"prompt,response\na,\n", "csv") == [InputRow(1, Question("a"))]


def test_half_a_surrogate_pair_becomes_the_replacement_character():
    input_rows = rows_of(b'{"prompt": "a\\ud800b", "response": "\\udfff", "id": "\\ud800"}\n')
    assert input_rows == [InputRow(1, Question("a\ufffdb", "\ufffd"), "\ud800")]
    turns = [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "\ud83d\ude00"}]
    assert rows_of(jsonl({"messages": turns})) == [InputRow(1, Question("\ufffd", "\U0001f600"))]


def test_rows_are_numbered_without_blank_lines_and_lines_with_them():
    content = b'\xef\xbb\xbf\n{"prompt": "a"}\n \n{"prompt": "b"}'
    assert [row.number for row in rows_of(content)] == [1, 2]
    assert refusal(content + b'\n\n{"prompt": ""}') == "in:6: its prompt is empty; fill it in or delete the row"
    assert refusal(b'prompt\n"a\nb"\n\n" "\n', "csv").startswith("in:5: its prompt is empty")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "in:1: not JSON (Expecting property name"),
        (b'[{"prompt": "a"}]\n', "in:1: a JSON object is expected on each line, not a list"),
        (b'"a"\n', "in:1: a JSON object is expected on each line, not a text"),
        (b"NaN\n", "in:1: not JSON (NaN is no JSON number)"),
        (b"[" * 100_000, "in:1: not JSON ("),
        (b"9" * 10_000, "in:1: not JSON ("),
        (b'{"prompt": "\xff"}', "in:1: not UTF-8 (invalid start byte); save it as UTF-8"),
        ('{"prompt": "a"}'.encode("utf-16"), "in:1: not UTF-8"),
        (jsonl({"promt": "a", "x": 1}), "in:1: has no `prompt`, but promt, x; --field FIELD=COLUMN names the columns"),
        (jsonl({}), "in:1: has no `prompt`, but nothing;"),
        (jsonl({"prompt": None}), "in:1: `prompt` is to be text, not null"),
        (jsonl({"prompt": ["a"]}), "in:1: `prompt` is to be text, not a list"),
        (jsonl({"prompt": "a", "response": {}}), "in:1: `response` is to be text, not an object"),
        (jsonl({"prompt": "a", "id": []}), "in:1: its id is to be text or a number, not a list"),
        (b'{"prompt": "a", "id": 1e999}', "in:1: its id is to be text or a number, not a number that is too large"),
        (jsonl({"messages": "hi"}), "in:1: `messages` is to be a list of messages with `role` and `content`"),
        (jsonl({"messages": [1]}), "in:1: `messages` is to be a list of messages"),
        (jsonl({"messages": []}), "in:1: `messages`: a user's message"),
        (jsonl({"messages": [{"role": "user", "content": " "}]}), "in:1: its prompt is empty"),
        (
            jsonl({"messages": [{"role": "user", "content": ["a"]}]}),
            "in:1: `messages`: turn 1 has a text among its parts",
        ),
    ],
)
def test_what_is_no_question_is_one_line(content: bytes, message: str):
    assert refusal(content).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"promt\na\n", "in:2: has no `prompt`, but promt;"),
        (b"prompt,id\na\n", "in:2: 1 cells where the header names 2; mend its quotes"),
        (b"prompt\na,b\n", "in:2: 2 cells where the header names 1"),
        (b'prompt\n"a\n', "in:2: not CSV (unexpected end of data); mend its quotes"),
        (b'prompt\n"a"b\n', "in:2: not CSV ("),
        (b"prompt,x,prompt\na,b,c\n", "in:1: two columns are called `prompt`; rename one"),
        (b"prompt\n\xff\n", "in:2: not UTF-8"),
        (b'prompt\n""\n', "in:2: `prompt` is to be text, not null"),
    ],
)
def test_what_is_no_csv_row_is_one_line(content: bytes, message: str):
    assert refusal(content, "csv").startswith(message)


@pytest.mark.parametrize("field", ["response", "id"])
def test_a_column_that_was_named_has_to_be_there(field: str):
    assert refusal(jsonl({"prompt": "a"}), **{field: "x"}).startswith("in:1: has no `x`, but prompt;")


@pytest.mark.parametrize(
    ("form", "start", "more"), [("jsonl", b'{"prompt": "', b"a"), ("csv", b'prompt\n"', b"a\n"), ("csv", b"", b'"",')]
)
def test_a_row_without_end_is_refused_before_it_fills_the_memory(
    monkeypatch: pytest.MonkeyPatch, form: Any, start: bytes, more: bytes
):
    monkeypatch.setattr(rows, "LONGEST", 1000)
    stream = io.BytesIO(start + more * 10_000)
    with pytest.raises(InputError, match=r"in:.*this row holds more than"):
        list(read_input_rows(stream, "in", form, {}))
    assert stream.tell() <= 1000 + len(start) + 1


def test_a_row_just_short_enough_is_read(monkeypatch: pytest.MonkeyPatch):
    line = jsonl({"prompt": "a" * 200_000})
    monkeypatch.setattr(rows, "LONGEST", len(line))
    assert [len(row.question.prompt) for row in rows_of(line * 3)] == [200_000] * 3
    assert [len(row.question.prompt) for row in rows_of(b"prompt\n" + b"a" * 200_000, "csv")] == [200_000]


def test_nothing_is_read_ahead():
    def lines() -> Iterator[bytes]:
        yield from (jsonl({"prompt": str(i)}) for i in range(3))
        raise AssertionError("read ahead")

    class Stream:
        source = lines()

        def readline(self, size: int = -1) -> bytes:
            return next(self.source)

    input_rows = read_input_rows(Stream(), "in", "jsonl", {})  # type: ignore[arg-type]
    assert [row.question.prompt for row in islice(input_rows, 3)] == ["0", "1", "2"]


def test_the_form_is_what_the_name_or_the_option_says(tmp_path):
    (tmp_path / "a.CSV").write_text("prompt\na\n")
    (tmp_path / "a.txt").write_text('{"prompt": "a"}\n')
    (tmp_path / "b.txt").write_text("prompt\na\n")
    for name, form in (("a.CSV", None), ("a.txt", None), ("b.txt", "csv")):
        with opened(str(tmp_path / name), form, {}) as input_rows:
            assert list(input_rows) == [InputRow(1, Question("a"))]


def test_a_packed_file_is_unpacked_and_one_that_is_damaged_is_named(tmp_path):
    for name, text in (("a.jsonl.gz", '{"prompt": "a"}\n'), ("a.CSV.GZ", "prompt\na\n")):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.csv.xz").write_bytes(lzma.compress(b"prompt\na\n"))
    for path in sorted(tmp_path.iterdir()):
        with opened(str(path), None, {}) as input_rows:
            assert list(input_rows) == [InputRow(1, Question("a"))]
    whole = (tmp_path / "a.jsonl.gz").read_bytes()
    for damaged in (whole[:-9], whole[:12] + b"\xff" + whole[13:], b'{"prompt": "a"}\n'):
        (tmp_path / "b.jsonl.gz").write_bytes(damaged)
        with (
            opened(str(tmp_path / "b.jsonl.gz"), None, {}) as input_rows,
            pytest.raises(InputError, match="get or make the"),
        ):
            list(input_rows)


def test_a_packed_row_that_would_fill_the_memory_is_refused_while_it_is_unpacked(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b" " * (LONGEST + 1)))
    with (
        opened(str(tmp_path / "a.jsonl.gz"), None, {}) as input_rows,
        pytest.raises(InputError, match="more than 10 MB"),
    ):
        list(input_rows)


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "a\0b"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name: str):
    with pytest.raises(InputError, match="cannot be read"), opened(f"{tmp_path}/{name}", None, {}):
        pass


@given(st.binary(max_size=30))
def test_lines_are_counted_as_they_are_read(tmp_path_factory, content: bytes):
    path = tmp_path_factory.getbasetemp() / "lines"
    path.write_bytes(content)
    assert count_lines(path) == len(io.BytesIO(content).readlines())
