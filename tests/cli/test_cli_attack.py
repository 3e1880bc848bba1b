"""`safereason attack` as installed."""

import json

import micro
import pytest
from program import safereason, said_once

from safereason.runs.records import read_records


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return micro.save_model(tmp_path_factory.mktemp("target"))


def test_direct_writes_a_run_without_a_model(tmp_path):
    asked = ("attack", "direct", "--behaviors", "sample", "--limit", 3, "--root", tmp_path)
    done = safereason(*asked, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    records = list(read_records(tmp_path / "attack" / "direct" / result["run"].split("/")[-1] / "cases.jsonl"))
    assert len(records) == 3 == result["metrics"]["behaviors"]
    assert {record["attack"] for record in records} == {"direct"}
    assert "behavior 3/3: " in done.stderr
    again = safereason(*asked)
    assert again.returncode == 2
    assert "--resume" in said_once(again)
    assert safereason(*asked, "--resume").returncode == 0


def test_the_list_says_what_each_attack_needs_and_its_settings():
    listed = {entry["name"]: entry for entry in json.loads(safereason("attack", "ls", "--json").stdout)}
    assert listed["direct"] | {"needs": [], "settings": {}} == listed["direct"]
    assert all(setting["about"] for entry in listed.values() for setting in entry["settings"].values())


def test_a_dry_run_says_what_would_be_searched_for(tmp_path):
    asked = ("--behaviors", "sample", "--limit", 4, "--shard", "2/3", "--dry-run", "--root", tmp_path)
    done = safereason("attack", "direct", *asked)
    assert "on 4 behaviors of sample in 1 searches, part 2 of 3" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_attacker_on_the_command_line_comes_before_the_recipes(tmp_path):
    asked = ("attack", "autodan", "--recipe", "tars-1.5b", "--behaviors", "sample", "--model", "org/target")
    assert "attacker mistralai/" in safereason(*asked, "--dry-run", cwd=tmp_path).stdout
    said = safereason(*asked, "--attacker", "org/mine", "--dry-run", cwd=tmp_path).stdout
    assert "attacker org/mine" in said
    assert "mistralai" not in said.split("would do:")[1]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "2", "a/b", "1/0"])
def test_a_shard_that_is_none_is_refused(shard):
    done = safereason("attack", "direct", "--shard", shard)
    assert done.returncode == 2
    assert said_once(done) == f"error: --shard {shard}: I/N is expected, with I from 1 to N, such as 2/8"


def test_a_judge_and_a_model_that_judges_exclude_each_other():
    done = safereason("attack", "direct", "--judge", "refusal", "--judge-model", "org/name")
    assert (done.returncode, "exclude each other" in said_once(done)) == (2, True)
