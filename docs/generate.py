"""Hook of mkdocs: the pages of the reference, written from the code at every build, so that they cannot go stale.

It makes the recipe's keys from the schema, the shipped recipes from their files, the command line from its own help,
the names of sources, evals, attacks and judges from the registries, and the list of deviations from docstrings.

    python docs/generate.py        writes what is also read elsewhere: the papers' tables and figures in fidelity.md,
                                   the tables of commands and recipes in README.md, and what `--help` lists without
                                   importing a command, in safereason/cli/help.json
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import reload
from inspect import getsource
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import safereason
from safereason.attacks import ATTACKS
from safereason.cli import attack, catalog, eval, groups
from safereason.cli.app import app
from safereason.data.sources import SOURCES
from safereason.evals import EVALS
from safereason.evals.metrics import OVERALL
from safereason.evals.paper import PaperFigure, as_printed
from safereason.evals.paper_locations import PAPER_LOCATIONS, PaperLocation
from safereason.recipe import schema
from safereason.recipe.load import load
from safereason.recipe.named import shipped

RECIPE_INTRODUCTION = """# A recipe's keys

Written from `safereason/recipe/schema.py`. A key that is not listed here is refused, but for `extends`: it names a
parent (a shipped recipe or a file) whose values hold where the recipe says nothing. *required* means that the recipe or
a parent has to set it.
"""
RECIPES_INTRODUCTION = """# Shipped recipes

`safereason recipe cp NAME FILE` copies one, `safereason recipe show NAME --sources` prints it resolved.
"""
COMMANDS_INTRODUCTION = """# The command line

As `--help` prints it.
"""
NO_EVIDENCE = (
    "# Evidence\n\nNot measured in this checkout yet: `make evidence` trains over three seeds and writes this page.\n"
)
PACKAGE = Path(safereason.__file__).parent
ROOT = Path(__file__).parent.parent
DEVIATIONS = "<!-- deviations -->"
WIDEST = 3
"""Most columns of figures in a table."""
HEADING = re.compile(r"(?:^\s*|\. )(?:Deviations?|Where this differs from [^:]*):", re.MULTILINE)
NAMED_BY_FILE = (schema.Recipe, "name")
"""The one field that is no key: a recipe has the name of its file."""
SIMPLE_TYPES: dict[type, str] = {int: "integer", float: "number", str: "text", bool: "true or false"}
SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
"""Signs of pydantic's constraints."""
NUMBER = re.compile(r"(?:^\s*(\d+)\. |\((\d+)\) )", re.MULTILINE)
CLAUSE_END = re.compile(r"[;.](?=\s|$)")
ASIDE = re.compile(r"\s*\([^)]*\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The configuration with every page of `how-to/` in the navigation."""
    pages = [f"how-to/{path.name}" for path in sorted((ROOT / "docs" / "how-to").glob("*.md"))]
    for entry in config.nav or ():
        if isinstance(entry, dict) and "How-to" in entry:
            entry["How-to"] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the site, with the pages that are generated."""
    pages = {
        "reference/recipe.md": recipe_keys(),
        "reference/recipes.md": shipped_recipes(),
        "reference/cli.md": command_line(),
        "reference/registries.md": registries(),
        "changelog.md": _from_root("CHANGELOG.md"),
        "contributing.md": _from_root("CONTRIBUTING.md"),
        "security.md": _from_root("SECURITY.md"),
    }
    if files.get_file_from_path("evidence.md") is None:
        pages["evidence.md"] = NO_EVIDENCE
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def _from_root(name: str) -> str:
    """A file beside `docs` as a page of the site, its links changed to match."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return text.replace("](docs/", "](").replace("](SECURITY.md)", "](security.md)")


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """The page with the deviations in the place of their mark, where it has one."""
    if DEVIATIONS not in markdown:
        return markdown
    return markdown.replace(DEVIATIONS, deviations())


def recipe_keys() -> str:
    """Every section of a recipe with its keys."""
    lines = [RECIPE_INTRODUCTION]
    for model in _sections(schema.Recipe):
        lines += [
            f"\n## {model.__name__}\n",
            f"{_one_line(model.__doc__)}\n",
            "| key | type | default | what it is |",
            "|---|---|---|---|",
        ]
        docstrings = _field_docstrings(model)
        for name, info in model.model_fields.items():
            if (model, name) != NAMED_BY_FILE:
                lines.append(_row(name, info, docstrings.get(name)))
    return "\n".join(lines) + "\n"


def _sections(model: type[schema.RecipeSection]) -> list[type[schema.RecipeSection]]:
    """A section and all inside it, each once, in the order of the schema."""
    sections = [model]
    for info in model.model_fields.values():
        for inner in _sections_in_type(info.annotation):
            for section in _sections(inner):
                if section not in sections:
                    sections.append(section)
    return sections


def _sections_in_type(annotation: object) -> Iterator[type[schema.RecipeSection]]:
    if isinstance(annotation, type) and issubclass(annotation, schema.RecipeSection):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in_type(argument)


def _field_docstrings(model: type[schema.RecipeSection]) -> dict[str, str]:
    """The docstring of each field of a section, from its source and from those that it extends.

    Pydantic can read them as well, which would make every command slower that reads a recipe.
    """
    docstrings: dict[str, str] = {}
    for section in reversed(model.__mro__):
        if not issubclass(section, schema.RecipeSection):
            continue
        (definition,) = ast.parse(getsource(section)).body
        for field, text in pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                docstrings[field.target.id] = ast.literal_eval(text.value)
    return docstrings


def _row(name: str, info: FieldInfo, docstring: str | None) -> str:
    default = info.get_default(call_default_factory=True)
    shown_default = f"`{_value(default)}`"
    if default is PydanticUndefined:
        shown_default = "*required*"
    description = _one_line(docstring)
    # A choice of a few words explains itself.
    if not description and get_origin(info.annotation) is not Literal:
        description = "See its section below."
    # A bar would begin a new cell of the table.
    description = description.replace("|", r"\|")
    return f"| `{name}` | {_type(info.annotation)}{_limits(info.metadata)} | {shown_default} | {description} |"


def _value(default: object) -> str:
    """A default as YAML has it."""
    match default:
        case None:
            return "null"
        case bool():
            return str(default).lower()
        case tuple():
            return f"[{', '.join(map(str, default))}]"
        case str():
            return repr(default).strip("'") or "''"
    return str(default)


def _type(annotation: object) -> str:
    """A type as a person who writes YAML thinks of it."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return f"{_type(arguments[0])}{_limits(arguments[1:])}"
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join("null" if part is NoneType else _type(part) for part in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, schema.RecipeSection):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    if isinstance(annotation, type):
        return SIMPLE_TYPES.get(annotation, "any")
    return "any"


def _limits(constraints: Iterable[object]) -> str:
    """Bounds as in ` ≥ 0, ≤ 1`, or nothing."""
    bounds = []
    for constraint in constraints:
        for name, sign in SIGNS.items():
            bound = getattr(constraint, name, None)
            if bound is not None:
                bounds.append(f"{sign} {bound:.12g}")
    if not bounds:
        return ""
    return f" {', '.join(bounds)}"


def shipped_recipes() -> str:
    """The shipped recipes, comments and all."""
    parts = [RECIPES_INTRODUCTION]
    for path in shipped():
        text = path.read_text(encoding="utf-8").rstrip()
        parts.append(f"## {path.stem}\n\n```yaml\n{text}\n```\n")
    return "\n".join(parts)


def command_line() -> str:
    """Every command as its own `--help` prints it."""
    lines = [COMMANDS_INTRODUCTION]
    for context, command in _commands(typer.main.get_command(app), None):
        lines.append(f"## {context.command_path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(lines)


def _commands(command: Any, parent: Any) -> Iterator[tuple[Any, Any]]:
    """A command and all under it, each with the context that its help is printed in."""
    settings = {**command.context_settings, "terminal_width": 100}
    name = "safereason"
    if parent:
        name = command.name
    context = command.context_class(command, info_name=name, parent=parent, **settings)
    yield context, command
    if hasattr(command, "commands"):
        for inner in command.list_commands(context):
            yield from _commands(groups.whole(command.commands[inner]), context)


def registries() -> str:
    """What can be named: data sources, evals, attacks, judges and guards."""
    lines = [
        "# Names\n",
        "## Data sources\n",
        "`safereason data ls`\n",
        "| name | what it holds | licence | serves | traces |",
        "|---|---|---|---|---|",
    ]
    for source in SOURCES.values():
        title = source.title
        if source.page.startswith("https://"):
            title = f"[{source.title}]({source.page})"
        traces = ""
        if source.reasoned:
            traces = "yes"
        lines.append(f"| `{source.name}` | {title} | {source.licence} | {', '.join(source.serves)} | {traces} |")
    for kind, entries in catalog.listing().items():
        lines += [f"\n## {kind.capitalize()}\n", "| name | what it is |", "|---|---|"]
        lines += [f"| `{entry['name']}` | {entry['summary']} |" for entry in entries]
    return "\n".join(lines) + "\n"


def figures() -> str:
    """Every table and figure of both papers: what makes ours, on what, what was verified, and its values."""
    return "\n".join(_location_section(location) for location in PAPER_LOCATIONS)


def _location_section(location: PaperLocation) -> str:
    """One table or figure of a paper."""
    paper = location.paper.partition(",")[0]
    commands = "\n".join(location.commands)
    values = [figure for figure in as_printed() if (figure.paper, figure.location) == (location.paper, location.name)]
    sources = dict.fromkeys(f"{figure.source}, ± {figure.tolerance:g}" for figure in values)
    provenance = "No value of it is at hand."
    if sources:
        provenance = f"Values: {'; '.join(sources)}."
    lines = [
        f"### {paper}, {location.name}: {location.about}\n",
        f"```bash\n{commands}\n```\n",
        f"- Hardware: {location.hardware}.",
        f"- Verified here: {location.verified}.",
        f"- {provenance}\n",
    ]
    return "\n".join([*lines, *_table_of_values(values)])


def _table_of_values(values: Sequence[PaperFigure]) -> list[str]:
    """The lines of a table: a model a row and a figure a column; where there are many figures, a row for each value."""
    if not values:
        return []
    columns = list(dict.fromkeys(map(_column, values)))
    if len(columns) > WIDEST:
        lines = ["| figure | model | value | what makes ours |", "|---|---|---|---|"]
        for figure in values:
            lines.append(f"| {_column(figure)} | {figure.model} | {figure.value:.4g} | `{figure.command}` |")
        return [*lines, ""]
    rows: dict[str, dict[str, PaperFigure]] = {}
    for figure in values:
        rows.setdefault(figure.model, {})[_column(figure)] = figure
    lines = [f"| model | {' | '.join(columns)} | what makes ours |", f"|---{'|---' * len(columns)}|---|"]
    for model, row in rows.items():
        cells = []
        for column in columns:
            cell = ""
            if column in row:
                cell = f"{row[column].value:.4g}"
            cells.append(cell)
        # Each command once: one run makes several figures.
        commands = dict.fromkeys(f"`{figure.command}`" for figure in row.values())
        lines.append(f"| {model} | {' | '.join(cells)} | {' <br> '.join(commands)} |")
    return [*lines, ""]


def _column(figure: PaperFigure) -> str:
    """The heading of a figure's column."""
    heading = f"{figure.evaluation} `{figure.figure}`"
    if figure.group != OVERALL:
        heading += f", {figure.group.removeprefix('category:')}"
    return heading


def with_figures(page: str) -> str:
    """The page with the papers' figures as the code has them."""
    return _with_section(page, "figures", figures())


def with_tables(readme: str) -> str:
    """The README with its tables of commands and recipes as the code has them."""
    with_commands = _with_section(readme, "commands", commands_table())
    return _with_section(with_commands, "recipes", recipes_table())


def markers(section: str) -> tuple[str, str]:
    """The two lines in a page between which a section is written."""
    return f"<!-- {section}: written by docs/generate.py -->\n", f"<!-- end of {section} -->\n"


def _with_section(page: str, section: str, content: str) -> str:
    begin, end = markers(section)
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{content}\n{end}{after}"


def commands_table() -> str:
    """A command a row, with what it does and the commands under it."""
    lines = ["| command | what it does | commands under it |", "|---|---|---|"]
    group = typer.main.get_command(app)
    context = group.context_class(group, info_name="safereason")
    for name in group.list_commands(context):
        command = groups.whole(group.commands[name])
        inner = [f"`{inner_name}`" for inner_name in getattr(command, "commands", {})]
        lines.append(f"| `{name}` | {_clause(command.help)} | {' '.join(inner)} |")
    return "\n".join(lines) + "\n"


def help_texts() -> str:
    """What the help of a group lists, as JSON: the summaries of commands, attacks and evals."""
    # More than a listing follows from the registries, so that their summaries have a place of their own.
    registered = {*(f"attack {name}" for name in ATTACKS), *(f"eval {name}" for name in EVALS)}
    summaries: dict[str, str] = {}
    for context, command in _commands(typer.main.get_command(app), None):
        words = context.command_path.partition(" ")[2]
        if words and words not in registered:
            summaries[words] = command.help
    attacks = {name: attack.summary for name, attack in ATTACKS.items()}
    evals: dict[str, dict[str, str]] = {}
    for name, evaluation in EVALS.items():
        evals[name] = {"summary": evaluation.summary, "figure": eval.figure_with_bar(evaluation)}
    texts = {"commands": summaries, "attacks": attacks, "evals": evals}
    return json.dumps(texts, indent=2, ensure_ascii=False) + "\n"


def recipes_table() -> str:
    """A shipped recipe a row, with its model and what the comment at its top says of hardware and results."""
    lines = ["| recipe | model | needs | expect |", "|---|---|---|---|"]
    for path in shipped():
        header = _header(path)
        needs = _clause(ASIDE.sub("", header["Needs"]))
        model = load(path.stem).model.rpartition("/")[2]
        lines.append(f"| `{path.stem}` | {model} | {needs} | {header['Expect']} |")
    return "\n".join(lines) + "\n"


def _header(path: Path) -> dict[str, str]:
    """The parts `Needs` and `Expect` of the comment at the top of a recipe.

    `Expect` may say on which condition, as in `Expect, at λ = 0.5 (read off a plot): …`. The condition stays, without
    what is in brackets.
    """
    parts: dict[str, str] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.removeprefix("#")
        begins = re.match(r" (Needs|Run|Expect)\b", text)
        if begins:
            name = begins[1]
            parts[name] = text.strip().removeprefix(name)
        elif name and text.startswith("   "):
            parts[name] += f" {text.strip()}"
        else:
            name = ""
    condition, _, expected = parts["Expect"].partition(":")
    condition = ASIDE.sub("", condition).strip(", ")
    expectation = _clause(expected)
    if condition:
        expectation = f"{condition}: {expectation}"
    return {"Needs": parts["Needs"].lstrip(": "), "Expect": expectation}


def _clause(text: str | None) -> str:
    """A text up to its first semicolon or full stop."""
    return CLAUSE_END.split(_one_line(text), maxsplit=1)[0]


def deviations() -> str:
    """The numbered deviations of every module that lists some."""
    sections = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, docstring in _docstrings(path):
            items = _numbered_items(docstring)
            if not items:
                continue
            lines = [f"{number}. {item}" for number, item in enumerate(items, start=1)]
            sections.append(f"### `{path.relative_to(PACKAGE.parent)}{name}`\n\n" + "\n".join(lines))
    return "\n\n".join(sections)


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """The docstrings of a module, its classes and its functions, each behind its name; the module's name is empty."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            continue
        docstring = ast.get_docstring(node)
        if not docstring:
            continue
        name = ""
        if not isinstance(node, ast.Module):
            name = f": {node.name}"
        yield name, docstring


def _numbered_items(docstring: str) -> list[str]:
    """The items after the heading, up to an empty line; both `1. …` on lines of their own and `(1) …; (2) …`."""
    heading = HEADING.search(docstring)
    if heading is None:
        return []
    body = docstring[heading.end() :].lstrip().partition("\n\n")[0]
    # `split` gives the text before the first number, then for each item its number in both forms, and its text.
    texts = NUMBER.split(body)[3::3]
    return [_one_line(text).rstrip(";") for text in texts if text.strip()]


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    groups.HELP.write_text(help_texts(), encoding="utf-8")
    # These groups list what that file holds. The README lists a new attack at once.
    groups.help_texts.cache_clear()
    for GROUP in (attack, eval):
        reload(GROUP)
    FIDELITY = ROOT / "docs" / "fidelity.md"
    FIDELITY.write_text(with_figures(FIDELITY.read_text(encoding="utf-8")), encoding="utf-8")
    README = ROOT / "README.md"
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
