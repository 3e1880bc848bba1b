"""Checks of training: the installed program, a resume, and rollouts of vLLM."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import program
import pytest
import torch
from gpu_engine_checks import DISTANCE, distance_to_training
from gpu_trial import Trial
from grpo_parts import section
from safetensors.torch import load_file
from training_parts import training_run

from safereason.data.example import Example
from safereason.engines import vllm
from safereason.engines.open import load_model, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.recipe.schema import SFT, Precision
from safereason.rewards import open_reward
from safereason.runs.records import Record, RecordLog, read_records
from safereason.training import grpo, sft
from safereason.training.resume import last_checkpoint

WITHOUT_GPU = """
import os
os.environ["CUDA_VISIBLE_DEVICES"] = ""
from safereason.cli.app import main
main()
"""
"""The installed program as a machine without a GPU runs it."""
COMMANDS = {"sft": ("sft",), "rl": ("rl",), "guard": ("guard", "train")}
KEYS = {"sft": "sft", "rl": "rl", "guard": "guard.train"}
"""Dotted key of the section that each command trains by."""
RECIPES = {"sft": "tars-smoke", "rl": "tars-smoke", "guard": "rsafe-smoke"}
OVERRIDES = {
    "sft": (),
    # Where all rewards are equal, the bonus alone makes a loss that is not 0.
    "rl": ("rl.entropy_coef=0.01",),
    # RL from the start of the model: after an SFT of its own, each device would draw other rollouts.
    "guard": ("guard.sft=null", "guard.validation=null", "data.traces=[]", "guard.train.entropy_coef=0.01"),
}
STEPS = 3
LOSS = {"fp32": 1e-3, "bf16": 0.1}
"""Most distance of the first step's loss from the CPU's in fp32, on the same rows, by precision."""
LEAST_SAME = 0.9
"""Least share of the first step's rollouts that are the CPU's in fp32: a draw may fall on the edge of two tokens."""


def safereason(device: str, *arguments: object) -> Record:
    """What the installed program prints as JSON, run on a device."""
    if device == "cpu":
        done = program.python(WITHOUT_GPU, *arguments, "--json", timeout=600)
    else:
        # In a process that begins anew: CUDA does not work in one that was forked.
        command = [sys.executable, "-m", "safereason", *map(str, arguments), "--json"]
        done = subprocess.run(command, env=program.offline(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def training(trial: Trial, *, stage: str, model: str, precision: Precision, overrides: tuple[str, ...] = ()) -> None:
    """A training through the installed program has finite losses, the first of them the CPU's."""
    key = KEYS[stage]
    folder = trial.models[model]
    common = ("--recipe", RECIPES[stage], f"model={folder}", *OVERRIDES[stage], *overrides, "--root", trial.folder)
    safereason("cpu", "data", "build", *common)
    train = (*COMMANDS[stage], *common, "--model", folder, "--launch", "none")
    long = (f"{key}.precision={precision}", f"{key}.max_steps={STEPS}", "--out", trial.folder / "run")
    run = Path(safereason(trial.device, *train, *long)["run"])
    short = (f"{key}.precision=fp32", f"{key}.max_steps=1", "--out", trial.folder / "reference")
    reference = Path(safereason("cpu", *train, *short)["run"])
    steps = _records(run, "metrics")
    (expected,) = _records(reference, "metrics")
    # What is not finite is recorded as null.
    losses = [math.nan if step["loss"] is None else step["loss"] for step in steps]
    distance = abs(losses[0] - expected["loss"])
    trial.note("loss of the first step", losses[0], "nats", "finite")
    trial.note("loss of the last step", losses[-1], "nats", "finite")
    same = 1.0
    if stage != "sft":
        trial.note("last step", steps[-1]["step_time"], "s")
        same = _same_rollouts(run, reference)
        trial.note("rollouts that are the CPU's", same, "share", f"≥ {LEAST_SAME}" if precision == "fp32" else "")
    bound = f"≤ {LOSS[precision]}" if same == 1 else ""
    trial.note("distance of the first loss from the CPU's", distance, "nats", bound)
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert all(math.isfinite(loss) for loss in losses)
    assert precision == "bf16" or same >= LEAST_SAME
    # Other rollouts have another loss.
    assert same < 1 or distance <= LOSS[precision]


def _records(run: Path, log: str) -> list[Record]:
    return list(read_records(run / f"{log}.jsonl"))


def _same_rollouts(run: Path, reference: Path) -> float:
    """The share of the first step's rollouts that are to the letter those of another run."""
    ours = [row["text"] for row in _records(run, "rollouts") if row["step"] == 1]
    theirs = [row["text"] for row in _records(reference, "rollouts")]
    return sum(one == other for one, other in zip(ours, theirs, strict=True)) / len(ours)


EXAMPLES = [Example(f"own/{i}", f"Prompt {i}?", ("harmful", "harmless")[i % 2], "own") for i in range(8)]
TRACES = [
    Example(f"own/{i}", f"How do I cook egg {i}?", "harmless", "own", reasoning="It is harmless.", answer="Boil it.")
    for i in range(8)
]
KILLED_AT = 3
"""The step after which a training is cut; its last checkpoint is that of the step before."""


class KilledError(Exception):
    """The training ends here."""


class DyingLog(RecordLog):
    """A log that ends the training once a step is recorded."""

    def append(self, record: Record) -> None:
        """Writes the record first."""
        super().append(record)
        if record["step"] == KILLED_AT:
            raise KilledError


def resume(trial: Trial, *, algorithm: str, model: str) -> None:
    """A training that was cut and resumed ends with the metrics and the weights of one that never was."""
    start = trial.models[model]
    uncut, cut = trial.folder / "uncut", trial.folder / "cut"
    with deterministic():
        with RecordLog(uncut / "metrics.jsonl") as log:
            _train(algorithm, start, uncut, log)
        with DyingLog(cut / "until.jsonl") as log, pytest.raises(KilledError):
            _train(algorithm, start, cut, log)
        with RecordLog(cut / "metrics.jsonl") as log:
            _train(algorithm, start, cut, log)
    resumed = [_without_time(record) for record in _records(cut, "metrics")]
    expected = [_without_time(record) for record in _records(uncut, "metrics")]
    assert resumed == expected[KILLED_AT - 1 :]
    weights, weights_uncut = (load_file(folder / "model" / "model.safetensors") for folder in (cut, uncut))
    assert weights.keys() == weights_uncut.keys()
    differing = [name for name, weight in weights.items() if not torch.equal(weight, weights_uncut[name])]
    trial.note("tensors that differ", len(differing), f"of {len(weights)}", "0")
    assert not differing


def _train(algorithm: str, model: Path, folder: Path, log: RecordLog) -> None:
    """Four steps, or what is left of them after the last checkpoint."""
    checkpoint, done = last_checkpoint(folder / "checkpoints") or (None, 0)
    shared = {"max_steps": 4, "save_steps": 2, "learning_rate": 1e-3, "lr_schedule": "cosine", "precision": "fp32"}
    if algorithm == "sft":
        chosen = SFT(epochs=2, batch_size=4, micro_batch_size=2, **shared)
        run = training_run(chosen, model, folder, log, key="sft", resume_from=checkpoint, steps_done=done)
        sft.train(run, sft.tokenize(run.tokenizer, TRACES, chosen.max_tokens).rows)
        return
    chosen = section(
        rollouts_per_prompt=2,
        micro_batch_size=2,
        kl_coef=0.1,
        entropy_coef=0.1,
        sampling={"max_new_tokens": 6},
        **shared,
    )
    run = training_run(chosen, model, folder, log, resume_from=checkpoint, steps_done=done)
    with RecordLog(folder / "rollouts.jsonl") as rollouts:
        grpo.train(run, EXAMPLES, open_reward(chosen.reward), rollouts)


def _without_time(record: Record) -> Record:
    return {key: value for key, value in record.items() if key not in ("step_time",)}


@contextmanager
def deterministic() -> Iterator[None]:
    """Context in which the same computation gives the same bits on a GPU, too.

    Only one of the attention kernels always does so. An operation without such a kernel warns: of these, the sums of a
    sampler's probabilities are in float64, where a last bit decides no draw.
    """
    kernels = torch.backends.cuda
    switches = (kernels.enable_flash_sdp, kernels.enable_mem_efficient_sdp, kernels.enable_cudnn_sdp)
    states = (kernels.flash_sdp_enabled(), kernels.mem_efficient_sdp_enabled(), kernels.cudnn_sdp_enabled())
    torch.use_deterministic_algorithms(True, warn_only=True)
    for switch in switches:
        switch(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        for switch, state in zip(switches, states, strict=True):
            switch(state)


def vllm_rollouts(trial: Trial, *, model: str, precision: Precision) -> None:
    """GRPO trains on rollouts of TRL's vLLM, whose log-probabilities are those that the training computes."""
    if not vllm.is_installed():
        pytest.skip("vLLM is not installed")
    folder = trial.models[model]
    chosen = section(
        rollouts="vllm-colocate",
        vllm={"memory_share": 0.1},
        precision=precision,
        sampling={"temperature": 1.0, "max_new_tokens": 24},
        rollouts_per_prompt=4,
        micro_batch_size=8,
        kl_coef=0.1,
        entropy_coef=0.1,
        max_steps=2,
    )
    with (
        _kept_draws() as draws,
        RecordLog(trial.folder / "metrics.jsonl") as log,
        RecordLog(trial.folder / "rollouts.jsonl") as rollouts,
    ):
        run = training_run(chosen, folder, trial.folder, log)
        grpo.train(run, EXAMPLES, open_reward(chosen.reward), rollouts)
    steps = _records(trial.folder, "metrics")
    assert len(draws) == len(steps) == 2
    assert all(step["loss"] is not None and math.isfinite(step["loss"]) for step in steps)
    lengths = [row["tokens"] for row in _records(trial.folder, "rollouts")]
    assert lengths == [len(ids) for _, completions, _ in draws for ids in completions]
    # The first step's draw is the start's own, which is still there.
    prompts, completions, logprobs = draws[0]
    sampled = [likeliest[0] for row in logprobs for likeliest in row]
    tokenizer = load_tokenizer(ModelSpec.parse(str(folder)))
    start = load_model(str(folder), "fp32", trial.device, tokenizer=tokenizer)
    arithmetic = torch.autocast(trial.device, torch.bfloat16, enabled=precision == "bf16")
    distance = distance_to_training(start, prompts, completions, sampled, arithmetic)
    trial.note("mean distance of log-probabilities", distance, "nats", f"≤ {DISTANCE[precision]}")
    trial.note("second step", steps[-1]["step_time"], "s")
    assert distance <= DISTANCE[precision]


@contextmanager
def _kept_draws() -> Iterator[list[tuple[list[list[int]], list[list[int]], list[list[list[float]]]]]]:
    """Context that keeps the prompts, completions and log-probabilities of each step's draw of TRL's vLLM."""
    from trl.generation import vllm_generation

    draws = []
    generate = vllm_generation.VLLMGeneration.generate

    def kept(self, *positional, **named):
        drawn = generate(self, *positional, **named)
        draws.append(tuple(drawn[:3]))
        return drawn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_generation.VLLMGeneration, "generate", kept)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            # TRL sets them for vLLM and leaves them.
            patch.setenv(name, "")
            patch.delenv(name)
        yield draws
