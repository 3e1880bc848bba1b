"""A rubric's file: what it says, how replies are read, and every mistake in one line."""

from pathlib import Path

import pytest

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges import JudgeSpec, open_judge, rubric
from safereason.judges.base import Verdict
from safereason.judges.rubric import Reply

GOOD = "measures: quality\nprompt: 'Q {request} A {answer}'\nreply: {labels: {good: 1, bad: 0.0}}\n"


def save(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text)
    return path


def test_a_file_says_what_it_measures_and_how_it_is_read(tmp_path: Path):
    read = rubric.load(save(tmp_path, GOOD))
    assert (read.measures, read.prompt, read.model, read.max_new_tokens) == (
        "quality",
        "Q {request} A {answer}",
        None,
        1024,
    )
    assert read.reply == Reply(labels={"good": 1.0, "bad": 0.0})


def test_the_documented_rubric_is_one(tmp_path: Path):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "write-a-rubric.md").read_text()
    read = rubric.load(save(tmp_path, page.partition("```yaml\n")[2].partition("```")[0]))
    assert (read.measures, read.model) == ("refusal", "openai/gpt-4o-mini")
    assert [read.reply.find(f"Because. [[{label}]]") for label in ("gives", "declines", "evades")] == [
        Verdict(0.0, "gives"),
        Verdict(1.0, "declines"),
        Verdict(0.5, "evades"),
    ]


@pytest.mark.parametrize(
    ("reply", "written", "expected"),
    [
        (Reply(labels={"Good": 1.0, "bad": 0.0}), "First [[bad]], no: [[ GOOD ]]", (1.0, "Good")),
        (Reply(labels={"good": 1.0}), "[[better]]", None),
        (Reply(labels={"good": 1.0}), "good", None),
        (Reply(scale=(1, 5)), "[[4]]", (0.75, "4")),
        (Reply(scale=(5, 1)), "[[4]]", (0.25, "4")),
        (Reply(scale=(0, 10)), "[[2.5]]", (0.25, "2.5")),
        (Reply(scale=(1, 5)), "[[0]]", None),
        (Reply(scale=(1, 5)), "[[nan]]", None),
        (Reply(r"verdict:\s*(\w+)\s*$", labels={"yes": 1.0, "no": 0.0}), "Verdict: no", (0.0, "no")),
    ],
)
def test_the_last_that_the_pattern_finds_counts(reply: Reply, written: str, expected: tuple[float, str] | None):
    verdict = reply.find(written)
    assert (verdict and (verdict.score, verdict.label)) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("measures: quality", "measures: joy"), r"own\.yaml:1: measures: should be "),
        (("measures: quality\n", ""), "measures: is missing"),
        (("{answer}", ""), r"own\.yaml:2: prompt: has no \{answer\}; put it where that is to stand"),
        (("labels", "lables"), r"own\.yaml:3: reply\.lables: .*did you mean labels"),
        (("{labels: {good: 1, bad: 0.0}}", "{}"), "reply: says either labels or scale; write one of them"),
        (("bad: 0.0}", "bad: 0.0}, scale: [1, 5]"), "reply: says either labels or scale"),
        (("{labels: {good: 1, bad: 0.0}}", "{scale: [3, 3]}"), "reply: tells nothing apart"),
        (("{labels: {good: 1, bad: 0.0}}", "{labels: {}}"), "reply: tells nothing apart"),
        (("good: 1", "good: 7"), r"reply\.labels\.good: "),
        (("measures: quality", "measures: quality\nmax_new_tokens: 9223372036854775808"), "max_new_tokens: should be "),
        (("{labels: ", "{pattern: '(', labels: "), r"reply\.pattern: is no regular expression"),
        (("{labels: ", "{pattern: 'a', labels: "), r"reply\.pattern: has 0 groups; put what is to be read"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, change: tuple[str, str], message: str):
    with pytest.raises(InputError, match=message) as caught:
        rubric.load(save(tmp_path, GOOD.replace(*change)))
    assert "\n" not in str(caught.value)


def test_a_file_that_names_no_model_or_is_not_there_is_refused(tmp_path: Path):
    path = save(tmp_path, GOOD)
    with pytest.raises(InputError, match=r"names no model; add `model:` to it, or write rubric:.*own\.yaml@MODEL"):
        open_judge(f"rubric:{path}")
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        open_judge("rubric:none.yaml@openai/x")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("a/b.yaml", ("a/b.yaml", "")),
        ("a/b.yml@openai/x", ("a/b.yml", "openai/x")),
        ("me@home/b.yaml@org/x@y", ("me@home/b.yaml", "org/x@y")),
    ],
)
def test_the_model_stands_behind_the_file(spec: str, parts: tuple[str, str]):
    parsed = rubric.RubricSpec.parse(spec)
    assert (parsed.file, parsed.named_model) == (parts[0], (parts[1] and ModelSpec.parse(parts[1])) or None)
    assert str(parsed) == spec


def test_a_rubric_that_changed_is_another_judge(tmp_path: Path):
    path = save(tmp_path, GOOD)
    before = JudgeSpec.parse(f"rubric:{path}@openai/x").identity()
    path.rename(tmp_path / "renamed.yaml")
    assert JudgeSpec.parse(f"rubric:{tmp_path / 'renamed.yaml'}@openai/x").identity() == before
    save(tmp_path, GOOD.replace("Q ", "Question "))
    assert JudgeSpec.parse(f"rubric:{path}@openai/x").identity() != before
    assert JudgeSpec.parse("rubric:none.yaml@openai/x").identity() == "rubric:none.yaml@openai/x"
