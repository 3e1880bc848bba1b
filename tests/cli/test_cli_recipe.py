"""`safereason recipe`."""

import json

import yaml
from program import refusal_line, safereason

from safereason.recipe.load import leaves, load, resolved
from safereason.recipe.named import shipped


def test_ls_names_every_shipped_recipe():
    names = [recipe.stem for recipe in shipped()]
    assert [line.split()[0] for line in safereason("recipe", "ls").stdout.splitlines()[1:]] == names
    listed = json.loads(safereason("recipe", "ls", "--json").stdout)
    assert [recipe["name"] for recipe in listed] == names
    assert all(recipe["summary"] for recipe in listed)


def test_show_prints_yaml_with_the_overrides_put_in():
    document = yaml.safe_load(safereason("recipe", "show", "tars-1.5b", "rl.kl_coef=0.5", "seed=7").stdout)
    assert (document["rl"]["kl_coef"], document["seed"]) == (0.5, 7)


def test_show_json_is_the_resolved_recipe():
    document = json.loads(safereason("recipe", "show", "tars-smoke", "--json").stdout)
    assert document == resolved(load("tars-smoke"))


def test_sources_stand_beside_the_values():
    done = safereason("recipe", "show", "tars-1.5b", "rl.kl_coef=0.5", "--sources")
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in done.stdout.splitlines()[1:]}
    assert lines["rl.kl_coef"] == ["0.5", "override"]
    assert lines.keys() == {key for key, _ in leaves(load("tars-1.5b"))}


def test_sources_as_json():
    document = json.loads(safereason("recipe", "show", "tars-smoke", "sft.epochs=9", "--sources", "--json").stdout)
    assert document["sft.epochs"] == {"value": 9.0, "source": "override"}


def test_cp_keeps_the_comments_and_never_overwrites(tmp_path):
    mine = tmp_path / "mine.yaml"
    assert safereason("recipe", "cp", "tars-smoke", mine).stdout == f"{mine}\n"
    assert mine.read_text() == next(r for r in shipped() if r.stem == "tars-smoke").read_text()
    again = safereason("recipe", "cp", "tars-1.5b", mine)
    assert again.returncode == 2
    assert refusal_line(again) == f"error: {mine}: exists already; choose another name or remove it first"
    assert mine.read_text().startswith("# TARS through every stage")


def test_cp_into_a_folder_keeps_the_name_and_a_missing_folder_is_named(tmp_path):
    assert safereason("recipe", "cp", "tars-smoke", tmp_path).stdout == f"{tmp_path}/tars-smoke.yaml\n"
    missing = safereason("recipe", "cp", "tars-smoke", tmp_path / "no" / "mine.yaml")
    assert missing.returncode == 2
    assert refusal_line(missing).endswith("its folder does not exist; make it first")


def test_validate_names_the_line_of_each_mistake(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("extends: tars-smoke\nrl:\n  kl_coff: 0.1\n")
    done = safereason("recipe", "validate", "tars-smoke", bad)
    assert done.returncode == 2
    assert done.stdout.splitlines()[0] == "tars-smoke: ok"
    assert done.stdout.splitlines()[1].startswith(f"{bad}:3: rl.kl_coff")
    assert done.stderr == f"error: 1 of 2 recipes did not validate: {bad}\n"


def test_validate_as_json_lists_the_problems(tmp_path):
    done = safereason("recipe", "validate", "tars-7b", tmp_path / "none.yaml", "--json")
    good, bad = json.loads(done.stdout)
    assert (good["ok"], bad["ok"]) == (True, False)
    assert "no such recipe file" in bad["problems"][0]
    assert done.returncode == 2


def test_diff_prints_both_values_of_the_keys_that_differ():
    done = safereason("recipe", "diff", "tars-1.5b", "tars-7b")
    assert done.returncode == 0
    assert "model" in [line.split()[0] for line in done.stdout.splitlines()]
    differing = json.loads(safereason("recipe", "diff", "tars-1.5b", "tars-7b", "--json").stdout)
    assert differing["model"] == {"tars-1.5b": "Qwen/Qwen2.5-1.5B-Instruct", "tars-7b": "Qwen/Qwen2.5-7B-Instruct"}


def test_diff_of_a_recipe_with_its_copy_is_empty(tmp_path):
    safereason("recipe", "cp", "tars-smoke", tmp_path / "mine.yaml")
    done = safereason("recipe", "diff", "tars-smoke", tmp_path / "mine.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("resolve to the same recipe\n")
