import json
import re
from collections import Counter
from dataclasses import asdict

import pytest

from safereason.data.example import Example, read_examples
from safereason.data.sampling import fold
from safereason.data.sources import get
from safereason.errors import InputError
from safereason.recipe.schema import Recipe
from safereason.runs.directory import read_manifest
from safereason.runs.manifest import sha256
from safereason.runs.records import read_json
from safereason.stages import data
from safereason.stages.base import Options, source_run

SAMPLE = [{"source": "sample", "prompts": 200}]
TARS = {
    "mix": "tars",
    "prompts": 40,
    "harmful_ratio": 0.7,
    "harmful": SAMPLE,
    "harmless": SAMPLE,
    "ambiguous": SAMPLE,
    "traces": [{"source": "sample", "prompts": 30}],
}
SAMPLING = {"max_new_tokens": 8}


def recipe_of(evaluation=None, **section):
    evaluation = {"sampling": SAMPLING, "behaviors": "sample", "benign": "sample", **(evaluation or {})}
    return Recipe(name="tiny", model="embedded/smollm2-135m", data={**TARS, **section}, eval=evaluation)


def run(recipe, root, on_existing="refuse"):
    return data.build_data(recipe, Options(root=root, on_existing=on_existing))


def test_a_tars_mix_is_written_with_its_card(tmp_path):
    result = run(recipe_of(), tmp_path)
    prompts, traces = (read_examples(result.run / name) for name in (data.TRAIN, data.TRACES))
    assert Counter(e.kind for e in prompts) == {"harmful": 28, "harmless": 6, "ambiguous": 6}
    assert len(traces) == 30
    assert result.metrics == read_json(result.run / "metrics.json")
    assert result.metrics["by_kind"] == {"ambiguous": 6, "harmful": 28, "harmless": 6}
    assert (result.metrics["prompts"], result.metrics["traces"]) == (40, 30)
    held_out = {fold(e.prompt) for e in get("sample").load("test")}
    assert not held_out & {fold(e.prompt) for e in (*prompts, *traces)}


def test_the_card_says_what_is_in_the_files(tmp_path):
    result = run(recipe_of(), tmp_path)
    card = read_json(result.run / "card.json")
    traces = read_examples(result.run / data.TRACES)
    for name in (data.TRAIN, data.TRACES):
        entry = card["files"][name]
        rows = read_examples(result.run / name)
        assert entry["sha256"] == sha256(result.run / name)
        assert entry["rows"] == len(rows) == sum(entry["by_kind"].values()) == sum(entry["by_category"].values())
        assert entry["by_source"] == {"sample": len(rows)}
        lengths = [len(row.prompt) for row in rows]
        assert (entry["characters"]["prompt"]["min"], entry["characters"]["prompt"]["max"]) == (
            min(lengths),
            max(lengths),
        )
    assert card["files"][data.TRACES]["characters"]["answer"]["max"] == max(len(t.answer) for t in traces)
    both = {e.prompt for e in read_examples(result.run / data.TRAIN)} & {t.prompt for t in traces}
    assert card["prompts_in_both"] == len(both)
    assert (card["seed"], card["harmful_ratio"], card["notes"]) == (0, 0.7, [])
    assert card["sources"][0]["licence"] == "Apache-2.0"
    page = (result.run / "card.md").read_text()
    assert "λ = 0.7" in page
    assert card["files"][data.TRAIN]["content"] in page
    assert "| kind | harmful | 28 |" in page


def test_the_same_recipe_writes_the_same_rows(tmp_path):
    first, second = (run(recipe_of(), tmp_path / name).run for name in ("a", "b"))
    assert read_json(first / "card.json") == read_json(second / "card.json")


def test_a_later_stage_finds_the_run(tmp_path):
    recipe = recipe_of()
    result = run(recipe, tmp_path)
    assert source_run("data", recipe, Options(root=tmp_path), data.data_identity(recipe)) == result.run
    assert data.data_identity(recipe) != data.data_identity(recipe_of(prompts=30))


def test_a_finished_run_is_returned_as_it_is_and_another_or_torn_one_refused(tmp_path):
    result = run(recipe_of(), tmp_path)
    before = (result.run / "manifest.json").read_bytes()
    assert not result.is_earlier
    for on_existing in ("resume", "refuse"):
        again = run(recipe_of(), tmp_path, on_existing)
        assert (again, again.is_earlier) == (result, True)
        assert (result.run / "manifest.json").read_bytes() == before
    with pytest.raises(InputError, match=r"it holds another run \(differing in data.prompts\); pass --overwrite"):
        data.build_data(recipe_of(prompts=30), Options(root=tmp_path, out=result.run))
    (result.run / "manifest.json").write_text(json.dumps({**json.loads(before), "status": "running"}))
    with pytest.raises(InputError, match=r"pass --resume to go on or --overwrite to start anew$"):
        run(recipe_of(), tmp_path)


def test_a_torn_run_is_done_again_on_resume(tmp_path):
    result = run(recipe_of(), tmp_path)
    whole = (result.run / "card.json").read_bytes()
    manifest = read_manifest(result.run)
    (result.run / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    (result.run / data.TRACES).unlink()
    assert run(recipe_of(), tmp_path, "resume") == result
    assert (result.run / "card.json").read_bytes() == whole
    assert len(read_examples(result.run / data.TRACES)) == 30


def own_file(path, count):
    rows = [asdict(Example(f"own/{i}", f"own prompt {i} {'x' * i}", "harmful", "own")) for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [{"source": str(path), "prompts": count}]


def test_a_changed_file_of_your_own_is_read_again_on_resume(tmp_path):
    recipe = recipe_of(harmful=own_file(tmp_path / "own.jsonl", 30))
    first, options = run(recipe, tmp_path / "runs"), Options(root=tmp_path / "runs")
    assert read_manifest(first.run)["inputs"] == {str(tmp_path / "own.jsonl"): sha256(tmp_path / "own.jsonl")}
    assert data.built_data(recipe, options) == first.run
    own_file(tmp_path / "own.jsonl", 35)
    own = re.escape(str(tmp_path / "own.jsonl"))
    with pytest.raises(InputError, match=rf"was built from other contents of {own}; run `safereason data build "):
        data.built_data(recipe, options)
    second = run(recipe, tmp_path / "runs", "resume")
    assert (second.run != first.run, second.is_earlier) == (True, False)
    assert read_manifest(second.run)["inputs"] == {str(tmp_path / "own.jsonl"): sha256(tmp_path / "own.jsonl")}
    assert data.built_data(recipe, options) == second.run
    for on_existing, message in (("refuse", "it holds another run"), ("resume", "other contents since")):
        with pytest.raises(InputError, match=rf"{message} \(.*{own}\)"):
            data.build_data(recipe, Options(root=tmp_path, out=first.run, on_existing=on_existing))


def test_training_on_what_eval_tests_on_is_refused(tmp_path):
    held_out = next(e for e in get("sample").load("test") if e.kind == "harmful")
    path = tmp_path / "own.jsonl"
    row = asdict(Example("own/1", f" {held_out.prompt.upper()}", "harmful", "own", reasoning="hm", answer="no"))
    path.write_text(json.dumps(row) + "\n")
    message = f"1 rows to train on are ones that the recipe tests on .own/1 is {held_out.id} of sample: exact"
    with pytest.raises(InputError, match=message):
        run(recipe_of(traces=[{"source": str(path), "prompts": 5}]), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_star1_is_refused_where_harmbench_is_tested(tmp_path, data_home):
    star1 = {"traces": [{"source": "star1", "prompts": 1000}]}
    with pytest.raises(InputError, match=r"\d+ rows to train on are ones that the recipe tests on"):
        run(recipe_of({"behaviors": "harmbench", "benign": "xstest"}, **star1), tmp_path)
    assert run(recipe_of({"behaviors": "advbench", "benign": "xstest"}, **star1), tmp_path).metrics["traces"] == 1000


def test_an_evaluation_source_that_is_not_at_hand_is_noted(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path / "empty"))
    result = run(recipe_of({"behaviors": "harmbench", "benign": None}), tmp_path)
    (note,) = read_json(result.run / "card.json")["notes"]
    assert note.startswith("not compared with the test set harmbench: ")
    assert note in (result.run / "card.md").read_text()
    assert note in capsys.readouterr().err


def test_an_unknown_evaluation_source_is_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="did you mean xstest"):
        run(recipe_of({"benign": "xstst"}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_may_not_be_trained_on_is_refused(tmp_path):
    with pytest.raises(InputError, match="xstest: has no train split"):
        run(recipe_of(harmless=[{"source": "xstest", "prompts": 50}]), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_rsafe_mix_is_labelled_and_has_no_traces(tmp_path):
    section = {"mix": "rsafe", "rows_per_label": 120, "sources": ["sample"]}
    result = run(Recipe(name="tiny", model="m", data=section), tmp_path)
    rows = read_examples(result.run / data.TRAIN)
    assert Counter(e.label for e in rows) == {"safe": 120, "unsafe": 120}
    assert not (result.run / data.TRACES).exists()
    card = read_json(result.run / "card.json")
    assert card["files"][data.TRAIN]["by_label"] == {"safe": 120, "unsafe": 120}
    assert "of its 120 unsafe rows are repeats, since it has 110" in card["notes"][0]
