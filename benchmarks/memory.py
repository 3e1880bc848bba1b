"""Peak memory of one training, as measured and as `safereason doctor --recipe R --gpus N` works it out.

    python benchmarks/memory.py            every case, each in a process of its own
    python benchmarks/memory.py CASE       one of them, as JSON

Two optimizer steps of `sft` and `rl` on a CPU in fp32, every row as long as it may be. `tensors` is the most bytes of
tensors alive at once, counted at every operation; `process` is how far the process grew over the training: peak
resident memory less what it had before the model was loaded. The formula speaks of tensors.
"""

import json
import re
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parent.parent
GIB = 2**30
CASES: dict[str, dict[str, Any]] = {
    # The micro model of the tests: a vocabulary of 259 and two layers.
    "micro-sft": {"stage": "sft", "rows": 8, "tokens": 256},
    "micro-sft-checkpointed": {"stage": "sft", "rows": 8, "tokens": 256, "activation_checkpointing": True},
    "micro-sft-lora": {"stage": "sft", "rows": 8, "tokens": 256, "lora": {"rank": 8}},
    "micro-grpo": {"stage": "rl", "rows": 8, "tokens": 128, "new": 128, "shared_prefix": False},
    "micro-grpo-packed": {"stage": "rl", "rows": 8, "tokens": 128, "new": 128},
    # SmolLM2-135M: a vocabulary of 49152 and thirty layers.
    "smollm2-sft": {"model": "embedded/smollm2-135m", "stage": "sft", "rows": 2, "tokens": 256},
    "smollm2-sft-long": {"model": "embedded/smollm2-135m", "stage": "sft", "rows": 1, "tokens": 768},
    "smollm2-sft-checkpointed": {
        "model": "embedded/smollm2-135m",
        "stage": "sft",
        "rows": 4,
        "tokens": 256,
        "activation_checkpointing": True,
    },
    "smollm2-sft-lora": {
        "model": "embedded/smollm2-135m",
        "stage": "sft",
        "rows": 2,
        "tokens": 256,
        "lora": {"rank": 16},
    },
    "smollm2-grpo": {
        "model": "embedded/smollm2-135m",
        "stage": "rl",
        "rows": 4,
        "tokens": 64,
        "new": 32,
        "shared_prefix": False,
    },
    "smollm2-grpo-packed": {"model": "embedded/smollm2-135m", "stage": "rl", "rows": 4, "tokens": 256, "new": 32},
}


class Live(TorchDispatchMode):
    """A counter of the bytes of tensors that are alive: now, and the most at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def hold(self, tensor: torch.Tensor) -> None:
        """Counts a tensor's storage until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.now += self._sizes[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.hold(value)
        return result


def watched(train: Callable[[], Any]) -> tuple[Live, int]:
    """The bytes of a training's tensors, and by how many the process grew while it ran; 0 where there is no /proc."""
    from transformers import Trainer

    from safereason.training import grpo

    live = Live()
    plain = Trainer.train
    opened = grpo.open_trained_model
    before = _resident("VmRSS")

    def hold(*models) -> None:
        for model in models:
            if model is None:
                continue
            for tensor in model.state_dict().values():
                live.hold(tensor)
        _forget_peak()

    def counted(self, *arguments, **named):
        hold(self.model, getattr(self, "ref_model", None))
        with live:
            return plain(self, *arguments, **named)

    with ExitStack() as until_the_end:

        def counted_from_here(*arguments, **named):
            trained = opened(*arguments, **named)
            hold(trained.model, trained.reference)
            until_the_end.enter_context(live)
            return trained

        Trainer.train, grpo.open_trained_model = counted, counted_from_here
        try:
            train()
        finally:
            Trainer.train, grpo.open_trained_model = plain, opened
    return live, _resident("VmHWM") - before


def _resident(key: str) -> int:
    """Bytes that the process holds, by the kernel's name for the figure; 0 where there is no /proc."""
    file = Path("/proc/self/status")
    if not file.exists():
        return 0
    line = re.search(rf"{key}:\s+(\d+) kB", file.read_text())
    if line is None:
        return 0
    return 1024 * int(line[1])


def _forget_peak() -> None:
    file = Path("/proc/self/clear_refs")
    if file.exists():
        file.write_text("5")


def run_case(case: dict[str, Any], folder: Path) -> dict[str, int]:
    """The bytes of a case, as measured and by the formula."""
    from safereason.engines.open import load_tokenizer
    from safereason.engines.spec import ModelSpec
    from safereason.training import memory
    from safereason.training.fit import step_of
    from safereason.training.shapes import shape_of

    settings = {key: value for key, value in case.items() if key not in ("model", "stage", "rows", "tokens", "new")}
    if "model" in case:
        location = ModelSpec.parse(case["model"]).location
    else:
        location = _micro(folder)
    tokenizer = load_tokenizer(ModelSpec.parse(location))
    shared = {"epochs": 2, "learning_rate": 1e-5, "max_steps": 2, "precision": "fp32", **settings}
    prepare = {"sft": _sft, "rl": _grpo}[case["stage"]]
    section, train = prepare(case, shared, location, tokenizer, folder / "run")
    live, grown = watched(train)
    parts = memory.parts(step_of(section, shape_of(location), case["stage"], cpu=True))
    return {
        "tensors": live.peak,
        "process": grown,
        "formula": memory.peak(parts)[0],
        **{f"of {name}": part.size for name, part in parts.items()},
    }


def _micro(folder: Path) -> str:
    sys.path.insert(0, str(ROOT / "tests"))
    import micro

    return str(micro.save_model(folder / "micro"))


def _sft(case, shared, location, tokenizer, run):
    from safereason.recipe.schema import SFT
    from safereason.training import sft

    rows = case["rows"]
    tokens = case["tokens"]
    # Two micro-batches a step, so that gradients are accumulated.
    section = SFT(batch_size=2 * rows, micro_batch_size=rows, max_tokens=tokens, **shared)
    tokenized = []
    for i in range(2 * rows):
        length = tokens
        # One length but for a last token, so that a batch has a mask.
        if rows > 1:
            length -= i % 2
        ids = [(7 * i + j) % 200 for j in range(length)]
        tokenized.append({"input_ids": ids, "completion_mask": [0] + [1] * (length - 1)})
    return section, lambda: sft.train(_training_run(section, location, tokenizer, run, "sft"), tokenized)


def _grpo(case, shared, location, tokenizer, run):
    from safereason.data.example import Example
    from safereason.engines import transformers
    from safereason.recipe.schema import GRPO
    from safereason.rewards import open_reward
    from safereason.runs.records import RecordLog
    from safereason.text.chat import prompt_ids, user
    from safereason.training import grpo

    text = "why " * case["tokens"]
    while len(ids := prompt_ids(tokenizer, user(text))) > case["tokens"]:
        text = text[: -max(1, len(ids) - case["tokens"])]
    section = GRPO(
        prompts_per_step=2,
        rollouts_per_prompt=case["rows"],
        micro_batch_size=case["rows"],
        kl_coef=1e-3,
        max_prompt_tokens=len(ids),
        sampling={"max_new_tokens": case["new"]},
        reward={"name": "tars", "safety": "refusal", "task": "compliance"},
        **shared,
    )
    # Prompts of one length that have nothing in common, and rollouts that go on to the end.
    examples = [Example(f"own/{i}", "abcd"[i] + text[1:], "harmless", "own") for i in range(4)]
    transformers.end_of_turn_ids = lambda model, tokenizer: set()
    return section, lambda: grpo.train(
        _training_run(section, location, tokenizer, run, "rl"),
        examples,
        open_reward(section.reward),
        RecordLog(run / "rollouts.jsonl"),
    )


def _training_run(section, location, tokenizer, folder, key):
    from safereason.runs.records import RecordLog
    from safereason.training.training_run import TrainingRun

    return TrainingRun(
        section=section,
        location=location,
        tokenizer=tokenizer,
        seed=0,
        folder=folder,
        metrics=RecordLog(folder / "metrics.jsonl"),
        key=key,
    )


def measured(name: str) -> dict[str, int]:
    """The bytes of a case, measured in a process of its own."""
    done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    from safereason.cli.output import print_table

    rows = []
    for name in CASES:
        sizes_of_case = measured(name)
        formula = sizes_of_case["formula"]
        sizes = [sizes_of_case[key] / GIB for key in ("formula", "tensors", "process")]
        # The growth of the process is 0 where it is not known.
        ratios = [formula / sizes_of_case[key] for key in ("tensors", "process") if sizes_of_case[key]]
        rows.append((name, *(f"{size:.3f}" for size in sizes), *(f"{ratio:.2f}" for ratio in ratios)))
    print_table(("case", "formula GiB", "tensors GiB", "process GiB", "formula / tensors", "formula / process"), rows)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(run_case(CASES[sys.argv[1]], Path(place))))
    else:
        main()
