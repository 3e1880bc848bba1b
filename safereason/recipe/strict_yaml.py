"""YAML without its traps: one reading of every scalar, no key twice, and the line of every value.

Plain scalars:
- `null`, `~` or nothing: null; `true`, `false`: a boolean; `yes`, `no`, `on` and `off` are text.
- `3`, `-3`: whole numbers; `010`, `0x1f`, `1_000`, `1:30` and dates are text.
- `0.5`, `1e-3`, `1E5`, `3.0e-5`: numbers; YAML 1.1 reads `1e-3` as text. Infinities and NaN do not exist.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from safereason.errors import InputError

Value: TypeAlias = object
"""A value as YAML and JSON have it: null, a boolean, a number, text, a list or a mapping. It is checked by a schema."""
Tree: TypeAlias = dict[str, Value]
"""Nested mappings with text keys; everything else in it, lists included, is a value."""
Path: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the top down to a value."""

RECIPE_EXPECTED = "a recipe is a mapping that begins with `model:`"
_DEEPEST = 40
"""Levels of nesting. The deepest recipe has 6; beyond some hundreds Python's recursion would fail first."""
_MOST = 2000
"""Values of a file, aliases counted each time. The longest recipe has fewer than 300."""
_NODES = 2 * _MOST
"""Keys and values that are read before a file is refused, so that a long one costs no more than a short one."""
_TOO_MANY = f"more than {_MOST} values"
_CORE = "tag:yaml.org,2002:"
_PLAIN = {
    "null": (re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    "int": (re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z"), list("-+0123456789")),
    "float": (
        re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z"),
        list("-+.0123456789"),
    ),
}
"""Plain scalars that are not text: their form, and the characters that they begin with."""
_READ: dict[str, Callable[[str], object]] = {
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": float,
}


@dataclass
class Document:
    """The values of a file, and the location of each."""

    values: Tree
    locations: dict[Path, str] = field(default_factory=dict)
    """By path, `file:line` or the override."""

    def location(self, path: Path) -> str:
        """The location of a path, or of the nearest mapping above it that has one."""
        while path and path not in self.locations:
            path = path[:-1]
        return self.locations[path]


class _Loader(yaml.SafeLoader):
    """A loader that resolves plain scalars by `_PLAIN` alone."""

    # Without a table of its own, a subclass begins with a copy of YAML 1.1's rules.
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """The next node; too many of them are refused while they are read."""
        self._nodes += 1
        # A few lines of nested aliases can stand for billions of values. Counting while composing keeps memory small,
        # because the values are built only after this pass.
        if self._nodes > _NODES:
            raise yaml.MarkedYAMLError(problem=f"{_TOO_MANY}; a file is smaller", problem_mark=self.get_mark())
        node: Node | None = super().compose_node(parent, index)
        return node


class _Dumper(yaml.SafeDumper):
    """A writer that quotes text which this reader, or one of YAML 1.1, would take for something else."""

    def ignore_aliases(self, data: object) -> bool:
        # An alias would be correct YAML, but readers do not expect `&id001` in a recipe.
        return True

    def represent_text(self, text: str) -> ScalarNode:
        """Line breaks of every kind are written as escapes: other styles would fold them."""
        style: str | None = '"'
        if text.isprintable():
            style = None
        return self.represent_scalar(f"{_CORE}str", text, style=style)


# Reader and writer share one table, so that every value survives a round trip.
_Dumper.add_representer(str, _Dumper.represent_text)
for _name, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(_CORE + _name, _pattern, _first)
    _Dumper.add_implicit_resolver(_CORE + _name, _pattern, _first)


def parse(text: str, name: str, expected: str = RECIPE_EXPECTED) -> Document:
    """Reads a document that is one mapping.

    Args:
        text: The YAML.
        name: The file's name, for messages.
        expected: A description of such a file, for messages.

    Raises:
        InputError: It is not YAML, is empty, is no mapping, or holds a key twice or a tag; the message gives the line.
    """
    node = _compose(text, name, at_line=True)
    if node is None:
        raise InputError(f"{name}: is empty; {expected}")
    if not isinstance(node, MappingNode):
        kind = "single value"
        if isinstance(node, SequenceNode):
            kind = "list"
        raise InputError(f"{_line(name, node)}: {expected}, not a {kind}")
    # The whole file has a location too, so that a message about a missing section has one.
    builder = _Builder(lambda at: _line(name, at))
    values = builder.value(node, ())
    # A mapping with another tag than a plain one's is refused above.
    assert isinstance(values, dict)
    return Document(values, {**builder.locations, (): f"{name}:1"})


def parse_value(text: str, where: str) -> Value:
    """Reads one value, such as the right side of an override, by the same rules.

    Raises:
        InputError: It is not YAML; the message begins with `where`.
    """
    node = _compose(text, where, at_line=False)
    if node is None:
        return None
    return _Builder(lambda at: where).value(node, ())


def dump(values: Tree) -> str:
    """Writes a mapping that `parse` reads back to an equal one, keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)


def shown(value: object) -> str:
    """A value as a message quotes it: on one line, and not too long."""
    text = json.dumps(value, ensure_ascii=False)
    # A message goes to a terminal: control characters and line breaks are escaped.
    if not text.isprintable():
        text = json.dumps(value)
    if len(text) > 60:
        return f"{text[:57]}…"
    return text


def _compose(text: str, name: str, at_line: bool) -> Node | None:
    try:
        loader = _Loader(text)
        try:
            node: Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = name
        if at_line and mark:
            where = f"{name}:{mark.line + 1}"
        raise InputError(f"{where}: not YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        where = name
        if at_line:
            where = f"{name}:{text.count(chr(10), 0, error.position) + 1}"
        character = f"U+{ord(text[error.position]):04X}"
        raise InputError(f"{where}: not YAML: the control character {character}; delete it") from error
    except RecursionError as error:
        raise InputError(f"{name}: nested too deeply; a file has no more than {_DEEPEST} levels") from error
    return node


def _line(name: str, node: Node) -> str:
    return f"{name}:{node.start_mark.line + 1}"


class _Builder:
    """A builder of values from nodes, which notes the location of each."""

    def __init__(self, locate: Callable[[Node], str]) -> None:
        self._locate = locate
        self._open: list[Node] = []
        self.locations: dict[Path, str] = {}

    def value(self, node: Node, path: Path) -> Value:
        # Only nodes that are still open count: an alias that is used twice side by side is fine.
        if node in self._open:
            raise InputError(f"{self._locate(node)}: an anchor that holds itself; write the value out")
        if len(self._open) == _DEEPEST:
            raise InputError(f"{self._locate(node)}: nested too deeply; a file has no more than {_DEEPEST} levels")
        self._open.append(node)
        try:
            if isinstance(node, MappingNode) and node.tag == f"{_CORE}map":
                return self._mapping(node, path)
            if isinstance(node, SequenceNode) and node.tag == f"{_CORE}seq":
                items: list[object] = []
                for i, item in enumerate(node.value):
                    items.append(self._placed(item, item, (*path, i)))
                return items
            if isinstance(node, ScalarNode) and node.tag.removeprefix(_CORE) in (*_PLAIN, "str"):
                return self._scalar(node)
            raise InputError(f"{self._locate(node)}: the tag {node.tag!r} is not allowed; write plain YAML")
        finally:
            self._open.pop()

    def _placed(self, node: Node, at: Node, path: Path) -> Value:
        # Each use of an alias counts here, where `compose_node` counted the anchor once.
        if len(self.locations) == _MOST:
            raise InputError(f"{self._locate(at)}: aliases or lists make {_TOO_MANY}; a file is smaller")
        self.locations[path] = self._locate(at)
        return self.value(node, path)

    def _mapping(self, node: MappingNode, path: Path) -> Tree:
        values: Tree = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = None
            if isinstance(key_node, ScalarNode):
                key = self.value(key_node, path)
            if not isinstance(key, str):
                raise InputError(f"{self._locate(key_node)}: a key is text; put it in quotes or mend the line")
            line = key_node.start_mark.line + 1
            if key in lines:
                raise InputError(f"{self._locate(key_node)}: {key!r} is here twice (line {lines[key]} too); keep one")
            lines[key] = line
            values[key] = self._placed(value_node, key_node, (*path, key))
        return values

    def _scalar(self, node: ScalarNode) -> object:
        kind = node.tag.removeprefix(_CORE)
        text = node.value
        try:
            if kind == "str":
                # `"\ud800"` in quotes is legal YAML, but no file and no hash can hold half a surrogate pair.
                text.encode()
                return text
            if not _PLAIN[kind][0].match(text):
                raise ValueError
            if kind == "float" and not math.isfinite(float(text)):
                raise OverflowError
            # The pattern was checked first: `int` and `float` alone would take `1_000` and `nan`.
            return _READ[kind](text)
        except UnicodeEncodeError as error:
            raise InputError(f"{self._locate(node)}: half a surrogate pair is not text; write the character") from error
        except (ValueError, OverflowError) as error:
            raise InputError(f"{self._locate(node)}: {shown(text)} cannot be read as {kind}") from error
