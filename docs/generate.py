"""A hook of mkdocs: the pages of the reference, written from the code at every build, so that they cannot go stale.

It makes the recipe's keys from the schema, the shipped recipes from their files, the command line from its own help,
the names of sources, evals, attacks and judges from the registries, and the list of deviations from docstrings.

    python docs/generate.py        writes what is also read elsewhere: the papers' tables and figures in fidelity.md,
                                   and the tables of commands and recipes in README.md
"""

import ast
import re
from collections.abc import Iterable, Iterator
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
from safereason.cli import catalog
from safereason.cli.app import app
from safereason.data.sources import SOURCES
from safereason.evals.metrics import OVERALL
from safereason.evals.paper import PaperFigure, as_printed
from safereason.evals.paper_locations import PAPER_LOCATIONS, PaperLocation
from safereason.recipe import schema
from safereason.recipe.load import load, shipped

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
"""Most figures that stand side by side."""
HEADING = re.compile(r"(?:^\s*|\. )(?:Deviations?|Where this differs from [^:]*):", re.MULTILINE)
NAMED_BY_FILE = (schema.Recipe, "name")
NUMBER = re.compile(r"(?:^\s*(\d+)\. |\((\d+)\) )", re.MULTILINE)
CLAUSE_END = re.compile(r"[;.](?=\s|$)")
ASIDE = re.compile(r"\s*\([^)]*\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts every page of `how-to/` into the navigation."""
    pages = [f"how-to/{path.name}" for path in sorted((ROOT / "docs" / "how-to").glob("*.md"))]
    for entry in config.nav or ():
        if isinstance(entry, dict) and "How-to" in entry:
            entry["How-to"] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that have no file."""
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


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Puts the deviations where a page asks for them."""
    return markdown.replace(DEVIATIONS, deviations()) if DEVIATIONS in markdown else markdown


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
        lines += [_row(name, info) for name, info in model.model_fields.items() if (model, name) != NAMED_BY_FILE]
    return "\n".join(lines) + "\n"


def _sections(model: type[schema.Section]) -> list[type[schema.Section]]:
    """A section and all inside it, each once, in the order of the schema."""
    found = [model]
    for info in model.model_fields.values():
        for inner in _inner(info.annotation):
            found += [section for section in _sections(inner) if section not in found]
    return found


def _inner(annotation: Any) -> Iterator[type[schema.Section]]:
    if isinstance(annotation, type) and issubclass(annotation, schema.Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _inner(argument)


def _row(name: str, info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True)
    shown = "*required*" if default is PydanticUndefined else f"`{_value(default)}`"
    what = _one_line(info.description) or ("" if get_origin(info.annotation) is Literal else "See its section below.")
    kind = f"{_type(info.annotation)}{_limits(info.metadata)}"
    return f"| `{name}` | {kind} | {shown} | {what.replace('|', chr(92) + '|')} |"


def _value(default: Any) -> str:
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


def _type(annotation: Any) -> str:
    """A type as a person who writes YAML thinks of it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
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
    if isinstance(annotation, type) and issubclass(annotation, schema.Section):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}.get(annotation, "any")


def _limits(constraints: Iterable[Any]) -> str:
    """Bounds as in ` ≥ 0, ≤ 1`, or nothing."""
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    found = [
        f"{sign} {value:.12g}"
        for constraint in constraints
        for name, sign in signs.items()
        if (value := getattr(constraint, name, None)) is not None
    ]
    return f" {', '.join(found)}" if found else ""


def shipped_recipes() -> str:
    """The shipped recipes, comments and all."""
    parts = [RECIPES_INTRODUCTION]
    parts += [f"## {path.stem}\n\n```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```\n" for path in shipped()]
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
    name = command.name if parent else "safereason"
    context = command.context_class(command, info_name=name, parent=parent, **settings)
    yield context, command
    for name in command.list_commands(context) if hasattr(command, "commands") else ():
        yield from _commands(command.commands[name], context)


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
        title = f"[{source.title}]({source.page})" if source.page.startswith("https://") else source.title
        traces = "yes" if source.reasoned else ""
        lines.append(f"| `{source.name}` | {title} | {source.licence} | {', '.join(source.serves)} | {traces} |")
    for kind, entries in catalog.listing().items():
        lines += [f"\n## {kind.capitalize()}\n", "| name | what it is |", "|---|---|"]
        lines += [f"| `{e['name']}` | {e['summary']} |" for e in entries]
    return "\n".join(lines) + "\n"


def figures() -> str:
    """Every table and figure of both papers: what makes ours, on what, what was verified, and its values."""
    return "\n".join(_place(place) for place in PAPER_LOCATIONS)


def _place(place: PaperLocation) -> str:
    paper = place.paper.partition(",")[0]
    commands = "\n".join(place.commands)
    lines = [
        f"### {paper}, {place.name}: {place.about}\n",
        f"```bash\n{commands}\n```\n",
        f"- Hardware: {place.hardware}.",
        f"- Verified here: {place.verified}.",
    ]
    values = [f for f in as_printed() if (f.paper, f.location) == (place.paper, place.name)]
    sources = dict.fromkeys(f"{f.source}, ± {f.tolerance:g}" for f in values)
    lines += [f"- {'Values: ' if sources else 'No value of it is at hand.'}{'; '.join(sources)}{'.' * bool(sources)}\n"]
    return "\n".join([*lines, *_values(values)])


def _values(values: list[PaperFigure]) -> list[str]:
    """A model a row and a figure a column; a figure a row, where there are many."""
    columns = list(dict.fromkeys(_column(f) for f in values))
    if len(columns) > WIDEST:
        lines = ["| figure | model | value | what makes ours |", "|---|---|---|---|"]
        lines += [f"| {_column(f)} | {f.model} | {f.value:.4g} | `{f.command}` |" for f in values]
        return [*lines, ""]
    rows: dict[str, dict[str, PaperFigure]] = {}
    for figure in values:
        rows.setdefault(figure.model, {})[_column(figure)] = figure
    lines = [f"| model | {' | '.join(columns)} | what makes ours |", f"|---{'|---' * len(columns)}|---|"]
    for model, row in rows.items():
        cells = (f"{row[column].value:.4g}" if column in row else "" for column in columns)
        commands = " <br> ".join(f"`{command}`" for command in dict.fromkeys(f.command for f in row.values()))
        lines.append(f"| {model} | {' | '.join(cells)} | {commands} |")
    return [*lines, ""] if values else []


def _column(figure: PaperFigure) -> str:
    group = "" if figure.group == OVERALL else f", {figure.group.removeprefix('category:')}"
    return f"{figure.evaluation} `{figure.figure}`{group}"


def with_figures(page: str) -> str:
    """The page with what `figures` gives in its place."""
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
        command = group.commands[name]
        under = [f"`{inner}`" for inner in getattr(command, "commands", {})]
        lines.append(f"| `{name}` | {_clause(command.help)} | {' '.join(under)} |")
    return "\n".join(lines) + "\n"


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
    result = _clause(expected)
    return {"Needs": parts["Needs"].lstrip(": "), "Expect": f"{condition}: {result}" if condition else result}


def _clause(text: str | None) -> str:
    """A text up to its first semicolon or full stop."""
    return CLAUSE_END.split(_one_line(text), maxsplit=1)[0]


def deviations() -> str:
    """The numbered deviations of every module that lists some."""
    parts = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for where, text in _docstrings(path):
            items = _numbered(text)
            if items:
                name = f"{path.relative_to(PACKAGE.parent)}{where}"
                parts.append(f"### `{name}`\n\n" + "\n".join(f"{n}. {item}" for n, item in enumerate(items, start=1)))
    return "\n\n".join(parts)


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Docstrings of a module and of what stands in it, each with its name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
            yield "" if isinstance(node, ast.Module) else f": {node.name}", text


def _numbered(docstring: str) -> list[str]:
    """The items after the heading, up to an empty line; both `1. …` on lines of their own and `(1) …; (2) …`."""
    heading = HEADING.search(docstring)
    if heading is None:
        return []
    body = docstring[heading.end() :].lstrip().partition("\n\n")[0]
    return [_one_line(item).rstrip(";") for item in NUMBER.split(body)[3::3] if item.strip()]


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    FIDELITY = ROOT / "docs" / "fidelity.md"
    FIDELITY.write_text(with_figures(FIDELITY.read_text(encoding="utf-8")), encoding="utf-8")
    README = ROOT / "README.md"
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
