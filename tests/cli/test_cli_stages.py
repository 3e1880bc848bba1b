"""The commands that run stages, on the micro model: data → sft → rl → eval → report."""

import json
import shlex
import sys
from pathlib import Path

import pytest
from program import in_shell, refusal_line, safereason

from safereason.evals import EVALS

TINY = """# A recipe for tests
extends: tars-smoke
model: {model}
data: {{prompts: 8}}
sft: {{max_steps: 1, batch_size: 2, micro_batch_size: 2}}
rl: {{max_steps: 1, prompts_per_step: 2, rollouts_per_prompt: 2, micro_batch_size: 4, sampling: {{max_new_tokens: 4}}}}
eval:
  sampling: {{temperature: 1.0, max_new_tokens: 8}}
  harm_judge: refusal
  refusal_judge: refusal
  limit: 2
"""
"""The judge `refusal` scores whatever is written, and at temperature 1 the micro model writes more than line breaks."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, micro_model) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY.format(model=micro_model))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work") / "runs"


@pytest.fixture(scope="module")
def whole(tiny, root) -> dict:
    done = safereason("run", "--recipe", tiny, "--root", root, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["metrics"]


def test_run_makes_a_report_and_says_what_changed(whole):
    assert Path(whole["report"]).read_text().startswith("<!doctype html>")
    assert list(whole["runs"]) == [
        "data",
        "sft",
        "rl",
        "eval harmbench of base",
        "eval xstest of base",
        "eval harmbench of sft",
        "eval xstest of sft",
        "eval harmbench of rl",
        "eval xstest of rl",
    ]
    assert list(whole["changes"]) == ["base", "sft", "rl"]
    for figures in whole["changes"].values():
        named = [(figure["eval"], figure["name"]) for figure in figures]
        assert named == [
            ("harmbench", "well_formed"),
            ("harmbench", "dsr"),
            ("xstest", "well_formed"),
            ("xstest", "compliance_safe"),
        ]
        assert all(figure["n"] + figure["unscored"] == 2 for figure in figures)


def test_a_second_run_skips_what_is_done(whole, tiny, root):
    before = {path: (Path(path) / "manifest.json").read_text() for path in whole["runs"].values()}
    done = safereason("run", "--recipe", tiny, SAFEREASON_RUNS=str(root))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("finished before, skipped") == len(before)
    assert {path: (Path(path) / "manifest.json").read_text() for path in before} == before
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["model", "base", "sft", "rl", "report:"]


def test_rows_of_the_runs_can_be_shown(whole):
    rollouts = json.loads(safereason("data", "show", whole["runs"]["rl"], "--json").stdout)
    assert len(rollouts) == 4
    assert {"prompt", "text", "total", "parts"} <= rollouts[0].keys()
    completions = json.loads(safereason("data", "show", whole["runs"]["eval xstest of rl"], "--json").stdout)
    assert [row["attack"] for row in completions] == ["direct", "direct"]
    unclear = safereason("data", "show", whole["runs"]["sft"])
    assert unclear.returncode == 2
    assert "name a file of it" in refusal_line(unclear)


FINISHED = {
    "data": ("data", "build"),
    "sft": ("sft",),
    "rl": ("rl",),
    "eval harmbench of rl": ("eval", "harmbench"),
    "eval xstest of rl": ("eval", "xstest"),
}
"""The command behind each step of `run`."""


@pytest.mark.parametrize("step", FINISHED)
def test_a_finished_run_is_shown_again_as_it_is(whole, tiny, root, step):
    command = (*FINISHED[step], "--recipe", tiny, "--root", root)
    before = (Path(whole["runs"][step]) / "manifest.json").read_bytes()
    again = safereason(*command, "--json")
    assert (again.returncode, again.stderr.count("\n")) == (0, 1), again.stderr
    assert "finished before, so that its result is shown; --overwrite makes it anew" in again.stderr
    document = json.loads(again.stdout)
    assert document["run"] == whole["runs"][step]
    assert document["metrics"] == json.loads((Path(document["run"]) / "metrics.json").read_text())
    resumed = safereason(*command, "--resume", "--json")
    assert resumed.stdout == again.stdout
    assert (Path(whole["runs"][step]) / "manifest.json").read_bytes() == before


def test_a_pipeline_gets_the_figures_of_a_run_that_is_there(whole, tiny, root):
    reader = shlex.join([sys.executable, "-c", "import json, sys; print(json.load(sys.stdin)['metrics']['eval'])"])
    words = ("eval", "xstest", "--recipe", tiny, "--root", root, "--json")
    done = in_shell(f'set -o pipefail; safereason "$@" | {reader}', *words)
    assert (done.returncode, done.stdout) == (0, "xstest\n"), done.stderr


def test_an_unfinished_run_is_still_refused_and_another_one_is_not_taken_for_it(whole, tiny, root, tmp_path):
    out = tmp_path / "run"
    common = ("eval", "xstest", "--recipe", tiny, "--root", root, "--out", out)
    assert safereason(*common, "--limit", 1).returncode == 0
    other = safereason(*common, "--limit", 2)
    assert other.returncode == 2
    assert "it holds another run (differing in limit)" in refusal_line(other)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "status": "interrupted"}))
    refused = safereason(*common, "--limit", 1)
    assert refused.returncode == 2
    assert "pass --resume to go on or --overwrite to start anew" in refusal_line(refused)


def test_a_bar_that_is_not_met_ends_with_3_after_the_figures(whole, tiny, root):
    common = ("eval", "harmbench", "--recipe", tiny, "--root", root)
    missed = safereason(*common, "--fail-under", "well_formed=0", "--fail-under", "dsr=1.01", "--json")
    assert missed.returncode == 3
    assert json.loads(missed.stdout)["metrics"]["eval"] == "harmbench"
    _, met_bar, missed_bar = missed.stderr.splitlines()
    assert met_bar.startswith("bar met: well_formed is ")
    assert missed_bar.startswith("error: dsr ")
    assert "under the bar of 1.01" in missed_bar
    met = safereason(*common, "--fail-under", "well_formed=0")
    assert (met.returncode, met.stderr.splitlines()[1:]) == (0, [met_bar])
    named = [line.split()[:2] for line in met.stdout.splitlines()]
    assert named.count(["dsr", "all"]) == named.count(["dsr", "direct"]) == 1


def test_the_figures_a_bar_may_name_are_those_that_are_measured(whole):
    for name in ("harmbench", "xstest"):
        measured = json.loads((Path(whole["runs"][f"eval {name} of rl"]) / "metrics.json").read_text())["figures"]
        reported = {info.name for info in EVALS[name].reports}
        assert {figure["name"] for figure in measured if figure["group"] == "all"} == reported


@pytest.mark.parametrize("bar", ["compliance=0.5", "dsr", "dsr=high"])
def test_a_bar_that_means_nothing_is_refused_before_anything_runs(tiny, root, bar):
    done = safereason("eval", "harmbench", "--recipe", tiny, "--root", root, "--fail-under", bar)
    assert done.returncode == 2
    assert refusal_line(done).startswith(f"error: --fail-under {bar}: ")


def test_eval_of_a_model_without_a_recipe(micro_model, tmp_path, data_home):
    done = safereason(
        "eval",
        "xstest",
        "--model",
        micro_model,
        "--root",
        tmp_path,
        "--limit",
        1,
        "--json",
        "eval.sampling.max_new_tokens=400",  # bytes at random: enough for a word that the default judge knows
        "eval.sampling.temperature=1",
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert Path(document["run"]).name.startswith("adhoc--micro")
    assert (document["metrics"]["judge"], document["metrics"]["examples"]) == ("refusal-learned", 1)


def test_report_of_chosen_runs(whole, tmp_path):
    done = safereason(
        "report", whole["runs"]["rl"], whole["runs"]["eval xstest of rl"], "--title", "Mine", "--out", tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "<title>Mine" in (tmp_path / "report.html").read_text()
    no_run = safereason("report", tmp_path)
    assert no_run.returncode == 2
    assert refusal_line(no_run).startswith(f"error: {tmp_path}: holds no run")


def test_dry_runs_print_plans_and_write_nothing(tiny, tmp_path):
    sft = json.loads(safereason("sft", "--recipe", tiny, "--root", tmp_path / "runs", "--dry-run", "--json").stdout)
    assert sft["plan"]["steps"] == 1
    assert sft["recipe"]["sft.batch_size"] == {"value": 2, "source": "recipe"}
    rl = safereason("rl", "--recipe", "tars-1.5b", "--root", tmp_path / "runs", "rl.kl_coef=0.5", "--dry-run").stdout
    values = {line.split()[0]: line.split()[1:] for line in rl.splitlines() if line.strip()}
    assert values["rl.kl_coef"] == ["0.5", "override"]
    assert values["steps"] == ["186"]
    whole = json.loads(safereason("run", "--recipe", tiny, "--seed", 5, "--limit", 1, "--dry-run", "--json").stdout)
    assert whole["steps"][0] == "data"
    assert whole["steps"][-1] == "report"
    assert (whole["recipe"]["seed"], whole["recipe"]["eval"]["limit"]) == (5, 1)
    data = safereason("data", "build", "--recipe", tiny, "--root", tmp_path / "runs", "--dry-run").stdout
    assert "build the tars mix" in data
    evaluation = safereason(
        "eval", "harmbench", "--recipe", tiny, "--judge", "moderation", "--limit", 1, "--dry-run"
    ).stdout
    assert "at most 1 prompts of sample (direct), and judge the answers with moderation" in evaluation
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--attacks", "gcgg"), "no attack is called 'gcgg'; did you mean gcg?"),
        (("--judge", "refusl"), "no judge is called 'refusl'"),
    ],
)
@pytest.mark.parametrize("dry", [("--dry-run",), ()])
def test_an_attack_or_judge_that_is_not_there_is_one_line(tiny, micro_model, tmp_path, arguments, problem, dry):
    done = safereason(
        "eval", "harmbench", "--recipe", tiny, "--model", micro_model, "--root", tmp_path / "runs", *arguments, *dry
    )
    assert done.returncode == 2
    assert problem in refusal_line(done)


def test_a_dry_run_lists_the_steps_of_a_guard():
    steps = json.loads(safereason("run", "--recipe", "rsafe-smoke", "--dry-run", "--json").stdout)["steps"]
    assert [step.partition(":")[0] for step in steps] == [
        "data",
        "guard sft",
        "guard rl",
        "eval guard of base",
        "eval guard of guard sft",
        "eval guard of guard rl",
        "report",
    ]


def test_run_without_training_measures_the_base_model(micro_model, tmp_path):
    recipe = tmp_path / "base.yaml"
    recipe.write_text(
        TINY.format(model=micro_model).replace("sft:", "# sft:").replace("rl:", "# rl:") + "sft: null\nrl: null\n"
    )
    steps = json.loads(safereason("run", "--recipe", recipe, "--dry-run", "--json").stdout)["steps"]
    assert steps == ["data", "eval harmbench of base", "eval xstest of base", "report"]


def test_a_place_that_cannot_be_written_is_one_line(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        done = safereason("data", "build", "--recipe", tiny, "--out", out)
        assert done.returncode == 2
        assert refusal_line(done).startswith(f"error: {out}: ")
