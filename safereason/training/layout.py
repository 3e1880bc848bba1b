"""The layout of a training: how many processes share it, and whether each holds the whole model.

`--launch auto` takes the cheapest layout that `training.fit` says fits the GPUs. DDP comes before FSDP2: it sends
gradients only, and FSDP2 every weight as well.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safereason import processes
from safereason.errors import InputError, StageFailed, command
from safereason.recipe.schema import Recipe
from safereason.training import fit, launch
from safereason.training.fit import GIB, Gpus, Section, TrainingOnGpus
from safereason.training.launch import Launch
from safereason.training.shapes import shape_of

VISIBLE = "CUDA_VISIBLE_DEVICES"
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

    spec: str
    """The value of `--launch` that gives this layout without any choice."""
    launch: Launch | None
    """The processes; None where one process trains alone."""
    gpus: Gpus | None = None
    """The GPUs that it was planned on; None without any."""
    peak: int | None = None
    """Bytes that it takes on each GPU; None where they are not known."""
    reason: str = ""
    """Why it was chosen; empty where it was not."""

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
        return {"processes": self.processes, "layout": self.name, **self._memory()}

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


def choose_layout(spec: str, recipe: Recipe, keys: Sequence[str], gpus: Gpus | None) -> Layout:
    """The layout of trainings that are one command.

    Args:
        spec: The value of `--launch`.
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
    is_alone = gpus is None or gpus.count == 1 or processes.is_launched() or not sections
    if spec == launch.NONE or (spec == launch.AUTO and is_alone):
        one = gpus and Gpus(1, gpus.size, gpus.name)
        return Layout(launch.NONE, None, gpus, _known_peak(recipe, sections, one))
    if spec == launch.AUTO and gpus is not None:
        _check_shares(sections, gpus.count, f"; choose GPUs by {VISIBLE}, or pass {launch.OPTION} {launch.NONE}")
        return _cheapest(recipe, sections, gpus)
    started = launch.read(spec, gpus.count if gpus else 0)
    _check_shares(sections, started.processes)
    return Layout(spec, started, gpus, _known_peak(recipe, sections, gpus, sharded=started.is_sharded))


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


def _cheapest(recipe: Recipe, keys: Collection[str], gpus: Gpus) -> Layout:
    """The layout of DDP and FSDP2 that is the cheapest of those that fit several GPUs.

    Raises:
        InputError: Neither fits.
    """
    sharded = launch.read(_spec(launch.FSDP2), gpus.count)
    try:
        shape_of(recipe.model)
    except InputError as error:
        # FSDP2 fits whatever DDP fits.
        return Layout(_spec(launch.FSDP2), sharded, gpus, None, f"{_heading(sharded)}: {error}")
    trainings = _trainings(recipe, keys, gpus)
    whole_peak = _peak(trainings, sharded=False)
    sharded_peak = _peak(trainings, sharded=True)
    if whole_peak <= gpus.room:
        whole = launch.read(_spec(launch.DDP), gpus.count)
        reason = f"{_heading(whole)}: {_gib(whole_peak)} GiB of {_gib(gpus.room)} a GPU"
        return Layout(_spec(launch.DDP), whole, gpus, whole_peak, reason)
    if sharded_peak <= gpus.room:
        reason = f"{_heading(sharded)}: DDP would need {_gib(whole_peak)} GiB of {_gib(gpus.room)} a GPU"
        return Layout(_spec(launch.FSDP2), sharded, gpus, sharded_peak, reason)
    raise InputError(_no_layout_fits(recipe, trainings, gpus))


def _spec(config: str) -> str:
    return f"{launch.LAUNCHER}:{config}"


def _heading(started: Launch) -> str:
    return f"{started.processes} processes, {started.layout}"


def _no_layout_fits(recipe: Recipe, trainings: Sequence[TrainingOnGpus], gpus: Gpus) -> str:
    """The message for the first training that fits in no layout, with the changes that would make it fit."""
    for training in trainings:
        least = training.peak(training.section, sharded=True)
        if least > gpus.room:
            break
    fitting: list[str] = []
    for change, section in fit.changes(training):
        if training.peak(section, sharded=True) <= gpus.room:
            fitting.append(f"{training.key}.{change}")
    doctor = command("doctor", "--recipe", recipe.reference, "--gpus", f"{gpus.count}x{gpus.name}")
    advice = f"no single change is enough; {doctor} shows what each saves"
    if fitting:
        advice = f"set {' or '.join(fitting)}; {doctor} shows more"
    return (
        f"{training.key}: does not fit {gpus.count} GPUs: with FSDP2 it takes {_gib(least)} GiB of "
        f"{_gib(gpus.room)} each; {advice}"
    )


def _trainings(recipe: Recipe, keys: Collection[str], gpus: Gpus) -> list[TrainingOnGpus]:
    trainings, _ = fit.trainings(recipe, gpus)
    return [training for training in trainings if training.key in keys]


def _peak(trainings: Sequence[TrainingOnGpus], *, sharded: bool) -> int:
    """The most bytes that any of the trainings takes on a GPU."""
    return max(training.peak(training.section, sharded=sharded) for training in trainings)


def _known_peak(recipe: Recipe, keys: Collection[str], gpus: Gpus | None, *, sharded: bool = False) -> int | None:
    """The same; None without GPUs or trainings, or where the model's shape is not known."""
    if gpus is None or not keys:
        return None
    try:
        return _peak(_trainings(recipe, keys, gpus), sharded=sharded)
    except InputError:
        # The training itself says what is wrong.
        return None


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
