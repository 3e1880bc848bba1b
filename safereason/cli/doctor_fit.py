"""`safereason doctor --recipe R --gpus 4xA6000`: whether a recipe's trainings fit, and changes that make them fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from safereason.cli import output
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.recipe.schema import Offload, Recipe
    from safereason.training.fit import Gpus, Section, TrainingOnGpus
    from safereason.training.memory import MemoryPart


@dataclass(frozen=True)
class TrainingLayout:
    """One way to lay a training out on the GPUs."""

    name: str
    section: "Section"
    sharded: bool
    offload: "Offload"


# The memory of one layout, in bytes. The functional form, since `in` is a keyword; the keys are those of the JSON.
LayoutMemory = TypedDict(
    "LayoutMemory",
    {"parts": dict[str, int], "phases": dict[str, int], "peak": int, "in": str, "fits": bool, "host": int},
)


class _WholePeak(TypedDict):
    change: str
    whole: int


class ChangePeaks(_WholePeak, total=False):
    """The peak memory after one change of the recipe, in bytes: of DDP or one GPU, and sharded."""

    sharded: int
    """Missing on a single GPU."""


class StageFit(TypedDict):
    """One training of the recipe: its steps, its memory by layout, and changes where a layout does not fit."""

    launch: str
    """What `--launch auto` would choose, or why it would refuse."""
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
    from safereason.stages.plan_counts import planned_counts, planned_hours
    from safereason.training import memory

    memory_by_layout: dict[str, LayoutMemory] = {}
    for layout in _layouts(training):
        parts = training.parts(layout.section, sharded=layout.sharded, offload=layout.offload)
        peak, phase = memory.peak(parts)
        memory_by_layout[layout.name] = {
            "parts": {name: part.size for name, part in parts.items()},
            "phases": _phases(layout.section, parts),
            "peak": peak,
            "in": phase,
            "fits": training.fits(layout.section, sharded=layout.sharded, offload=layout.offload),
            "host": memory.host_size(training.step(layout.section, sharded=layout.sharded, offload=layout.offload)),
        }
    changes: list[ChangePeaks] = []
    # Where every layout fits, nobody has to change the recipe.
    if not all(column["fits"] for column in memory_by_layout.values()):
        changes = _peaks_of_changes(training)
    options = Options(root=root, processes=training.gpus.count)
    counts = planned_counts(recipe, options, training.key)
    hours = planned_hours(recipe, options, (training.key,), training.gpus)
    return {
        "launch": _chosen_launch(recipe, training),
        "counts": {**counts, **hours},
        "memory": memory_by_layout,
        "changes": changes,
    }


def _phases(section: "Section", parts: "Mapping[str, MemoryPart]") -> dict[str, int]:
    """The bytes that each phase of a step takes, in order. RL alone draws and scores between its steps."""
    from safereason.recipe.schema import GRPO
    from safereason.training import memory

    sizes = memory.phase_sizes(parts)
    if not isinstance(section, GRPO):
        del sizes[memory.DRAW], sizes[memory.SCORE]
    return sizes


def _chosen_launch(recipe: "Recipe", training: "TrainingOnGpus") -> str:
    """What `--launch auto` would choose, in a line, or why it would refuse."""
    from safereason.training import launch
    from safereason.training.layout import choose_layout, refusal

    gpus = training.gpus
    try:
        layout = choose_layout(launch.AUTO, recipe, (training.key,), gpus)
    except InputError:
        return f"no: {refusal(training)}"
    if layout.reason:
        return f"yes: {layout.reason}"
    alone = _unsharded(training, training.section)
    answer = "no"
    if training.fits(training.section, offload=alone.offload):
        answer = "yes"
    problem = training.vllm_lack(training.section)
    return f"{answer}: {problem or f'{alone.name}: {_gib(layout.peak)} GiB of {_gib(gpus.room)}'}"


def _layouts(training: "TrainingOnGpus") -> list[TrainingLayout]:
    """The layouts of the recipe as it is, and with LoRA where it trains all weights."""
    from safereason.recipe.schema import LoRA

    section = training.section
    count = training.gpus.count
    layouts = [_unsharded(training, section)]
    if count > 1:
        layouts.append(_sharded(training, section))
    if section.lora is None:
        whole = _unsharded(training, section.model_copy(update={"lora": LoRA()}))
        layouts.append(TrainingLayout(f"LoRA, {whole.name}", whole.section, whole.sharded, whole.offload))
    return layouts


def _unsharded(training: "TrainingOnGpus", section: "Section") -> TrainingLayout:
    """The layout with all of the model on each GPU."""
    name = "one GPU"
    offload: Offload = "none"
    if training.gpus.count > 1:
        name = f"DDP on {training.gpus.count}"
    else:
        offload = training.offload(section)
    if section.offload == "optimizer":
        offload = section.offload
    return TrainingLayout(_with_offload(name, offload), section, False, offload)


def _sharded(training: "TrainingOnGpus", section: "Section") -> TrainingLayout:
    """The layout with parts of the model on each GPU, and as much offloaded as it takes."""
    from dataclasses import replace

    from safereason.recipe.schema import GRPO
    from safereason.training.layout import ways

    changed = replace(training, section=section)
    offload: Offload = "none"
    for way in ways([changed]):
        if not way.sharded:
            continue
        offload = way.offload
        if way.has_room([changed]):
            break
    name = "FSDP2"
    # Neither RL nor offloading is there with DeepSpeed.
    if offload == "none" and not isinstance(section, GRPO):
        name = "FSDP2 or ZeRO-3"
    return TrainingLayout(_with_offload(f"{name} on {training.gpus.count}", offload), section, True, offload)


def _with_offload(name: str, offload: "Offload") -> str:
    if offload == "none":
        return name
    return f"{name}, offload {offload}"


def _peaks_of_changes(training: "TrainingOnGpus") -> list[ChangePeaks]:
    """The peaks after each change alone. The first row, `none`, is the recipe as it is, to compare with."""
    from safereason.training import fit

    rows = [_peaks_of("none", training, training.section)]
    for name, section in fit.changes(training):
        rows.append(_peaks_of(f"{training.key}.{name}", training, section))
    return rows


def _peaks_of(change: str, training: "TrainingOnGpus", section: "Section") -> ChangePeaks:
    whole = _unsharded(training, section)
    peaks: ChangePeaks = {"change": change, "whole": training.peak(section, offload=whole.offload)}
    if training.gpus.count > 1:
        sharded = _sharded(training, section)
        peaks["sharded"] = training.peak(section, sharded=True, offload=sharded.offload)
    return peaks


def _print_stage_fit(key: str, stage_fit: StageFit, gpus: "Gpus") -> None:
    print(f"\n{key}")
    output.print_mapping({"fits": stage_fit["launch"], **stage_fit["counts"]}, output.GAP)
    layouts = stage_fit["memory"]
    part_names: list[str] = []
    phase_names: list[str] = []
    for layout in layouts.values():
        # A layout may have parts that others lack, such as those of LoRA.
        part_names += [name for name in layout["parts"] if name not in part_names]
        phase_names = list(layout["phases"])
    rows: list[list[str]] = []
    for name in part_names:
        sizes = [_gib(layout["parts"].get(name)) for layout in layouts.values()]
        rows.append([name, *sizes])
    for phase in phase_names:
        rows.append([f"at {phase}", *(_gib(layout["phases"][phase]) for layout in layouts.values())])
    rows.append(["peak", *(_gib(layout["peak"]) for layout in layouts.values())])
    rows.append(["fits", *("yes" if layout["fits"] else "no" for layout in layouts.values())])
    rows.append(["CPU's, all processes", *(_gib(layout["host"]) for layout in layouts.values())])
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
    output.print_table(("change", "peak, DDP", "peak, sharded"), pairs)


def _peak_cell(size: int, gpus: "Gpus") -> str:
    if size <= gpus.room:
        return _gib(size)
    return f"{_gib(size)} (does not fit)"


def _gib(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 2**30:.1f}"
