"""Training by verl, as far as it goes without a GPU: what it is given, how it is started, and what is taken back.

`main_ppo` is a stand-in that records its arguments and leaves what verl leaves; the first merger after it is its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import verl_peer
from program import refusal_line, safereason

from safereason.engines.open import load_model, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError, StageFailed
from safereason.recipe.load import load
from safereason.runs.directory import OnExisting, read_manifest
from safereason.runs.records import read_json, read_records
from safereason.stages import data, guard, rl, verl
from safereason.stages.base import Options, Result
from safereason.training.verl import GPUCluster

RECIPE = """# A recipe for tests
extends: tars-smoke
model: {model}
data: {{prompts: 8}}
sft: null
rl: {{epochs: 1.5, max_steps: 2, prompts_per_step: 2, rollouts_per_prompt: 2, micro_batch_size: 4, precision: bf16}}
"""
GUARD = """# A guard for tests
extends: rsafe-smoke
model: {model}
guard:
  sft: null
  train: {{max_steps: 1, prompts_per_step: 2, rollouts_per_prompt: 2, micro_batch_size: 4, precision: bf16,
           max_prompt_tokens: 8000, sampling: {{repetition_penalty: 1.0}}}}
  validation: {{every_steps: 1, keep_best: false}}
"""
PYTHON = f"""#!{sys.executable}
import json, os, runpy, shutil, sys
from pathlib import Path
from types import ModuleType

name, arguments = sys.argv[2], sys.argv[3:]
if sys.argv[1] == "-c":
    sys.exit("verl" in os.environ.get("WITHOUT", ""))
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps([name, *arguments]) + "\\n")
if name == "verl.model_merger":
    merged, target = Path(os.environ["MERGED"]), Path(arguments[arguments.index("--target_dir") + 1])
    if merged.exists():  # its imports take long, and it merges the same weights each time
        shutil.copytree(merged, target)
        sys.exit()
    ray = sys.modules["ray"] = ModuleType("ray")  # named in verl, and not called by its merger
    ray.ObjectRef = object
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__")
    shutil.copytree(target, merged)
    sys.exit()
if "FAIL" in os.environ:
    sys.exit("no GPU is there")
import torch
from safetensors.torch import load_file

given = dict(argument.split("=", 1) for argument in arguments)
value = lambda key: given[key].strip("'")
checkpoints = Path(value("trainer.default_local_dir"))
actor = checkpoints / "global_step_2" / "actor"
(actor / "huggingface").mkdir(parents=True)
model = Path(value("actor_rollout_ref.model.path"))
weights = load_file(model / "model.safetensors")  # without transformers, whose import takes seconds
weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
weights["model.norm.weight"].fill_(2.0)
torch.save(weights, actor / "model_world_size_1_rank_0.pt")
(actor / "fsdp_config.json").write_text(json.dumps({{"FSDP_version": 1, "world_size": 1}}))
for file in model.iterdir():
    if file.suffix != ".safetensors":
        shutil.copy(file, actor / "huggingface")
(checkpoints / "latest_checkpointed_iteration.txt").write_text("2")
log = Path(value("+ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH"))
log.write_text("".join(json.dumps({{"step": step, "data": {{"critic/score/mean": step / 4, "other": 1}}}}) + "\\n"
                       for step in (1, 2)))
rollouts = Path(value("trainer.rollout_data_dir"))
rollouts.mkdir()
row = {{"input": "user\\nWhy?", "output": "No.", "gts": "harmful", "score": 1.0}}
for step, uids in ((1, ["a_0_0", "a_1_0", "b_0_0", "pad1_0_0"]), (2, ["c_0_0", "c_1_0", "d_0_0", "d_1_0"])):
    lines = [json.dumps({{**row, "step": step, "uid": uid}}) for uid in uids]
    (rollouts / f"{{step}}.jsonl").write_text("\\n".join(lines) + "\\n")
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory, micro_model) -> Path:
    """A folder with a space in its name, recipes, built data, and a `python` that stands in for verl's."""
    work = tmp_path_factory.mktemp("work") / "a folder"
    (work / "bin").mkdir(parents=True)
    (work / "tiny.yaml").write_text(RECIPE.format(model=micro_model))
    (work / "guard.yaml").write_text(GUARD.format(model=micro_model))
    (work / "bin" / "python").write_text(PYTHON)
    (work / "bin" / "python").chmod(0o755)
    for recipe in ("tiny", "guard"):
        data.build_data(load(str(work / f"{recipe}.yaml"), []), Options(root=work / "runs"))
    return work


@pytest.fixture(autouse=True)
def stand_in(work, monkeypatch):
    monkeypatch.setenv("PATH", f"{work / 'bin'}:{os.environ['PATH']}")
    (work / "argv.jsonl").unlink(missing_ok=True)
    monkeypatch.setenv("RECORD", str(work / "argv.jsonl"))
    monkeypatch.setenv("MERGED", str(work / "merged"))
    monkeypatch.delenv("PYTHON", raising=False)


def train(
    work: Path, *overrides: str, recipe: str = "tiny", out: Path | None = None, existing: OnExisting = "refuse", **how
) -> Result:
    chosen = load(str(work / f"{recipe}.yaml"), list(overrides))
    options = Options(root=work / "runs", out=out, on_existing=existing)
    for_verl = rl.rl_for_verl if recipe == "tiny" else guard.guard_for_verl
    return verl.export_verl(for_verl(chosen, options), chosen, options, verl.VerlBackend(**how))


def test_a_run_trains_merges_and_is_a_run_like_any_other(work):
    verl_peer.core_algos()  # or skips
    done = train(work, cluster=GPUCluster(2))
    trained, merge = map(json.loads, (work / "argv.jsonl").read_text().splitlines())
    assert trained[0] == "verl.trainer.main_ppo"
    assert {"trainer.n_gpus_per_node=2", "trainer.total_training_steps=2"} <= set(trained)
    assert f"data.train_files='{done.run}/verl/train.parquet'" in trained
    assert merge[:4] == ["verl.model_merger", "merge", "--backend", "fsdp"]
    assert done.metrics == read_json(done.run / "metrics.json")
    assert done.metrics == {"backend": "verl", "steps": 2, "prompts": 8, "dropped_too_long": 0}
    manifest = read_manifest(done.run)
    assert (manifest["status"], manifest["identity"]["backend"]) == ("finished", "verl")
    assert load_model(str(done.run / "model")).model.norm.weight.tolist() == [2.0] * 64
    assert [(r["step"], r["reward"], r["unscored"]) for r in read_records(done.run / "metrics.jsonl")] == [
        (1, 0.25, 0.25),
        (2, 0.5, 0.0),
    ]
    rollouts = list(read_records(done.run / "rollouts.jsonl"))
    assert [(r["step"], r["kind"], r["text"], r["total"]) for r in rollouts] == (
        [(1, "harmful", "No.", 1.0)] * 3 + [(2, "harmful", "No.", 1.0)] * 4
    )
    assert train(work, cluster=GPUCluster(2), existing="resume") == done
    assert len((work / "argv.jsonl").read_text().splitlines()) == 2


def test_what_is_exported_can_be_trained_elsewhere_and_taken_back(work):
    verl_peer.core_algos()
    folder, result = work / "exported", work / "taken"
    train(work, export=folder)
    assert {p.name for p in folder.iterdir()} == {
        "train.parquet",
        "reward.json",
        "overrides.txt",
        "run.sh",
        "export.json",
    }
    with pytest.raises(InputError, match="holds no trained model; let `bash"):
        train(work, trained=folder, out=result)
    moved = folder.rename(work / "moved elsewhere")
    subprocess.run(["bash", moved / "run.sh"], check=True, capture_output=True)
    with pytest.raises(InputError, match=r"was exported from other settings \(rl\.kl_coef\)"):
        train(work, "rl.kl_coef=0.5", trained=moved, out=result)
    assert not result.exists()
    train(work, trained=moved, out=result)
    assert (result / "model" / "model.safetensors").is_file()
    assert not (result / "verl").exists()


def test_the_rows_stand_in_the_order_trl_would_take_them(work):
    train(work, export=work / "rows")
    rows = pq.read_table(work / "rows" / "train.parquet").to_pylist()
    assert len(rows) == 16  # two epochs are begun
    assert all(row["prompt"] == [{"role": "user", "content": row["extra_info"]["user"]}] for row in rows)
    assert {row["extra_info"]["id"] for row in rows[:8]} == {row["extra_info"]["id"] for row in rows[8:]}
    assert all(row["reward_model"]["ground_truth"] == row["extra_info"]["kind"] for row in rows)
    kinds = [row["extra_info"]["kind"] == "harmful" for row in rows]
    assert [sum(kinds[start : start + 2]) for start in range(0, 16, 2)] == [1] * 8


def test_verls_own_dataset_reads_a_guards_rows(work, micro_model):
    verl_peer.core_algos()
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    folder = work / "guard rows"
    train(work, recipe="guard", export=folder)
    assert read_json(folder / "reward.json")["reasoning"] is True
    settings = OmegaConf.create({"cache_dir": str(work), "max_prompt_length": 8000})
    dataset = RLHFDataset(
        str(folder / "validation.parquet"), load_tokenizer(ModelSpec.parse(str(micro_model))), settings
    )
    rows = pq.read_table(folder / "validation.parquet").to_pylist()
    assert len(dataset) == len(rows) > 0
    assert dataset[0]["raw_prompt"] == rows[0]["prompt"]
    assert dataset[0]["extra_info"]["label"] == dataset[0]["reward_model"]["ground_truth"]
    assert "data.val_files='$here/validation.parquet'" in (folder / "overrides.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("overrides", "how", "problem"),
    [
        (("rl.precision=fp32",), {}, r"rl\.precision: --backend verl cannot do this"),
        ((), {"cluster": GPUCluster(3)}, "4 sequences a step cannot be shared by 3 processes"),
        (("rl.reward.safety=refusl",), {}, "no judge is called 'refusl'"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(work, tmp_path, overrides, how, problem):
    for more in ({"export": tmp_path / "folder"}, {"out": tmp_path / "run"}):
        with pytest.raises(InputError, match=problem):
            train(work, *overrides, **how, **more)
    assert not list(tmp_path.iterdir())


def test_an_interpreter_without_verl_is_refused_before_anything_is_written(work, tmp_path, monkeypatch):
    monkeypatch.setenv("WITHOUT", "verl")
    with pytest.raises(InputError, match="`python` has no verl; set PYTHON"):
        train(work, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_verl_that_fails_is_one_line_with_its_last_words_and_can_be_resumed(work, tmp_path, monkeypatch):
    verl_peer.core_algos()
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(StageFailed, match=r"pass --resume\. Its last words: no GPU is there$"):
        train(work, out=tmp_path / "run")
    assert read_manifest(tmp_path / "run")["status"] == "failed"
    monkeypatch.delenv("FAIL")
    assert train(work, out=tmp_path / "run", existing="resume").metrics["steps"] == 2


def test_a_guard_that_is_to_keep_its_best_model_is_refused(work, tmp_path):
    with pytest.raises(InputError, match=r"pass guard\.validation\.keep_best=false"):
        train(work, "guard.validation.keep_best=true", recipe="guard", export=tmp_path / "folder")


def test_the_command_exports_and_refuses_verls_options_without_it(work, tmp_path):
    common = ("rl", "--recipe", work / "tiny.yaml", "--root", work / "runs")
    done = safereason(*common, "--backend", "verl", "--nodes", 2, "--export", tmp_path / "folder", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == str(tmp_path / "folder")
    assert "trainer.nnodes=2" in (tmp_path / "folder" / "overrides.txt").read_text().splitlines()
    refused = safereason(*common, "--nodes", 2)
    assert refused.returncode == 2
    assert "--nodes: goes with --backend verl only" in refusal_line(refused)


@pytest.mark.parametrize(
    ("judge", "expected"),
    [
        ("reward-model:m", "reward-model:{folder}/m"),
        ("reward-model:hf/m", "reward-model:hf/{folder}/m"),
        ("reward-model:vllm/m", "reward-model:vllm/{folder}/m"),
        ("guard:llama-guard:m", "guard:llama-guard:{folder}/m"),
        ("rubric:a@b.yaml", "rubric:{folder}/a@b.yaml"),
        ("rubric:own.yaml@m", "rubric:{folder}/own.yaml@{folder}/m"),
        ("rubric:own.yaml@openai/x", "rubric:{folder}/own.yaml@openai/x"),
        ("reward-model:org/name", "reward-model:org/name"),
        ("refusal", "refusal"),
    ],
)
def test_workers_in_other_folders_find_the_judges(judge: str, expected: str, tmp_path: Path, monkeypatch):
    (tmp_path / "m").mkdir()
    for name in ("a@b.yaml", "own.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert verl._absolute_judge(judge) == expected.format(folder=tmp_path)
