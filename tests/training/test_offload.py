"""What waits in the CPU's memory while a model is trained, and who decides on it."""

import fake_gpu
import pytest
import torch
from grpo_parts import one_step, open_training, section
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import AdamW
from training_parts import training_run

from safereason.errors import InputError
from safereason.recipe.schema import SFT
from safereason.runs.records import RecordLog
from safereason.training import grpo, offload, sft
from safereason.training.fit import GIB

SFT_SECTION = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 2, "micro_batch_size": 1, "precision": "fp32"}


def devices(optimizer: torch.optim.Optimizer) -> set[str]:
    """Where the moments of an optimizer are; a step's number is no moment."""
    return {value.device.type for state in optimizer.state.values() for value in state.values() if value.ndim > 0}


def test_moments_are_on_the_device_for_the_time_of_a_step():
    """On fake tensors, which say that they are a GPU's."""
    with FakeTensorMode():
        weight = torch.nn.Parameter(torch.zeros(4, 3, device="cuda"))
        optimizer = AdamW([weight], foreach=False)
        offload.park_between_steps(optimizer)
        seen = []
        optimizer.register_step_pre_hook(lambda *_: seen.append(devices(optimizer)))
        for _ in range(2):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
            assert devices(optimizer) == {"cpu"}
        assert seen == [set(), {"cuda"}]
        # A checkpoint is loaded onto the weights' device.
        optimizer.load_state_dict(optimizer.state_dict())
        assert devices(optimizer) == {"cpu"}
        assert weight.device.type == "cuda"


@pytest.fixture
def parked(monkeypatch) -> list[torch.optim.Optimizer]:
    """The optimizers that are parked between steps."""
    optimizers: list[torch.optim.Optimizer] = []
    park = offload.park_between_steps

    def kept(optimizer: torch.optim.Optimizer) -> None:
        optimizers.append(optimizer)
        park(optimizer)

    monkeypatch.setattr(offload, "park_between_steps", kept)
    return optimizers


@pytest.mark.parametrize("setting", ["none", "optimizer", "auto"])
def test_rl_offloads_what_its_section_says(setting, parked, micro_model, tmp_path):
    plain = open_training(micro_model, tmp_path / "plain", section())
    training = open_training(micro_model, tmp_path / "other", section(offload=setting))
    # Without a GPU nothing has to be offloaded, but for those who say so.
    assert parked == ([training.trained.optimizer] if setting == "optimizer" else [])
    weights = []
    for each in (plain, training):
        one_step(each)
        grpo.update(each.trained, 1.0)
        weights.append(each.trained.model.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])


@pytest.mark.parametrize("setting", ["none", "optimizer"])
def test_sft_offloads_what_its_section_says(setting, parked, micro_model, tmp_path):
    rows = [{"input_ids": [65 + i, 66, 67, 68], "completion_mask": [0, 1, 1, 1]} for i in range(4)]
    losses = []
    for name, extra in (("plain", {}), ("other", {"offload": setting})):
        folder = tmp_path / name
        folder.mkdir()
        with RecordLog(folder / "metrics.jsonl") as metrics:
            run = training_run(SFT(**SFT_SECTION, **extra), micro_model, folder, metrics, key="sft")
            losses.append(sft.train(run, rows))
    assert losses[0] == losses[1]
    assert len(parked) == (1 if setting == "optimizer" else 0)


def test_all_is_refused_where_the_processes_were_not_started_for_it(monkeypatch):
    with pytest.raises(InputError) as error:
        offload.chosen_offload(section(offload="all"), "rl", "org/none")
    assert str(error.value) == (
        "rl.offload: all is for several GPUs under --launch accelerate:fsdp2-offload; pass that, or rl.offload=auto"
    )
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    for setting in ("all", "auto"):
        assert offload.chosen_offload(section(offload=setting), "rl", "org/none") == "all"


@pytest.mark.parametrize(("gib", "chosen"), [(80.0, "none"), (26.0, "optimizer")])
def test_auto_parks_the_optimizer_where_a_step_would_not_fit(gib, chosen, monkeypatch, capsys):
    """A 1.5 B model on one GPU: 18.5 GB of state, a third of it the optimizer's."""
    fake_gpu.install(monkeypatch, total=gib)
    properties = type("Properties", (), {"total_memory": int(gib * GIB)})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    setting = section(prompts_per_step=1, rollouts_per_prompt=2, micro_batch_size=1)
    assert offload.chosen_offload(setting, "rl", "Qwen/Qwen2.5-1.5B-Instruct") == chosen
    line = capsys.readouterr().err
    if chosen == "none":
        assert line == ""
    else:
        assert line.startswith(
            "rl: the optimizer's state waits in the CPU's memory between steps; with it a step would"
        )
    # Nothing is known of a model without a shape.
    assert offload.chosen_offload(setting, "rl", "org/none") == "none"
