"""What README and docs say can be typed, and names what is there."""

import re
import runpy
import shlex
from pathlib import Path
from textwrap import dedent

import pytest
import typer

from safereason.cli.app import app
from safereason.evals import paper
from safereason.recipe import schema
from safereason.recipe.load import load, shipped

ROOT = Path(__file__).parent.parent
GENERATE = runpy.run_path(str(ROOT / "docs" / "generate.py"))
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
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
    found, path = COMMANDS, []
    while hasattr(found, "commands"):
        path.append(words.pop(0))
        found = found.commands[path[-1]]
    context = found.make_context(" ".join(path), words)  # a usage error where it cannot be typed
    names = [context.params.get(key) for key in ("recipe", "name", "first", "second")]
    known = {file.stem for file in shipped()}
    assert [name for name in names if name and not name.endswith(".yaml") and name not in known] == []


def test_the_readme_says_which_commands_are_there():
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*)\| ([^|]*)\|$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    listed = {
        name: (set(re.findall("`([^`]+)`", there)), set(re.findall("`([^`]+)`", missing)))
        for name, there, missing in rows
        if name in COMMANDS.commands
    }
    assert listed.keys() == COMMANDS.commands.keys()
    for name, (there, missing) in listed.items():
        inner = getattr(COMMANDS.commands[name], "commands", {})
        pending = {key for key, command in inner.items() if command.context_settings.get("ignore_unknown_options")}
        assert (there, missing) == (inner.keys() - pending, pending), name


def test_the_readme_lists_every_recipe():
    listed = re.findall(r"^\| `([\w.-]+)` \| [^|]+\| [^|]+\| [^|]+\|$", (ROOT / "README.md").read_text(), re.M)
    assert set(listed) == {file.stem for file in shipped()}


RECIPES = [(page.name, text) for page in PAGES for text in blocks(page, "yaml") if "extends:" in text]


@pytest.mark.parametrize(("page", "text"), RECIPES)
def test_recipes_in_the_docs_load(page, text, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(dedent(text))
    assert load(str(file)).name == "mine"


def test_links_between_files_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            made = target.startswith(("https://", "reference/")) or target == "changelog.md"
            assert made or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_module_that_tells_of_a_deviation_is_listed():
    listed = GENERATE["deviations"]()
    telling = [p for p in (ROOT / "safereason").rglob("*.py") if re.search(r"\bDeviations?:", p.read_text("utf-8"))]
    assert telling
    for path in telling:
        assert f"### `{path.relative_to(ROOT)}" in listed, path


def test_the_papers_figures_are_as_the_code_has_them():
    page = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
    assert GENERATE["with_figures"](page) == page, "run: python docs/generate.py"
    assert page.count(GENERATE["FIGURES"][0]) == page.count(GENERATE["FIGURES"][1]) == 1


@pytest.mark.parametrize("command", sorted({figure.command for figure in paper.as_printed()}))
def test_what_makes_a_papers_figure_can_be_typed(command):
    test_commands_parse_and_their_recipes_exist("fidelity.md", command)


def test_the_reference_holds_every_key_and_every_recipe():
    keys = GENERATE["recipe_keys"]()
    for section in {*schema.Section.__subclasses__(), *schema.Training.__subclasses__()} - {schema.Training}:
        assert f"## {section.__name__}\n" in keys
        for name in section.model_fields.keys() - {"name"}:
            assert f"| `{name}` |" in keys
    assert all(f"## {path.stem}\n" in GENERATE["shipped_recipes"]() for path in shipped())
