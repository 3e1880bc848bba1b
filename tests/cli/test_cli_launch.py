"""`--launch` and `--gpus` of the commands that train, on GPUs whose number is faked."""

import json
from pathlib import Path

import micro
import pytest
import typer
from program import python, refusal_line, safereason
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from safereason.cli import launched
from safereason.cli.signals import Signalled
from safereason.errors import StageFailed
from safereason.recipe.load import load
from safereason.training import fit
from safereason.training.launch import Launch

FAKED = """
import os, sys
from safereason.cli import child
from safereason.cli.app import main
from safereason.training import layout

count, gib = int(sys.argv.pop(1)), float(sys.argv.pop(1))
real = vars(layout).copy()
layout.devices_here = lambda: [int(gib * 2**30)] * count
layout.device_count = lambda: count


def run_on_cpu(words):
    print("child:", *words[words.index("--step"):], file=sys.stderr, flush=True)
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        layout.devices_here, layout.device_count = real["devices_here"], real["device_count"]
        sys.argv = [sys.argv[0], *words[:words.index("--launch")], "--launch", "none"]
        code = 1
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise child.ChildEnded(code)


child.run = run_on_cpu
main()
"""
"""The program on a machine with so many GPUs of so many GiB; its processes, forked here, train on the CPU all the same.

How one of them starts is tried with `RUN_CHILD`, and with all that `run` does in `training/test_launch.py`.
"""
RECIPE = """
model: {model}
data: {{mix: tars, prompts: 16, harmful_ratio: 0.5, harmful: [{{source: sample, prompts: 40}}],
  harmless: [{{source: sample, prompts: 40}}], ambiguous: [{{source: sample, prompts: 40}}],
  traces: [{{source: sample, prompts: 16}}]}}
sft: {{epochs: 1, max_steps: 1, learning_rate: 1.0e-3, batch_size: 4, micro_batch_size: 1, precision: fp32}}
eval: {{sampling: {{temperature: 1.0, max_new_tokens: 8}}, behaviors: sample, benign: null, harm_judge: refusal,
  limit: 2}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "tiny.yaml").write_text(RECIPE.format(model=micro.save_model(folder / "model")))
    return folder / "tiny.yaml"


@pytest.mark.parametrize("command", [("sft",), ("rl",), ("guard", "train"), ("run",), ("sweep",)])
def test_gpus_are_for_plans_alone(command, tmp_path):
    varied = ("seed=0,1",) if command == ("sweep",) else ()
    name = "rsafe-smoke" if command == ("guard", "train") else "tars-smoke"
    done = safereason(*command, "--recipe", name, *varied, "--gpus", "4x48GB", "--root", tmp_path)
    assert done.returncode == 2
    assert (
        refusal_line(done) == "error: --gpus: goes with --dry-run only; without it the GPUs of this machine are taken"
    )


@pytest.mark.parametrize(
    ("command", "name"), [(("sft",), "tars-1.5b"), (("rl",), "tars-1.5b"), (("guard", "train"), "rsafe-smoke")]
)
def test_a_plan_for_gpus_elsewhere_says_how_they_are_used(command, name, tmp_path):
    words = (*command, "--recipe", name, "--root", tmp_path, "--dry-run", "--json")
    plan = json.loads(safereason(*words, "--gpus", "4x900GB").stdout)["plan"]
    assert (plan["processes"], plan["layout"]) == (4, "DDP")
    assert 0 < plan["GiB a GPU"] < plan["of"] == 828.0
    assert "ddp.yaml" in plan["launch"]
    one = json.loads(safereason(*words, "--gpus", "900GB").stdout)["plan"]
    assert (one["processes"], one["layout"]) == (1, "one")
    assert "launch" not in one
    named = json.loads(safereason(*words, "--gpus", "4x900GB", "--launch", "accelerate:fsdp2").stdout)["plan"]
    assert named["layout"] == "FSDP2"
    assert named["GiB a GPU"] < plan["GiB a GPU"]


def test_a_plan_of_a_recipe_has_a_layout_for_each_step():
    words = ("run", "--recipe", "tars-1.5b", "--dry-run", "--gpus", "4x900GB")
    plan = json.loads(safereason(*words, "--json").stdout)
    rows = {row["step"]: row for row in plan["layouts"]}
    assert list(rows) == [step for step in plan["steps"] if step not in ("data", "report")]
    for step in ("sft", "rl"):
        assert (rows[step]["processes"], rows[step]["layout"], rows[step]["of"]) == (4, "DDP", 828.0)
    assert rows["sft"]["engine"] is None
    assert rows["rl"]["engine"] == load("tars-1.5b").rl.rollouts
    measured = rows["eval harmbench of rl"]
    assert (measured["processes"], measured["layout"], measured["engine"]) == (4, "shards", "transformers")
    works = {row["work"] for row in plan["placement"]}
    assert {"harmbench: searches of pair", "harmbench: completions", "xstest: verdicts"} <= works
    assert all(row["shards"] == 4 for row in plan["placement"])
    lines = safereason(*words).stdout.splitlines()
    start = lines.index("on 4 x 900GB:") + 1
    table = lines[start : lines.index("", start)]
    assert table[0].split() == ["step", "processes", "layout", "GiB", "a", "GPU", "of", "engine"]
    assert len(table) == 1 + len(rows)


def test_a_plan_for_the_papers_hardware_fits_and_says_how_long_it_may_take():
    words = ("run", "--recipe", "tars-7b", "--dry-run", "--gpus", "4x48GB")
    rows = {row["step"]: row for row in json.loads(safereason(*words, "--json").stdout)["layouts"]}
    assert (rows["sft"]["layout"], rows["rl"]["layout"]) == ("FSDP2", "FSDP2, offload optimizer")
    for step in ("sft", "rl"):
        assert (rows[step]["processes"], rows[step]["GiB a GPU"] <= rows[step]["of"]) == (4, True)
        assert rows[step]["hours at most"] > 0
        assert rows[step]["at"].startswith("150 TFLOPS a GPU, 40% of them used in training")
    assert "hours at most" not in rows["eval harmbench of rl"]
    shown = safereason(*words).stdout
    table = shown[shown.index("step  hours at most  at") :].partition("\n\n")[0].splitlines()
    assert [line.split()[:2] for line in table[1:]] == [
        [step, str(rows[step]["hours at most"])] for step in ("sft", "rl")
    ]
    one = json.loads(safereason("rl", *words[1:], "--json").stdout)["plan"]
    assert (one["hours at most"], one["at"]) == (rows["rl"]["hours at most"], rows["rl"]["at"])


def test_a_plan_of_a_sweep_has_those_of_its_points():
    words = ("sweep", "--recipe", "tars-1.5b", "data.harmful_ratio=0.1,0.9", "--dry-run", "--gpus", "4x900GB")
    plans = json.loads(safereason(*words, "--json").stdout)
    assert [plan["point"] for plan in plans] == ["data.harmful_ratio=0.1", "data.harmful_ratio=0.9"]
    assert all({row["layout"] for row in plan["layouts"]} == {"DDP", "one"} for plan in plans)
    assert safereason(*words).stdout.count("on 4 x 900GB:") == 2


@pytest.mark.parametrize("command", ["sft", "run"])
def test_what_does_not_fit_is_one_line_with_the_keys_to_change(command, tmp_path):
    done = safereason(command, "--recipe", "tars-7b", "--dry-run", "--gpus", "4x9GB", "--root", tmp_path)
    assert done.returncode == 2
    line = refusal_line(done)
    assert line.startswith("error: sft: does not fit 4 GPUs: with FSDP2, offload all, it takes ")
    assert "; set sft.lora.rank=16 or sft.max_tokens=2304; " in line


def test_a_plan_without_gpus_is_as_it_was(recipe):
    plan = json.loads(safereason("run", "--recipe", recipe, "--dry-run", "--json").stdout)
    assert plan["layouts"] == []
    assert (
        not {"processes", "layout"}
        & json.loads(safereason("sft", "--recipe", recipe, "--dry-run", "--json").stdout)["plan"].keys()
    )


def test_the_gpus_of_the_machine_are_planned_for(recipe):
    training = fit.trainings(load(str(recipe)), fit.parse_gpus("4x48GB"))[0][0]
    between = (training.peak(training.section) + training.peak(training.section, sharded=True)) / 2
    for gib, layout in ((48, "DDP"), (between / fit.memory.ROOM / fit.GIB, "FSDP2")):
        done = python(FAKED, 4, gib, "sft", "--recipe", recipe, "--dry-run", "--json")
        assert done.returncode == 0, done.stderr
        plan = json.loads(done.stdout)["plan"]
        assert (plan["processes"], plan["layout"]) == (4, layout)
        assert plan["SFTConfig"]["per_device_train_batch_size"] == 1


def test_on_gpus_each_step_of_run_is_a_process_of_its_own(recipe, tmp_path):
    words = ("run", "--recipe", recipe, "--root", tmp_path, "--seed", 3, "--json")
    done = python(FAKED, 4, 48, *words)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("child: ")] == [
        "child: --step sft --launch accelerate:ddp",
        "child: --step eval harmbench of base --launch none",
        "child: --step eval harmbench of sft --launch none",
    ]
    assert [line for line in lines if line.startswith("launch: 4 processes, DDP: ")]
    assert lines[0] == "[1/5] data"
    metrics = json.loads(done.stdout)["metrics"]
    assert list(metrics["runs"]) == ["data", "sft", "eval harmbench of base", "eval harmbench of sft"]
    assert [figure["n"] + figure["unscored"] for figure in metrics["changes"]["sft"]] == [2, 2]
    again = python(FAKED, 4, 48, *words)
    assert "child: " not in again.stderr
    assert again.stderr.count("finished before, skipped") == 4
    # Without GPUs the same runs are found, and all in one process.
    assert json.loads(safereason(*words).stdout) == json.loads(again.stdout)


def test_a_step_alone_wants_the_model_that_it_measures(recipe, tmp_path):
    common = ("run", "--recipe", recipe, "--root", tmp_path)
    done = safereason(*common, "--step", "eval harmbench of sft")
    assert done.returncode == 2
    unknown = safereason(*common, "--step", "eval harmbench of rl")
    assert refusal_line(unknown).startswith(
        "error: --step eval harmbench of rl: no such step of recipe tiny; did you mean eval harmbench of sft?"
    )
    launched = safereason(*common, "--step", "data", "--launch", "accelerate:fsdp2")
    assert refusal_line(launched) == (
        "error: --launch accelerate:fsdp2: the step data trains nothing; leave --launch out"
    )


def test_a_step_alone_is_that_of_run(recipe, tmp_path):
    common = ("run", "--recipe", recipe, "--root", tmp_path)
    for step in ("data", "sft"):
        done = safereason(*common, "--step", step, "--json")
        assert done.returncode == 0, done.stderr
        assert Path(json.loads(done.stdout)["run"]).parent == tmp_path / step
    measured = safereason(*common, "--step", "eval harmbench of sft", "--json")
    assert json.loads(measured.stdout)["metrics"]["eval"] == "harmbench"


def test_several_gpus_and_one_process_are_told_of(recipe, tmp_path):
    """The data is missing, which is found after the GPUs were chosen."""
    done = python(FAKED, 4, 48, "sft", "--recipe", recipe, "--root", tmp_path, "--launch", "none")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "launch: one process, on the first of 4 GPUs"


@pytest.mark.parametrize(
    ("codes", "error", "text"),
    [
        # The first one is ended for the second one's failure.
        ({1: 2, 0: 143}, typer.Exit, "2"),
        ({1: -9, 0: 143}, StageFailed, "process 1 was ended by SIGKILL"),
        ({0: 143, 1: 1}, Signalled, "SIGTERM"),
        ({0: 130}, KeyboardInterrupt, ""),
    ],
)
def test_processes_end_the_launcher_as_the_first_of_them_ended(codes, error, text, monkeypatch):
    def fail(_: object) -> None:
        raise ChildFailedError("rl", {rank: ProcessFailure(rank, 1, code, "") for rank, code in codes.items()})

    monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
    with pytest.raises(error) as raised:
        launched.start(Launch((), 2))
    assert str(raised.value).startswith(text)


RUN_CHILD = """
import sys
from safereason.cli import child, errors

sys.executable = sys.argv.pop(1) or sys.executable
sys.exit(errors.guarded(lambda: child.run(sys.argv[1:])))
"""


def test_a_process_of_its_own_ends_with_its_own_code_and_line(tmp_path):
    well = python(RUN_CHILD, "", "recipe", "ls")
    assert (well.returncode, well.stdout, well.stderr) == (0, "", "")
    failed = python(RUN_CHILD, "", "recipe", "show", "nothing-of-this-name")
    assert failed.returncode == 2
    assert refusal_line(failed).startswith("error: nothing-of-this-name: no such recipe")
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o700)
    done = python(RUN_CHILD, killed, "run", "--recipe", "tars-smoke")
    assert done.returncode == 1
    assert refusal_line(done) == "error: run: a process of it was ended by SIGKILL; run it again to go on"
