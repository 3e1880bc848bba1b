"""The wheel holds all that the package reads, and its command works where nothing heavy is installed."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LIGHT = ("typer", "rich", "pydantic", "pyyaml", "filelock")
"""What `--help` and the `recipe` commands need."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=600)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_file_of_the_package(wheel):
    tracked = [p for p in (ROOT / "safereason").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    expected = {str(path.relative_to(ROOT)) for path in tracked}
    expected |= {f"safereason/recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")}
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("safereason/")}
    assert inside == expected
    kinds = (
        "safereason/recipes/tars-smoke.yaml",
        "safereason/data/sample/harmful.jsonl",
        "safereason/data/sample/verdicts.jsonl",
        "safereason/guard/policies/default.yaml",
        "safereason/guard/templates/prompt-brief.txt",
        "safereason/guard/server/mappings/default.yaml",
        "safereason/report/templates/page.html",
        "safereason/runs/directory.py",
    )
    assert inside >= set(kinds)


def test_the_installed_command_shows_recipes_with_nothing_heavy_installed(wheel, tmp_path):
    home = tmp_path / "env"
    venv.create(home, symlinks=True)
    site = next(home.glob("lib/python*/site-packages"))
    _link(_closure(LIGHT), site)
    python = home / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=600)
    assert _run([python, "-c", "import torch"], tmp_path).returncode != 0
    done = _run([home / "bin" / "safereason", "recipe", "show", "tars-smoke"], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "model: embedded/smollm2-135m\n" in done.stdout
    listed = _run([home / "bin" / "safereason", "recipe", "ls"], tmp_path).stdout
    assert {path.stem for path in (ROOT / "recipes").glob("*.yaml")} <= set(listed.split())
    version = _run([home / "bin" / "safereason", "--version"], tmp_path).stdout.strip()
    assert f"-{version}-" in wheel.name


def test_every_dependency_is_pinned_at_a_version_that_pyproject_allows():
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "requirements" / "base.txt").read_text(), re.M))
    needed = [Requirement(text) for text in metadata.requires("safereason") or () if "extra ==" not in text]
    assert needed
    for requirement in needed:
        assert requirement.specifier.contains(pins[requirement.name.lower()], prereleases=True), requirement


def _closure(names) -> set[str]:
    """Distributions that these need here."""
    reached, left = set(), list(names)
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            requirements = [Requirement(text) for text in metadata.requires(name) or ()]
            left += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return reached


def _link(distributions: set[str], site: Path) -> None:
    """Links what the distributions installed here into another environment."""
    for name in distributions:
        for file in metadata.files(name) or ():
            top = Path(file.parts[0])
            if top.name not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(metadata.distribution(name).locate_file(top))))


def _run(command, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
