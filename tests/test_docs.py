"""What README and docs say can be typed, and names what is there."""

import re
import runpy
import shlex
from pathlib import Path
from textwrap import dedent

import pytest
import typer

from safereason.cli.app import app
from safereason.cli.groups import HELP, whole
from safereason.evals import paper
from safereason.recipe import schema
from safereason.recipe.load import load
from safereason.recipe.named import shipped

ROOT = Path(__file__).parent.parent
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
MADE = ("changelog.md", "contributing.md", "security.md")
"""Pages of the site that are files outside of `docs`."""
BLOCK = re.compile(r"^(?: {4})?```(\w+)\n(.*?)^(?: {4})?```$", re.MULTILINE | re.DOTALL)
COMMANDS = typer.main.get_command(app)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands(page: Path) -> list[str]:
    lines = [line.strip() for text in blocks(page, "bash") for line in text.splitlines()]
    return [re.split(r" [|>&] ?", line)[0] for line in lines if line.startswith("safereason ")]


TYPED = [(page.name, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), TYPED)
def test_commands_parse_and_their_recipes_exist(page, command):
    words = shlex.split(command, comments=True)[1:]
    click_command, path = COMMANDS, []
    while hasattr(click_command, "commands"):
        path.append(words.pop(0))
        click_command = whole(click_command.commands[path[-1]])
    context = click_command.make_context(" ".join(path), words)  # a usage error where it cannot be typed
    names = [context.params.get(key) for key in ("recipe", "name", "first", "second")]
    known = {file.stem for file in shipped()}
    assert [name for name in names if name and not name.endswith(".yaml") and name not in known] == []


def test_the_readmes_tables_are_as_the_code_has_them():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert GENERATE["with_tables"](page) == page, "run: python docs/generate.py"
    for section in ("commands", "recipes"):
        assert [page.count(marker) for marker in GENERATE["markers"](section)] == [1, 1]


def test_what_help_lists_is_as_the_code_has_it():
    assert HELP.read_text(encoding="utf-8") == GENERATE["help_texts"](), "run: python docs/generate.py"


def test_the_readme_says_which_commands_are_there():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]*)\|$", GENERATE["commands_table"](), re.M)
    assert {name for name, _, _ in rows} == COMMANDS.commands.keys()
    for name, _, under in rows:
        inner = getattr(whole(COMMANDS.commands[name]), "commands", {})
        assert set(re.findall("`([^`]+)`", under)) == inner.keys(), name


def test_the_readme_says_of_every_recipe_what_it_needs_and_what_to_expect():
    rows = re.findall(r"^\| `([\w.-]+)` \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", GENERATE["recipes_table"](), re.M)
    assert [row[0] for row in rows] == [file.stem for file in shipped()]
    assert ("tars-7b", "Qwen2.5-7B-Instruct", "what tars-1.5b needs") in [row[:3] for row in rows]
    expected = {row[0]: row[3] for row in rows}
    assert expected["baseline-dpo"] == "at λ = 0.5: defence success .801, XSTest compliance .594"
    assert expected["rsafe"] == "no table by dataset could be had"


RECIPES = [(page.name, text) for page in PAGES for text in blocks(page, "yaml") if "extends:" in text]


@pytest.mark.parametrize(("page", "text"), RECIPES)
def test_recipes_in_the_docs_load(page, text, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(dedent(text))
    assert load(str(file)).name == "mine"


def test_links_between_files_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            is_generated = (
                target.startswith(("https://", "reference/", "../reference/")) or target.removeprefix("../") in MADE
            )
            assert is_generated or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_page_on_one_example_names_modules_that_are_there_and_each_once():
    page = (ROOT / "docs" / "one-example.md").read_text(encoding="utf-8")
    modules = re.findall(r"^\| `([\w/]+)` \|", page, re.MULTILINE)
    assert len(modules) > 60
    assert [name for name in modules if not (ROOT / "safereason" / f"{name}.py").exists()] == []
    assert [name for name in modules if modules.count(name) > 1] == []


def test_every_module_that_tells_of_a_deviation_is_listed():
    listed = GENERATE["deviations"]()
    telling = [p for p in (ROOT / "safereason").rglob("*.py") if re.search(r"\bDeviations?:", p.read_text("utf-8"))]
    assert telling
    for path in telling:
        assert f"### `{path.relative_to(ROOT)}" in listed, path


def test_the_papers_figures_are_as_the_code_has_them():
    page = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    assert GENERATE["with_figures"](page) == page, "run: python docs/generate.py"
    assert [page.count(marker) for marker in GENERATE["markers"]("figures")] == [1, 1]


@pytest.mark.parametrize("command", sorted({figure.command for figure in paper.as_printed()}))
def test_what_makes_a_papers_figure_can_be_typed(command):
    test_commands_parse_and_their_recipes_exist("fidelity.md", command)


def test_the_reference_holds_every_key_and_every_recipe():
    keys = GENERATE["recipe_keys"]()
    for section in {*schema.RecipeSection.__subclasses__(), *schema.Training.__subclasses__()} - {schema.Training}:
        assert f"## {section.__name__}\n" in keys
        for name in section.model_fields.keys() - {"name"}:
            assert f"| `{name}` |" in keys
    assert all(f"## {path.stem}\n" in GENERATE["shipped_recipes"]() for path in shipped())
