"""Finished run directories as the report reads them: manifests, curves, rollouts, figures."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from safereason.errors import InputError
from safereason.files import json_type
from safereason.runs.directory import digest, is_finished, read_manifest, read_metrics
from safereason.runs.records import Record, read_records

KINDS_OF_MODEL = {"sft": "SFT", "rl": "RL", "guard/sft": "Guard SFT", "guard/rl": "Guard RL"}
"""Name of a model's kind on the page, by the stage that trained it."""
STAGES = ("data", "sft", "rl", "guard", "attack", "eval")
"""Stages in the order in which they run."""
Subject = tuple[str, str]
"""The subject of one row of figures: a model, and the settings it was measured with where others had other ones."""


@dataclass(frozen=True)
class Run:
    """One finished run directory."""

    path: Path
    manifest: Record
    metrics: Record
    recipe_yaml: str
    """Text of the resolved recipe."""
    recipe_values: Record
    """Values of the resolved recipe."""
    variant: str = ""
    """The settings by which an evaluation differs from the others of its kind; empty where it does not."""

    @property
    def stage(self) -> str:
        """The stage that wrote it, such as `rl` or `eval/harmbench`."""
        return str(self.manifest["stage"])

    @property
    def recipe(self) -> str:
        """Name of the run's recipe; `unnamed` where its manifest has none."""
        return str(self.manifest.get("recipe", "unnamed"))

    # Cached, since it hashes the identity and every lookup of a model needs it.
    @cached_property
    def name(self) -> str:
        """`stage/recipe/hash`: the name of this run's model in the identity of later runs."""
        return f"{self.stage}/{self.recipe}/{digest(self.identity)}"

    @property
    def base_model(self) -> str | None:
        """The base model that its recipe names."""
        if "model" not in self.recipe_values:
            return None
        return str(self.recipe_values["model"])

    @property
    def harmful_ratio(self) -> float | None:
        """λ of its recipe: the share of harmful prompts in RL."""
        data = self.recipe_values.get("data")
        if not isinstance(data, dict):
            return None
        return number(data.get("harmful_ratio"))

    @property
    def identity(self) -> Record:
        """The settings and inputs that its result depends on."""
        identity = self.manifest.get("identity")
        # A manifest may be of an earlier version, which had none.
        if not isinstance(identity, dict):
            return {}
        return identity

    @property
    def model(self) -> str:
        """The model that it measured or started from."""
        return str(self.identity.get("model", "unknown model"))

    @property
    def subject(self) -> Subject:
        """The model and the variant."""
        return self.model, self.variant

    @property
    def order(self) -> tuple[str, ...]:
        """A sort key: by recipe, stage and model.

        Times are no part of it, so that the same runs give the same page in any order of finishing.
        """
        stage, _, part = self.stage.partition("/")
        rank = len(STAGES)
        if stage in STAGES:
            rank = STAGES.index(stage)
        return self.recipe, str(rank), part, self.model, digest(self.identity), str(self.path)

    def records(self, name: str) -> Iterator[Record]:
        """The records of `name.jsonl`; none where the run has no such file."""
        path = self.path / f"{name}.jsonl"
        if not path.is_file():
            return iter(())
        return read_records(path)


def read_run(path: Path) -> Run:
    """The run in a directory: its manifest, metrics and recipe.

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
    # The figures of an unfinished run may still change.
    if not is_finished(path):
        status = manifest.get("status", "unfinished")
        raise InputError(f"{path}: this {manifest['stage']} run is {status}, not finished; end it with --resume first")
    metrics = read_metrics(path)
    recipe_yaml, values = _read_recipe(path / "recipe.yaml")
    return Run(path, manifest, metrics, recipe_yaml, values)


def _read_recipe(path: Path) -> tuple[str, Record]:
    """The text and the values of the resolved recipe; empty where the run has none."""
    if not path.is_file():
        return "", {}
    try:
        text = path.read_text(encoding="utf-8")
        recipe = yaml.safe_load(text)
    # PyYAML recurses: a file that is nested deeply enough ends in a RecursionError.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"{path}: no readable recipe ({type(error).__name__}); the run is damaged, make it anew"
        ) from error
    if not isinstance(recipe, dict):
        raise InputError(f"{path}: {json_type(recipe)} in place of a recipe; the run is damaged, make it anew")
    return text, recipe


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Every run once, by recipe, stage and model."""
    # A directory may be named twice, also by different paths.
    runs = {path.resolve(): read_run(path) for path in paths}
    return sorted(runs.values(), key=lambda run: run.order)


def of_stage(runs: Sequence[Run], stage: str) -> list[Run]:
    """The runs of a stage; `eval` means every evaluation."""
    return [run for run in runs if run.stage == stage or run.stage.startswith(f"{stage}/")]


def by_subject(runs: Sequence[Run]) -> dict[Subject, Run]:
    """Runs by the model that they measured and its variant; of several, the last one."""
    return {run.subject: run for run in runs}


@dataclass(frozen=True)
class MeasuredModel:
    """A measured model, as the page names it."""

    spec: str
    """Name in the identity of the evaluations."""
    role: str
    """`Base`, `SFT`, `RL`, … ."""
    detail: str
    """Recipe and hash, with the seed where its run is given, or the model's own name; then its variant."""
    variant: str = ""
    """The settings by which its measurements differ from the others; empty where they do not."""

    @property
    def subject(self) -> Subject:
        """The model and the variant, as `Run.subject` has them."""
        return self.spec, self.variant

    @property
    def family(self) -> str:
        """The recipe that trained it; its own name where none did."""
        return self.detail.partition(" · ")[0]

    @property
    def label(self) -> str:
        """Role and detail in one line."""
        return f"{self.role} · {self.detail}"


def measured_models(runs: Sequence[Run]) -> list[MeasuredModel]:
    """The models that the evaluations measured: base, then SFT, then RL, then any that no given recipe names."""
    runs_by_name = {}
    base_models = set()
    for run in runs:
        runs_by_name[run.name] = run
        base_models.add(run.base_model)
    models = []
    for spec, variant in by_subject(of_stage(runs, "eval")):
        models.append(_model_of(spec, variant, runs_by_name.get(spec), spec in base_models))
    role_order = ["Base", *KINDS_OF_MODEL.values(), "Other"]
    return sorted(models, key=lambda model: (role_order.index(model.role), model.detail))


def _model_of(spec: str, variant: str, training: Run | None, is_base: bool) -> MeasuredModel:
    """The model of an identity; `training` is the run that made it, where it is given."""
    variant_suffix = ""
    if variant:
        variant_suffix = f" · {variant}"
    # A model trained here is called `stage/recipe/hash`, and the stage may hold a `/` too. Others keep their own names.
    stage, *rest = spec.rsplit("/", 2)
    if stage not in KINDS_OF_MODEL or len(rest) != 2:
        role = "Other"
        if is_base:
            role = "Base"
        return MeasuredModel(spec, role, f"{spec}{variant_suffix}", variant)
    recipe, run_hash = rest
    detail = f"{recipe} · {run_hash}"
    if training is not None and "seed" in training.identity:
        # A space that does not break keeps the number on the line of its word.
        detail += f" · seed\u00a0{training.identity['seed']}"
    return MeasuredModel(spec, KINDS_OF_MODEL[stage], f"{detail}{variant_suffix}", variant)


def number(value: object) -> float | None:
    """A finite number as it is; None for every other value of a record."""
    # `True` is an `int` to Python, and no number in a record.
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


@dataclass(frozen=True)
class Line:
    """One curve: values `y` at the positions `x`, such as optimizer steps."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


def metric_lines(run: Run, keys: dict[str, str], log: str = "metrics") -> list[Line]:
    """The curves that a training run logged.

    Args:
        run: The run.
        keys: Labels by key of the log; a key without any number in the log gives no line.
        log: Name of the log, which is `log.jsonl`.
    """
    # The numbers alone: a row may hold far more than the curves need.
    values_by_key: dict[str, dict[float, float | None]] = {key: {} for key in keys}
    for row in run.records(log):
        step = number(row.get("step"))
        if step is None:
            continue
        # A resumed run may log a step again. Its last row counts, also where that lacks the key.
        for key, values_by_step in values_by_key.items():
            values_by_step[step] = number(row.get(key))
    lines = []
    for key, label in keys.items():
        logged = {step: value for step, value in values_by_key[key].items() if value is not None}
        if logged:
            lines.append(_line_over_steps(label, logged))
    return lines


def _line_over_steps(label: str, values_by_step: dict[float, float]) -> Line:
    steps = sorted(values_by_step)
    return Line(label, tuple(steps), tuple(values_by_step[step] for step in steps))


@dataclass(frozen=True)
class RolloutSummary:
    """A summary of an RL run's rollouts: means over the scored ones of each step and kind."""

    reward: list[Line]
    """Mean total reward, by kind of prompt."""
    well_formed: list[Line]
    """Share that passed the format check, by kind of prompt."""
    count: int
    unscored: int
    """Rollouts without a total: they took no part in any mean."""


def summarize_rollouts(run: Run) -> RolloutSummary:
    """The summary of `rollouts.jsonl`, made in one pass, since the file may be larger than memory."""
    reward = _Means()
    well_formed = _Means()
    count = 0
    unscored = 0
    for row in run.records("rollouts"):
        step = number(row.get("step"))
        # Without a step a row has no place on a curve.
        if step is None:
            continue
        kind = str(row.get("kind", "unknown kind"))
        total = number(row.get("total"))
        parts = row.get("parts")
        count += 1
        unscored += total is None
        reward.add(kind, step, total)
        if isinstance(parts, dict):
            well_formed.add(kind, step, number(parts.get("format")))
    return RolloutSummary(reward.lines(), well_formed.lines(), count, unscored)


class _Means:
    """Running means by label and step."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[float, tuple[float, int]]] = defaultdict(dict)

    def add(self, label: str, step: float, value: float | None) -> None:
        """Adds one value; None counts in no mean."""
        if value is not None:
            total, count = self._sums[label].get(step, (0.0, 0))
            self._sums[label][step] = (total + value, count + 1)

    def lines(self) -> list[Line]:
        """A line of means for each label, by label."""
        lines = []
        for label, sums_by_step in sorted(self._sums.items()):
            means = {step: total / count for step, (total, count) in sums_by_step.items()}
            lines.append(_line_over_steps(label, means))
        return lines
