"""Formats of test cases: what is written is read back, and the published artifact's rate is recomputed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.attacks.base import TestCase
from safereason.attacks.formats import CASE_FORMATS, CaseRecord, attack_success_rate, read, read_cases, write
from safereason.errors import InputError

PAIR = Path("jailbreakbench/attack-artifacts/PAIR/black_box/llama-2-7b-chat-hf.json")

text = st.text(st.characters(codec="utf-8"), max_size=20)
ids = st.builds("{}/{}".format, st.sampled_from(["harmbench", "sample", "own"]), st.text("abc_0/", min_size=1))
turns = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": text}), max_size=2)
json_values = st.none() | st.booleans() | st.integers() | text | st.lists(text, max_size=2)
details = st.dictionaries(text, json_values, max_size=3)


def case_records(**fixed):
    drawn = {
        "behavior": ids,
        "attack": text,
        "prompt": st.none() | text,
        "turns": turns.map(tuple),
        "prefix": st.none() | text,
        "completion": st.none() | text,
        "generation": st.none() | text,
        "label": st.none() | st.booleans(),
        "details": details,
    }
    return st.builds(CaseRecord, **{**drawn, **fixed})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("formats")


def again(rows: list[CaseRecord], to, folder: Path, name: str = "cases") -> list[CaseRecord]:
    path = folder / f"{name}.json"
    path.write_bytes(write(rows, to).content)
    return read(path)


@given(rows=st.lists(case_records(), min_size=1, max_size=4))
def test_ours_holds_everything(rows: list[CaseRecord], folder: Path):
    assert again(rows, "jsonl", folder) == rows
    assert write(rows, "jsonl").notes == ()


bare = {
    "attack": st.just("gcg"),
    "turns": st.just(()),
    "prefix": st.none(),
    "completion": st.none(),
    "details": st.just({}),
    "prompt": text,
}


@given(rows=st.lists(case_records(**bare), min_size=1, max_size=6))
def test_harmbench_holds_prompts_completions_and_labels(rows: list[CaseRecord], folder: Path):
    by_behavior = sorted(rows, key=lambda row: [r.behavior for r in rows].index(row.behavior))
    assert again(rows, "harmbench", folder, "gcg") == by_behavior


topic = {"goal": "g", "topic": "t", "category": "c", "model": "m"}
of_artifact = {
    **bare,
    "attack": st.just("PAIR"),
    "behavior": st.integers(0, 99).map("jailbreakbench/{}".format),
    "prompt": st.none() | text,
    "details": st.fixed_dictionaries(
        {
            **{key: st.just(value) for key, value in topic.items()},
            **{
                key: st.none() | st.integers(0, 9)
                for key in ("number_of_queries", "queries_to_jailbreak", "prompt_tokens", "response_tokens")
            },
        }
    ),
}


@given(rows=st.lists(case_records(**of_artifact), min_size=1, max_size=4, unique_by=lambda row: row.behavior))
def test_an_artifact_holds_a_row_for_each_behavior_also_without_a_prompt(rows: list[CaseRecord], folder: Path):
    assert again(rows, "jailbreakbench", folder) == rows


keys = st.sampled_from(["behavior", "attack", "prompt", "test_case", "jailbreaks", "parameters", "method", "index"])
documents = st.recursive(
    json_values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=8
)


@given(content=st.binary(max_size=60) | documents.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_read_or_refused_in_one_line(content: bytes, folder: Path):
    path, problem = folder / "any", str(folder / "any")
    path.write_bytes(content)
    rows: list[CaseRecord] = []
    try:
        rows = read(path)
    except InputError as error:
        problem = str(error)
    assert problem.startswith(str(path))
    assert "\n" not in problem
    assert (problem == str(path)) == bool(rows)


def test_the_published_artifact_has_its_own_rate_and_keeps_its_rows(data_home: Path, folder: Path):
    document = json.loads((data_home / PAIR).read_text())
    rows = read(data_home / PAIR)
    assert len(rows) == 100
    assert attack_success_rate(rows) == document["parameters"]["attack_success_rate"]
    assert document["parameters"]["total_number_of_jailbreaks"] > sum(row.label is True for row in rows)
    cases = read_cases(data_home / PAIR)
    assert [case.prompt for case in cases] == [r["prompt"] for r in document["jailbreaks"] if r["prompt"] is not None]
    assert {case.attack for case in cases} == {"PAIR"}
    written = json.loads(write(again(rows, "jsonl", folder), "jailbreakbench").content)
    guard = "jailbroken_llama_guard1"
    assert written["jailbreaks"] == [{k: v for k, v in r.items() if k != guard} for r in document["jailbreaks"]]
    assert written["parameters"]["model"] == "llama-2-7b-chat-hf"
    assert written["parameters"]["total_number_of_queries"] == document["parameters"]["total_number_of_queries"]
    assert written["parameters"]["total_number_of_jailbreaks"] == 0


def test_what_an_artifact_repeats_of_its_behaviors_is_looked_up(data_home: Path):
    own = read(data_home / PAIR)[0].details
    row = CaseRecord("jailbreakbench/0", "pair", "p", label=True, generation="r", details={"queries": 7, "score": 0.5})
    (jailbreak,) = json.loads(write([row], "jailbreakbench").content)["jailbreaks"]
    assert [jailbreak[key] for key in ("goal", "behavior", "category")] == [own["goal"], own["topic"], own["category"]]
    assert jailbreak["number_of_queries"] == 7
    with pytest.raises(InputError, match="jailbreakbench/100: is none of JailbreakBench's"):
        write([CaseRecord("jailbreakbench/100", "pair", "p")], "jailbreakbench")


def test_the_rate_is_over_all_rows_and_unknown_where_a_prompt_was_not_judged():
    hit, miss, none = (
        CaseRecord("a/b", "x", "p", label=True),
        CaseRecord("a/b", "x", "p", label=False),
        CaseRecord("a/b", "x", None),
    )
    assert attack_success_rate([hit, miss, none, none]) == 0.25
    assert attack_success_rate([hit, CaseRecord("a/b", "x", "p")]) is None
    assert attack_success_rate([]) is None


def test_what_harmbench_writes_is_read(tmp_path: Path):
    file = tmp_path / "GCG.json"
    file.write_text(
        json.dumps(
            {
                "one": [{"test_case": "p", "generation": "g", "label": 1, "advbench_label": 0}],
                "two": [{"test_case": "q", "generation": "h", "label": 0}],
                "three": [],
            }
        )
    )
    assert read(file) == [
        CaseRecord("harmbench/one", "GCG", "p", generation="g", label=True, details={"advbench_label": 0}),
        CaseRecord("harmbench/two", "GCG", "q", generation="h", label=False),
        CaseRecord("harmbench/three", "GCG", None),
    ]
    assert read_cases(file) == [
        TestCase("harmbench/one", "GCG", "p", details={"advbench_label": 0}),
        TestCase("harmbench/two", "GCG", "q"),
    ]


def test_a_record_of_a_run_is_read_with_its_further_columns_as_details(tmp_path: Path):
    file = tmp_path / "cases.jsonl"
    record = {
        "behavior": "a/b",
        "attack": "gcg",
        "prompt": "p !",
        "turns": [],
        "prefix": None,
        "completion": None,
        "details": {"loss": 0.5},
        "value": 0.5,
        "queries": 512,
    }
    file.write_text(json.dumps(record))
    assert read(file) == [CaseRecord("a/b", "gcg", "p !", details={"value": 0.5, "queries": 512, "loss": 0.5})]


def test_what_a_format_cannot_hold_is_said():
    turn = {"role": "user", "content": "u"}
    rows = [
        CaseRecord("harmbench/a", "pair", "p", (turn,), "<think>\n", details={"score": 1}),
        CaseRecord("harmbench/a", "pair", "q", prefix="Sure"),
        CaseRecord("harmbench/b", "pair", None),
    ]
    assert write(rows, "harmbench").notes == (
        "left out, as HarmBench's files have no place for it: attack (3), turns (1), prefix (2), details (1)",
        "without a prompt, so that their list is empty: 1",
    )
    assert json.loads(write(rows, "harmbench").content) == {"a": ["p", "q"], "b": []}
    rows = [CaseRecord("jailbreakbench/0", "pair", p, (turn,), details={**topic, "score": 1}) for p in ("p", "q")]
    assert write(rows, "jailbreakbench").notes == (
        "left out, as artifacts have no place for it: turns (1)",
        "further test cases of a behavior, of which an artifact has one: 1",
        "without a label, so that `jailbroken` is null where true or false is expected: 1",
    )
    assert json.loads(write(rows, "jailbreakbench").content)["jailbreaks"][0]["prompt"] == "p"


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            [CaseRecord("jailbreakbench/0", "a", "p"), CaseRecord("jailbreakbench/1", "b", "p")],
            "one attack, and here are a, b",
        ),
        ([CaseRecord("harmbench/x", "a", "p", details=topic)], "harmbench/x: is none of JailbreakBench's"),
    ],
)
def test_what_no_artifact_can_be_of_is_refused(rows: list[CaseRecord], problem: str):
    assert "jailbreakbench" in CASE_FORMATS
    with pytest.raises(InputError, match=problem):
        write(rows, "jailbreakbench")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "holds no test case"),
        ("{}", "holds no test case"),
        ("[1]", "in none of the formats"),
        ('{"a": ["p"], "b": 3}', "in none of the formats"),
        ('{"a": [["p"]]}', "behavior a: test case 1: `test_case` is"),
        ('{"a": [{"generation": "g"}]}', "behavior a: test case 1: `test_case` is None"),
        ('{"a": [{"test_case": "p", "label": 2}]}', "behavior a: test case 1: `label`"),
        ('{"behavior": "a/b", "attack": "x"}\n{"behavior": "a/c"}', "row 1: `prompt`: field required"),
        ('{"behavior": "a/b", "attack": "x", "prompt": 3}\n', "row 1: `prompt`"),
        ('{"behavior": "a/b", "attack": "x", "prompt": "p", "turns": [{"say": "u"}]}\n', "row 1: `turns`"),
        ('{"parameters": {"method": "PAIR"}, "jailbreaks": [{"index": 0, "prompt": null}]}', "no column `jailbroken`"),
        (
            '{"parameters": {"method": "PAIR"}, "jailbreaks": [{"index": 0, "prompt": null, "jailbroken": "perhaps"}]}',
            "jailbreak 1: `jailbroken`",
        ),
        ('{"parameters": {}, "jailbreaks": []}', "name no `method`"),
    ],
)
def test_mistakes_are_said_in_one_line(content: str, problem: str, tmp_path: Path):
    file = tmp_path / "cases"
    file.write_text(content)
    with pytest.raises(InputError, match=problem) as refused:
        read(file)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere\.json: cannot be read"):
        read(tmp_path / "nowhere.json")
