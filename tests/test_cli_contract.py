"""What holds for every command: help with examples, nothing heavy imported, and the registries listed in full."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from program import safereason

from safereason import attacks, evals, judges
from safereason.cli.app import app
from safereason.cli.groups import whole
from safereason.guard.others import GUARDS
from safereason.recipe.named import shipped

GRAMMAR = {
    "recipe": {"ls", "show", "cp", "validate", "diff"},
    "data": {"ls", "build", "overlap", "show", "traces", "verify"},
    "guard": {"train", "classify", "serve", "policy"},
    "attack": {"ls", "convert", "rainbow", *attacks.ATTACKS},
    "eval": {"ls", "score", "compare", "agree", *evals.NAMES},
}
SINGLE = {"sft", "rl", "run", "sweep", "report", "doctor"}
HEAVY = (
    "torch",
    "transformers",
    "trl",
    "datasets",
    "peft",
    "accelerate",
    "pyarrow",
    "openai",
    "matplotlib",
    "sklearn",
    "scipy",
    "fastapi",
    "uvicorn",
    "prometheus_client",
)
ROOT = typer.main.get_command(app)


def every_command(command=ROOT, path=()) -> Iterator[tuple[tuple[str, ...], typer.core.TyperCommand]]:
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from every_command(whole(inner), (*path, name))
    else:
        yield path, command


COMMANDS = dict(every_command())


def examples_of(command) -> list[str]:
    return [line.strip() for line in (command.epilog or "").splitlines() if line.strip().startswith("safereason ")]


def test_the_grammar_is_all_there():
    assert set(ROOT.commands) == SINGLE | GRAMMAR.keys()
    assert {name: set(whole(ROOT.commands[name]).commands) for name in GRAMMAR} == GRAMMAR


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_a_description_and_examples_that_parse(path):
    command = COMMANDS[path]
    assert command.help
    assert examples_of(command)
    for example in examples_of(command):
        arguments = shlex.split(example)[1:]
        assert tuple(arguments[: len(path)]) == path
        # Raises a usage error where an option is unknown, a value has the wrong type or something is missing.
        context = command.make_context(example, arguments[len(path) :])
        names = [context.params.get(key) for key in ("recipe", "name", "first", "second")]
        names += context.params.get("names") or []
        assert {name for name in names if name} <= {recipe.stem for recipe in shipped()}


BLOCKED = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
from safereason.cli.app import main

for argv in map(str.split, sys.stdin.read().splitlines()):
    sys.argv = ["safereason", *argv]
    try:
        main()
    except SystemExit as end:
        print(f"exit {{end.code}}: {{' '.join(argv)}}", file=sys.stderr)
"""


def test_help_and_recipes_work_with_nothing_heavy_to_import(tmp_path):
    commands = (
        [[*path, "--help"] for path in COMMANDS]
        + [[group, "--help"] for group in GRAMMAR]
        + [["--help"], ["--version"]]
    )
    commands += [
        ["recipe", "ls"],
        ["recipe", "show", "tars-1.5b", "rl.kl_coef=0"],
        ["recipe", "show", "rsafe", "--sources"],
        ["recipe", "cp", "tars-smoke", str(tmp_path / "mine.yaml")],
        ["recipe", "validate", "tars-1.5b", str(tmp_path / "mine.yaml")],
        ["recipe", "diff", "tars-1.5b", "tars-7b"],
        ["eval", "ls"],
        ["attack", "ls"],
        ["data", "ls"],
        ["guard", "policy", "ls"],
    ]
    lines = "\n".join(" ".join(argv) for argv in commands)
    done = subprocess.run([sys.executable, "-c", BLOCKED], input=lines, capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines() == [f"exit 0: {' '.join(argv)}" for argv in commands]


def test_every_eval_attack_judge_and_guard_is_listed_with_what_it_is():
    listed = json.loads(safereason("eval", "ls", "--json").stdout)
    names = {kind: {entry["name"] for entry in entries} for kind, entries in listed.items()}
    assert names == {
        "evals": set(evals.NAMES),
        "attacks": set(attacks.ATTACKS),
        "judges": set(judges.JUDGES),
        "guards": set(GUARDS),
    }
    assert all(entry["summary"] for entries in listed.values() for entry in entries)
