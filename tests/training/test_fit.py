"""Whether a recipe fits a set of GPUs."""

import json

import pytest
from program import safereason

from safereason.errors import InputError
from safereason.recipe.load import load
from safereason.training import fit

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
    assert (trainings[0].judges, trainings[1].judges) == (
        0,
        2 * fit.shape_of("meta-llama/Llama-3.1-8B-Instruct").parameters,
    )
    (guard,), _ = fit.trainings(load("rsafe"), fit.parse_gpus("8xH100"))
    assert guard.key == "guard.train"


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
    assert rl["counts"]["steps"] == 186
    assert {"rl.lora.rank=16", "rl.rollouts=vllm-server"} <= {change["change"] for change in rl["changes"]}
    plain = safereason("doctor", "--recipe", "tars-7b", "--gpus", "4xA6000", "--root", str(tmp_path)).stdout
    assert "FSDP2 or ZeRO-3 on 4" in plain
    assert "(does not fit)" in plain


def test_doctor_wants_both_options():
    done = safereason("doctor", "--recipe", "tars-7b")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --recipe and --gpus go together, such as --recipe tars-7b --gpus 4xA6000\n"


def test_vllm_is_given_no_less_than_it_starts_with():
    (_, rl), _ = fit.trainings(load("tars-7b", ["rl.vllm.memory_share=0.1"]), fit.parse_gpus("4xA6000"))
    assert rl.step(rl.section).vllm > 2 * rl.shape.parameters
    assert not any("memory_share" in text for text, _ in fit.changes(rl))
