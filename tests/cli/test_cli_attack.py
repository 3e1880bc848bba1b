"""`safereason attack` as installed."""

import json
import shutil

import micro
import pytest
from program import refusal_line, safereason

from safereason.runs.records import read_records


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return micro.save_model(tmp_path_factory.mktemp("target"))


def test_direct_writes_a_run_without_a_model(tmp_path):
    arguments = ("attack", "direct", "--prompts", "sample", "--limit", 3, "--root", tmp_path)
    done = safereason(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    records = list(read_records(tmp_path / "attack" / "direct" / result["run"].split("/")[-1] / "cases.jsonl"))
    assert len(records) == 3 == result["metrics"]["behaviors"]
    assert {record["attack"] for record in records} == {"direct"}
    assert "behavior 3/3: " in done.stderr
    again = safereason(*arguments, "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, result)
    assert "finished before, so that its result is shown" in again.stderr


def test_the_list_says_what_each_attack_needs_and_its_settings():
    listed = {entry["name"]: entry for entry in json.loads(safereason("attack", "ls", "--json").stdout)}
    assert listed["direct"] | {"needs": [], "settings": {}} == listed["direct"]
    assert all(setting["about"] for entry in listed.values() for setting in entry["settings"].values())


def test_a_dry_run_says_what_would_be_searched_for(tmp_path):
    arguments = ("--prompts", "sample", "--limit", 4, "--shard", "2/3", "--dry-run", "--root", tmp_path)
    done = safereason("attack", "direct", *arguments)
    assert "on 4 behaviors of sample in 1 searches, part 2 of 3" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_attacker_on_the_command_line_comes_before_the_recipes(behaviors, tmp_path):
    arguments = ("attack", "autodan", "--recipe", "tars-1.5b", "--prompts", behaviors, "--model", "org/target")
    assert "attacker mistralai/" in safereason(*arguments, "--dry-run", cwd=tmp_path).stdout
    stdout = safereason(*arguments, "--attacker", "org/mine", "--dry-run", cwd=tmp_path).stdout
    assert "attacker org/mine" in stdout
    assert "mistralai" not in stdout.split("would do:")[1]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "2", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(shard):
    done = safereason("attack", "direct", "--shard", shard)
    assert done.returncode == 2
    assert refusal_line(done) == f"error: --shard {shard}: I/N is expected, with I from 1 to N, such as 2/8"


def test_a_judge_and_a_model_that_judges_exclude_each_other():
    done = safereason("attack", "direct", "--judge", "refusal", "--judge-model", "org/name")
    assert (done.returncode, "exclude each other" in refusal_line(done)) == (2, True)


SEARCH = ("gcg.steps=1", "gcg.width=4", "gcg.top_k=4")
"""Settings, in the spelling that `attack` has."""


@pytest.fixture(scope="module")
def behaviors(tmp_path_factory):
    path = tmp_path_factory.mktemp("behaviors") / "behaviors.jsonl"
    rows = [
        {
            "id": f"mine/{i}",
            "prompt": f"Request number {i}",
            "kind": "harmful",
            "source": "mine",
            "target": "Sure, here is",
        }
        for i in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def searched(model, behaviors, tmp_path_factory):
    """The root of a search that has finished."""
    root = tmp_path_factory.mktemp("searched")
    done = safereason("attack", "gcg", "--model", model, "--prompts", behaviors, "--limit", 2, *SEARCH, "--root", root)
    assert done.returncode == 0, done.stderr
    return root


JUDGED = ("--judge", "refusal", "eval.sampling.max_new_tokens=8", "eval.sampling.temperature=1")
"""The judge `refusal` scores whatever is written, and at temperature 1 the micro model writes more than line breaks."""


def measured(model, behaviors, root, *more):
    named = ("--model", model, "--prompts", behaviors, "--limit", 2, "--root", root, "--attacks", "direct,gcg")
    return safereason("eval", "harmbench", *named, *JUDGED, *more)


@pytest.mark.parametrize("prefix", ["", "attack.settings."])
def test_an_evaluation_uses_the_search_that_was_made_with_the_same_settings(
    model, behaviors, searched, tmp_path, prefix
):
    (run,) = (searched / "attack" / "gcg").iterdir()
    done = measured(model, behaviors, searched, *(f"{prefix}{text}" for text in SEARCH), "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "behavior 1/2" not in done.stderr  # no search
    assert list((searched / "attack" / "gcg").iterdir()) == [run]
    prompts = {record["prompt"] for record in read_records(run / "cases.jsonl")}
    attacked = [r["prompt"] for r in read_records(tmp_path / "run" / "completions.jsonl") if r["attack"] == "gcg"]
    assert set(attacked) == prompts


def test_an_evaluation_that_searches_anew_says_what_is_there_and_how_to_use_it(model, behaviors, searched, tmp_path):
    (run,) = (searched / "attack" / "gcg").iterdir()
    root = tmp_path / "runs"
    shutil.copytree(searched / "attack", root / "attack")
    there = root / "attack" / "gcg" / run.name
    done = measured(model, behaviors, root, "gcg.steps=0", "gcg.width=4", "gcg.top_k=4")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "searches anew" in line]
    assert line == (
        f"attack gcg: searches anew, since {there} was made otherwise (settings.steps 1 there, 0 here); "
        f"--cases {there} measures what that found; gcg.steps=1 uses it as it is"
    )
    used = measured(model, behaviors, root, "gcg.steps=0", "gcg.width=4", "gcg.top_k=4", "gcg.steps=1")
    assert used.returncode == 0, used.stderr
    assert "searches anew" not in used.stderr
    named = ("--model", model, "--prompts", behaviors, "--cases", there, "--root", root, "--json")
    by_cases = safereason("eval", "harmbench", *named, *JUDGED)
    assert by_cases.returncode == 0, by_cases.stderr
    assert json.loads(by_cases.stdout)["metrics"]["attacks"] == ["gcg"]


def test_a_directory_without_test_cases_is_refused(model, behaviors, tmp_path):
    done = safereason("eval", "harmbench", "--model", model, "--prompts", behaviors, "--cases", tmp_path)
    assert done.returncode == 2
    assert (
        refusal_line(done)
        == f"error: {tmp_path}: holds no cases.jsonl; name a run of an attack, or a file of test cases"
    )
