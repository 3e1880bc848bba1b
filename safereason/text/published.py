"""Prompts that are their publisher's: read from the published Python file, which is not run."""

import ast
import importlib.util
from pathlib import Path
from typing import Any

from safereason.errors import InputError


def judgezoo(module: str, constant: str) -> Any:
    """The value of a constant in a module of the package `judgezoo`, which need not be importable.

    Args:
        module: Such as `xstest`.
        constant: `NAME`, or `CLASS.NAME`.

    Raises:
        InputError: The package is not installed, or has no such constant.
    """
    spec = importlib.util.find_spec("judgezoo")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "judgezoo, which has this judge's prompt, is not installed; run `pip install 'safereason[judges]'`"
        )
    return read(Path(spec.submodule_search_locations[0], f"{module}.py"), constant)


def read(file: Path, constant: str) -> Any:
    """The value of a constant, `NAME` or `CLASS.NAME`, in a Python file.

    Raises:
        InputError: The file cannot be read, or has no such constant that is written out.
    """
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
        *classes, name = constant.split(".")
        for each in classes:
            body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == each)
        return next(ast.literal_eval(node.value) for node in body if isinstance(node, ast.Assign) and _sets(node, name))
    except (OSError, SyntaxError, ValueError, StopIteration) as error:
        raise InputError(f"{file}: {constant} cannot be read from it; get the file as it is published") from error


def _sets(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
