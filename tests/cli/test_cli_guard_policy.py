"""`safereason guard policy`."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from safereason.cli import errors
from safereason.cli.guard_policy import app
from safereason.guard.policy import load, shipped


@pytest.fixture
def run(capsys):
    """Runs the group as the program does; gives the exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = errors.guarded(lambda: app(list(map(str, arguments)), standalone_mode=False))
        return (code, *capsys.readouterr())

    return run


def test_ls_names_every_shipped_policy_with_its_size(run):
    code, out, err = run("ls")
    assert (code, err) == (0, "")
    rows = [line.split()[:2] for line in out.splitlines()[1:]]
    assert rows == [[name, str(len(load(name).categories))] for name in shipped()]
    listed = json.loads(run("ls", "--json")[1])
    assert [entry["name"] for entry in listed] == list(shipped())
    assert listed[0] == {
        "name": "default",
        "categories": 18,
        "title": "RSafe's eighteen categories",
        "source": "RSafe (arXiv 2506.07736)",
    }


def test_show_prints_a_category_a_line(run):
    code, out, _ = run("show", "openai")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [[c.id, c.name] for c in load("openai").categories]
    assert load("openai").categories[0].definition in out


def test_show_json_is_the_policy(run):
    assert json.loads(run("show", "wildguard", "--json")[1]) == json.loads(json.dumps(asdict(load("wildguard"))))


def test_show_yaml_is_a_file_to_start_from(run, tmp_path: Path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(run("show", "default", "--yaml")[1], encoding="utf-8")
    assert load(str(mine)).categories == load("default").categories
    assert load(str(mine)).name == "mine"
    assert run("validate", mine) == (0, f"{mine}: ok, 18 categories\n", "")


def test_json_and_yaml_exclude_each_other(run):
    assert run("show", "default", "--json", "--yaml") == (
        2,
        "",
        "error: --json and --yaml exclude each other; pass one of them\n",
    )


def test_validate_counts_one_category_as_one(run, tmp_path: Path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("title: One\ncategories: [{id: A, name: Rudeness}]\n")
    assert run("validate", mine) == (0, f"{mine}: ok, 1 category\n", "")


@pytest.mark.parametrize("command", ["validate", "show"])
def test_a_mistake_ends_with_2_and_one_line(run, tmp_path: Path, command):
    mine = tmp_path / "mine.yaml"
    mine.write_text("title: One\ncategories:\n  - id: A\n    nmae: Rudeness\n")
    assert run(command, mine) == (
        2,
        "",
        f"error: {mine}:4: categories[0].nmae: unknown key; did you mean name? (and 1 more)\n",
    )


def test_an_unknown_policy_is_answered_with_the_nearest(run):
    assert run("show", "openia") == (2, "", "error: openia: no such policy; did you mean openai?\n")
