"""The words of the code are those of the glossary, and a name means one thing."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from safereason.cli.app import app
from safereason.cli.groups import whole

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "safereason"
TERMS = re.findall(r"^- \*\*(.+?)\.\*\* ", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
PLAIN = {"address", "column", "config", "dir", "field", "file", "gpu", "host", "id", "key", "name", "out", "path"}
PLAIN |= {"text", "url", "value", "what"}
"""Words in the arguments of commands that need no definition here."""
PRIVATE = {"asked", "told", "found", "held", "said", "stands", "places", "wanted"}
"""Words that say nothing about a value; names of variables were made of them once."""


def python_files(*folders: str) -> list[Path]:
    files: list[Path] = []
    for folder in folders:
        files += sorted((ROOT / folder).rglob("*.py"))
    return files


def own_text() -> str:
    """The package, the recipes and the pages, without the glossary itself."""
    pages = [page for page in (ROOT / "docs").rglob("*.md") if page.name != "glossary.md"]
    files = [*python_files("safereason"), *(ROOT / "recipes").glob("*.yaml"), *pages, ROOT / "README.md"]
    return "\n".join(file.read_text(encoding="utf-8") for file in files).lower()


def test_each_term_is_defined_once():
    assert len(TERMS) > 80
    assert len(TERMS) == len(set(TERMS))


def test_each_term_is_in_use():
    text = " ".join(own_text().split())
    unused = []
    for term in TERMS:
        # An abbreviation stands behind its term in brackets.
        word = term.partition(" (")[0].lower()
        plural = f"{word.removesuffix('y')}ies"
        if not re.search(rf"\b(?:{re.escape(word)}s?|{re.escape(plural)})\b", text):
            unused.append(term)
    assert unused == []


def metavars() -> Iterator[tuple[str, str]]:
    """Each command with the metavars of its arguments and options."""
    commands = [("safereason", typer.main.get_command(app))]
    while commands:
        path, command = commands.pop()
        for name, inner in getattr(command, "commands", {}).items():
            commands.append((f"{path} {name}", whole(inner)))
        for parameter in command.params:
            if parameter.metavar:
                yield path, parameter.metavar


def test_arguments_of_commands_are_called_by_the_glossarys_words():
    known = {term.lower() for term in TERMS} | PLAIN | {"model"}
    unknown = set()
    everywhere = list(metavars())
    assert len({path for path, _ in everywhere}) > 20, "commands whose modules are not imported yet have no metavars"
    for path, metavar in everywhere:
        for word in re.findall(r"[A-Z]{3,}", metavar):
            if word.lower() not in known:
                unknown.add(f"{path}: {word}")
    assert unknown == set()


def defined_types(file: Path) -> Iterator[str]:
    """The classes of a file, and its aliases of types."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name
    for node in tree.body:
        targets = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            # A constant is in capitals, and a type variable of one letter belongs to its file.
            if isinstance(target, ast.Name) and re.match(r"[A-Z]\w*[a-z]", target.id):
                yield target.id


def test_a_class_or_an_alias_has_a_name_of_its_own():
    files_by_name = defaultdict(set)
    options_by_name = defaultdict(set)
    for file in python_files("safereason"):
        # Options of the command line are aliases, too. Several commands may have an option of one name.
        is_of_commands = file.parent == PACKAGE / "cli"
        names = options_by_name if is_of_commands else files_by_name
        for name in defined_types(file):
            names[name].add(str(file.relative_to(PACKAGE)))
    assert {name: files for name, files in files_by_name.items() if len(files) > 1} == {}
    assert files_by_name.keys() & options_by_name.keys() == set()


def stored_names(file: Path) -> Iterator[str]:
    """The variables, parameters and functions of a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name


@pytest.mark.parametrize("folder", ["safereason", "docs", "benchmarks", "tests"])
def test_names_say_what_they_hold(folder):
    private = []
    for file in python_files(folder):
        for name in stored_names(file):
            if name.strip("_").lower() in PRIVATE:
                private.append(f"{file.relative_to(ROOT)}: {name}")
    assert private == []
