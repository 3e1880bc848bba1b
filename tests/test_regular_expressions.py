"""Regular expressions take time in proportion to their text: every one of the package, on repeats that grow."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from re import _parser as parser
from time import process_time
from typing import Any

import pytest

import safereason

ROOT = Path(safereason.__file__).parent
FUNCTIONS = ("compile", "search", "match", "fullmatch", "findall", "finditer", "split", "sub", "subn")
METHODS = FUNCTIONS[1:]
UNKNOWN = ("search", "fullmatch")
"""How a pattern is run whose use cannot be told from the source."""
USED = {
    "safereason/attacks/reply.py:_AFTER_VALUE": ("match",),
    "safereason/attacks/reply.py:_AFTER_ITEM": ("match",),
    "safereason/recipe/strict_yaml.py:_PLAIN": ("match",),
    "safereason/recipe/strict_yaml.py:_pattern": ("match",),
}
"""How patterns are run that are handed on."""
PUT_TOGETHER = {
    "safereason/data/verify.py: f'^.*?: row {number}: '",  # anchored, in a message of ours
    "safereason/engines/dialect.py: f'\\\\b{name}\\\\b'",  # the name of a parameter of ours
    "safereason/guard/score.py: f'{re.escape(word)}(?!\\\\w)'",  # a word
    "safereason/judges/template.py: ends",  # slots of a judge's template
    "safereason/judges/rubric.py: self.pattern",  # a person's own rubric
    "safereason/text/template.py: '|'.join(map(re.escape, values))",  # names of places
}
"""Patterns that are made where they are used: none repeats anything before a failure is possible."""
OLD = {
    "a chat token behind white space": (r"<(?=\s*/?\s*(?:[|｜]|begin|end|start_of|(?:s|bos|eos)\s*>))", "sub"),
    "the end of a line": (r"^\W+|[*_#`~]|[ \t\"']+$", "sub"),
    "a format": (r"<think>.*</think>.*\\boxed\{.*\}.*", "fullmatch"),
    "a labelled rating": (r"[\s*_#>]*(?:rating)[\s*_#>]*:[\s*_#>]*(.*?)[.!]?[\s*_#>]*", "fullmatch"),
    "a quotation": (r"<begin request>\s*(.*?)\s*(?:<end request>|$)", "findall"),
    "double brackets": (r"\[\[(.*?)\]\]", "findall"),
    "an element": (r"<style.*?</style>", "sub"),
    "a refusal": (r"\b(?:sorry|unfortunately)[^.!?]*(?:n't|\bnot)\b", "search"),
}
"""Patterns that the package once had, each of which could be made to hold the interpreter."""
COUNTS_FROM = 0.001
"""Seconds of CPU time; shorter ones are noise."""
SHORTEST, LONGEST = 1 << 7, 1 << 12
"""Characters of the repeats."""
MOST_GROWTH = 9.0
"""Of the time where a text is four times as long: 4 where time is linear, 16 where it is quadratic."""
PIECES = (
    " ",
    "\t",
    "\n",
    "<",
    "[",
    "(",
    "{",
    "*",
    '"',
    "'",
    "`",
    "a",
    "a ",
    "1",
    ".",
    ":",
    ",",
    "\\",
    "</a>",
    "<b>",
    "- ",
    "\n ",
)


@dataclass(frozen=True)
class Usage:
    """A pattern, where it is, and how it is run."""

    where: str
    pattern: re.Pattern[str]
    methods: tuple[str, ...]


def modules() -> Iterator[Any]:
    for info in pkgutil.walk_packages([str(ROOT)], "safereason."):
        if info.name.endswith("__main__"):
            continue
        try:
            yield importlib.import_module(info.name)
        except ImportError:  # an extra that is not installed; its literals are still read from the source
            continue


def inside(value: Any, depth: int = 0) -> Iterator[re.Pattern[str]]:
    """The patterns in a module's attribute: itself, or in containers and instances of the package's classes."""
    if isinstance(value, re.Pattern):
        if isinstance(value.pattern, str):
            yield value
    elif depth < 3 and isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from inside(each, depth + 1)
    elif depth < 3 and isinstance(value, dict):
        for each in value.values():
            yield from inside(each, depth + 1)
    elif depth < 3 and type(value).__module__.startswith("safereason"):
        names = {*getattr(value, "__dict__", {}), *(n for n in dir(type(value)) if n.endswith("pattern"))}
        for name in names:
            yield from inside(getattr(value, name), depth + 1)


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            yield node


def flags_of(call: ast.Call) -> int:
    """The flags of `re` that a call names, such as `re.DOTALL`, as one number."""
    arguments = [*call.args[1:], *(keyword.value for keyword in call.keywords)]
    named: set[str] = set()
    for argument in arguments:
        for node in ast.walk(argument):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "re":
                named.add(node.attr)
    return sum(int(getattr(re, name)) for name in named if name.isupper())


@cache
def collected() -> tuple[tuple[Usage, ...], tuple[str, ...]]:
    """All patterns; and the calls whose pattern is put together when they run, which no reading can tell."""
    patterns: dict[tuple[str, int], Usage] = {}
    dynamic: list[str] = []
    uses: dict[str, set[str]] = {}

    def add(where: str, pattern: re.Pattern[str], methods: tuple[str, ...]) -> None:
        key = (pattern.pattern, pattern.flags)
        before = patterns[key].methods if key in patterns else ()
        patterns[key] = Usage(where, pattern, tuple(sorted({*before, *methods})))

    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = path.relative_to(ROOT.parent).as_posix()
        for call in calls(tree):
            assert isinstance(call.func, ast.Attribute)
            assert isinstance(call.func.value, ast.Name)
            if call.func.value.id != "re":
                if call.func.attr in METHODS:
                    uses.setdefault(f"{name}:{call.func.value.id}", set()).add(call.func.attr)
            elif call.func.attr in FUNCTIONS:
                first = call.args[0]
                if isinstance(first, ast.Constant):
                    methods = UNKNOWN if call.func.attr == "compile" else (call.func.attr,)
                    if call.func.attr != "compile":
                        add(f"{name}:{call.lineno}", re.compile(first.value, flags_of(call)), methods)
                elif call.func.attr != "compile":
                    dynamic.append(f"{name}: {ast.unparse(first)}")
    for module in modules():
        file = Path(module.__file__ or "").relative_to(ROOT.parent).as_posix()
        for name, value in vars(module).items():
            for pattern in inside(value):
                add(
                    f"{file}: {name}", pattern, USED.get(f"{file}:{name}") or tuple(uses.get(f"{file}:{name}", UNKNOWN))
                )
    return tuple(patterns.values()), tuple(dynamic)


def sample(item: tuple[Any, Any], times: int = 1) -> str:
    """A short text that an element of a parsed pattern matches."""
    kind, value = str(item[0]), item[1]
    if kind == "LITERAL":
        return chr(value)
    if kind == "NOT_LITERAL":
        return "b" if value == ord("a") else "a"
    if kind == "ANY":
        return "a"
    if kind == "IN":
        return in_class(value)
    if kind in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        low, _, body = value
        return text_of(body) * max(low, times)
    if kind == "SUBPATTERN":
        return text_of(value[3])
    if kind == "ATOMIC_GROUP":
        return text_of(value)
    if kind == "BRANCH":
        return text_of(value[1][0])
    return ""


def in_class(items: Any) -> str:
    """A character of a class; of one that is negated, one that is not in it."""
    if str(items[0][0]) == "NEGATE":
        literals = {chr(v) for k, v in items[1:] if str(k) == "LITERAL"}
        no_word = any("WORD" in str(v) for k, v in items[1:] if str(k) == "CATEGORY")
        return next(c for c in ("-*;" if no_word else "a1 -") if c not in literals)
    kind, value = str(items[0][0]), items[0][1]
    if kind == "LITERAL":
        return chr(value)
    if kind == "RANGE":
        return chr(value[0])
    name = str(value)
    return "-" if "NOT" in name else " " if "SPACE" in name else "1" if "DIGIT" in name else "a"


def text_of(body: Any) -> str:
    return "".join(sample(item) for item in body)


def elements(body: Any) -> Iterator[tuple[Any, Any]]:
    """The elements of a pattern in a row, groups opened; of a choice, each branch."""
    for item in body:
        kind = str(item[0])
        if kind == "SUBPATTERN":
            yield from elements(item[1][3])
        elif kind == "ATOMIC_GROUP":
            yield from elements(item[1])
        elif kind in ("ASSERT", "ASSERT_NOT"):
            yield from elements(item[1][1])
        elif kind == "BRANCH":
            for branch in item[1][1]:
                yield from elements(branch)
        else:
            yield item
            if kind.endswith("REPEAT"):
                yield from (inner for inner in elements(item[1][2]) if str(inner[0]).endswith(("REPEAT", "IN")))


def attacks(pattern: re.Pattern[str]) -> set[tuple[str, str, str]]:
    """What comes before a repeat, what is repeated, and what follows: from the pattern itself, and what users try."""
    parsed = list(elements(parser.parse(pattern.pattern, pattern.flags)))
    before, candidates = "", set()
    fragments = {""}
    for item in parsed:
        if str(item[0]).endswith("REPEAT"):
            body = text_of(item[1][2])
            candidates |= {(before, body, "\0"), ("", before + body, "\0"), (before, body + " ", "\0")}
            candidates |= {(head, piece, "\0") for piece in PIECES for head in (before, "a")}
        before += sample(item)
        fragments |= {sample(item), before, before[-12:]}
    candidates |= {("", piece, end) for piece, end in product({*PIECES, *fragments}, ("", "\0"))}
    candidates |= {("", a + b, "\0") for a, b in product(sorted(fragments, key=len)[-4:], PIECES[:6])}
    return {(head, pump, tail) for head, pump, tail in candidates if pump}


def runner(pattern: re.Pattern[str], method: str) -> Callable[[str], object]:
    run = getattr(pattern, method)
    if method in ("sub", "subn"):
        return lambda text: run("", text)
    if method == "finditer":
        return lambda text: list(run(text))
    return run


def seconds(run: Callable[[str], object], text: str, tries: int) -> float:
    best = float("inf")
    for _ in range(tries):
        start = process_time()
        run(text)
        best = min(best, process_time() - start)
    return best


def growth(run: Callable[[str], object], attack: tuple[str, str, str]) -> float:
    """How much the time grows where the text is four times as long; 1 where it never takes long."""
    head, pump, tail = attack

    def text(size: int) -> str:
        return head + pump * max(1, size // len(pump)) + tail

    size = SHORTEST
    while (took := seconds(run, text(size), 1)) < COUNTS_FROM and size < LONGEST:
        size *= 2
    if took < COUNTS_FROM or seconds(run, text(size), 2) < COUNTS_FROM:
        return 1.0
    return seconds(run, text(4 * size), 2) / seconds(run, text(size), 3)


def slow(usage: Usage) -> str | None:
    """An attack on which a pattern's time is not linear; measured twice, so that noise is none."""
    for method in usage.methods:
        run = runner(usage.pattern, method)
        for attack in sorted(attacks(usage.pattern)):
            if growth(run, attack) > MOST_GROWTH and (again := growth(run, attack)) > MOST_GROWTH:
                return f"{usage.where}: {method} of {attack!r}: {again:.0f} times as long"
    return None


def test_every_pattern_of_the_package_is_linear():
    patterns, put_together = collected()
    assert len(patterns) > 80
    assert [problem for each in patterns if (problem := slow(each))] == []
    assert set(put_together) <= PUT_TOGETHER


@pytest.mark.parametrize("name", OLD)
def test_a_pattern_that_is_not_linear_is_found(name: str):
    pattern, method = OLD[name]
    flags = re.DOTALL if name in ("a format", "a quotation", "double brackets", "an element") else re.IGNORECASE
    assert slow(Usage(name, re.compile(pattern, flags), (method,))) is not None
