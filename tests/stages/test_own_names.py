"""Sources and judges of other packages: one run, by whichever of their names a recipe has them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from safereason.data.sources import SOURCES
from safereason.errors import InputError
from safereason.guard.others import GUARDS
from safereason.judges import JUDGES
from safereason.recipe.load import load
from safereason.recipe.named import shipped
from safereason.recipe.schema import PLACEMENT, Recipe
from safereason.runs.records import read_json
from safereason.stages import data, rl
from safereason.stages.base import Options, base_model, run_identity
from safereason.stages.own_names import with_own_names

EVERY = ("data", "rl", "guard", "attack", "eval")
PLUGIN = """
from dataclasses import replace

from safereason.data.sources import sample
from safereason.guard.others import GUARDS
from safereason.judges import JUDGES

SOURCE = replace(sample.SOURCE, name="plugged")
JUDGE = replace(JUDGES["refusal"], name="plugged-judge")
GUARD = replace(GUARDS["llama-guard"], name="plugged-guard")
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The dotted path of a module with a source, a judge and a guard, each `plugged`, found once by their paths."""
    folder = tmp_path / "own_names_plugin"
    folder.mkdir()
    (folder / "entries.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    path = "own_names_plugin.entries"
    SOURCES.find(f"{path}:SOURCE")
    JUDGES.find(f"{path}:JUDGE")
    GUARDS.find(f"{path}:GUARD")
    yield path
    del SOURCES["plugged"]
    del JUDGES["plugged-judge"]
    del GUARDS["plugged-guard"]


def recipe_with(harmful: str, traces: str, judge: str) -> Recipe:
    return load(
        "tars-smoke",
        [
            f"data.harmful=[{{source: '{harmful}', prompts: 110}}]",
            f"data.traces=[{{source: '{traces}', prompts: 20}}]",
            f"data.teacher={{model: openai/x, judge: '{judge}'}}",
            f"eval.behaviors='{harmful}'",
            f"rl.reward.safety='{judge}'",
            f"attack={{judge: '{judge}'}}",
        ],
    )


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_built_in_names_stay(path: Path):
    recipe = load(path.stem)
    assert with_own_names(recipe, EVERY) == recipe
    # Where a training is computed is no part of an identity.
    whole = recipe.model_dump(mode="json", exclude={"sft": PLACEMENT, "rl": PLACEMENT})
    expected = {"seed": recipe.seed, **{section: whole[section] for section in ("data", "sft", "rl")}}
    assert run_identity(recipe, "data", "sft", "rl") == expected


def test_two_names_of_one_entry_are_one_identity(plugin: str):
    by_path = recipe_with(f"{plugin}:SOURCE", f"{plugin}:SOURCE", f"{plugin}:JUDGE")
    by_name = recipe_with("plugged", "plugged", "plugged-judge")
    assert by_path != by_name
    assert with_own_names(by_path, EVERY) == by_name
    assert data.data_identity(by_path) == data.data_identity(by_name)
    start = base_model(by_path)
    assert rl.rl_identity(by_path, start, Options()) == rl.rl_identity(by_name, start, Options())


def test_a_guard_that_judges_may_be_a_plugin_too(plugin: str):
    by_path = recipe_with("sample", "sample-brief", f"guard:{plugin}:GUARD:org/x")
    by_name = recipe_with("sample", "sample-brief", "guard:plugged-guard:org/x")
    assert with_own_names(by_path, EVERY) == by_name
    start = base_model(by_path)
    assert rl.rl_identity(by_path, start, Options()) == rl.rl_identity(by_name, start, Options())


def test_two_names_of_one_source_draw_the_same_rows_into_one_run(plugin: str, tmp_path: Path):
    # In the mixed recipe the source that SFT takes prompts of is the one whose prompts RL may not take.
    names = (f"{plugin}:SOURCE", "plugged")
    recipes = [
        recipe_with(harmful, traces, "refusal").model_copy(update={"sft": None, "rl": None})
        for harmful, traces in (names, ("plugged", "plugged"))
    ]
    roots = [tmp_path / "mixed", tmp_path / "plain"]
    mixed, plain = (data.build_data(recipe, Options(root=root)) for recipe, root in zip(recipes, roots, strict=True))
    assert mixed.run.name == plain.run.name
    cards = [read_json(run / "card.json") for run in (mixed.run, plain.run)]
    assert cards[0]["files"] == cards[1]["files"]
    # The recipe is kept as it was typed: only the path leads to an entry that is not installed.
    assert f"{plugin}:SOURCE" in (mixed.run / "recipe.yaml").read_text()
    again = data.build_data(recipes[1], Options(root=tmp_path / "mixed"))
    assert (again, again.is_earlier) == (mixed, True)


def test_a_stage_asks_for_no_plugin_of_a_section_that_it_does_not_read(plugin: str):
    recipe = recipe_with("sample", "sample-brief", "no.such:JUDGE")
    with pytest.raises(InputError, match=r"judge no\.such:JUDGE: no\.such:JUDGE cannot be imported"):
        with_own_names(recipe, ("rl",))
    assert with_own_names(recipe, ("eval", "guard")) == recipe
