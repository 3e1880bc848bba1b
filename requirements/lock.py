"""Writes base.txt and dev.txt: the exact versions that are installed here and that the tests ran with.

    make lock

base.txt holds what `dependencies` of pyproject.toml lead to, dev.txt what the extra `dev` adds. Run it in an
environment in which the whole suite passes; it installs nothing and asks no index.
"""

import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).parent


def closure(requirements: Iterable[str]) -> dict[str, str]:
    """Versions of the requirements and of all that they need in this environment, by name."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    left = [(Requirement(text), frozenset({""})) for text in requirements]
    while left:
        requirement, asked_by = left.pop()
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in asked_by):
            continue
        name, extras = canonicalize_name(requirement.name), frozenset({"", *requirement.extras})
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        # Of `2.13.0+cpu` the part after the plus names a build, which other machines may not have.
        versions[name] = Version(metadata.version(name)).public
        left += [(Requirement(text), extras) for text in metadata.requires(name) or ()]
    return versions


def write(path: Path, about: str, versions: dict[str, str], include: str = "") -> None:
    """One requirements file, sorted by name."""
    python = ".".join(map(str, sys.version_info[:2]))
    header = f"# {about}\n# Written by `make lock` on Python {python} from what passed the tests there; do not edit.\n"
    lines = "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))
    path.write_text(f"{header}{include}{lines}", encoding="utf-8")


def main() -> None:
    """Both files."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = closure(project["dependencies"])
    tools = closure(project["optional-dependencies"]["dev"])
    write(HERE / "base.txt", "What safereason runs with.", base)
    added = {name: version for name, version in tools.items() if name not in base}
    write(HERE / "dev.txt", "Tests, linters and the documentation site.", added, include="-r base.txt\n")


if __name__ == "__main__":
    main()
