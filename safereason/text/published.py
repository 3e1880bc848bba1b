"""Published prompts, read from their publisher's Python file, which is not run."""

import ast
import importlib.util
from pathlib import Path
from typing import TypeVar

from safereason.errors import InputError

T = TypeVar("T")


def judgezoo(module: str, constant: str, kind: type[T]) -> T:
    """The value of a constant in a module of the package `judgezoo`, which need not be importable.

    Args:
        module: Such as `xstest`.
        constant: `NAME`, or `CLASS.NAME`.
        kind: Type of the value, such as `str`, or `list` for messages.

    Raises:
        InputError: The package is not installed, or has no such constant.
    """
    # Importing the package would load its models' libraries, and needs them installed.
    spec = importlib.util.find_spec("judgezoo")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "judgezoo, which has this judge's prompt, is not installed; run `pip install 'safereason[judges]'`"
        )
    return read(Path(spec.submodule_search_locations[0], f"{module}.py"), constant, kind)


def read(file: Path, constant: str, kind: type[T]) -> T:
    """The value of a constant, `NAME` or `CLASS.NAME`, in a Python file.

    Raises:
        InputError: The file cannot be read, or has no such constant of this type that is written out.
    """
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
        *classes, name = constant.split(".")
        for class_name in classes:
            body = _class_body(body, class_name)
        # A literal alone is evaluated: the file's code never runs.
        value = ast.literal_eval(_assigned(body, name))
    except (OSError, SyntaxError, ValueError, LookupError) as error:
        raise InputError(f"{file}: {constant} cannot be read from it; get the file as it is published") from error
    if not isinstance(value, kind):
        raise InputError(f"{file}: {constant} is no {kind.__name__}; get the file as it is published")
    return value


def _class_body(body: list[ast.stmt], name: str) -> list[ast.stmt]:
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node.body
    raise LookupError(name)


def _assigned(body: list[ast.stmt], name: str) -> ast.expr:
    for node in body:
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id == name:
                return node.value
    raise LookupError(name)
