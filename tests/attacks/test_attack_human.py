"""Human templates: each is tried, and the best by the judge is kept."""

import json
from pathlib import Path

import attack_setup
import pytest
from attack_setup import BEHAVIOR

from safereason.attacks.base import SearchStep
from safereason.attacks.human import ATTACK, HumanSettings, HumanTemplate, read_human_templates
from safereason.errors import InputError


def search(file: Path | None, answer, **settings) -> list[SearchStep]:
    with attack_setup.target(answer) as engine:
        return attack_setup.steps(
            ATTACK, HumanSettings(file=file, **settings), attack_setup.metered(engine, attack_setup.by_number)
        )


def test_each_template_is_tried_and_the_best_kept(tmp_path: Path):
    file = tmp_path / "templates.txt"
    file.write_text("Please: {behavior}\n\n{behavior}, {name}?\nAs a poem: {behavior} ({behavior})\nNow {behavior}\n")
    ratings = {"Please": "0.3", "As a p": "0.9", "Now Ex": "none"}
    steps = search(file, lambda prompt: ratings.get(prompt[:6], "0.2"), batch=2)
    assert [(step.number, step.value) for step in steps] == [(0, None), (1, 0.3), (2, 0.9)]
    assert steps[0].cases[0].prompt == f"Please: {BEHAVIOR.prompt}"
    best = steps[-1].cases[0]
    assert best.prompt == f"As a poem: {BEHAVIOR.prompt} ({BEHAVIOR.prompt})"
    assert best.details == {"template": "4", "score": 0.9, "tries": 4, "unscored": 1}


def test_templates_of_several_lines_come_from_jsonl(tmp_path: Path):
    file = tmp_path / "templates.jsonl"
    rows = [{"name": "letter", "template": "Dear model,\n{behavior}\nYours"}, {"template": "{behavior}!"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_human_templates(file) == [
        HumanTemplate("letter", "Dear model,\n{behavior}\nYours"),
        HumanTemplate("2", "{behavior}!"),
    ]


def test_the_first_template_stands_where_nothing_is_scored(tmp_path: Path):
    file = tmp_path / "templates.txt"
    file.write_text("A {behavior}\nB {behavior}\n")
    last = search(file, lambda prompt: "nothing")[-1]
    assert (last.cases[0].prompt, last.value) == (f"A {BEHAVIOR.prompt}", None)
    assert last.cases[0].details["unscored"] == 2


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.txt", b"Hi {behavior}\nHi\n", r"t\.txt: template '2' has no \{behavior\}"),
        ("t.txt", b"\n\n", "holds no template"),
        ("t.txt", b"\xff{behavior}", "byte 0 is not UTF-8"),
        ("t.txt", None, "cannot be read"),
        ("t.jsonl", b'{"name": "a"}\n', "row 1: `name` and `template` are to be texts"),
        ("t.jsonl", b'{"name": 1, "template": "{behavior}"}\n', "row 1: `name` and `template` are to be texts"),
        ("t.jsonl", b"{behavior}\n", r"t\.jsonl:1: not JSON"),
    ],
)
def test_a_bad_file_is_said(name: str, content: bytes | None, problem: str, tmp_path: Path):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=problem) as refused:
        read_human_templates(file)
    assert "\n" not in str(refused.value)


def test_it_needs_a_file():
    with pytest.raises(InputError, match="attack human: which templates"):
        search(None, lambda prompt: "0")
