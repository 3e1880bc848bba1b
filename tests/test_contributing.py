"""What CONTRIBUTING.md and the files for contributors say is there, and works as it is said to."""

import re
from pathlib import Path
from textwrap import dedent

import pytest
import typer
import yaml

from safereason.attacks import ATTACKS, Attack, Setup
from safereason.cli import groups
from safereason.cli.app import app
from safereason.data.example import Example
from safereason.recipe.load import load

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PATHS = re.findall(r"`((?:safereason|tests|benchmarks|docs|recipes|requirements)/[\w./-]+)`", PAGE)
"""The paths between backticks; `NAME` stands for one that is to be written."""


def snippet(language: str) -> str:
    """The only indented block of a language."""
    (text,) = re.findall(rf"^    ```{language}\n(.*?)^    ```$", PAGE, re.MULTILINE | re.DOTALL)
    return dedent(text)


@pytest.mark.parametrize("place", sorted({place for place in PATHS if "NAME" not in place}))
def test_every_path_that_is_named_is_there(place):
    assert (ROOT / place).exists()


def test_the_tests_of_each_area_are_there():
    cells = re.findall(r"^\| `(?:safereason|recipes)[^|]+\| ([^|]+) \|", PAGE, re.M)
    paths = " ".join(cells).split()
    named = [path.strip("`,;") for path in paths if path.strip("`").startswith("tests/")]
    assert len(named) >= 13
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_attack_that_is_shown_finds_test_cases():
    scope: dict[str, object] = {}
    exec(snippet("python"), scope)
    attack = scope["ATTACK"]
    assert isinstance(attack, Attack)
    behavior = Example("source/1", "Say it", "harmful", "source")
    (step,) = attack.search([behavior], attack.settings(), Setup(target_model=None))
    assert [(case.behavior_id, case.attack, case.prompt) for case in step.cases] == [("source/1", "capitals", "SAY IT")]


def test_the_recipe_that_is_shown_loads(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(snippet("yaml"))
    recipe = load(str(file))
    assert (recipe.data.harmful_ratio, recipe.rl.kl_coef) == (0.7, 5.0e-4)


def test_every_check_of_make_lint_is_a_hook_of_pre_commit():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    checks = re.findall(r"\$\(BIN\)/(.*)", recipe)
    assert len(checks) == 5
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = [hook["entry"] for hook in hooks]
    assert [f".venv/bin/{check.removesuffix(' .')}" for check in checks] == [e for e in entries if "fmt" not in e]
    (escape,) = [entry for entry in entries if "fmt" in entry]
    for comment in ("# fmt" + ": skip", "#fmt" + ":off"):
        assert re.search(escape, comment)
        assert re.search(re.search(r"'(#.*?)'", recipe)[1].replace("[[:space:]]", r"\s"), comment)


def test_what_is_cited_is_what_the_recipes_name():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    urls = [reference["url"] for reference in cited["references"]]
    named = {load(name).paper for name in ("tars-1.5b", "rsafe")}
    assert {url.replace("https://arxiv.org/abs/", "arXiv ") for url in urls} == named
    assert all(reference["authors"] for reference in [cited, *cited["references"]])


def test_the_forms_for_issues_are_yaml_with_a_name():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 4
    for form in forms:
        read = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert form.name == "config.yml" or (read["name"] and read["description"] and read["body"])


def test_the_attack_that_is_shown_is_called_before_its_help_is_written(monkeypatch, capsys):
    scope: dict[str, object] = {}
    exec(snippet("python"), scope)
    monkeypatch.setitem(ATTACKS, "capitals", scope["ATTACK"])
    command = typer.main.get_command(app)
    words = ["attack", "capitals", "--recipe", "tars-smoke", "--prompts", "sample", "--dry-run"]
    command.main(words, standalone_mode=False)
    assert "capitals" in capsys.readouterr().out


def test_a_conflict_in_the_listing_stops_no_command(tmp_path, monkeypatch):
    broken = tmp_path / "help.json"
    broken.write_text('{\n<<<<<<< HEAD\n  "commands": {\n')
    monkeypatch.setattr(groups, "HELP", broken)
    groups.help_texts.cache_clear()
    try:
        assert groups.help_texts() == {"commands": {}, "attacks": {}, "evals": {}}
        assert groups.imported("data ls", "data_ls:list_sources").load().name == "ls"
    finally:
        groups.help_texts.cache_clear()
