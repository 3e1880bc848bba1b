import re
from collections import Counter

import pytest

from safereason.data import sources
from safereason.data.sampling import fold
from safereason.data.sources import sample
from safereason.guard import policy
from safereason.runs.records import read_records
from safereason.text import reasoning, verdict

SPLITS = ("train", "test")
SOURCE = sources.get("sample-verdicts")
ROWS = list(read_records(sample.FOLDER / "verdicts.jsonl"))


@pytest.mark.parametrize(
    ("split", "task", "kinds"),
    [
        ("train", "prompt", {"harmful": 110, "harmless": 55, "ambiguous": 55}),
        ("test", "prompt", {"harmful": 40, "harmless": 20, "ambiguous": 20}),
        ("train", "response", {"harmful": 20, "harmless": 12, "ambiguous": 8}),
        ("test", "response", {"harmful": 10, "harmless": 6, "ambiguous": 4}),
    ],
)
def test_each_task_of_each_split_has_as_many_safe_as_unsafe_rows(split, task, kinds):
    rows = [e for e in SOURCE.load(split) if (e.response is None) == (task == "prompt")]
    assert Counter(e.kind for e in rows) == kinds
    assert Counter(e.label for e in rows) == {"safe": len(rows) / 2, "unsafe": len(rows) / 2}


@pytest.mark.parametrize("split", SPLITS)
def test_a_prompt_is_the_samples_of_the_same_split(split):
    of_sample = {(e.id, e.prompt, e.kind) for e in sample.SOURCE.load(split)}
    named = {("/".join(["sample", e.id.split("/")[1]]), e.prompt, e.kind) for e in SOURCE.load(split)}
    assert named
    assert named <= of_sample


def test_a_prompts_label_is_its_kinds():
    prompts = [e for split in SPLITS for e in SOURCE.load(split) if e.response is None]
    assert all((e.label == "unsafe") == (e.kind == "harmful") for e in prompts)


def test_every_prompt_with_a_response_has_a_safe_and_an_unsafe_one():
    by_prompt = {}
    for example in (e for split in SPLITS for e in SOURCE.load(split) if e.response is not None):
        by_prompt.setdefault(example.prompt, []).append(example.label)
    assert len(by_prompt) == 30
    assert all(sorted(labels) == ["safe", "unsafe"] for labels in by_prompt.values())


def test_no_prompt_is_in_both_splits():
    train, test = ({fold(e.prompt) for e in SOURCE.load(split)} for split in SPLITS)
    assert train
    assert test
    assert not train & test


def test_every_row_of_the_file_is_served_once_under_an_id_of_its_own():
    served = [e.id for split in SPLITS for e in SOURCE.load(split)]
    assert sorted(served) == sorted(f"sample-verdicts/{row['id']}" for row in ROWS)
    assert len(set(served)) == len(served) == 360


def test_no_reasoning_and_no_response_is_said_twice():
    for column in ("reasoning", "response"):
        texts = [fold(row[column]) for row in ROWS if column in row]
        assert len(set(texts)) == len(texts)


def test_reasoning_is_brief_varied_and_leaves_the_verdict_to_the_answer():
    texts = [row["reasoning"] for row in ROWS]
    assert all(8 <= len(text.split()) <= 25 for text in texts)
    assert max(Counter(" ".join(text.split()[:3]) for text in texts).values()) <= 3
    assert not [text for text in texts if re.search(r"boxed|verdict|categories:|think>|\bU\d", text, re.IGNORECASE)]


def test_unsafe_rows_name_one_or_two_categories_of_the_default_policy_and_safe_rows_none():
    known = {category.id for category in policy.load("default").categories}
    for row in ROWS:
        names = row["categories"]
        assert len(names) in ((1, 2) if row["label"] == "unsafe" else (0,))
        assert len(set(names)) == len(names)
        assert set(names) <= known


@pytest.mark.parametrize("split", SPLITS)
def test_an_answer_is_what_a_guard_ends_with(split):
    for example in SOURCE.traces(split):
        text = reasoning.join(example.reasoning, example.answer)
        assert verdict.is_well_formed(text)
        assert verdict.parse(text) == example.label
        assert reasoning.split(text, strict=True).reasoning == example.reasoning
        named = example.answer.rpartition(verdict.BOX)[0]
        expected = f"Categories: {example.category.replace(';', ',')}\n\n" if example.label == "unsafe" else ""
        assert named == expected


@pytest.mark.parametrize("split", SPLITS)
def test_traces_are_the_prompts_and_their_reasoning(split):
    plain, traces = SOURCE.load(split), SOURCE.traces(split)
    assert [(t.id, t.prompt, t.response, t.label) for t in traces] == [
        (e.id, e.prompt, e.response, e.label) for e in plain
    ]
    assert not any(e.reasoning or e.answer for e in plain)
