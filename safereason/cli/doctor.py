"""`safereason doctor`: a report on the installation and the machine, and whether a recipe fits a set of GPUs."""

import os
import platform
import sys
from pathlib import Path
from typing import Annotated

import typer

import safereason
from safereason.cli import options as opt
from safereason.cli import output
from safereason.errors import InputError

EXAMPLES = opt.examples(
    "safereason doctor",
    "safereason doctor --json",
    "safereason doctor --recipe tars-7b",
    "safereason doctor --recipe tars-7b --gpus 4xA6000",
    "safereason doctor --recipe rsafe --gpus 8x80GB guard.train.lora.rank=16",
)
GpusOption = Annotated[
    str | None,
    typer.Option("--gpus", metavar="NxGPU", help="With --recipe: GPUs in place of its own, as A100 or 4x80GB."),
]
# The packages whose versions decide what a run computes. A bug report needs them.
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "pyarrow",
    "pydantic",
    "typer",
    "openai",
    "scikit-learn",
    "scipy",
    "matplotlib",
)
# For each extra of the package: the packages that show that it is installed, and what it adds.
EXTRAS = {
    "vllm": (("vllm",), "faster rollouts and evaluation on GPUs"),
    "judges": (("judgezoo", "spacy"), "the published judges' prompts, and HarmBench's copyright behaviors"),
    "umap": (("umap-learn",), "maps of a model's inner states"),
    "capability": (("lm-eval",), "what a model knows besides, by lm-eval's tasks"),
    "inspect": (("inspect-ai",), "the evaluations as tasks of inspect"),
    "deepspeed": (("deepspeed",), "training sharded by ZeRO-3"),
    "cluster": (("ray",), "bulk guarding on more than one node"),
    "dev": (("pytest", "ruff", "mypy"), "tests, linters and the documentation site"),
}


def doctor(
    overrides: opt.Overrides = None,
    recipe: opt.MaybeRecipe = None,
    gpus: GpusOption = None,
    root: opt.Root = opt.RUNS,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Print versions, devices, memory, extras and folders; or, with --recipe, whether the recipe fits GPUs."""
    if recipe is not None or gpus is not None or overrides:
        _print_fit(recipe, gpus, overrides, root, as_json)
        return
    sections = {
        "versions": _versions(),
        "machine": _machine(),
        "extras": _extras(),
        "folders": _folders(),
        "embedded model": _embedded_model(),
    }
    if as_json:
        output.print_json(sections)
    else:
        output.print_mapping(sections)


def _print_fit(recipe: str | None, gpus: str | None, overrides: list[str] | None, root: Path, as_json: bool) -> None:
    if recipe is None:
        raise InputError("--gpus and overrides go with --recipe, such as --recipe tars-7b --gpus 4xA6000")
    from safereason.cli import doctor_fit
    from safereason.training.fit import parse_gpus

    chosen = opt.load_recipe(recipe, overrides)
    named = gpus or chosen.hardware
    if named is None:
        raise InputError(f"recipe {chosen.name}: it names no hardware; pass --gpus, such as --gpus 4xA6000")
    doctor_fit.print_fit_report(chosen, parse_gpus(named), root, as_json)


def _versions() -> dict[str, str]:
    from safereason.runs.manifest import installed

    versions = {"safereason": safereason.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        versions[package] = installed(package) or "not installed"
    return versions


def _machine() -> dict[str, object]:
    return {
        "system": platform.platform(),
        "cores": _core_count(),
        "memory": _memory(),
        "devices": _devices(),
    }


def _core_count() -> int | None:
    # A container or a batch system may lend fewer cores than the machine has; not every system tells.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory() -> str:
    # The name is missing on Windows and macOS.
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    return _gigabytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _devices() -> str:
    # A broken installation of torch is what this command has to tell, so it is no reason to fail.
    try:
        import torch

        from safereason.engines.open import BF16_FROM
    except ImportError as error:
        return f"unknown: torch cannot be imported ({error})"
    count = torch.cuda.device_count()
    if not count and torch.backends.mps.is_available():
        return "cpu (no CUDA device; Apple's GPU is not used)"
    if not count:
        return "cpu (no CUDA device)"
    devices: list[str] = []
    for index in range(count):
        device = torch.cuda.get_device_properties(index)
        about = _gigabytes(device.total_memory)
        if (device.major, device.minor) < BF16_FROM:
            about += ", no bf16: precision fp32"
        devices.append(f"{device.name} ({about})")
    return ", ".join(devices)


def _extras() -> dict[str, str]:
    from safereason.runs.manifest import installed

    extras: dict[str, str] = {}
    for extra, (packages, adds) in EXTRAS.items():
        state = "installed"
        if not all(map(installed, packages)):
            state = f"missing: pip install 'safereason[{extra}]'"
        extras[extra] = f"{state}; adds {adds}"
    return extras


def _folders() -> dict[str, str]:
    from safereason.runs.cache import cache_home

    return {
        "package": str(Path(safereason.__file__).parent),
        "python": sys.executable,
        "runs": str(Path(os.environ.get("SAFEREASON_RUNS", "runs")).absolute()),
        "cache": str(cache_home()),
        "data home": _data_home(),
    }


def _data_home() -> str:
    from safereason.data.fetch import data_home

    home = data_home()
    if home is None:
        return "$SAFEREASON_DATA_HOME is not set: public data is downloaded into the cache"
    if not home.is_dir():
        return f"{home}: does not exist"
    return str(home)


def _embedded_model() -> dict[str, str]:
    from safereason.engines import embedded

    # The package holds a GGUF file. The engine reads a folder of safetensors, which the first use writes to the cache.
    converted = str(embedded.converted_folder() or "not yet: done at first use")
    return {
        "name": embedded.NAME,
        "weights": str(embedded.gguf_file() or f"missing: {embedded.INSTALL}"),
        "converted": converted,
    }
