"""The layout of a training: how many processes share it, whether each holds the whole model, and what is offloaded.

`--launch auto` takes the cheapest layout that `training.fit` says fits the GPUs. DDP comes before FSDP2: it sends
gradients only, and FSDP2 every weight as well. Where FSDP2 does not fit, the optimizer's state waits in the CPU's
memory between steps, and where that is not enough, the model stays there, too.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safereason import processes
from safereason.engines.place import VISIBLE
from safereason.errors import InputError, StageFailed, command
from safereason.recipe.schema import Offload, Recipe
from safereason.training import fit, launch
from safereason.training.fit import GIB, Gpus, Section, TrainingOnGpus
from safereason.training.launch import Launch
from safereason.training.shapes import shape_of

CUDA_DRIVER = "libcuda.so.1"
ROCM_DEVICE = Path("/dev/kfd")
ONE = "one"
# The properties of a device are known once CUDA is initialised, which takes memory of the first GPU.
SIZES_PROGRAM = """
import torch
for index in range(torch.cuda.device_count()):
    print(torch.cuda.get_device_properties(index).total_memory)
"""


@dataclass(frozen=True)
class Layout:
    """The processes of one training, or of several that are one command."""

    launch_option: str
    """The value of `--launch` that gives this layout without any choice."""
    launch: Launch | None
    """The processes; None where one process trains alone."""
    gpus: Gpus | None = None
    """The GPUs that it was planned on; None without any."""
    peak: int | None = None
    """Bytes that it takes on each GPU; None where they are not known."""
    reason: str = ""
    """Why it was chosen; empty where it was not."""
    offload: Offload = "none"
    """The most that one of its trainings keeps in the CPU's memory."""
    keys: tuple[str, ...] = ()
    """Dotted keys of the sections that are trained."""

    @property
    def name(self) -> str:
        """Its name: DDP, FSDP2, ZeRO-3, …, or `one` for one process."""
        if self.launch is None:
            return ONE
        return self.launch.layout

    @property
    def processes(self) -> int:
        """The number of processes, over all machines."""
        if self.launch is None:
            return processes.count()
        return self.launch.processes

    def outline(self) -> dict[str, object]:
        """What a plan says of it; empty where one process trains without a GPU."""
        if self.launch is None and self.gpus is None:
            return {}
        outline: dict[str, object] = {"processes": self.processes, "layout": self.name}
        if self.offload != "none":
            outline["layout"] = f"{self.name}, offload {self.offload}"
        return {**outline, **self._memory()}

    def _memory(self) -> dict[str, object]:
        if self.gpus is None:
            return {}
        peak = None
        if self.peak is not None:
            peak = round(self.peak / GIB, 1)
        return {"GiB a GPU": peak, "of": round(self.gpus.room / GIB, 1)}


def device_count() -> int:
    """The number of GPUs that torch sees; CUDA is not initialised by it."""
    # Importing torch takes longer than the rest of a dry run. Without a driver it sees none.
    if not _has_driver():
        return 0
    import torch

    return torch.cuda.device_count()


def _has_driver() -> bool:
    """Whether a driver is here through which torch could reach a GPU: NVIDIA's library, or the device of AMD's."""
    try:
        ctypes.CDLL(CUDA_DRIVER)
    except OSError:
        return ROCM_DEVICE.exists()
    return True


def devices_here() -> list[int]:
    """The memory of each GPU that torch sees, in bytes. CUDA is not initialised in this process.

    Raises:
        StageFailed: torch counts GPUs and cannot use them.
    """
    if device_count() == 0:
        return []
    done = subprocess.run([sys.executable, "-c", SIZES_PROGRAM], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last_line = (done.stderr.strip() or "no message").splitlines()[-1]
        raise StageFailed(f"the GPUs of this machine cannot be used ({last_line}); see `nvidia-smi`")
    return [int(line) for line in done.stdout.split()]


def gpus_here() -> Gpus | None:
    """The GPUs of this machine, each taken to be as small as the smallest; None without any."""
    sizes = devices_here()
    if not sizes:
        return None
    smallest = min(sizes)
    return Gpus(len(sizes), smallest, f"{smallest / GIB:.0f}GB")


def use_first_device() -> bool:
    """Whether GPUs were hidden from torch: all but the first, where one process would see several.

    The trainer would copy the model onto all that it sees (torch's DataParallel). It has to be called before torch
    initialises CUDA.
    """
    if processes.count() > 1 or device_count() < 2:
        return False
    visible = os.environ.get(VISIBLE) or "0"
    os.environ[VISIBLE] = visible.partition(",")[0].strip()
    return True


def choose_layout(launch_option: str, recipe: Recipe, keys: Sequence[str], gpus: Gpus | None) -> Layout:
    """The layout of trainings that are one command.

    Args:
        launch_option: The value of `--launch`.
        recipe: The recipe, with the model that they start from.
        keys: Dotted keys of the sections that are trained; those that the recipe lacks are left out.
        gpus: The GPUs; None without any.

    Raises:
        InputError: The value is none of the option's, accelerate refuses it, no layout fits the GPUs, or a step cannot
            be shared out among the processes.
    """
    sections: dict[str, Section] = {}
    for key, section in fit.sections_of(recipe).items():
        if key in keys:
            sections[key] = section
    chosen = _choose(launch_option, recipe, sections, gpus)
    return replace(chosen, keys=tuple(sections))


def _choose(launch_option: str, recipe: Recipe, sections: Mapping[str, Section], gpus: Gpus | None) -> Layout:
    """The layout of some sections of a recipe; arguments and errors as of `choose_layout`."""
    is_alone = gpus is None or gpus.count == 1 or processes.is_launched() or not sections
    if launch_option == launch.NONE or (launch_option == launch.AUTO and is_alone):
        if not processes.is_launched():
            _check_offload(sections, launch_option, offloads=False)
        one = gpus and Gpus(1, gpus.size, gpus.name)
        peak, offload = _known_peak(recipe, sections, one)
        return Layout(launch.NONE, None, gpus, peak, offload=offload)
    if launch_option == launch.AUTO and gpus is not None:
        _check_shares(sections, gpus.count, f"; choose GPUs by {VISIBLE}, or pass {launch.OPTION} {launch.NONE}")
        return _cheapest(recipe, sections, gpus)
    started = launch.read(launch_option, gpus.count if gpus else 0)
    _check_shares(sections, started.processes)
    _check_offload(sections, launch_option, offloads=started.offloads)
    peak, offload = _known_peak(recipe, sections, gpus, started)
    return Layout(launch_option, started, gpus, peak, offload=offload)


def _check_shares(sections: Mapping[str, Section], count: int, advice: str = "") -> None:
    """Refuses a step that cannot be shared out evenly among so many processes; `advice` ends the message.

    Raises:
        InputError: A section has such a step.
    """
    for key, section in sections.items():
        try:
            fit.batch_of(section, count, key)
        except InputError as error:
            raise InputError(f"{error}{advice}") from error


def _check_offload(sections: Mapping[str, Section], launch_option: str, *, offloads: bool) -> None:
    """Refuses sections that offload otherwise than the processes can, or than their config does.

    Raises:
        InputError: A section does.
    """
    for key, section in sections.items():
        if section.offload == "all" and not offloads:
            raise InputError(
                f"{key}.offload: all is for several GPUs under {launch.OPTION} {_option(launch.FSDP2_OFFLOAD)}; "
                f"pass that, or {key}.offload=auto"
            )
        if section.offload in ("none", "optimizer") and offloads:
            raise InputError(
                f"{key}.offload: {section.offload} goes against {launch.OPTION} {launch_option}, which offloads all; "
                f"pass {launch.OPTION} {_option(launch.FSDP2)}, or {key}.offload=auto"
            )


@dataclass(frozen=True)
class _Way:
    """A way to lay out the trainings of a command."""

    config: str
    """The shipped config."""
    sharded: bool
    offloads: tuple[Offload, ...]
    """What each training offloads."""

    def peak(self, trainings: Sequence[TrainingOnGpus]) -> int:
        """The most bytes that any of the trainings takes on a GPU."""
        peaks: list[int] = []
        for training, offload in zip(trainings, self.offloads, strict=True):
            peaks.append(training.peak(training.section, sharded=self.sharded, offload=offload))
        return max(peaks)

    def has_room(self, trainings: Sequence[TrainingOnGpus]) -> bool:
        """Whether all trainings fit the GPUs."""
        return self.peak(trainings) <= min(training.gpus.room for training in trainings)

    def fits(self, trainings: Sequence[TrainingOnGpus]) -> bool:
        """Whether all trainings fit the GPUs, and their vLLM has what it starts with."""
        return self.has_room(trainings) and not any(training.vllm_lack(training.section) for training in trainings)

    @property
    def offload(self) -> Offload:
        """The most that is offloaded."""
        return max(self.offloads, key=OFFLOADS.index)

    @property
    def heading(self) -> str:
        """Its name in messages."""
        name = "FSDP2" if self.sharded else "DDP"
        if self.offload == "none":
            return name
        return f"{name}, offload {self.offload},"


OFFLOADS: tuple[Offload, ...] = ("none", "optimizer", "all")
"""What may be offloaded, the cheapest first."""


def ways(trainings: Sequence[TrainingOnGpus]) -> Iterator[_Way]:
    """The ways to lay trainings out on several GPUs that their sections leave open, the cheapest first."""
    offloads = [training.section.offload for training in trainings]
    if "all" not in offloads:
        nothing: list[Offload] = ["none" if offload == "auto" else offload for offload in offloads]
        yield _Way(launch.DDP, False, tuple(nothing))
        yield _Way(launch.FSDP2, True, tuple(nothing))
        needed = [training.offload(training.section, sharded=True) for training in trainings]
        if needed != nothing:
            yield _Way(launch.FSDP2, True, tuple(needed))
    if set(offloads) <= {"auto", "all"}:
        everything: list[Offload] = ["all" for _ in offloads]
        yield _Way(launch.FSDP2_OFFLOAD, True, tuple(everything))


def _cheapest(recipe: Recipe, keys: Collection[str], gpus: Gpus) -> Layout:
    """The cheapest layout that fits several GPUs.

    Raises:
        InputError: None fits.
    """
    try:
        shape_of(recipe.model)
    except InputError as error:
        # FSDP2 fits whatever DDP fits.
        sharded = launch.read(_option(launch.FSDP2), gpus.count)
        return Layout(_option(launch.FSDP2), sharded, gpus, None, f"{_heading(sharded)}: {error}")
    trainings = _trainings(recipe, keys, gpus)
    before: _Way | None = None
    for way in ways(trainings):
        if way.fits(trainings):
            return _layout_of(way, before, trainings, gpus)
        before = way
    doctor = command("doctor", "--recipe", recipe.reference, "--gpus", f"{gpus.count}x{gpus.name}")
    problem = next(refusal(training) for training in trainings if not _fits(training))
    raise InputError(f"{problem}; {doctor} shows what each change saves")


def _layout_of(way: _Way, before: _Way | None, trainings: Sequence[TrainingOnGpus], gpus: Gpus) -> Layout:
    """The layout of a way that fits; `before` is the one that is cheaper and does not."""
    started = launch.read(_option(way.config), gpus.count)
    peak = way.peak(trainings)
    heading = f"{started.processes} processes, {way.heading.rstrip(',')}"
    reason = f"{heading}: {_gib(peak)} GiB of {_gib(gpus.room)} a GPU"
    if before is not None:
        reason = f"{heading}: {before.heading} would need {_gib(before.peak(trainings))} GiB of {_gib(gpus.room)} a GPU"
    return Layout(_option(way.config), started, gpus, peak, reason, way.offload)


def _option(config: str) -> str:
    return f"{launch.LAUNCHER}:{config}"


def _heading(started: Launch) -> str:
    return f"{started.processes} processes, {started.layout}"


def refusal(training: TrainingOnGpus) -> str:
    """The message for a training that fits several GPUs in no layout, with the changes that would make it fit."""
    gpus = training.gpus
    problem = training.vllm_lack(training.section)
    if not problem:
        *_, least = ways([training])
        problem = (
            f"{training.key}: does not fit {gpus.count} GPUs: with {least.heading} it takes "
            f"{_gib(least.peak([training]))} GiB of {_gib(gpus.room)} each"
        )
    fitting: list[str] = []
    for change, section in fit.changes(training):
        if _fits(replace(training, section=section)):
            fitting.append(f"{training.key}.{change}")
    advice = "no single change is enough"
    if fitting:
        advice = f"set {' or '.join(fitting)}"
    return f"{problem}; {advice}"


def _fits(training: TrainingOnGpus) -> bool:
    """Whether a training fits several GPUs in any way."""
    return any(way.fits([training]) for way in ways([training]))


def _trainings(recipe: Recipe, keys: Collection[str], gpus: Gpus) -> list[TrainingOnGpus]:
    trainings, _ = fit.trainings(recipe, gpus)
    return [training for training in trainings if training.key in keys]


def _known_peak(
    recipe: Recipe, keys: Collection[str], gpus: Gpus | None, started: Launch | None = None
) -> tuple[int | None, Offload]:
    """The most bytes that any of the trainings takes on a GPU, and the most that is offloaded.

    They are not known without GPUs or trainings, or where the model's shape is not.

    Args:
        recipe: The recipe.
        keys: The trainings' dotted keys.
        gpus: The GPUs; None without any.
        started: The processes; None where one process trains alone.
    """
    offloads = started is not None and started.offloads
    if gpus is None or not keys:
        return None, "all" if offloads else "none"
    sharded = started is not None and started.is_sharded
    try:
        trainings = _trainings(recipe, keys, gpus)
        chosen: list[Offload] = []
        for training in trainings:
            chosen.append("all" if offloads else training.offload(training.section, sharded=sharded))
        way = _Way("", sharded, tuple(chosen))
        return way.peak(trainings), way.offload
    except InputError:
        # The training itself says what is wrong.
        return None, "none"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
