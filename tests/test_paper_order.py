"""The order of the commands that lead to the papers' models, held against what the stages ask for before they work.

The SLURM scripts run under bash with a stand-in for `safereason` that writes down what it is given. Each command is
then played: the stage's own checks look for the runs that it reads, and an empty finished run is left for the next one.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai_server
import pytest
import typer
from program import safereason

from safereason.cli.app import app
from safereason.cli.groups import whole
from safereason.data.example import Example, write_parquet
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.recipe.load import load
from safereason.recipe.schema import Recipe
from safereason.runs.directory import finished_runs, read_manifest
from safereason.stages import data, pipeline, rl, sft
from safereason.stages.base import Options, open_run, trained_guard
from safereason.stages.preparation.contamination import ContaminationCheck
from safereason.stages.preparation.training_sources import RAINBOW, RAINBOW_STAGE, TEACHER_STAGE, source_status
from safereason.stages.resolve_model import model_of

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
PAGE = ROOT / "docs" / "how-to" / "reproduce-the-papers.md"
FROM_NOTHING = ("tars-1.5b", "tars-7b")
COMMANDS = typer.main.get_command(app)
STAND_IN = """#!{python}
import json, os, sys
names = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "SAFEREASON_RUNS", "SAFEREASON_CACHE")
with open({log!r}, "a") as log:
    print(json.dumps([sys.argv[1:], {{name: os.environ.get(name) for name in names}}]), file=log)
"""
GIVEN = {
    "OPENAI_API_KEY": "moderation",
    "TEACHER_API_KEY": "teacher",
    "TEACHER_BASE_URL": "https://teacher.example/v1",
}
"""What a person has to export before a script."""

Typed = list[str]
"""The words of a command after `safereason`."""


@pytest.fixture(autouse=True)
def nothing_at_hand(tmp_path, monkeypatch):
    """Public sources are none of a script's commands: what is looked at is what the commands make themselves."""
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path / "empty"))


def run_script(name: str, folder: Path, **environment: str) -> list[tuple[Typed, dict[str, str]]]:
    """The commands of a script in the order in which bash gives them, each with what it finds in its environment."""
    log, program = folder / "log.jsonl", folder / "bin" / "safereason"
    program.parent.mkdir()
    program.write_text(STAND_IN.format(python=sys.executable, log=str(log)))
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    given = {"PATH": path, "SLURM_SUBMIT_DIR": str(folder), **environment}
    done = subprocess.run(["bash", EXAMPLES / name], env=given, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()]


def parsed(typed: Typed) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a command, as the program itself reads it."""
    words, path, command = list(typed), [], COMMANDS
    while hasattr(command, "commands"):
        path.append(words.pop(0))
        command = whole(command.commands[path[-1]])
    return " ".join(path), command.make_context(" ".join(path), words).params


def block(heading: str, containing: str) -> list[Typed]:
    """The commands of a block on the page, below a heading."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    (text,) = (text for text in re.findall(r"```bash\n(.*?)```", section, re.DOTALL) if containing in text)
    return [shlex.split(line.partition("safereason ")[2]) for line in text.splitlines()]


class Rehearsal:
    """A folder of runs, in which each command that has what it needs leaves an empty finished run."""

    def __init__(self, root: Path) -> None:
        self.options = Options(root=root, on_existing="overwrite")

    def play(self, typed: Typed) -> None:
        """Checks what a command needs, by its stage's own functions.

        Raises:
            InputError: Something was not made before.
        """
        name, params = parsed(typed)
        if name in ("doctor", "data ls", "report") or params.get("dry_run"):
            return
        recipe = load(params["recipe"], params["overrides"] or ())
        model = params.get("model")
        options = replace(self.options, model=model and ModelSpec.parse(model))
        match name:
            case "data traces":
                self._leave(TEACHER_STAGE, recipe, {"limit": None})
            case "data build":
                self._check_own_parts(recipe)
                self._leave_data(recipe)
            case "sft":
                data.built_data(recipe, options)
                self._leave("sft", recipe, sft.sft_identity(recipe, ModelSpec.parse(recipe.model)))
            case "attack rainbow":
                rl.start_model(recipe, options)
                written = self._leave(RAINBOW_STAGE, recipe, {})
                row = {"id": "rainbow/1", "prompt": "p", "kind": "harmful", "source": "rainbow"}
                (written / "archive.jsonl").write_text(json.dumps(row) + "\n")
            case "rl":
                # The stage takes other data of the recipe where its own is not there. A paper's model needs its own.
                built = read_manifest(data.built_data(recipe, options))
                assert built["identity"] == data.data_identity(recipe), "rl would read other data than the recipe's"
                self._leave("rl", recipe, rl.rl_identity(recipe, rl.start_model(recipe, options), options))
            case "guard train":
                data.built_data(recipe, options)
                self._leave("guard/rl", recipe, {})
            case "eval guard":
                assert options.model or trained_guard(recipe.name, options)
            case "run":
                self._check_own_parts(recipe, taught=pipeline.pipeline_steps(recipe)[0] == "data traces")
            case _:
                assert name.startswith("eval ")
                model_of(recipe, options)

    def _check_own_parts(self, recipe: Recipe, *, taught: bool = False) -> None:
        """Refuses data of which something is missing that no publisher has.

        Raises:
            InputError: An archive is missing, or traces; the latter pass with `taught`, where a teacher comes first.
        """
        for part, state in source_status(recipe, self.options).items():
            is_traces = part.startswith("traces of ")
            if state != "there" and (part == RAINBOW or (is_traces and not taught)):
                raise InputError(state)

    def _leave_data(self, recipe: Recipe) -> None:
        run = self._leave("data", recipe, data.data_identity(recipe))
        sets = {name: {"rows": 1} for name in ContaminationCheck.names(recipe)}
        (run / "card.json").write_text(json.dumps({"overlap": {"sets": sets}}))
        write_parquet(run / data.TRAIN, [Example("own/1", "p", "harmful", "own")])

    def _leave(self, stage: str, recipe: Recipe, identity: dict[str, Any]) -> Path:
        with open_run(stage, recipe, self.options, "model", identity) as run:
            run.finish({})
        return run.path


def made_by(commands: Sequence[Typed], root: Path) -> Path:
    """Plays commands in order, and returns the folder of runs."""
    rehearsal = Rehearsal(root)
    for typed in commands:
        rehearsal.play(typed)
    return root


def steps(recipe: str) -> list[Typed]:
    """The steps from nothing, as the page has them."""
    return [[word.replace("tars-1.5b", recipe) for word in typed] for typed in block("TARS from nothing", "rainbow ")]


@pytest.mark.parametrize("recipe", FROM_NOTHING)
def test_a_script_from_nothing_has_the_steps_of_the_page_and_goes_on_where_it_was_killed(recipe, tmp_path):
    first, *others = run_script(f"{recipe}.slurm", tmp_path, **GIVEN)
    assert first[0] == ["doctor", "--recipe", recipe, "--gpus", "4x48GB"]
    assert [[word for word in typed if word != "--resume"] for typed, _ in others] == steps(recipe)
    # `run` has no need of it.
    assert ["--resume" in typed for typed, _ in others] == [True] * (len(others) - 1) + [False]


@pytest.mark.parametrize("recipe", FROM_NOTHING)
def test_the_order_from_nothing_is_the_one_that_the_stages_ask_for(recipe, tmp_path):
    root = made_by([typed for typed, _ in run_script(f"{recipe}.slurm", tmp_path, **GIVEN)], tmp_path / "runs")
    chosen, options = load(recipe), Options(root=root)
    start = rl.start_model(chosen, options)
    # What `run` would train is there already, so that it evaluates.
    for stage, identity in (
        ("data", data.data_identity(chosen)),
        ("sft", sft.sft_identity(chosen, ModelSpec.parse(chosen.model))),
        ("rl", rl.rl_identity(chosen, start, options)),
    ):
        assert identity in [read_manifest(run)["identity"] for run in finished_runs(root, stage, recipe)]


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        (0, "run `safereason data traces --recipe tars-1.5b --root ROOT` first"),
        (1, "run `safereason data build --recipe tars-1.5b --root ROOT` first"),
        (2, "run `safereason sft --recipe tars-1.5b --root ROOT` first"),
        (3, "`safereason attack rainbow --recipe tars-1.5b --root ROOT` makes it"),
        (4, "rl would read other data than the recipe's"),
    ],
)
def test_a_step_that_is_left_out_is_asked_for_by_a_later_one(tmp_path, left_out, message):
    commands = steps("tars-1.5b")
    del commands[left_out]
    with pytest.raises((InputError, AssertionError), match=re.escape(message.replace("ROOT", str(tmp_path)))):
        made_by(commands, tmp_path)


def test_the_steps_can_only_be_made_in_their_order(tmp_path):
    commands = steps("tars-1.5b")
    for number in range(5):
        swapped = [*commands[:number], commands[number + 1], commands[number], *commands[number + 2 :]]
        with pytest.raises((InputError, AssertionError)):
            made_by(swapped, tmp_path / str(number))


@pytest.mark.parametrize("recipe", FROM_NOTHING)
def test_the_teacher_and_the_moderation_model_have_a_key_each(recipe, tmp_path):
    for typed, environment in run_script(f"{recipe}.slurm", tmp_path, **GIVEN):
        is_teacher = typed[:2] == ["data", "traces"]
        assert environment["OPENAI_API_KEY"] == ("teacher" if is_teacher else "moderation")
        assert environment["OPENAI_BASE_URL"] == (GIVEN["TEACHER_BASE_URL"] if is_teacher else None)
        # Its address is no part of the run, so that `run` does not ask a teacher again.
        assert "--base-url" not in typed
        assert environment["SAFEREASON_RUNS"] == str(tmp_path / "runs")


TINY = """
extends: tars-smoke
model: {model}
data:
  prompts: 8
  harmful: [{{source: sample, prompts: 60}}, {{source: rainbow, prompts: 60}}]
  traces: [{{source: sample-harmless, prompts: 6}}]
  teacher: {{model: openai/teacher}}
sft: {{max_steps: 1, batch_size: 4, micro_batch_size: 2}}
rl: {{max_steps: 1, prompts_per_step: 2, rollouts_per_prompt: 2, micro_batch_size: 4, sampling: {{max_new_tokens: 4}}}}
attack:
  attacker: openai/mutator
  sampling: {{temperature: 1.0, max_new_tokens: 8}}
  settings: {{rainbow: {{iterations: 2, archives: 1, near_copy: 1.0}}}}
eval:
  sampling: {{temperature: 1.0, max_new_tokens: 8}}
  harm_judge: refusal
  refusal_judge: refusal
  limit: 2
"""
"""A recipe with all that the paper's has: a teacher, an archive of its own, a mutator."""


def speak(body: dict[str, Any]) -> dict[str, Any]:
    """A teacher that reasons, and a mutator that never says the same twice."""
    text = "<think>\nIs it harmless? Yes.\n</think>\n\nGladly."
    if body["model"] == "mutator":
        text = f"Number {body['seed']} of a topic"
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", "usage": usage}


@pytest.mark.slow
def test_the_script_leads_from_nothing_to_a_report_with_a_tiny_recipe_in_the_papers_place(tmp_path, micro_model):
    """The commands of the script, flags and environment as bash has them, done by the program itself."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY.format(model=micro_model))
    # The moderation model has no stand-in here.
    instead = {"tars-1.5b": str(recipe), "moderation": "refusal"}
    with openai_server.serve(None) as server:
        server.choice = speak
        given = {**GIVEN, "TEACHER_BASE_URL": server.url, "OPENAI_BASE_URL": server.url, "NO_PROXY": "127.0.0.1"}
        for typed, environment in run_script("tars-1.5b.slurm", tmp_path, **given):
            present = {name: value for name, value in environment.items() if value is not None}
            done = safereason(*(instead.get(word, word) for word in typed), NO_PROXY="127.0.0.1", **present)
            assert done.returncode == 0, f"{typed}: {done.stderr}"
        keys_by_model = {body["model"]: key for body, key in zip(server.requests, server.keys, strict=True)}
    assert keys_by_model == {"teacher": "Bearer teacher", "mutator": "Bearer moderation"}
    # The last command is `run`: it trains nothing again, and asks no teacher.
    steps_before = [line for line in done.stderr.splitlines() if "finished before, skipped" in line]
    assert [line.partition("] ")[2].partition(":")[0] for line in steps_before] == ["data traces", "data", "sft", "rl"]
    assert Path(done.stdout.rpartition("report: ")[2].strip()).is_file()
    (archive,) = (tmp_path / "runs" / RAINBOW_STAGE).glob("*/archive.jsonl")
    trained = read_manifest(finished_runs(tmp_path / "runs", "rl", "tiny")[-1])
    (rows,) = trained["inputs"]
    assert str(archive) in read_manifest(Path(rows).parent)["inputs"]


ARRAY = {"SLURM_ARRAY_TASK_ID": "0", "OPENAI_API_KEY": "moderation"}


def test_the_array_has_every_lambda_with_every_seed_and_a_folder_for_each(tmp_path):
    text = (EXAMPLES / "tars-released.slurm").read_text()
    first, last = map(int, re.search(r"^#SBATCH --array=(\d+)-(\d+)$", text, re.M).groups())
    points, folders = set(), set()
    for task in range(first, last + 1):
        folder = tmp_path / str(task)
        folder.mkdir()
        commands = run_script("tars-released.slurm", folder, **{**ARRAY, "SLURM_ARRAY_TASK_ID": str(task)})
        given = [parsed(typed)[1] for typed, _ in commands]
        recipe, *others = (load(params["recipe"], params["overrides"]) for params in given)
        assert all(other == recipe for other in others)
        source = f"tars-released-{recipe.data.harmful_ratio}"
        assert {share.source for share in (*recipe.data.harmful, *recipe.data.harmless)} == {source}
        points.add((recipe.data.harmful_ratio, recipe.seed))
        folders |= {Path(environment["SAFEREASON_RUNS"]).name for _, environment in commands}
        made_by([typed for typed, _ in commands], folder / "played")
    assert points == {(ratio, seed) for ratio in (0.1, 0.3, 0.5, 0.7, 0.9) for seed in (0, 1, 2)}
    assert folders == {f"released-{ratio}-{seed}" for ratio, seed in points}


def test_the_array_makes_every_evaluation_of_the_recipe(tmp_path):
    names = [typed[1] for typed, _ in run_script("tars-released.slurm", tmp_path, **ARRAY) if typed[0] == "eval"]
    made = [step for step in pipeline.pipeline_steps(load("tars-1.5b-released")) if step.endswith(" of rl")]
    assert [f"eval {name} of rl" for name in names] == made


@pytest.mark.parametrize(
    ("heading", "containing"),
    [
        ("The released weights", "CMU-AIRe/TARS-1.5B"),
        ("TARS from what its authors released", "run --recipe"),
        ("TARS from what its authors released", "report"),
        ("TARS from nothing", "--dry-run"),
        ("TARS from nothing", "rainbow "),
        ("RSafe from nothing", "guard train"),
    ],
)
def test_the_commands_of_the_page_can_be_typed_in_their_order(heading, containing, tmp_path):
    made_by(block(heading, containing), tmp_path)


WEIGHTS = ("CMU-AIRe/TARS-1.5B", "CMU-AIRe/TARS-7B", "Nannanzi/RSafe")


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_evaluation_of_released_weights_is_one_command_that_plans_without_a_network(weights, tmp_path):
    (typed,) = (typed for typed in block("The released weights", "rl=null") if weights in typed)
    # A guard is looked for before anything is planned. Its configuration is enough.
    snapshot = tmp_path / "hub" / f"models--{weights.replace('/', '--')}" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}))
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0")
    done = safereason(*typed, "--dry-run", "--root", tmp_path / "runs", HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    planned = done.stdout.partition("would do:\n")[2].splitlines()
    if weights == WEIGHTS[2]:
        sets = load("rsafe").guard.eval.sets
        assert all(
            f"ask {weights} about all rows of {chosen.label}" in line
            for chosen, line in zip(sets, planned, strict=True)
        )
    else:
        assert [line.partition(". ")[2] for line in planned] == [
            "data",
            "eval harmbench of base",
            "eval xstest of base",
            "eval wildchat of base",
            "report",
        ]
    assert not (tmp_path / "runs").exists()
