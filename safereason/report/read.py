"""What the report reads from finished run directories: manifests, curves, rollouts, figures."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from safereason.errors import InputError
from safereason.files import json_type
from safereason.runs.directory import digest, is_finished, read_manifest, read_metrics
from safereason.runs.records import Record, read_records

ROLES = {"sft": "SFT", "rl": "RL", "guard/sft": "Guard SFT", "guard/rl": "Guard RL"}
"""What a model made by a stage is called."""


STAGES = ("data", "sft", "rl", "guard", "attack", "eval")
"""In the order of their work."""
Subject = tuple[str, str]
"""What one row of figures is of: a model, and how it was measured otherwise than the others."""


@dataclass(frozen=True)
class Run:
    """One finished run directory."""

    path: Path
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    recipe_yaml: str
    """The resolved recipe."""
    recipe_values: dict[str, Any]
    """The same, read."""
    variant: str = ""
    """How an evaluation was made otherwise than the others of its kind; empty where it was not."""

    @property
    def stage(self) -> str:
        """The stage that wrote it, such as `rl` or `eval/harmbench`."""
        return str(self.manifest["stage"])

    @property
    def recipe(self) -> str:
        """Name of its recipe."""
        return str(self.manifest.get("recipe", "unnamed"))

    @cached_property
    def name(self) -> str:
        """`stage/recipe/hash`: what a later run's identity calls the model that this one made."""
        return f"{self.stage}/{self.recipe}/{digest(self.identity)}"

    @property
    def base_model(self) -> str | None:
        """The base model that its recipe names."""
        return str(self.recipe_values["model"]) if "model" in self.recipe_values else None

    @property
    def harmful_ratio(self) -> float | None:
        """λ of its recipe: the share of harmful prompts in RL."""
        data = self.recipe_values.get("data")
        return number(data.get("harmful_ratio")) if isinstance(data, dict) else None

    @property
    def identity(self) -> dict[str, Any]:
        """What its result depends on."""
        identity = self.manifest.get("identity")
        return identity if isinstance(identity, dict) else {}

    @property
    def model(self) -> str:
        """The model it measured or started from."""
        return str(self.identity.get("model", "unknown model"))

    @property
    def subject(self) -> Subject:
        """The model, and how it was measured."""
        return self.model, self.variant

    @property
    def order(self) -> tuple[str, ...]:
        """Where it stands among others: by recipe, stage and model, whenever it finished."""
        stage, _, part = self.stage.partition("/")
        rank = STAGES.index(stage) if stage in STAGES else len(STAGES)
        return self.recipe, str(rank), part, self.model, digest(self.identity), str(self.path)

    def records(self, name: str) -> Iterator[Record]:
        """The records of `name.jsonl`; none where the run has no such file."""
        path = self.path / f"{name}.jsonl"
        return read_records(path) if path.is_file() else iter(())


def read_run(path: Path) -> Run:
    """Reads a run directory's manifest, metrics and recipe.

    Raises:
        InputError: `path` is missing, no run directory, or a run that did not finish.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such run directory; check the path")
    manifest = read_manifest(path)
    if manifest is None or "stage" not in manifest:
        raise InputError(
            f"{path}: holds no run (no manifest.json that names a stage); give a directory that a stage wrote"
        )
    if not is_finished(path):
        status = manifest.get("status", "unfinished")
        raise InputError(f"{path}: this {manifest['stage']} run is {status}, not finished; end it with --resume first")
    metrics = read_metrics(path)
    recipe_yaml, values = _read_recipe(path / "recipe.yaml")
    return Run(path, manifest, metrics, recipe_yaml, values)


def _read_recipe(path: Path) -> tuple[str, dict[str, Any]]:
    """The resolved recipe as it stands, and its values; empty where the run has none."""
    if not path.is_file():
        return "", {}
    try:
        text = path.read_text(encoding="utf-8")
        recipe = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"{path}: no readable recipe ({type(error).__name__}); the run is damaged, make it anew"
        ) from error
    if not isinstance(recipe, dict):
        raise InputError(f"{path}: {json_type(recipe)} in place of a recipe; the run is damaged, make it anew")
    return text, recipe


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Every run once, by recipe, stage and model, whatever order they finished or are named in."""
    runs = {path.resolve(): read_run(path) for path in paths}
    return sorted(runs.values(), key=lambda run: run.order)


def of_stage(runs: Sequence[Run], stage: str) -> list[Run]:
    """The runs of a stage; `eval` means every evaluation."""
    return [run for run in runs if run.stage == stage or run.stage.startswith(f"{stage}/")]


@dataclass(frozen=True)
class Model:
    """A model that was measured, as the page names it."""

    spec: str
    """What the evaluations' identity calls it."""
    role: str
    """`Base`, `SFT`, `RL`, … ."""
    detail: str
    """Which one: its recipe and hash, with the seed where the run is at hand; or its own name. Then its variant."""
    variant: str = ""
    """How it was measured otherwise than the others; empty where it was not."""

    @property
    def subject(self) -> Subject:
        """What runs call it."""
        return self.spec, self.variant

    @property
    def family(self) -> str:
        """The recipe that made it; its own name where none did."""
        return self.detail.partition(" · ")[0]

    @property
    def label(self) -> str:
        """Both in one line."""
        return f"{self.role} · {self.detail}"


def measured_models(runs: Sequence[Run]) -> list[Model]:
    """The models that the evaluations measured: base, then SFT, then RL, then any that no recipe at hand names."""
    made = {run.name: run for run in runs}
    bases = {run.base_model for run in runs}
    order = ["Base", *ROLES.values(), "Other"]
    models = [
        _model(spec, variant, made.get(spec), spec in bases)
        for spec, variant in {run.subject for run in of_stage(runs, "eval")}
    ]
    return sorted(models, key=lambda model: (order.index(model.role), model.detail))


def _model(spec: str, variant: str, run: Run | None, is_base: bool) -> Model:
    stage, *rest = spec.rsplit("/", 2)
    measured = f" · {variant}" if variant else ""
    if stage not in ROLES or len(rest) != 2:
        return Model(spec, "Base" if is_base else "Other", f"{spec}{measured}", variant)
    seed = f" · seed\u00a0{run.identity['seed']}" if run and "seed" in run.identity else ""
    return Model(spec, ROLES[stage], f"{rest[0]} · {rest[1]}{seed}{measured}", variant)


def number(value: Any) -> float | None:
    """A finite number, or None for whatever else a record holds."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


@dataclass(frozen=True)
class Line:
    """One curve over optimizer steps."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


def metric_lines(run: Run, keys: dict[str, str], log: str = "metrics") -> list[Line]:
    """What a training run logged, one line for each key (key → label) that any row of `log.jsonl` has."""
    rows = {step: row for row in run.records(log) if (step := number(row.get("step"))) is not None}
    lines = []
    for key, label in keys.items():
        points = sorted((step, value) for step, row in rows.items() if (value := number(row.get(key))) is not None)
        if points:
            lines.append(_line(label, points))
    return lines


def _line(label: str, points: Sequence[tuple[float, float]]) -> Line:
    return Line(label, tuple(x for x, _ in points), tuple(y for _, y in points))


@dataclass(frozen=True)
class Rollouts:
    """The rollouts of an RL run, added up: means over the scored ones of each step and kind."""

    reward: list[Line]
    """Mean total reward, by kind of prompt."""
    well_formed: list[Line]
    """Share that passed the format check, by kind of prompt."""
    count: int
    unscored: int
    """Rollouts without a total: they took no part in any mean."""


def read_rollouts(run: Run) -> Rollouts:
    """Adds up `rollouts.jsonl` in one pass, however long it is."""
    reward, well_formed = _Means(), _Means()
    count = unscored = 0
    for row in run.records("rollouts"):
        step, kind = number(row.get("step")), str(row.get("kind", "unknown kind"))
        if step is None:
            continue
        total, parts = number(row.get("total")), row.get("parts")
        count += 1
        unscored += total is None
        reward.add(kind, step, total)
        well_formed.add(kind, step, number(parts.get("format")) if isinstance(parts, dict) else None)
    return Rollouts(reward.lines(), well_formed.lines(), count, unscored)


class _Means:
    """Running means by label and step."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[float, tuple[float, int]]] = defaultdict(dict)

    def add(self, label: str, step: float, value: float | None) -> None:
        if value is not None:
            total, count = self._sums[label].get(step, (0.0, 0))
            self._sums[label][step] = (total + value, count + 1)

    def lines(self) -> list[Line]:
        means = {
            k: sorted((x, total / n) for x, (total, n) in steps.items()) for k, steps in sorted(self._sums.items())
        }
        return [_line(label, points) for label, points in means.items()]
