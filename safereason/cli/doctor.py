"""`safereason doctor`: what is installed here, what it runs on, and whether a recipe fits a set of GPUs."""

import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import safereason
from safereason.cli import options as opt
from safereason.cli import output
from safereason.errors import InputError
from safereason.runs.manifest import installed

EXAMPLES = opt.examples(
    "safereason doctor",
    "safereason doctor --json",
    "safereason doctor --recipe tars-7b --gpus 4xA6000",
    "safereason doctor --recipe rsafe --gpus 8x80GB guard.train.lora.rank=16",
)
GpusOption = Annotated[
    str | None,
    typer.Option("--gpus", metavar="NxGPU", help="With --recipe: what it is to fit, as A100, 4xA6000 or 8x80GB."),
]
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
"""What each extra of the package is recognised by, and what it adds."""


def doctor(
    overrides: opt.Overrides = None,
    recipe: opt.MaybeRecipe = None,
    gpus: GpusOption = None,
    root: opt.Root = opt.RUNS,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """Print versions, devices, memory, extras and folders; or, with --recipe and --gpus, whether the recipe fits."""
    if recipe is not None or gpus is not None or overrides:
        _fit(recipe, gpus, overrides, root, as_json)
        return
    findings = {
        "versions": {"safereason": safereason.__version__, "python": platform.python_version(), **_versions()},
        "machine": _machine(),
        "extras": _extras(),
        "folders": _folders(),
        "embedded model": _embedded(),
    }
    output.print_json(findings) if as_json else output.print_mapping(findings)


def _fit(recipe: str | None, gpus: str | None, overrides: list[str] | None, root: Path, as_json: bool) -> None:
    if recipe is None or gpus is None:
        raise InputError("--recipe and --gpus go together, such as --recipe tars-7b --gpus 4xA6000")
    from safereason.cli import doctor_fit
    from safereason.stages.fit import parse_gpus

    doctor_fit.report(opt.load_recipe(recipe, overrides), parse_gpus(gpus), root, as_json)


def _versions() -> dict[str, str]:
    return {package: installed(package) or "not installed" for package in PACKAGES}


def _machine() -> dict[str, Any]:
    found = {
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _memory(),
    }
    return {**found, "devices": _devices()}


def _memory() -> str:
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown"
    return _gigabytes(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _devices() -> str:
    try:
        import torch
    except ImportError as error:
        return f"unknown: torch cannot be imported ({error})"
    count = torch.cuda.device_count()
    if not count:
        return "cpu (no CUDA device)"
    properties = [torch.cuda.get_device_properties(index) for index in range(count)]
    return ", ".join(f"{device.name} ({_gigabytes(device.total_memory)})" for device in properties)


def _extras() -> dict[str, str]:
    def state(extra: str, packages: tuple[str, ...]) -> str:
        return "installed" if all(map(installed, packages)) else f"missing: pip install 'safereason[{extra}]'"

    return {extra: f"{state(extra, packages)}; adds {adds}" for extra, (packages, adds) in EXTRAS.items()}


def _folders() -> dict[str, str]:
    from safereason.engines.embedded import cache_home

    return {
        "package": str(Path(safereason.__file__).parent),
        "python": sys.executable,
        "runs": str(Path(os.environ.get("SAFEREASON_RUNS", "runs")).absolute()),
        "cache": str(cache_home()),
        "data home": _data_home(),
    }


def _data_home() -> str:
    home = os.environ.get("SAFEREASON_DATA_HOME")
    if not home:
        return "$SAFEREASON_DATA_HOME is not set: public data is downloaded into the cache"
    return home if Path(home).is_dir() else f"{home}: does not exist"


def _embedded() -> dict[str, str]:
    from safereason.engines import embedded

    converted = embedded.cache_home() / "models" / "smollm2-135m"
    return {
        "name": embedded.NAME,
        "weights": str(embedded.gguf_file() or f"missing: {embedded.INSTALL}"),
        "converted": str(converted) if (converted / "config.json").is_file() else "not yet: done at first use",
    }
