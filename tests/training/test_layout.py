"""`--launch auto`: the layout of a training on the GPUs that are there."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safereason.errors import InputError
from safereason.recipe.load import load
from safereason.training import fit, launch, layout
from safereason.training.fit import GIB, Gpus

RECIPE = load("tars-1.5b", ["rl.rollouts=engine"])
(RL,) = [training for training in fit.trainings(RECIPE, Gpus(4, 80 * GIB, "80GB"))[0] if training.key == "rl"]
WHOLE, SHARDED = RL.peak(RL.section), RL.peak(RL.section, sharded=True)
"""Bytes on each of four GPUs that the RL takes by DDP, and by FSDP2."""
PARKED, LEAST = (RL.peak(RL.section, sharded=True, offload=offload) for offload in ("optimizer", "all"))
"""The same by FSDP2, with the optimizer's state and with all in the CPU's memory."""
CHEAPEST_FIRST = {
    WHOLE: ("accelerate:ddp", "DDP", "none"),
    SHARDED: ("accelerate:fsdp2", "FSDP2", "none"),
    PARKED: ("accelerate:fsdp2", "FSDP2", "optimizer"),
    LEAST: ("accelerate:fsdp2-offload", "FSDP2", "all"),
}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def gpus_with_room(room: int) -> Gpus:
    size = int(room / fit.memory.ROOM) + 1
    return Gpus(4, size, f"{size / GIB:.0f}GB")


def auto(gpus: Gpus | None, keys: tuple[str, ...] = ("rl",)) -> layout.Layout:
    return layout.choose_layout(launch.AUTO, RECIPE, keys, gpus)


@given(
    st.integers(LEAST // 2, 2 * WHOLE) | st.sampled_from([peak + more for peak in CHEAPEST_FIRST for more in (-1, 0)])
)
def test_the_cheapest_way_that_fits_is_taken(room):
    gpus = gpus_with_room(room)
    fitting = [peak for peak in CHEAPEST_FIRST if peak <= gpus.room]
    if not fitting:
        with pytest.raises(
            InputError, match=r"^rl: does not fit 4 GPUs: with FSDP2, offload all, it takes .* GiB of .* each; "
        ):
            auto(gpus)
        return
    chosen = auto(gpus)
    assert (chosen.launch_option, chosen.name, chosen.offload) == CHEAPEST_FIRST[fitting[0]]
    assert (chosen.peak, chosen.processes) == (fitting[0], 4)
    assert launch.read(chosen.launch_option, 4) == chosen.launch
    assert chosen.reason.startswith("4 processes, DDP: " if fitting[0] == WHOLE else "4 processes, FSDP2")
    assert "\n" not in chosen.reason
    assert chosen.outline()["layout"] == (
        chosen.name if chosen.offload == "none" else f"FSDP2, offload {chosen.offload}"
    )


def test_the_ways_take_less_and_less():
    assert list(CHEAPEST_FIRST) == sorted(CHEAPEST_FIRST, reverse=True)
    assert len(CHEAPEST_FIRST) == 4


@pytest.mark.parametrize("offload", ["none", "optimizer", "all"])
def test_what_a_section_offloads_is_what_is_planned(offload):
    recipe = load("tars-1.5b", ["rl.rollouts=engine", f"rl.offload={offload}"])
    chosen = layout.choose_layout(launch.AUTO, recipe, ("rl",), Gpus(4, 900 * GIB, "900GB"))
    assert chosen.offload == offload
    assert chosen.name == ("FSDP2" if offload == "all" else "DDP")
    if offload == "none":
        with pytest.raises(InputError, match=r"with FSDP2 it takes .* rl\.offload=auto"):
            layout.choose_layout(launch.AUTO, recipe, ("rl",), gpus_with_room(PARKED))


@pytest.mark.parametrize(
    ("offload", "launch_option", "advice"),
    [
        ("all", "accelerate:fsdp2", "pass that, or rl.offload=auto"),
        ("all", "none", "pass that, or rl.offload=auto"),
        ("none", "accelerate:fsdp2-offload", "pass --launch accelerate:fsdp2, or rl.offload=auto"),
        ("optimizer", "accelerate:fsdp2-offload", "pass --launch accelerate:fsdp2, or rl.offload=auto"),
    ],
)
def test_a_launch_that_offloads_otherwise_than_the_section_is_refused(offload, launch_option, advice):
    recipe = load("tars-1.5b", [f"rl.offload={offload}"])
    with pytest.raises(InputError) as error:
        layout.choose_layout(launch_option, recipe, ("rl",), Gpus(4, 80 * GIB, "80GB"))
    assert str(error.value).startswith(f"rl.offload: {offload} ")
    assert str(error.value).endswith(advice)


def test_a_config_that_offloads_is_planned_so():
    chosen = layout.choose_layout("accelerate:fsdp2-offload", RECIPE, ("rl",), Gpus(4, 80 * GIB, "80GB"))
    assert (chosen.name, chosen.offload, chosen.peak) == ("FSDP2", "all", LEAST)


def test_vllms_share_is_checked_before_anything_is_started():
    recipe = load("tars-7b", ["rl.vllm.memory_share=0.3"])
    gpus = Gpus(4, 48 * GIB, "48GB")
    with pytest.raises(InputError) as error:
        layout.choose_layout(launch.AUTO, recipe, ("rl",), gpus)
    message = str(error.value)
    assert message.startswith("rl.vllm.memory_share: 0.3 of a GPU is 14.4 GiB, and vLLM starts with 16.9 ")
    for override in message.partition("; set ")[2].partition(";")[0].split(" or "):
        changed = load("tars-7b", ["rl.vllm.memory_share=0.3", override])
        assert layout.choose_layout(launch.AUTO, changed, ("rl",), gpus).name == "FSDP2"


def test_one_command_of_several_trainings_has_the_layout_that_all_of_them_fit():
    chosen = auto(gpus_with_room(WHOLE - 1), ("sft", "rl"))
    assert (chosen.name, chosen.peak) == ("FSDP2", SHARDED)


JUDGED_WITHOUT_A_MODEL = ["rl.rollouts=engine", "rl.reward.task=compliance"]


def test_what_does_not_fit_is_refused_with_changes_that_make_it_fit():
    recipe = load("tars-1.5b", JUDGED_WITHOUT_A_MODEL)
    (rl,) = [training for training in fit.trainings(recipe, Gpus(4, GIB, "1GB"))[0] if training.key == "rl"]
    gpus = gpus_with_room(rl.peak(rl.section, sharded=True, offload="all") - 1)
    with pytest.raises(InputError) as error:
        layout.choose_layout(launch.AUTO, recipe, ("rl",), gpus)
    message = str(error.value)
    assert "\n" not in message
    assert f"`safereason doctor --recipe tars-1.5b --gpus 4x{gpus.name}`" in message
    advised = message.partition("; set ")[2].partition(";")[0].split(" or ")
    assert advised
    for override in advised:
        changed = load("tars-1.5b", [*JUDGED_WITHOUT_A_MODEL, override])
        assert layout.choose_layout(launch.AUTO, changed, ("rl",), gpus).name in ("DDP", "FSDP2")


def test_where_no_single_change_is_enough_it_says_so():
    with pytest.raises(InputError, match=r"no single change is enough; `safereason doctor "):
        auto(Gpus(4, GIB, "1GB"))


@pytest.mark.parametrize("gpus", [None, Gpus(1, 80 * GIB, "80GB")])
def test_one_device_or_none_is_one_process(gpus):
    chosen = auto(gpus)
    assert (chosen.name, chosen.launch, chosen.launch_option, chosen.reason) == (layout.ONE, None, launch.NONE, "")
    assert chosen.outline() == ({} if gpus is None else chosen.outline() | {"processes": 1, "layout": layout.ONE})


def test_a_process_that_a_launcher_started_starts_no_more(monkeypatch):
    for name, value in {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert auto(Gpus(4, 80 * GIB, "80GB")).launch is None


def test_none_is_one_process_on_any_number_of_gpus():
    chosen = layout.choose_layout(launch.NONE, RECIPE, ("rl",), Gpus(4, 80 * GIB, "80GB"))
    (alone,) = [t for t in fit.trainings(RECIPE, Gpus(1, 80 * GIB, "80GB"))[0] if t.key == "rl"]
    assert (chosen.launch, chosen.peak) == (None, alone.peak(alone.section))


def test_a_named_config_is_planned_as_it_shares_the_model():
    gpus = Gpus(4, 8 * GIB, "8GB")
    recipe = load("tars-1.5b", ["rl.rollouts=engine", "rl.offload=none"])
    for launch_option, name, peak in (("accelerate:ddp", "DDP", WHOLE), ("accelerate:fsdp2", "FSDP2", SHARDED)):
        chosen = layout.choose_layout(launch_option, recipe, ("rl",), gpus)
        assert (chosen.name, chosen.peak, chosen.reason) == (name, peak, "")


def test_a_model_of_unknown_shape_is_sharded():
    recipe = RECIPE.model_copy(update={"model": "org/nobody-knows"})
    chosen = layout.choose_layout(launch.AUTO, recipe, ("rl",), Gpus(2, 8 * GIB, "8GB"))
    assert (chosen.name, chosen.peak) == ("FSDP2", None)
    assert chosen.reason.startswith("2 processes, FSDP2: org/nobody-knows: its shape is not known here")


@pytest.mark.parametrize(
    ("launch_option", "advice"),
    [("auto", "; choose GPUs by CUDA_VISIBLE_DEVICES, or pass --launch none"), ("accelerate:fsdp2", "")],
)
def test_a_step_that_cannot_be_shared_out_is_refused(launch_option, advice):
    with pytest.raises(InputError) as error:
        layout.choose_layout(launch_option, RECIPE, ("rl",), Gpus(3, 80 * GIB, "80GB"))
    assert str(error.value) == f"rl: 256 sequences a step cannot be shared by 3 processes evenly{advice}"


def test_what_the_recipe_does_not_train_is_left_to_the_stage():
    assert layout.choose_layout(launch.AUTO, RECIPE, ("guard.train",), Gpus(4, GIB, "1GB")).launch is None


@pytest.mark.parametrize(("visible", "first"), [(None, "0"), ("2,3", "2"), ("GPU-8a, GPU-9b", "GPU-8a"), ("5", "5")])
def test_one_process_sees_the_first_gpu_alone(monkeypatch, visible, first):
    if visible is None:
        monkeypatch.delenv(layout.VISIBLE, raising=False)
    else:
        monkeypatch.setenv(layout.VISIBLE, visible)
    monkeypatch.setattr(layout, "device_count", lambda: 4)
    assert layout.use_first_device()
    assert os.environ[layout.VISIBLE] == first
    monkeypatch.delenv(layout.VISIBLE)


def test_one_gpu_and_processes_of_a_launcher_are_left_as_they_are(monkeypatch):
    monkeypatch.setenv(layout.VISIBLE, "2,3")
    monkeypatch.setattr(layout, "device_count", lambda: 1)
    assert not layout.use_first_device()
    monkeypatch.setattr(layout, "device_count", lambda: 4)
    for name, value in {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert not layout.use_first_device()
    assert os.environ[layout.VISIBLE] == "2,3"


def test_gpus_of_several_sizes_are_planned_as_the_smallest(monkeypatch):
    monkeypatch.setattr(layout, "devices_here", lambda: [80 * GIB, 48 * GIB])
    assert layout.gpus_here() == Gpus(2, 48 * GIB, "48GB")
    assert fit.parse_gpus("2x48GB") == Gpus(2, 48 * GIB, "48GB")
    monkeypatch.setattr(layout, "devices_here", list)
    assert layout.gpus_here() is None
