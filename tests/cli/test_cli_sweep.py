"""`safereason sweep`: the points of several values, printed or run."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import refusal_line, safereason

from safereason.errors import InputError
from safereason.recipe.load import load
from safereason.recipe.sweep import folder, label, points
from safereason.stages import pipeline, sweep
from safereason.stages.base import Options, Result

RATIOS = "data.harmful_ratio=0.1,0.3,0.5,0.7,0.9"


def test_all_combinations_are_there_and_the_last_key_varies_fastest():
    assert points(["seed=0,1", "eval.attacks=[direct,gcg]", "rl.kl_coef=0.0, 1e-3"]) == [
        ("seed=0", "eval.attacks=[direct,gcg]", "rl.kl_coef=0.0"),
        ("seed=0", "eval.attacks=[direct,gcg]", "rl.kl_coef=1e-3"),
        ("seed=1", "eval.attacks=[direct,gcg]", "rl.kl_coef=0.0"),
        ("seed=1", "eval.attacks=[direct,gcg]", "rl.kl_coef=1e-3"),
    ]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=[1,2],[3]", ("a=[1,2]", "a=[3]")),
        ("a={x: 1, y: 2},null", ("a={x: 1, y: 2}", "a=null")),
        ('a="b,c",d', ('a="b,c"', "a=d")),
        ("a=1,1,2", ("a=1", "a=2")),
    ],
)
def test_a_comma_inside_something_parts_nothing(text: str, values: tuple[str, ...]):
    assert points([text]) == [(value,) for value in values]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True), min_size=1, max_size=3))
def test_points_are_told_apart_by_what_varies(values: list[list[int]]):
    texts = [f"k{i}={','.join(map(str, chosen))}" for i, chosen in enumerate(values)]
    if all(len(chosen) == 1 for chosen in values):
        with pytest.raises(InputError, match="nothing varies"):
            points(texts)
        return
    grid = points(texts)
    assert len({folder(label(point, texts)) for point in grid}) == len(grid)


def test_a_command_a_point_is_printed_each_with_a_folder_of_its_own():
    done = safereason("sweep", "--recipe", "tars-1.5b", RATIOS, "--root", "runs/λ", "--limit", 5, "--print")
    assert (done.returncode, done.stderr) == (0, "")
    commands = [shlex.split(line) for line in done.stdout.splitlines()]
    assert [command[:4] for command in commands] == [["safereason", "run", "--recipe", "tars-1.5b"]] * 5
    assert [load("tars-1.5b", [command[4]]).data.harmful_ratio for command in commands] == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert {tuple(command[5:7]) for command in commands} == {("--limit", "5")}
    assert commands[0][-2:] == ["--root", "runs/λ/data.harmful_ratio=0.1"]
    assert len({command[-1] for command in commands}) == 5
    listed = json.loads(safereason("sweep", "--recipe", "tars-1.5b", RATIOS, "--print", "--json").stdout)
    assert [entry["point"] for entry in listed] == [
        f"data.harmful_ratio={ratio}" for ratio in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (["seed=3"], "error: sweep: nothing varies; give a key several values"),
        (["seed=3,,4"], "error: override 'seed=3,,4': a value is missing"),
        (["data.harmful_ratio=0.1,3"], "error: override 'data.harmful_ratio=3': data.harmful_ratio: should be less"),
        (["seed=1,2", "--shard", "3/2"], "error: --shard 3/2: I/N is expected"),
    ],
)
def test_what_cannot_be_swept_is_said_in_one_line_and_nothing_is_begun(given_, message, tmp_path):
    done = safereason("sweep", "--recipe", "tars-smoke", *given_, "--root", tmp_path)
    assert done.returncode == 2
    assert refusal_line(done).startswith(message)
    assert list(tmp_path.iterdir()) == []


def test_shards_are_all_the_points_and_do_not_overlap():
    recipes = {f"seed={seed}": load("tars-smoke", [f"seed={seed}"]) for seed in range(5)}
    parts = [sweep.shard(recipes, (part, 2)) for part in (1, 2)]
    assert [list(part) for part in parts] == [["seed=0", "seed=2", "seed=4"], ["seed=1", "seed=3"]]
    assert sweep.shard(recipes, (6, 6)) == {}


def test_a_shard_leaves_what_the_points_share_to_the_whole(monkeypatch, tmp_path):
    """Two processes may not write one run: the base model is measured, and the report over all made, by the whole."""
    ran: list[tuple[int, bool]] = []
    reported: list[list[str]] = []

    def run(recipe, options, *, base, start):
        ran.append((recipe.seed, base))
        runs = {"eval harmbench of base": "runs/base", "rl": f"runs/rl-{recipe.seed}"}
        return Result(tmp_path, {"runs": runs, "changes": {"base": [], "rl": []}})

    def report(runs, options, title):
        reported.append(list(map(str, runs)))
        return Result(tmp_path, {"page": "page"})

    monkeypatch.setattr(sweep.pipeline, "run_pipeline", run)
    monkeypatch.setattr(sweep.report, "write_report", report)
    recipes = {f"seed={seed}": load("tars-smoke", [f"seed={seed}"]) for seed in (1, 2)}
    sweep.run_shard(recipes, Options(root=tmp_path))
    assert (ran, reported) == ([(1, False), (2, False)], [])
    result = sweep.run_sweep(recipes, Options(root=tmp_path), "two")
    assert ran[2:] == [(1, True), (2, True)]
    assert reported == [["runs/base", "runs/rl-1", "runs/rl-2"]]
    assert result.metrics["changes"].keys() == {"seed=1", "seed=2"}


def test_the_pipeline_without_the_base_model_measures_what_was_trained():
    recipe = load("tars-smoke")
    left_out = set(pipeline.pipeline_steps(recipe)) - set(pipeline.pipeline_steps(recipe, base=False))
    assert left_out == {"eval harmbench of base", "eval xstest of base"}
