"""What a command imports before it has to: a listing no command, and a plan nothing that computes."""

import subprocess
import sys

import pytest

from safereason.training import layout

SCHEMA = "safereason.recipe.schema"
COMPUTING = (
    "torch",
    "transformers",
    "trl",
    "datasets",
    "peft",
    "accelerate",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "datasketch",
    "sklearn",
    "matplotlib",
    "openai",
    "fastapi",
    "rich",
)
"""What only work needs."""
LISTING = (*COMPUTING, "yaml", "safereason.attacks", "safereason.evals", "safereason.data", SCHEMA)
"""What no help needs. Typer itself imports pydantic, once a group is called."""

PROGRAM = """
import sys
from safereason.cli.app import main

*forbidden, words = sys.stdin.read().splitlines()
sys.argv = ["safereason", *words.split()]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
finally:
    print(*(name for name in forbidden if name in sys.modules), file=sys.stderr)
"""


def imported(words: str, forbidden: tuple[str, ...]) -> list[str]:
    """Which of these modules a command imports that ends well."""
    given = "\n".join([*forbidden, words])
    done = subprocess.run([sys.executable, "-c", PROGRAM], input=given, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize("words", ["--help", "--version"])
def test_the_program_itself_imports_no_command(words):
    commands = tuple(f"safereason.cli.{name}" for name in ("recipe", "data", "sft", "guard", "attack", "eval", "stage"))
    assert imported(words, (*LISTING, *commands, "pydantic", "importlib.metadata")) == []


@pytest.mark.parametrize(
    "words",
    [
        "recipe --help",
        "attack --help",
        "attack gcg --help",
        "attack rainbow --help",
        "eval --help",
        "eval xstest --help",
        "eval guard --help",
        "eval capability --help",
        "guard classify --help",
        "guard serve --help",
        "data show --help",
        "data overlap --help",
        "report --help",
        "run --help",
        "doctor --help",
        "recipe ls",
    ],
)
def test_help_and_the_list_of_recipes_import_what_they_print(words):
    assert imported(words, LISTING) == []


@pytest.mark.parametrize(
    "words",
    [
        "recipe show tars-1.5b rl.kl_coef=0",
        "recipe show rsafe --sources",
        "recipe validate tars-1.5b",
        "recipe diff tars-1.5b tars-7b",
    ],
)
def test_recipes_are_read_without_attacks_and_data(words):
    assert imported(words, (*COMPUTING, "safereason.attacks", "safereason.data")) == []


@pytest.mark.parametrize(
    "words",
    [
        "rl --recipe tars-smoke",
        "sft --recipe tars-smoke",
        "guard train --recipe rsafe-smoke",
        "data build --recipe tars-smoke",
        "eval harmbench --recipe tars-smoke",
        "attack direct --recipe tars-smoke",
    ],
)
def test_a_dry_run_imports_nothing_that_computes(words, tmp_path):
    launch = " --launch none" if words.startswith(("rl", "sft", "guard")) else ""
    assert imported(f"{words} --dry-run --root {tmp_path}{launch}", COMPUTING) == []


def test_gpus_are_not_looked_for_where_there_is_no_driver(monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "CUDA_DRIVER", "libno-such-driver.so")
    monkeypatch.setattr(layout, "ROCM_DEVICE", tmp_path / "kfd")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert layout.device_count() == 0
    assert layout.gpus_here() is None
    (tmp_path / "kfd").touch()
    with pytest.raises(ImportError):
        layout.device_count()
