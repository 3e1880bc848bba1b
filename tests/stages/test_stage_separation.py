"""The separation stage on the micro model: what it reads off the model, its files, resuming after `kill -9`."""

import json
from pathlib import Path

import micro
import pytest
import torch
from program import python
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.recipe.schema import Evaluation, Recipe, Sampling, SourceShare, TarsMix
from safereason.runs.records import read_json, read_records
from safereason.stages import separation
from safereason.stages.base import Options
from safereason.stages.separation import SeparationRequest
from safereason.text import chat

KILLED = """
import os, signal, sys
from pathlib import Path
from safereason.engines.spec import ModelSpec
from safereason.recipe.schema import Recipe
from safereason.stages import separation
from safereason.stages.base import Options

write = separation.write_bytes
def write_then_die(path, content):
    write(path, content)
    if path.name == "0001.safetensors":
        os.kill(os.getpid(), signal.SIGKILL)
separation.write_bytes = write_then_die
recipe = Recipe.model_validate_json(sys.argv[1])
separation.run_separation(recipe, Options(root=Path(sys.argv[2]), model=ModelSpec.parse(sys.argv[3])))
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    rows = [
        {"id": f"mine/{kind}-{i}", "prompt": f"{word} number {'x' * i}", "kind": kind, "source": "mine"}
        for kind, word in (("harmful", "Attack"), ("harmless", "Bake"))
        for i in range(40)
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    share = (SourceShare(source="sample", prompts=4),)
    mix = TarsMix(
        mix="tars", prompts=4, harmful_ratio=0.5, harmful=share, harmless=share, ambiguous=share, traces=share
    )
    section = Evaluation(sampling=Sampling(max_new_tokens=4), behaviors=str(path), benign=str(path))
    return Recipe(name="micro", model="org/none", seed=3, data=mix, eval=section)


def test_an_embedding_is_the_model_s_last_state_before_it_writes(recipe: Recipe, micro_model: Path, tmp_path: Path):
    done = separation.run_separation(recipe, Options(root=tmp_path / "runs", model=ModelSpec.parse(str(micro_model))))
    embeddings = {key: value for file in (done.run / "embeddings").iterdir() for key, value in load_file(file).items()}
    assert len(embeddings) == 80
    model, tokenizer = AutoModelForCausalLM.from_pretrained(micro_model).eval(), micro.tokenizer()
    for name, prompt in (("harmful-0", "Attack number "), ("harmless-7", "Bake number xxxxxxx")):
        ids = chat.prompt_ids(tokenizer, chat.user(prompt), "<think>\n")
        assert tokenizer.decode(ids).endswith("assistant\n<think>\n")
        with torch.no_grad():
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
        assert embeddings[f"mine/{name}/direct"] == pytest.approx(states[0, -1].numpy(), abs=1e-5)


def test_the_run_holds_figures_points_and_a_picture(recipe: Recipe, micro_model: Path, tmp_path: Path):
    options = Options(root=tmp_path / "runs", model=ModelSpec.parse(str(micro_model)))
    done = separation.run_separation(recipe, options, SeparationRequest(limit=20))
    assert done.metrics == read_json(done.run / "metrics.json")
    assert [f["name"] for f in done.metrics["figures"]] == ["margin", "accuracy", "margin_c0.1", "accuracy_c0.1"]
    assert all(f["low"] is not None and f["n"] == 40 for f in done.metrics["figures"])
    points = list(read_records(done.run / "points.jsonl"))
    assert [point["kind"] for point in points] == ["harmful"] * 20 + ["harmless"] * 20
    assert sum(point["x"] ** 2 + point["y"] ** 2 for point in points) == pytest.approx(40)
    assert (done.run / "plots" / "separation.png").read_bytes().startswith(b"\x89PNG")
    assert "harmful (20)" in (done.run / "plots" / "separation.svg").read_text()


def test_the_prefix_changes_what_is_read(recipe: Recipe, micro_model: Path, tmp_path: Path):
    options = Options(root=tmp_path / "runs", model=ModelSpec.parse(str(micro_model)))
    plain = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"prefix": ""})})
    first, second = (separation.run_separation(r, options, SeparationRequest(limit=5)) for r in (recipe, plain))
    assert first.run != second.run
    assert first.metrics["figures"] != second.metrics["figures"]


def test_test_cases_take_the_place_of_the_harmful_prompts(recipe: Recipe, micro_model: Path, tmp_path: Path):
    rows = [{"behavior": f"mine/harmful-{i}", "attack": "gcg", "prompt": f"Attack !{i}"} for i in range(4)]
    case = {"behavior": "mine/harmful-9", "attack": "soft", "prompt": "Attack", "completion": "Sure"}
    cases = tmp_path / "cases.jsonl"
    cases.write_text("".join(json.dumps(row) + "\n" for row in (*rows, case)))
    options = Options(root=tmp_path / "runs", model=ModelSpec.parse(str(micro_model)))
    done = separation.run_separation(recipe, options, SeparationRequest(cases=[cases]))
    assert done.metrics["harmful"]["attacks"] == ["gcg"]
    prompts = [point["prompt"] for point in read_records(done.run / "points.jsonl") if point["kind"] == "harmful"]
    assert prompts == [row["prompt"] for row in rows]


def test_after_kill_9_a_resumed_run_has_the_same_points(recipe: Recipe, micro_model: Path, tmp_path: Path):
    whole = separation.run_separation(recipe, Options(root=tmp_path / "whole", model=ModelSpec.parse(str(micro_model))))
    root = tmp_path / "killed"
    assert python(KILLED, recipe.model_dump_json(), root, micro_model).returncode == -9
    [folder] = root.glob("eval/separation/*/embeddings")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(before) == ["0000.safetensors", "0001.safetensors"]
    resumed = separation.run_separation(
        recipe, Options(root=root, model=ModelSpec.parse(str(micro_model)), on_existing="resume")
    )
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    for name in ("points.jsonl", "metrics.json", "plots/separation.svg"):
        assert (resumed.run / name).read_bytes() == (whole.run / name).read_bytes()


def test_a_model_behind_a_server_and_prompts_that_are_missing_are_refused(
    recipe: Recipe, micro_model: Path, tmp_path: Path
):
    options = Options(root=tmp_path / "runs", model=ModelSpec.parse(str(micro_model)))
    with pytest.raises(InputError, match="does not show what is inside"):
        separation.run_separation(recipe, Options(root=tmp_path / "runs", model=ModelSpec.parse("openai/gpt")))
    empty = recipe.model_copy(update={"eval": recipe.eval.model_copy(update={"benign": None})})
    with pytest.raises(InputError, match=r"eval\.benign is null"):
        separation.run_separation(empty, options)
    with pytest.raises(InputError, match="2 harmful prompts, and at least 3 are needed"):
        separation.run_separation(recipe, options, SeparationRequest(limit=2))
    assert not (tmp_path / "runs").exists()
