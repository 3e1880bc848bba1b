"""The same checks on a CPU with small models: all of them but what `device="cuda"` changes."""

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path

import gpu_attack_checks
import gpu_cases
import gpu_engine_checks
import gpu_memory_checks
import gpu_training_checks
import program
import pytest
import torch
from gpu_cases import ON_CPU, ON_GPU
from gpu_engine_checks import open_on, parted
from gpu_models import SHAPES, Models, config_of
from gpu_trial import Case, Figures, Trial

from safereason.engines.base import GenerateOptions
from safereason.recipe.load import load
from safereason.text.chat import user
from safereason.training import fit, memory
from safereason.training.shapes import from_config, shape_of

ROOT = Path(__file__).parents[2]
PYTEST_WITHOUT_GPU = """
import os, sys
os.environ["CUDA_VISIBLE_DEVICES"] = ""
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""
PYTEST_WITH_A_FAKE_GPU = """
import os, sys
os.environ.pop("PYTEST_XDIST_WORKER", None)
from types import SimpleNamespace
tests, figures = sys.argv[1:]
sys.path[:0] = [tests, f"{tests}/gpu"]
os.environ["SAFEREASON_FIGURES"] = figures
import fake_gpu, gpu_cases, pytest, torch
from gpu_trial import Case
def passes(trial):
    trial.note("answer", 42, "s", "≤ 43")
def fails(trial):
    trial.note("answer", 44, "s", "≤ 43")
    assert False
gpu_cases.ON_GPU = (Case(passes), Case(fails))
fake_gpu.install(pytest.MonkeyPatch())
torch.cuda.get_device_properties = lambda index: SimpleNamespace(name="A40", total_memory=48 * 2**30)
sys.exit(pytest.main([f"{tests}/gpu", "-m", "gpu", "-p", "no:cacheprovider"]))
"""
MODULES = (gpu_attack_checks, gpu_engine_checks, gpu_memory_checks, gpu_training_checks)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is a GPU, it is not used."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("case", ON_CPU, ids=str)
def test_on_a_cpu(case: Case, tmp_path: Path, models: Models) -> None:
    figures = Figures()
    case.run("cpu", tmp_path, models, figures)
    assert len(figures.rows) > 1
    assert {row.check for row in figures.rows} == {str(case)}


def test_each_check_has_cases_on_a_gpu_and_on_a_cpu() -> None:
    checks = set()
    for module in MODULES:
        for function in vars(module).values():
            is_own = inspect.isfunction(function) and function.__module__ == module.__name__
            if is_own and next(iter(inspect.signature(function).parameters), "") == "trial":
                checks.add(function)
    checks = {check for check in checks if not check.__name__.startswith("_")}
    assert len(checks) > 8
    assert {case.check for case in ON_GPU} == checks
    assert {case.check for case in ON_CPU} == checks
    # What a setting names on a GPU, such as an algorithm, a CPU has tried before.
    for name in ("stage", "algorithm", "work", "engine", "precision"):
        assert _values(ON_CPU, name) == _values(ON_GPU, name), name
    names = [str(case) for case in ON_GPU]
    assert len(set(names)) == len(names)


def _values(cases: tuple[Case, ...], setting: str) -> set[object]:
    return {case.settings[setting] for case in cases if setting in case.settings}


def test_without_a_gpu_the_suite_is_skipped_in_a_line() -> None:
    done = program.python(PYTEST_WITHOUT_GPU, ROOT / "tests" / "gpu", "-m", "gpu", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    skip_lines = [line for line in done.stdout.splitlines() if "CUDA" in line]
    assert skip_lines == [f"no CUDA device: {len(ON_GPU)} GPU tests skipped"]


def test_with_a_gpu_the_figures_are_printed_and_written_whether_a_check_passes_or_not(tmp_path: Path) -> None:
    done = program.python(PYTEST_WITH_A_FAKE_GPU, ROOT / "tests", tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "| passes | answer | 42 | s | ≤ 43 |" in done.stdout.splitlines()
    assert "| fails | answer | 44 | s | ≤ 43 |" in done.stdout.splitlines()
    assert "skipped" not in done.stdout
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert (written["device"]["name"], written["device"]["memory"]) == ("A40", 48.0)
    assert [(row["check"], row["name"]) for row in written["figures"]] == [
        ("passes", "answer"),
        ("passes", "whole check"),
        ("fails", "answer"),
    ]


def test_make_runs_it_in_the_python_that_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    prerequisites, recipe = re.search(r"^test-gpu:(.*?)##.*\n((?:\t.*\n)+)", makefile, re.MULTILINE).groups()
    assert prerequisites.strip() == "", "nothing is installed: that would bring torch's build for CPUs"
    assert "-m pytest tests/gpu -m gpu" in recipe
    assert {"HF_HUB_OFFLINE=1", "CUBLAS_WORKSPACE_CONFIG=:4096:8"} <= set(recipe.split())


def test_what_the_memory_checks_train_fits_the_gpu_that_the_suite_asks_for() -> None:
    recipe = load(gpu_memory_checks.RECIPE, gpu_memory_checks.ALONE)
    for key, section in (("sft", recipe.sft), ("rl", recipe.rl)):
        step = fit.step_of(section, SHAPES["qwen-1.5b"], key)
        assert step.bf16
        assert (step.rows, step.tokens) == (2, 4608)
        assert 20 * fit.GIB < memory.peak(memory.parts(step))[0] < memory.ROOM * 80 * fit.GIB


def test_the_recipes_that_are_trained_on_a_gpu_load() -> None:
    trainings = [case.settings for case in ON_GPU if case.check is gpu_training_checks.training]
    assert trainings
    for settings in trainings:
        stage = str(settings["stage"])
        overrides = (*gpu_training_checks.OVERRIDES[stage], *settings["overrides"])
        recipe = load(gpu_training_checks.RECIPES[stage], overrides)
        section = fit.sections_of(recipe)[gpu_training_checks.KEYS[stage]]
        assert fit.batch_of(section, 1, stage).sequences > 0


def test_the_embedded_models_shape_stands_in_where_its_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safereason.engines.embedded.gguf_file", lambda: None)
    monkeypatch.setitem(SHAPES, "embedded", SHAPES["qwen-micro"])
    models = Models(tmp_path, "cpu")
    assert shape_of(str(models["embedded"])) == SHAPES["qwen-micro"]
    assert models["embedded"] == tmp_path / "embedded"


def test_random_weights_have_the_true_shape() -> None:
    for name, shape in SHAPES.items():
        assert replace(from_config(config_of(shape).to_dict(), name), shares=shape.shares) == shape


def test_tokens_that_differ_are_found_with_the_gap_where_they_part(models: Models) -> None:
    engine = open_on("cpu", models["wide"])
    options = GenerateOptions(choices=2)
    texts = [user(text) for text in gpu_engine_checks.TEXTS[:3]]
    expected = [row[0] for row in engine.generate(texts, gpu_engine_checks.GREEDY, options)]
    assert parted(expected, expected) == []
    with torch.no_grad():
        engine.model.lm_head.weight.neg_()
    others = [row[0] for row in engine.generate(texts, gpu_engine_checks.GREEDY, options)]
    gaps = parted(expected, others)
    assert len(gaps) == 3
    assert all(gap > 0 for gap in gaps)


def test_a_check_that_fails_says_so_and_leaves_its_figure(tmp_path: Path, models: Models) -> None:
    figures = Figures()
    case = Case(
        gpu_memory_checks.grpo_memory, {"model": "qwen-micro", "band": 1e-9, "overrides": gpu_cases.MICRO_MEMORY}
    )
    with pytest.raises(AssertionError):
        case.run("cpu", tmp_path, models, figures)
    assert [row.bound for row in figures.rows if row.unit == "ratio"] == ["1 ± 1e-09"]


def test_figures_are_a_table_and_a_file(tmp_path: Path, models: Models) -> None:
    figures = Figures()
    trial = Trial("some_check-micro", "cpu", tmp_path, models, figures)
    trial.note("time", 1.23456, "s")
    trial.note("ratio", 0.5, "ratio", "≤ 1")
    assert figures.table().splitlines()[2:] == [
        "| some_check-micro | time | 1.235 | s |  |",
        "| some_check-micro | ratio | 0.5 | ratio | ≤ 1 |",
    ]
    written = json.loads(figures.write(tmp_path / "out", "cpu").read_text())
    assert [row["value"] for row in written["figures"]] == [1.23456, 0.5]
    assert (written["device"]["name"], written["device"]["torch"]) == ("cpu", torch.__version__)
