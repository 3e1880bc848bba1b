"""Files checked row by row: exactly the bad rows are named, by their lines, in bounded memory."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safereason.data import verify
from safereason.data.example import Example, write_parquet
from safereason.data.verify import Problem, VerifyCounts, check_rows
from safereason.errors import InputError

GOOD = {"id": "mine/1", "prompt": "How do I kill a process?", "kind": "ambiguous", "source": "mine"}


def line(**changes: object) -> bytes:
    row = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    return json.dumps(row).encode()


BAD = {
    "not JSON": b'{"id": "mine/1",',
    "not UTF-8": '{"id": "mine/1", "prompt": "é"}'.encode("latin-1"),
    "not an object": b'["id", "prompt"]',
    "no column …": line(prompt=...),
    "unknown column …": line(colour="red"),
    "`prompt` is a number": line(prompt=5),
    "`id` is null": line(id=None),
    "`prompt` is empty": line(prompt=" \n"),
    "`kind` is …": line(kind="evil; or 'worse'"),
    "`label` is …": line(label="maybe"),
    "`reasoning` without `answer`": line(reasoning="Think."),
    "`reasoning` is blank": line(reasoning=" ", answer="No."),
    "`answer` is blank": line(reasoning="Think.", answer="\n"),
    "`reasoning` holds <think>": line(reasoning="<think>\nThink.", answer="No."),
    "`answer` holds </think>": line(reasoning="Think.", answer="No.</think>"),
    "`prompt` holds half of a surrogate pair": line(prompt="a\ud800"),
}
"""A row of each kind of problem."""


def problems_of(path: Path) -> tuple[list[Problem], VerifyCounts]:
    tally = VerifyCounts()
    return list(check_rows(path, tally)), tally


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_with_what_is_wrong(tmp_path, kind):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line(id="mine/0") + b"\n\n" + BAD[kind] + b"\n" + line(id="mine/9") + b"\n")
    problems, tally = problems_of(path)
    assert [(p.line, p.kind) for p in problems] == [(3, kind)]
    assert (tally.rows, tally.bad, dict(tally.kinds)) == (3, 1, {kind: 1})


def good(number: int, prompt: str) -> dict[str, object]:
    return {**GOOD, "id": f"mine/{number}", "prompt": prompt}


TEXT = st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip)
PLANTED = st.lists(
    st.one_of(
        st.builds(lambda text, plain: (text, plain), TEXT, st.booleans()),
        st.sampled_from([*BAD, "blank", "again"]),
    ),
    max_size=12,
)


@settings(max_examples=150)
@given(planted=PLANTED, ends_with_newline=st.booleans(), mark=st.booleans())
def test_exactly_the_planted_lines_are_reported(tmp_path_factory, planted, ends_with_newline, mark):
    lines, expected, first = [], [], None
    for number, plant in enumerate(planted, start=1):
        if isinstance(plant, tuple):
            text, plain = plant
            lines.append(json.dumps(good(number, text), ensure_ascii=plain).encode())
            first = first or number
        elif plant == "blank":
            lines.append(b" \t")
        elif plant == "again":
            lines.append(line(id=f"mine/{first or number}"))
            expected += [number] if first else []
            first = first or number
        else:
            lines.append(BAD[plant].replace(b'"mine/1"', b'"bad/%d"' % number))
            expected.append(number)
    content = (b"\xef\xbb\xbf" if mark else b"") + b"\n".join(lines)
    path = tmp_path_factory.mktemp("planted") / "rows.jsonl"
    path.write_bytes(content + b"\n" if ends_with_newline else content)
    problems, tally = problems_of(path)
    assert [problem.line for problem in problems] == expected
    assert tally.bad == len(expected) == tally.kinds.total()
    assert tally.rows == sum(plant != "blank" for plant in planted)


def test_a_repeated_id_names_its_first_line_even_where_that_row_is_bad_itself(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join((line(id="a"), line(id="b", kind="evil"), line(id="b"), line(id="b", label="no"))))
    problems, tally = problems_of(path)
    assert [(p.line, p.kind) for p in problems] == [
        (2, "`kind` is …"),
        (3, "the `id` of an earlier row"),
        (4, "`label` is …"),
        (4, "the `id` of an earlier row"),
    ]
    assert problems[1].text == "`id` 'b' is that of line 2 too"
    assert tally.bad == 3


@pytest.mark.parametrize("torn", [b'{"id": "x', b'{"id": "\xc3', b"["])
def test_a_torn_last_line_is_called_so(tmp_path, torn):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line() + b"\n" + torn)
    assert [(p.line, p.text) for p in problems_of(path)[0]] == [(2, "torn: the file ends inside this row")]
    path.write_bytes(line() + b"\n" + torn + b"\n")
    assert [p.kind for p in problems_of(path)[0]] in (["not JSON"], ["not UTF-8"])


def test_a_line_that_is_too_long_is_passed_over_and_the_next_ones_keep_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "LONGEST_ROW", 200)
    path = tmp_path / "rows.jsonl"
    exact = line(prompt="x" * (199 - len(line(prompt=""))))  # and its newline
    path.write_bytes(b"\n".join((line(id="a"), line(id="b", prompt="x" * 1000), exact, b"{", line(prompt="x" * 300))))
    problems, tally = problems_of(path)
    assert [(p.line, p.kind) for p in problems] == [(2, "too long"), (4, "not JSON"), (5, "too long")]
    assert tally.rows == 5


def test_json_that_no_parser_takes_is_no_crash(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"[" * 300_000 + b"\n" + b"9" * 5000 + b"\n" + b'{"id": NaN}\n')
    assert [p.kind for p in problems_of(path)[0]] == ["not JSON", "not JSON", "no column …"]


def test_a_problem_does_not_repeat_a_value_of_any_length(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line(kind="k" * 100_000) + b"\n" + line(id="b", **{"c" * 100_000: "x"}) + b"\n")
    problems, _ = problems_of(path)
    assert all(len(p.text) <= verify.SHOWN_CHARS + 1 for p in problems)
    assert [p.kind for p in problems] == ["`kind` is …", "unknown column …"]


def test_parquet_rows_are_checked_as_lines_are(tmp_path):
    path = tmp_path / "rows.parquet"
    rows = [GOOD, {**GOOD, "id": "b", "kind": "evil"}, {**GOOD, "id": "c"}, GOOD]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert [(p.line, p.kind) for p in problems_of(path)[0]] == [(2, "`kind` is …"), (4, "the `id` of an earlier row")]


@pytest.mark.parametrize("bad", [0, 1500, 2047])
def test_text_in_parquet_that_is_not_utf8_is_one_row(tmp_path, bad):
    ids = pa.array([str(n) for n in range(2048)])
    prompts = pa.array([b"\xff" if n == bad else b"Hi" for n in range(2048)], pa.binary()).view(pa.string())
    same = {name: pa.array(["harmless"] * 2048) for name in ("kind", "source")}
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": ids, "prompt": prompts, **same}), path)
    problems, tally = problems_of(path)
    assert [(p.line, p.kind) for p in problems] == [(bad + 1, "not UTF-8")]
    assert tally.rows == 2048


def test_a_parquet_file_that_is_cut_short_is_one_error(tmp_path):
    path = tmp_path / "rows.parquet"
    write_parquet(path, [Example(**GOOD)])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="not a whole parquet file"):
        problems_of(path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv.gz", "rows.json"])
def test_the_rows_of_other_files_are_checked_too(tmp_path, name):
    path = tmp_path / name
    rows = [GOOD, {**GOOD, "id": "b", "kind": "evil"}, {**GOOD, "id": "c", "prompt": " "}, GOOD]
    if name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        text = "\n".join((",\t"[".tsv" in name]).join(cells) for cells in (GOOD, *(row.values() for row in rows)))
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    problems, tally = problems_of(path)
    assert [(p.line, p.kind) for p in problems] == [
        (2, "`kind` is …"),
        (3, "`prompt` is empty"),
        (4, "the `id` of an earlier row"),
    ]
    assert problems[0].text.startswith("`kind` is 'evil'; ")
    assert tally.rows == 4


def test_a_described_file_is_checked_row_by_row(tmp_path):
    (tmp_path / "mine.csv").write_text("no,question,answer\n1,Why?,\n2, ,\n3,How?,So.</think>\n1,Who?,\n")
    path = tmp_path / "mine.yaml"
    path.write_text("file: mine.csv\ncolumns: {id: no, prompt: question, answer: answer}\nkind: harmless\n")
    problems, tally = problems_of(path)
    assert [(p.line, p.kind) for p in problems] == [
        (2, "`question` is blank"),
        (3, "`answer` holds </think>"),
        (4, "the `id` of an earlier row"),
    ]
    assert (tally.rows, tally.bad) == (4, 3)


@pytest.mark.parametrize("name", ["rows.txt", "missing.csv", "missing.yaml", "missing.jsonl", "missing.parquet"])
def test_what_cannot_be_read_at_all_is_one_error(tmp_path, name):
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(InputError, match=str(tmp_path / name)):
        problems_of(tmp_path / name)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_memory_does_not_grow_with_the_texts(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(verify, "BATCH", 2)
    path = tmp_path / f"rows{suffix}"
    long = [Example(**{**GOOD, "id": str(n), "prompt": f"{n} " * 100_000}) for n in range(100, 150)]
    if suffix == ".jsonl":
        path.write_bytes(b"".join(line(id=e.id, prompt=e.prompt) + b"\n" for e in long))
    else:
        pq.write_table(pa.Table.from_pylist([{**GOOD, "id": e.id, "prompt": e.prompt} for e in long]), path)
    del long
    tracemalloc.start()
    try:
        _, tally = problems_of(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tally.rows == 50
    # The file holds 20 MB.
    assert peak < 5 << 20
