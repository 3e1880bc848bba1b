"""YAML without its traps: one reading of every scalar, no key twice, and the line of every value.

What a plain scalar is:
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

Tree: TypeAlias = dict[str, Any]
"""Nested mappings with text keys; everything else in it, lists included, is a value."""
Path: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the top down to a value."""

RECIPE = "a recipe is a mapping that begins with `model:`"
_DEEPEST = 40
_MOST = 2000
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
"""Plain scalars that are not text: what they look like and how they begin."""
_READ: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": float,
}


@dataclass
class Document:
    """A file as read: its values, and where each stands (`file:line`, or the override that sets it)."""

    values: Tree
    places: dict[Path, str] = field(default_factory=dict)

    def place(self, path: Path) -> str:
        """Where a path stands, or the nearest mapping above it that stands somewhere."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places[path]


class _Loader(yaml.SafeLoader):
    """Resolves plain scalars by `_PLAIN` alone."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """The next node; too many of them are refused while they are read."""
        self._nodes += 1
        if self._nodes > _NODES:
            raise yaml.MarkedYAMLError(problem=f"{_TOO_MANY}; a file is smaller", problem_mark=self.get_mark())
        node: Node | None = super().compose_node(parent, index)
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that this reader, or one of YAML 1.1, would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> ScalarNode:
        """Line breaks of every kind are written as escapes: other styles would fold them."""
        return self.represent_scalar(f"{_CORE}str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)
for _name, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(_CORE + _name, _pattern, _first)
    _Dumper.add_implicit_resolver(_CORE + _name, _pattern, _first)


def parse(text: str, name: str, expected: str = RECIPE) -> Document:
    """Reads a document that is one mapping.

    Args:
        text: The YAML.
        name: The file's name, for messages.
        expected: What such a file is, for messages.

    Raises:
        InputError: It is not YAML, is empty, is no mapping, or holds a key twice or a tag; the message gives the line.
    """
    node = _compose(text, name, at_line=True)
    if node is None:
        raise InputError(f"{name}: is empty; {expected}")
    if not isinstance(node, MappingNode):
        kind = "list" if isinstance(node, SequenceNode) else "single value"
        raise InputError(f"{_line(name, node)}: {expected}, not a {kind}")
    builder = _Builder(lambda at: _line(name, at))
    return Document(builder.value(node, ()), {**builder.places, (): f"{name}:1"})


def parse_value(text: str, where: str) -> Any:
    """Reads one value, such as the right side of an override, by the same rules.

    Raises:
        InputError: It is not YAML; the message begins with `where`.
    """
    node = _compose(text, where, at_line=False)
    return None if node is None else _Builder(lambda at: where).value(node, ())


def dump(values: Tree) -> str:
    """Writes a mapping that `parse` reads back to an equal one, keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)


def shown(value: Any) -> str:
    """A value as a message quotes it: on one line, and not too long."""
    text = json.dumps(value, ensure_ascii=False)
    text = text if text.isprintable() else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _compose(text: str, name: str, at_line: bool) -> Node | None:
    try:
        loader = _Loader(text)
        try:
            node: Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if at_line and mark else name
        raise InputError(f"{where}: not YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        where = f"{name}:{text.count(chr(10), 0, error.position) + 1}" if at_line else name
        character = f"U+{ord(text[error.position]):04X}"
        raise InputError(f"{where}: not YAML: the control character {character}; delete it") from error
    except RecursionError as error:
        raise InputError(f"{name}: nested too deeply; a file has no more than {_DEEPEST} levels") from error
    return node


def _line(name: str, node: Node) -> str:
    return f"{name}:{node.start_mark.line + 1}"


class _Builder:
    """Turns nodes into values, and notes where each stands."""

    def __init__(self, place: Callable[[Node], str]) -> None:
        self._place = place
        self._open: list[Node] = []
        self.places: dict[Path, str] = {}

    def value(self, node: Node, path: Path) -> Any:
        if node in self._open:
            raise InputError(f"{self._place(node)}: an anchor that holds itself; write the value out")
        if len(self._open) == _DEEPEST:
            raise InputError(f"{self._place(node)}: nested too deeply; a file has no more than {_DEEPEST} levels")
        self._open.append(node)
        try:
            if isinstance(node, MappingNode) and node.tag == f"{_CORE}map":
                return self._mapping(node, path)
            if isinstance(node, SequenceNode) and node.tag == f"{_CORE}seq":
                return [self._placed(item, item, (*path, i)) for i, item in enumerate(node.value)]
            if isinstance(node, ScalarNode) and node.tag.removeprefix(_CORE) in (*_PLAIN, "str"):
                return self._scalar(node)
            raise InputError(f"{self._place(node)}: the tag {node.tag!r} is not allowed; write plain YAML")
        finally:
            self._open.pop()

    def _placed(self, node: Node, at: Node, path: Path) -> Any:
        if len(self.places) == _MOST:
            raise InputError(f"{self._place(at)}: aliases or lists make {_TOO_MANY}; a file is smaller")
        self.places[path] = self._place(at)
        return self.value(node, path)

    def _mapping(self, node: MappingNode, path: Path) -> Tree:
        values: Tree = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self.value(key_node, path) if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                raise InputError(f"{self._place(key_node)}: a key is text; put it in quotes or mend the line")
            line = key_node.start_mark.line + 1
            if key in lines:
                raise InputError(f"{self._place(key_node)}: {key!r} is here twice (line {lines[key]} too); keep one")
            lines[key] = line
            values[key] = self._placed(value_node, key_node, (*path, key))
        return values

    def _scalar(self, node: ScalarNode) -> Any:
        kind, text = node.tag.removeprefix(_CORE), node.value
        try:
            if kind == "str":
                text.encode()
                return text
            if not _PLAIN[kind][0].match(text):
                raise ValueError
            if kind == "float" and not math.isfinite(float(text)):
                raise OverflowError
            return _READ[kind](text)
        except UnicodeEncodeError as error:
            raise InputError(f"{self._place(node)}: half a surrogate pair is not text; write the character") from error
        except (ValueError, OverflowError) as error:
            raise InputError(f"{self._place(node)}: {shown(text)} cannot be read as {kind}") from error
