"""What a check is given, and the figures that it notes."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from gpu_models import Models

from safereason.runs.manifest import git_revision, installed

PACKAGES = ("torch", "transformers", "trl", "accelerate", "vllm")
FILE = "gpu.json"
HEAD = ("check", "figure", "value", "unit", "bound")


@dataclass(frozen=True)
class Figure:
    """One quantity that a check measured."""

    check: str
    name: str
    value: float
    unit: str
    bound: str
    """What the check holds it to; empty where it is only reported."""


class Figures:
    """All figures of one session."""

    def __init__(self) -> None:
        self.rows: list[Figure] = []

    def table(self) -> str:
        """The figures as a table in Markdown, as docs/scale.md takes it in."""
        lines = [_line(HEAD), _line(["---"] * len(HEAD))]
        for row in self.rows:
            lines.append(_line((row.check, row.name, f"{row.value:.4g}", row.unit, row.bound)))
        return "\n".join(lines)

    def write(self, folder: Path, device: str) -> Path:
        """Writes them as JSON, with the facts of the device."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / FILE
        rows = [asdict(row) for row in self.rows]
        file.write_text(json.dumps({"device": facts_of(device), "figures": rows}, indent=2) + "\n")
        return file


def _line(cells) -> str:
    return f"| {' | '.join(cells)} |"


def facts_of(device: str) -> dict[str, object]:
    """A device's name and memory in GiB, and the versions of what ran on it."""
    facts: dict[str, object] = {"name": device, "revision": git_revision()}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts["name"] = properties.name
        facts["memory"] = round(properties.total_memory / 2**30, 1)
        facts["cuda"] = torch.version.cuda
    for package in PACKAGES:
        facts[package] = installed(package)
    return facts


@dataclass(frozen=True)
class Trial:
    """One check on one device."""

    name: str
    device: str
    """`cpu` or `cuda`."""
    folder: Path
    """An empty folder."""
    models: Models
    figures: Figures

    def note(self, name: str, value: float, unit: str, bound: str = "") -> None:
        """Notes a figure, before the check holds it to its bound: it is reported where it misses it, too."""
        self.figures.rows.append(Figure(self.name, name, float(value), unit, bound))


@dataclass(frozen=True)
class Case:
    """A check with its settings."""

    check: Callable[..., None]
    settings: Mapping[str, object] = field(default_factory=dict)
    stand_in: Callable[[], AbstractContextManager[object]] = nullcontext
    """Replaces what a machine without a GPU does not have."""

    def __str__(self) -> str:
        """The name of the check and those of its settings that are words."""
        words = [value for value in self.settings.values() if isinstance(value, str)]
        return "-".join([self.check.__name__, *words])

    def run(self, device: str, folder: Path, models: Models, figures: Figures) -> None:
        """Runs the check on a device, and notes how long it took."""
        trial = Trial(str(self), device, folder, models, figures)
        start = time.monotonic()
        with self.stand_in():
            self.check(trial, **self.settings)
        trial.note("whole check", time.monotonic() - start, "s")
