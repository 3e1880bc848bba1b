"""Whether a recipe fits a set of GPUs."""

import json
import re

import pytest
from program import safereason

from safereason.errors import InputError
from safereason.recipe.load import load
from safereason.recipe.named import shipped
from safereason.training import fit, launch, layout, memory

GIB = fit.GIB


@pytest.mark.parametrize(
    ("text", "count", "size"),
    [
        ("4xA6000", 4, 48),
        ("80GB", 1, 80),
        ("4x48GB", 4, 48),
        ("8xH100", 8, 80),
        ("a100", 1, 80),
        ("2x24 GiB", 2, 24),
        ("NVIDIA RTX 4090", 1, 24),
    ],
)
def test_gpus_are_read(text, count, size):
    gpus = fit.parse_gpus(text)
    assert (gpus.count, gpus.size) == (count, size * GIB)


@pytest.mark.parametrize("text", ["4xA600", "", "0xA100", "4x", "xA100", "-1xH100"])
def test_other_gpus_are_refused_in_a_line(text):
    with pytest.raises(InputError, match=r"^--gpus .*: no GPU of this name is known; give its memory, as in 4x48GB"):
        fit.parse_gpus(text)


def test_the_recipes_trainings_are_found_with_their_reward_models():
    trainings, notes = fit.trainings(load("tars-1.5b"), fit.parse_gpus("4xA6000"))
    assert [training.key for training in trainings] == ["sft", "rl"]
    assert notes == []
    reward_model = 2 * fit.shape_of("meta-llama/Llama-3.1-8B-Instruct").parameters
    assert [(training.judges, training.reward_model) for training in trainings] == [(0, 0), (0, reward_model)]
    (guard,), _ = fit.trainings(load("rsafe"), fit.parse_gpus("8xH100"))
    assert guard.key == "guard.train"


def test_of_judges_a_reward_model_alone_leaves_the_gpu():
    harmbench = 2 * fit.shape_of("cais/HarmBench-Llama-2-13b-cls").parameters
    (_, rl), _ = fit.trainings(load("tars-1.5b", ["rl.reward.safety=harmbench"]), fit.parse_gpus("4xA6000"))
    assert rl.judges == harmbench
    sizes = memory.phase_sizes(rl.parts(rl.section, sharded=True))
    assert sizes[memory.SCORE] > harmbench + rl.reward_model
    # One judge for both is loaded once, and one behind a server not at all.
    (_, both), _ = fit.trainings(load("ablation-single-reward"), fit.parse_gpus("4xA6000"))
    assert both.reward_model == rl.reward_model
    (_, served), _ = fit.trainings(load("tars-1.5b", ["rl.reward.task=server:http://a:8000"]), fit.parse_gpus("A100"))
    assert (served.judges, served.reward_model) == (0, 0)


def test_a_judge_of_unknown_shape_is_told_of():
    recipe = load("tars-1.5b", ["rl.reward.task=org/none"])
    assert fit.trainings(recipe, fit.parse_gpus("A100"))[1] == [
        "rl: org/none judges too; its shape is not known here, and it is not counted"
    ]


def test_each_change_takes_no_more_and_is_an_override_of_the_recipe():
    for name in ("tars-7b", "rsafe", "baseline-dpo"):
        trainings, _ = fit.trainings(load(name), fit.parse_gpus("4x48GB"))
        for training in trainings:
            changes = list(fit.changes(training))
            assert changes
            for text, section in changes:
                # But for vLLM, which may need more to start.
                grows = section.vllm.memory_share if "memory_share" in text else 0
                if grows <= getattr(getattr(training.section, "vllm", None), "memory_share", 0):
                    assert training.peak(section) <= training.peak(training.section), (name, text)
                load(name, [f"{training.key}.{text}"])


def test_a_batch_that_cannot_be_shared_out_is_explained():
    (_, rl), _ = fit.trainings(load("tars-1.5b"), fit.parse_gpus("3xA100"))
    with pytest.raises(InputError, match=r"rl: 256 sequences a step cannot be shared by 3 processes evenly"):
        rl.step(rl.section)


def test_doctor_says_whether_it_fits_and_what_would(tmp_path):
    done = safereason("doctor", "--recipe", "tars-7b", "--gpus", "4xA6000", "--root", str(tmp_path), "--json")
    report = json.loads(done.stdout)
    rl = report["stages"]["rl"]
    assert (done.returncode, report["parameters"]) == (0, 7_615_616_512)
    assert not rl["memory"]["DDP on 4"]["fits"]
    assert rl["memory"]["FSDP2 on 4, offload optimizer"]["fits"]
    assert rl["launch"].startswith("yes: 4 processes, FSDP2, offload optimizer: FSDP2 would need ")
    assert rl["counts"]["steps"] == 186
    assert {"rl.lora.rank=16", "rl.rollouts=vllm-server"} <= {change["change"] for change in rl["changes"]}
    for column in rl["memory"].values():
        assert column["peak"] == max(column["phases"].values()) <= sum(column["parts"].values())
    plain = safereason("doctor", "--recipe", "tars-7b", "--gpus", "4xA6000", "--root", str(tmp_path)).stdout
    assert "FSDP2 or ZeRO-3 on 4" in plain
    assert "(does not fit)" in plain


def test_doctor_says_what_rsafe_needs_on_smaller_gpus(tmp_path):
    words = ("doctor", "--recipe", "rsafe", "--root", str(tmp_path), "--json")
    (verdict,) = [
        stage["launch"] for stage in json.loads(safereason(*words, "--gpus", "4x48GB").stdout)["stages"].values()
    ]
    assert verdict.startswith("no: guard.train.vllm.memory_share: 0.3 of a GPU is 14.4 GiB, and vLLM starts with ")
    advised = verdict.partition("; set ")[2].split(" or ")
    assert "guard.train.vllm.memory_share=0.4" in advised
    for override in advised:
        changed = json.loads(safereason(*words, "--gpus", "4x48GB", override).stdout)["stages"]["guard.train"]
        assert changed["launch"].startswith("yes: "), override


def test_doctor_counts_with_the_hardware_of_the_recipe(tmp_path):
    words = ("doctor", "--recipe", "tars-1.5b", "--root", str(tmp_path), "--json")
    own = json.loads(safereason(*words).stdout)
    assert own == json.loads(safereason(*words, "--gpus", "4x48GB").stdout)
    assert own != json.loads(safereason(*words, "--gpus", "4x80GB").stdout)


def test_doctor_wants_a_recipe_and_gpus():
    done = safereason("doctor", "--recipe", "tars-smoke")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: recipe tars-smoke: it names no hardware; pass --gpus, such as --gpus 4xA6000\n"
    done = safereason("doctor", "--gpus", "4xA6000")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --gpus and overrides go with --recipe, such as --recipe tars-7b --gpus 4xA6000\n"


def test_vllm_is_given_no_less_than_it_starts_with():
    (_, rl), _ = fit.trainings(load("tars-7b", ["rl.vllm.memory_share=0.1"]), fit.parse_gpus("4xA6000"))
    assert rl.step(rl.section).vllm == fit.vllm_needs(rl.section, rl.shape) > 2 * rl.shape.parameters
    assert not rl.fits(rl.section, sharded=True, offload="all")
    assert rl.vllm_lack(rl.section).startswith("rl.vllm.memory_share: 0.1 of a GPU is 4.8 GiB, and vLLM starts with ")
    shares = [text for text, section in fit.changes(rl) if not rl.vllm_lack(section)]
    assert shares == ["vllm.memory_share=0.4", "rollouts=vllm-server"]


@pytest.mark.parametrize(("heads", "gpus", "keys"), [(4, 1, 4), (4, 2, 2), (4, 4, 1), (2, 4, 1)])
def test_gpus_that_share_a_copy_of_vllm_share_its_weights_and_heads(heads, gpus, keys):
    shape = fit.Shape(64, 2, 8, heads, 16, 128, 259)
    section = load("tars-1.5b", [f"rl.vllm.tensor_parallel={gpus}"]).rl
    row = 2 * shape.layers * keys * shape.head_dim * (512 + 4096)
    assert fit.vllm_needs(section, shape) == memory.VLLM_OWN + 2 * (-(-shape.parameters // gpus) + row)


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_a_recipe_fits_the_hardware_that_it_names(path):
    recipe = load(path.stem)
    needs = path.read_text(encoding="utf-8").partition("# Needs:")[2].partition("# Run:")[0]
    named = re.search(r"(\d+) GPUs of (\d+) GB", needs)
    if named:
        assert recipe.hardware == f"{named[1]}x{named[2]}GB"
    if "no GPU" in needs:
        assert recipe.hardware is None
    if recipe.hardware is None:
        return
    gpus = fit.parse_gpus(recipe.hardware)
    for key in fit.sections_of(recipe):
        chosen = layout.choose_layout(launch.AUTO, recipe, (key,), gpus)
        assert chosen.peak is not None
        assert chosen.peak <= gpus.room


def test_recipes_of_the_papers_fit_the_papers_hardware():
    for name, gpus in (("tars-1.5b", "4x48GB"), ("tars-7b", "4x48GB"), ("rsafe", "4x80GB")):
        assert load(name).hardware == gpus
