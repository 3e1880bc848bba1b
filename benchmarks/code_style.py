"""Style figures of Python source, beside those of other model codebases, as a Markdown table.

    python benchmarks/code_style.py                               the package, tests, benchmarks and docs, a column each
    python benchmarks/code_style.py safereason/judges tests       these folders
    python benchmarks/code_style.py --check                       exit code 1 where the package misses a goal

With folders, `--check` holds all of them to the goals. Only the standard library is needed. Nothing is imported from
the folders: their files are parsed. The table can be made of any checkout, so that a figure of another project can be
checked too.

The figures count how code is written, not how good it is. A comprehension is often the clearest form; 55 of them in a
thousand lines are not.
"""

import argparse
import ast
import io
import re
import statistics
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "safereason"
FOLDERS = (PACKAGE, ROOT / "tests", ROOT / "benchmarks", ROOT / "docs")
"""The folders of the table without arguments. The goals are the package's: tests and scripts may be terser."""
ESCAPE = re.compile(r"#\s*fmt:\s*(?:skip|off)\b")
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
UNKNOWN = "–"

MEASURES = (
    "function lines: median / p90 / max",
    "comments, % of non-blank lines",
    "comprehensions per 1000 non-blank lines",
    "conditional expressions per 1000 non-blank lines",
    "`Any` per 1000 lines",
    "`fmt: skip` and `fmt: off`",
    "functions whose name is in several files, %",
)
"""The rows of the table."""

OTHERS = {
    # All of these were measured in November 2026, by the script that this one comes from. The first is this package as
    # it was when the goals were set. Two shares of names were not measured.
    "safereason before": ("7 / 19 / 62", "1.6", "55", "31", "14.3", "241", "38"),
    "nanochat": ("10 / 47 / 147", "18.6", "14", "11", "0", "0", UNKNOWN),
    "inspect_ai": ("11 / 46 / 1579", "9.3", "9", "10", "8.0", "1", "7"),
    "verifiers": ("11 / 48 / 416", "4.5", "12", "12", "9.2", "0", "18"),
    "tinker-cookbook": ("13 / 50 / 384", "6.3", "12", "6", "6.4", "0", "11"),
    "TRL": ("19 / 86 / 894", "12.1", "14", "9", "3.6", "1", "18"),
    "torchtitan": ("14 / 57 / 353", "7.6", "9", "6", "5.0", "0", "8"),
    "prime-rl": ("9 / 42 / 669", "5.8", "16", "12", "3.3", "0", UNKNOWN),
}


@dataclass
class Counts:
    """What is counted in the files of one folder."""

    lines: int = 0
    non_blank_lines: int = 0
    comments: int = 0
    """Comments of a line of their own, and those behind code, such as the shape of a tensor."""
    escapes: int = 0
    """Comments that keep the formatter from a line."""
    comprehensions: int = 0
    conditionals: int = 0
    """`a if c else b`."""
    any_types: int = 0
    function_lines: list[int] = field(default_factory=list)
    """Of every function and method, from `def` to its last line; decorators do not count."""
    files_by_function: dict[str, set[Path]] = field(default_factory=lambda: defaultdict(set))
    """The files that define a top-level function, by its name."""

    def add_file(self, path: Path) -> None:
        """Counts one file."""
        source = path.read_text(encoding="utf-8")
        self._add_lines(source)
        tree = ast.parse(source)
        for node in ast.walk(tree):
            self._add_node(node)
        for node in tree.body:
            if isinstance(node, FUNCTIONS):
                self.files_by_function[node.name].add(path)

    def _add_lines(self, source: str) -> None:
        lines = source.splitlines()
        self.lines += len(lines)
        for line in lines:
            if line.strip():
                self.non_blank_lines += 1
        # The tokenizer tells a comment from a `#` inside a string.
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                self.comments += 1
                if ESCAPE.match(token.string):
                    self.escapes += 1

    def _add_node(self, node: ast.AST) -> None:
        if isinstance(node, COMPREHENSIONS):
            self.comprehensions += 1
        elif isinstance(node, ast.IfExp):
            self.conditionals += 1
        elif _is_any(node):
            self.any_types += 1
        elif isinstance(node, FUNCTIONS) and node.end_lineno is not None:
            self.function_lines.append(node.end_lineno - node.lineno + 1)


def _is_any(node: ast.AST) -> bool:
    """Whether a node is `Any` or `typing.Any`; an import of it is not."""
    if isinstance(node, ast.Attribute):
        return node.attr == "Any"
    return isinstance(node, ast.Name) and node.id == "Any"


@dataclass(frozen=True)
class Style:
    """The figures of one folder."""

    median_lines: float
    p90_lines: int
    max_lines: int
    comments: float
    """Per 100 non-blank lines."""
    comprehensions: float
    """Per 1000 non-blank lines."""
    conditionals: float
    """Per 1000 non-blank lines."""
    any_types: float
    """Per 1000 lines, blank ones included."""
    escapes: int
    shared_names: float
    """Percent of top-level functions whose name another file has too."""

    def cells(self) -> tuple[str, ...]:
        """The figures as the table shows them, in the order of `MEASURES`."""
        return (
            f"{self.median_lines:g} / {self.p90_lines} / {self.max_lines}",
            f"{self.comments:.1f}",
            f"{self.comprehensions:.0f}",
            f"{self.conditionals:.0f}",
            f"{self.any_types:.1f}",
            str(self.escapes),
            f"{self.shared_names:.0f}",
        )


def measure(files: Iterable[Path]) -> Style:
    """The figures of these files together.

    Raises:
        ValueError: There is no line, or no function, to measure.
    """
    counts = Counts()
    for path in files:
        counts.add_file(path)
    functions = sorted(counts.function_lines)
    if not functions:
        raise ValueError("no Python file with a function in it")
    definitions = 0
    shared = 0
    for paths in counts.files_by_function.values():
        definitions += len(paths)
        if len(paths) > 1:
            shared += len(paths)
    return Style(
        median_lines=statistics.median(functions),
        p90_lines=functions[int(0.9 * len(functions))],
        max_lines=functions[-1],
        comments=100 * counts.comments / counts.non_blank_lines,
        comprehensions=1000 * counts.comprehensions / counts.non_blank_lines,
        conditionals=1000 * counts.conditionals / counts.non_blank_lines,
        any_types=1000 * counts.any_types / counts.lines,
        escapes=counts.escapes,
        shared_names=100 * shared / max(1, definitions),
    )


def table(styles: dict[str, Style]) -> str:
    """A Markdown table: a measure a row, a folder a column, then the figures in `OTHERS`."""
    columns = [style.cells() for style in styles.values()]
    columns += OTHERS.values()
    names = [*styles, *OTHERS]
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for number, name in enumerate(MEASURES):
        row = [column[number] for column in columns]
        lines.append(f"| {name} | {' | '.join(row)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Goal:
    """A bound on one figure."""

    figure: str
    """The attribute of `Style`."""
    name: str
    limit: float
    is_floor: bool = False
    """Whether the figure must not fall below the limit; otherwise it must not rise above it."""

    def missed(self, style: Style) -> str | None:
        """How a style misses the goal; None where it meets it."""
        value = getattr(style, self.figure)
        is_met = value >= self.limit if self.is_floor else value <= self.limit
        if is_met:
            return None
        side = "at least" if self.is_floor else "at most"
        return f"{self.name}: {value:.1f}, and {side} {self.limit:g} is the goal"


GOALS = (
    Goal("comprehensions", "comprehensions per 1000 non-blank lines", 25),
    Goal("conditionals", "conditional expressions per 1000 non-blank lines", 15),
    Goal("comments", "comments, % of non-blank lines", 4, is_floor=True),
    Goal("any_types", "`Any` per 1000 lines", 6),
    Goal("escapes", "`fmt: skip` and `fmt: off`", 0),
    Goal("shared_names", "functions whose name is in several files, %", 18),
)
"""Near the others' figures. The share of names is that of the projects with the highest one."""


def _label(folder: Path) -> str:
    """A folder as it was typed, so that two of one name are told apart."""
    if folder in FOLDERS:
        return folder.name
    return str(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 if a goal is missed and `--check` was given."""
    parser = argparse.ArgumentParser(description="Style figures of Python source beside those of other projects.")
    parser.add_argument("folders", metavar="FOLDER", nargs="*", type=Path)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed, and name it")
    options = parser.parse_args(arguments)
    styles = {}
    for folder in options.folders or FOLDERS:
        try:
            styles[_label(folder)] = measure(sorted(folder.rglob("*.py")))
        except ValueError as error:
            parser.error(f"{folder}: {error}")
    print(table(styles))
    is_missed = False
    if options.check:
        for folder in options.folders or [PACKAGE]:
            name = _label(folder)
            for goal in GOALS:
                problem = goal.missed(styles[name])
                if problem:
                    is_missed = True
                    print(f"{name}: {problem}", file=sys.stderr)
    return int(is_missed)


if __name__ == "__main__":
    sys.exit(main())
