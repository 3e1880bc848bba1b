"""`safereason doctor --recipe R --gpus 4xA6000`: whether a recipe's trainings fit, and changes that make them fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from safereason.cli import output

if TYPE_CHECKING:
    from safereason.recipe.schema import Recipe
    from safereason.training.fit import Gpus, Section, TrainingOnGpus


@dataclass(frozen=True)
class TrainingLayout:
    """One way to lay a training out on the GPUs."""

    name: str
    section: "Section"
    sharded: bool


# The memory of one layout, in bytes. The functional form, since `in` is a keyword; the keys are those of the JSON.
LayoutMemory = TypedDict("LayoutMemory", {"parts": dict[str, int], "peak": int, "in": str, "fits": bool})


class _WholePeak(TypedDict):
    change: str
    whole: int


class ChangePeaks(_WholePeak, total=False):
    """The peak memory after one change of the recipe, in bytes: of DDP or one GPU, and sharded."""

    sharded: int
    """Missing on a single GPU."""


class StageFit(TypedDict):
    """One training of the recipe: its steps, its memory by layout, and changes where a layout does not fit."""

    counts: dict[str, object]
    memory: dict[str, LayoutMemory]
    changes: list[ChangePeaks]


def print_fit_report(recipe: "Recipe", gpus: "Gpus", root: Path, as_json: bool) -> None:
    """Prints memory by part, whether it fits, the length of the training, and changes with the memory of each."""
    from safereason.training import fit

    trainings, notes = fit.trainings(recipe, gpus)
    fits = {training.key: _fit_of_stage(recipe, training, root) for training in trainings}
    header = {
        "recipe": recipe.name,
        "model": recipe.model,
        "parameters": trainings[0].shape.parameters,
        "gpus": f"{gpus.count} x {gpus.name}, {_gib(gpus.size)} GiB each, planned with up to {_gib(gpus.room)}",
    }
    if as_json:
        output.print_json({**header, "stages": fits, "not counted": notes})
        return
    output.print_mapping(header)
    for key, stage_fit in fits.items():
        _print_stage_fit(key, stage_fit, gpus)
    # What the arithmetic leaves out may be the reason why a training that fits on paper fails.
    for note in notes:
        print(f"\n{note}")


def _fit_of_stage(recipe: "Recipe", training: "TrainingOnGpus", root: Path) -> StageFit:
    from safereason.stages.base import Options
    from safereason.training import memory

    memory_by_layout: dict[str, LayoutMemory] = {}
    for layout in _layouts(training):
        parts = memory.parts(training.step(layout.section, sharded=layout.sharded))
        peak, phase = memory.peak(parts)
        memory_by_layout[layout.name] = {
            "parts": parts,
            "peak": peak,
            "in": phase,
            "fits": peak <= training.gpus.room,
        }
    changes: list[ChangePeaks] = []
    # Where every layout fits, nobody has to change the recipe.
    if not all(column["fits"] for column in memory_by_layout.values()):
        changes = _peaks_of_changes(training)
    from safereason.stages.plan_counts import planned_counts

    counts = planned_counts(recipe, Options(root=root), training.key)
    return {"counts": counts, "memory": memory_by_layout, "changes": changes}


def _layouts(training: "TrainingOnGpus") -> list[TrainingLayout]:
    """The layouts of the recipe as it is, and with LoRA where it trains all weights."""
    from safereason.recipe.schema import LoRA

    section = training.section
    count = training.gpus.count
    unsharded = "one GPU"
    if count > 1:
        unsharded = f"DDP on {count}"
    layouts = [TrainingLayout(unsharded, section, False)]
    if count > 1:
        layouts.append(TrainingLayout(f"FSDP2 or ZeRO-3 on {count}", section, True))
    if section.lora is None:
        with_lora = section.model_copy(update={"lora": LoRA()})
        layouts.append(TrainingLayout(f"LoRA, {unsharded}", with_lora, False))
    return layouts


def _peaks_of_changes(training: "TrainingOnGpus") -> list[ChangePeaks]:
    """The peaks after each change alone. The first row, `none`, is the recipe as it is, to compare with."""
    from safereason.training import fit

    rows = [_peaks_of("none", training, training.section)]
    for name, section in fit.changes(training):
        rows.append(_peaks_of(f"{training.key}.{name}", training, section))
    return rows


def _peaks_of(change: str, training: "TrainingOnGpus", section: "Section") -> ChangePeaks:
    peaks: ChangePeaks = {"change": change, "whole": training.peak(section)}
    if training.gpus.count > 1:
        peaks["sharded"] = training.peak(section, sharded=True)
    return peaks


def _print_stage_fit(key: str, stage_fit: StageFit, gpus: "Gpus") -> None:
    print(f"\n{key}")
    output.print_mapping(stage_fit["counts"], output.GAP)
    layouts = stage_fit["memory"]
    part_names: list[str] = []
    peaks = ["peak"]
    phases = ["in"]
    verdicts = ["fits"]
    for layout in layouts.values():
        # A layout may have parts that others lack, such as those of LoRA.
        part_names += [name for name in layout["parts"] if name not in part_names]
        peaks.append(_gib(layout["peak"]))
        phases.append(layout["in"])
        verdicts.append("yes" if layout["fits"] else "no")
    rows: list[list[str]] = []
    for name in part_names:
        sizes = [_gib(layout["parts"].get(name)) for layout in layouts.values()]
        rows.append([name, *sizes])
    rows += [peaks, phases, verdicts]
    output.print_table(("GiB a GPU", *layouts), rows)
    if stage_fit["changes"]:
        print()
        _print_changes_of_recipe(stage_fit["changes"], gpus)


def _print_changes_of_recipe(changes: Sequence[ChangePeaks], gpus: "Gpus") -> None:
    """Prints the peaks of each change; on several GPUs, those of both layouts."""
    if gpus.count == 1:
        rows = [(change["change"], _peak_cell(change["whole"], gpus)) for change in changes]
        output.print_table(("change", "peak"), rows)
        return
    pairs: list[tuple[str, str, str]] = []
    for change in changes:
        pairs.append((change["change"], _peak_cell(change["whole"], gpus), _peak_cell(change["sharded"], gpus)))
    output.print_table(("change", "peak, DDP", "peak, FSDP2 or ZeRO-3"), pairs)


def _peak_cell(size: int, gpus: "Gpus") -> str:
    if size <= gpus.room:
        return _gib(size)
    return f"{_gib(size)} (does not fit)"


def _gib(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 2**30:.1f}"
