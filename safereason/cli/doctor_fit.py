"""`safereason doctor --recipe R --gpus 4xA6000`: whether a recipe's trainings fit, and what would make them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safereason.cli import output

if TYPE_CHECKING:
    from safereason.recipe.schema import Recipe
    from safereason.stages.fit import Gpus, Training


@dataclass(frozen=True)
class Way:
    """One way to lay a training out on the GPUs."""

    name: str
    section: Any
    sharded: bool


def report(recipe: "Recipe", gpus: "Gpus", root: Path, as_json: bool) -> None:
    """Prints memory by part, whether it fits, how long the training is, and changes with what each comes to."""
    from safereason.stages import fit

    found, notes = fit.trainings(recipe, gpus)
    parts = {training.key: _of(recipe, training, root) for training in found}
    header = {
        "recipe": recipe.name,
        "model": recipe.model,
        "parameters": found[0].shape.parameters,
        "gpus": f"{gpus.count} x {gpus.name}, {_gib(gpus.size)} GiB each, planned with up to {_gib(gpus.room)}",
    }
    if as_json:
        output.print_json({**header, "stages": parts, "not counted": notes})
        return
    output.print_mapping(header)
    for key, part in parts.items():
        _print(key, part, gpus)
    for note in notes:
        print(f"\n{note}")


def _of(recipe: "Recipe", training: "Training", root: Path) -> dict[str, Any]:
    from safereason.stages import fit
    from safereason.stages.base import Options
    from safereason.training import memory

    memories = {}
    for way in _ways(training):
        of = memory.parts(training.step(way.section, sharded=way.sharded))
        most, phase = memory.peak(of)
        memories[way.name] = {"parts": of, "peak": most, "in": phase, "fits": most <= training.gpus.room}
    fits = all(column["fits"] for column in memories.values())
    changed = [] if fits else _changed(training)
    return {"counts": fit.steps(recipe, Options(root=root), training.key), "memory": memories, "changes": changed}


def _ways(training: "Training") -> list[Way]:
    from safereason.recipe.schema import LoRA

    section, count = training.section, training.gpus.count
    whole = "one GPU" if count == 1 else f"DDP on {count}"
    ways = [Way(whole, section, False)]
    if count > 1:
        ways.append(Way(f"FSDP2 or ZeRO-3 on {count}", section, True))
    if section.lora is None:
        adapted = section.model_copy(update={"lora": LoRA()})
        ways.append(Way(f"LoRA, {whole}", adapted, False))
    return ways


def _changed(training: "Training") -> list[dict[str, Any]]:
    """What each change alone comes to, in DDP and sharded."""
    from safereason.stages import fit

    def row(name: str, section: Any) -> dict[str, Any]:
        peaks = {"whole": training.peak(section)}
        if training.gpus.count > 1:
            peaks["sharded"] = training.peak(section, sharded=True)
        return {"change": name, **peaks}

    changes = [(f"{training.key}.{name}", section) for name, section in fit.changes(training)]
    return [row(name, section) for name, section in (("none", training.section), *changes)]


def _print(key: str, part: dict[str, Any], gpus: "Gpus") -> None:
    print(f"\n{key}")
    output.print_mapping(part["counts"], output.GAP)
    columns = part["memory"]
    names = list(dict.fromkeys(name for column in columns.values() for name in column["parts"]))
    rows = [(name, *(_gib(column["parts"].get(name)) for column in columns.values())) for name in names]
    rows.append(("peak", *(_gib(column["peak"]) for column in columns.values())))
    rows.append(("in", *(column["in"] for column in columns.values())))
    rows.append(("fits", *("yes" if column["fits"] else "no" for column in columns.values())))
    output.print_table(("GiB a GPU", *columns), rows)
    if part["changes"]:
        print()
        _print_changes(part["changes"], gpus)


def _print_changes(changes: Sequence[dict[str, Any]], gpus: "Gpus") -> None:
    def cell(size: int | None) -> str | None:
        return None if size is None else f"{_gib(size)}{'' if size <= gpus.room else ' (does not fit)'}"

    names = [name for name in ("whole", "sharded") if name in changes[0]]
    titles = {"whole": "peak" if gpus.count == 1 else "peak, DDP", "sharded": "peak, FSDP2 or ZeRO-3"}
    rows = [(change["change"], *(cell(change[name]) for name in names)) for change in changes]
    output.print_table(("change", *(titles[name] for name in names)), rows)


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**30:.1f}"
