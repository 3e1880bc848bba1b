"""A recipe's section in TRL's words: each figure where it should be, and TRL takes them."""

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl import DPOConfig, SFTConfig
from trl.generation.vllm_generation import VLLMGeneration

from safereason.errors import InputError
from safereason.recipe.load import load
from safereason.recipe.named import shipped
from safereason.recipe.schema import DPO, GRPO, SFT, Sampling
from safereason.training.arguments import (
    Batch,
    Schedule,
    check_left,
    cut_batch,
    dpo_arguments,
    grpo_schedule,
    sft_arguments,
    total_steps,
    vllm_arguments,
)

REWARD = {"name": "rsafe"}


def sft(**changes) -> SFT:
    return SFT(**{"epochs": 1, "learning_rate": 1e-4, "batch_size": 8, **changes})


def grpo(**changes) -> GRPO:
    values = {
        "epochs": 1,
        "learning_rate": 1e-6,
        "prompts_per_step": 4,
        "rollouts_per_prompt": 8,
        "micro_batch_size": 4,
        "kl_coef": 1e-3,
        "max_prompt_tokens": 64,
        "sampling": Sampling(),
        "reward": REWARD,
    }
    return GRPO(**{**values, **changes})


def dpo(**changes) -> DPO:
    values = {
        "algorithm": "dpo",
        "epochs": 1,
        "learning_rate": 3e-4,
        "batch_size": 8,
        "beta": 0.01,
        "rpo_alpha": 3.0,
        "rollouts_per_prompt": 8,
        "max_prompt_tokens": 64,
        "sampling": Sampling(),
        "reward": {"name": "tars", "safety": "refusal", "task": "compliance"},
    }
    return DPO(**{**values, **changes})


def sft_arguments_of(section: SFT, rows: int = 100, **named):
    return sft_arguments(section, rows=rows, seed=7, output_dir="out", **named)


def schedule_of(section: GRPO, prompts: int = 100, **named):
    return grpo_schedule(section, prompts=prompts, **named)


def vllm_arguments_of(section: GRPO, processes: int = 1):
    return vllm_arguments(section, processes, "rl", [7])


def dpo_arguments_of(section: DPO, pairs: int = 100, **named):
    return dpo_arguments(section, pairs=pairs, seed=7, output_dir="out", **named)


def test_rpo_is_two_losses_of_trl():
    arguments = dpo_arguments_of(dpo(rpo_alpha=2.5))
    assert (arguments["loss_type"], arguments["loss_weights"], arguments["beta"]) == (
        ["sigmoid", "sft"],
        [1.0, 2.5],
        0.01,
    )
    assert arguments["max_steps"] == 12


BOTH = [
    ("learning_rate", 3e-5, "learning_rate", 3e-5),
    ("lr_schedule", "cosine", "lr_scheduler_type", "cosine"),
    ("warmup_ratio", 0.1, "warmup_steps", 0.1),
    ("warmup_ratio", 0.1, "lr_scheduler_type", "constant_with_warmup"),
    ("weight_decay", 0.3, "weight_decay", 0.3),
    ("max_grad_norm", 0.7, "max_grad_norm", 0.7),
    ("activation_checkpointing", True, "gradient_checkpointing", True),
    ("save_steps", 3, "save_steps", 3),
    ("max_steps", 2, "max_steps", 2),
    ("epochs", 0.5, "max_steps", 6),
    ("extra", {"logging_first_step": True}, "logging_first_step", True),
]
ONLY_SFT = [
    ("batch_size", 16, "gradient_accumulation_steps", 4),
    ("micro_batch_size", 2, "per_device_train_batch_size", 2),
    ("max_tokens", 99, "max_length", 99),
]
ON_VLLM = {"rollouts": "vllm-colocate", "max_prompt_tokens": 64}
FOR_VLLM = [
    ("sampling", Sampling(temperature=0.6), "temperature", 0.6),
    ("sampling", Sampling(top_p=0.8), "top_p", 0.8),
    ("sampling", Sampling(top_k=5), "top_k", 5),
    ("sampling", Sampling(repetition_penalty=1.05), "repetition_penalty", 1.05),
    ("sampling", Sampling(max_new_tokens=77), "max_completion_length", 77),
    ("rollouts", "vllm-server", "mode", "server"),
    ("vllm", {"memory_share": 0.6}, "gpu_memory_utilization", 0.6),
    ("extra", {"generation_kwargs": {"min_p": 0.1}}, "generation_kwargs", {"stop_token_ids": [7], "min_p": 0.1}),
    ("extra", {"max_num_batched": 1}, "max_num_batched", 1),
]


@pytest.mark.parametrize(("field", "value", "key", "expected"), BOTH + ONLY_SFT)
def test_each_sft_field_lands_where_it_should(field, value, key, expected):
    assert sft_arguments_of(sft()).get(key) != expected
    assert sft_arguments_of(sft(**{field: value}))[key] == expected


@pytest.mark.parametrize(("field", "value", "key", "expected"), FOR_VLLM)
def test_each_field_of_rollouts_lands_where_vllm_reads_it(field, value, key, expected):
    assert vllm_arguments_of(grpo(**ON_VLLM)).get(key) != expected
    assert vllm_arguments_of(grpo(**{**ON_VLLM, field: value}))[key] == expected


@pytest.mark.parametrize("rollouts", ["vllm-colocate", "vllm-server"])
def test_trl_takes_every_argument_about_vllm(rollouts):
    arguments = vllm_arguments_of(grpo(**{**ON_VLLM, "rollouts": rollouts}))
    inspect.signature(VLLMGeneration.__init__).bind(None, None, None, None, **arguments)
    assert arguments["trust_remote_code"] is False


@pytest.mark.parametrize(
    ("changes", "steps", "batch"),
    [
        ({}, 25, Batch(4, 8, 1)),
        ({"max_steps": 2}, 2, Batch(4, 8, 1)),
        ({"epochs": 0.5}, 13, Batch(4, 8, 1)),
        ({"prompts_per_step": 8}, 12, Batch(4, 16, 1)),
        ({"rollouts_per_prompt": 2}, 25, Batch(4, 2, 1)),
        ({"micro_batch_size": 16}, 25, Batch(16, 2, 1)),
    ],
)
def test_a_schedule_is_whole_steps_of_whole_groups(changes, steps, batch):
    assert schedule_of(grpo(**changes)) == Schedule(steps, batch)
    assert batch.share == batch.per_device * batch.accumulation


def test_precision_and_device():
    arguments = sft_arguments_of(sft(), cpu=False)
    assert (arguments["bf16"], arguments["use_cpu"]) == (True, False)
    arguments = sft_arguments_of(sft())
    assert (arguments["bf16"], arguments["use_cpu"]) == (False, True)


def test_what_a_trainer_is_told_of_the_run():
    arguments = sft_arguments_of(sft())
    shared = {key: arguments[key] for key in ("output_dir", "seed", "data_seed", "optim", "report_to", "logging_steps")}
    assert shared == {
        "output_dir": "out",
        "seed": 7,
        "data_seed": 7,
        "optim": "adamw_torch",
        "report_to": "none",
        "logging_steps": 1,
    }


@given(st.integers(1, 8), st.integers(1, 40), st.integers(1, 64), st.integers(1, 40))
def test_a_batch_that_is_cut_is_whole(processes, share, micro, rest):
    sequences = processes * share
    try:
        batch = cut_batch(sequences, micro, processes, "rl")
    except InputError as error:
        (fits,) = re.findall(r"try (\d+)$", str(error))
        assert 1 <= int(fits) < micro
        batch = cut_batch(sequences, int(fits), processes, "rl")
        assert not any(share % size == 0 for size in range(int(fits) + 1, min(micro, share) + 1))
    assert batch.sequences == sequences
    assert 1 <= batch.per_device <= share
    assert batch.processes == processes


def test_a_micro_batch_larger_than_the_batch_is_the_batch():
    assert cut_batch(6, 64, 2, "sft") == Batch(per_device=3, accumulation=1, processes=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: schedule_of(grpo(micro_batch_size=5)),
            "rl.micro_batch_size: 5 does not divide the 32 sequences a process; try 4",
        ),
        (
            lambda: schedule_of(grpo(micro_batch_size=5), processes=2, key="guard.train"),
            "guard.train.micro_batch_size: 5 does not divide the 16 sequences a process; try 4",
        ),
        (
            lambda: sft_arguments_of(sft(micro_batch_size=3)),
            "sft.micro_batch_size: 3 does not divide the 8 sequences a process; try 2",
        ),
        (
            lambda: sft_arguments_of(sft(), processes=3),
            "sft: 8 sequences a step cannot be shared by 3 processes evenly",
        ),
        (
            lambda: sft_arguments_of(sft(), rows=7),
            "sft.batch_size: 7 rows do not fill one batch of 8; lower the batch or add data",
        ),
        (
            lambda: schedule_of(grpo(), prompts=3),
            "rl.prompts_per_step: 3 rows do not fill one batch of 4; lower the batch or add data",
        ),
        (
            lambda: sft_arguments_of(sft(extra={"learning_rate": 1.0})),
            "sft.extra.learning_rate: this is set by a field of the section itself; set it there",
        ),
        (
            lambda: schedule_of(grpo(**ON_VLLM, extra={"a_new_one": 1, "temperature": 2.0})),
            "rl.extra.temperature: this is set by a field of the section itself; set it there",
        ),
        (
            lambda: schedule_of(grpo(extra={"logging_first_step": True})),
            "rl.extra.logging_first_step: has no meaning here; extra holds arguments of vLLM "
            "(rl.rollouts=vllm-colocate or vllm-server), or with --backend verl keys of verl",
        ),
        (
            lambda: sft_arguments_of(sft(extra={"model_init_kwargs": {"trust_remote_code": True}})),
            "sft.extra.model_init_kwargs: a model's own code is never run; leave trust_remote_code out",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(call, message):
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments_of", "section"),
    [
        (sft_arguments_of, sft),
        (vllm_arguments_of, lambda **changes: grpo(**ON_VLLM, **changes)),
        (dpo_arguments_of, dpo),
    ],
)
def test_extra_may_hold_no_key_that_is_owned(arguments_of, section):
    for key in arguments_of(section()).keys() - {"generation_kwargs"}:
        with pytest.raises(InputError, match=rf"extra\.{key}: this is set by a field"):
            arguments_of(section(extra={key: None}))


@pytest.mark.parametrize(
    ("units", "per_step", "epochs", "max_steps", "steps"),
    [
        (100, 8, 1, None, 12),
        (100, 8, 3, None, 36),
        (100, 8, 0.5, None, 6),
        (100, 8, 0.01, None, 1),
        (100, 8, 3, 5, 5),
        (100, 8, 3, 50, 36),
        (8, 8, 1, None, 1),
        (2000, 32, 3, None, 186),
    ],
)
def test_steps_are_whole_batches_times_epochs(units, per_step, epochs, max_steps, steps):
    assert total_steps(units, per_step, epochs, max_steps, "sft") == steps


RECIPES = [path.stem for path in shipped()]


def rl_of(recipe):
    return recipe.rl or (recipe.guard.train if recipe.guard else None)


@pytest.mark.parametrize("name", RECIPES)
def test_trl_takes_what_every_shipped_recipe_says(name, tmp_path):
    recipe = load(name)
    trained, taught = rl_of(recipe), recipe.sft or (recipe.guard.sft if recipe.guard else None)
    assert trained is not None or taught is not None
    if taught is not None:
        arguments = sft_arguments(taught, rows=10_000, seed=0, output_dir=str(tmp_path))
        _holds(SFTConfig(**arguments), arguments)
    if trained is not None:
        if isinstance(trained, DPO):
            arguments = dpo_arguments(trained, pairs=10_000, seed=0, output_dir=str(tmp_path))
            _holds(DPOConfig(**arguments), arguments)
            return
        schedule = grpo_schedule(trained, prompts=10_000)
        assert schedule.batch.sequences == trained.prompts_per_step * trained.rollouts_per_prompt


def _holds(config, arguments) -> None:
    values = {key: getattr(getattr(config, key), "value", getattr(config, key)) for key in arguments}
    assert values == {**arguments, "report_to": []}  # how transformers writes "none"


@pytest.mark.parametrize("name", [name for name in RECIPES if load(name).paper and rl_of(load(name))])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_a_papers_recipe_can_be_shared_by_the_processes_of_a_node(name, processes):
    trained = rl_of(load(name))
    if isinstance(trained, DPO):
        arguments = dpo_arguments(trained, pairs=10_000, seed=0, output_dir="out", processes=processes)
        pairs = arguments["per_device_train_batch_size"] * arguments["gradient_accumulation_steps"] * processes
        assert pairs == trained.batch_size
        return
    schedule = grpo_schedule(trained, prompts=10_000, processes=processes)
    assert schedule.batch.sequences == trained.prompts_per_step * trained.rollouts_per_prompt


def test_rows_that_are_too_long_are_said_with_the_key_that_drops_them():
    check_left(8, 100, 512, "rl.max_prompt_tokens", 8)
    check_left(3, 3, 512, "rl.max_prompt_tokens", 8)  # nothing was dropped: the batch is what is wrong
    with pytest.raises(InputError, match=r"^rl\.max_prompt_tokens: 9 of 9 rows are longer than 512 tokens; raise it"):
        check_left(0, 9, 512, "rl.max_prompt_tokens")
    with pytest.raises(InputError, match="6 of 9 rows are longer than 512 tokens, and 3 left fill no batch of 4"):
        check_left(3, 9, 512, "guard.sft.max_tokens", 4)
