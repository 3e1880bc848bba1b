"""One search for one suffix, in a process and an environment of its own: JSON in, JSON out.

Run by `gcg.py`. It imports nothing of this project but for our own side, so that nanoGCG can run where only nanoGCG is.
"""

import json
import resource
import sys
import time
from typing import Any

Job = dict[str, Any]


class Clock:
    """Seconds, losses and candidates of each step, from the first loss on."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.losses: list[float] = []
        self.candidates: list[int] = []

    def tick(self, loss: float, candidates: int) -> None:
        """Notes the end of a step, in which so many candidates were scored."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())
        self.losses.append(loss)
        self.candidates.append(candidates)

    def report(self) -> dict[str, Any]:
        """The figures of the steps after the first loss."""
        return {
            "wall": [t - self.wall[0] for t in self.wall],
            "cpu": [t - self.cpu[0] for t in self.cpu],
            "losses": self.losses,
            "candidates": self.candidates[1:],
            "peak": peak_memory(),
        }


def peak_memory() -> float:
    """GiB, of the GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def ours(job: Job, clock: Clock) -> None:
    """Our attack, with the settings of the job."""
    from safereason.attacks.base import Setup
    from safereason.attacks.gcg import ATTACK
    from safereason.attacks.gcg_settings import GCGSettings
    from safereason.attacks.meter import Meter
    from safereason.data.example import Example
    from safereason.engines.open import open_engine
    from safereason.engines.spec import ModelSpec

    behavior = Example("benchmark/0", job["behavior"], "harmful", "benchmark", target=job["target"])
    meter = Meter()
    setup = Setup(open_engine(ModelSpec.parse(job["model"])), seed=job["seed"], meter=meter)
    queries_before = 0
    for step in ATTACK.search([behavior], GCGSettings(**job["settings"]), setup):
        clock.tick(float(step.value or 0.0), meter.queries - queries_before)
        queries_before = meter.queries
        if clock.wall[-1] - clock.wall[0] > job["seconds"] or (step.value or 0.0) <= job["until"]:
            break


def nanogcg(job: Job, clock: Clock) -> None:
    """nanoGCG 0.3.0; the clock is read where it logs a step."""
    from nanogcg import GCGConfig, gcg, run
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    scored = 0
    filtered = gcg.filter_ids

    def counting(ids: Any, tokenizer: Any) -> Any:
        nonlocal scored
        kept = filtered(ids, tokenizer)
        scored = len(kept)
        return kept

    def read_clock(buffer: Any, tokenizer: Any) -> None:
        clock.tick(float(buffer.get_lowest_loss()), scored)

    gcg.filter_ids, gcg.AttackBuffer.log_buffer = counting, read_clock
    # A tokenizer that transformers 5 saved names a class that 4.46 does not have.
    load = PreTrainedTokenizerFast if job["settings"]["use_prefix_cache"] else AutoTokenizer
    tokenizer = load.from_pretrained(job["model"], trust_remote_code=False)
    tokenizer.chat_template = job["template"]
    # It takes the first token of all out of the whole prompt, and here that opens every turn.
    tokenizer.bos_token = None
    shape = AutoConfig.from_pretrained(job["model"], trust_remote_code=False)
    if job["settings"]["use_prefix_cache"]:  # nor does 4.46 look for the base of the rotations where 5 writes it
        shape.rope_theta = shape.rope_parameters["rope_theta"]
    model = AutoModelForCausalLM.from_pretrained(job["model"], config=shape, torch_dtype="float32")
    # The space stands in the first token, as it does where the prompt is deployed: both sides begin with the same ids.
    config = GCGConfig(optim_str_init=" !" * 20, seed=job["seed"], verbosity="ERROR", **job["settings"])
    run(model, tokenizer, f"{job['behavior']}{{optim_str}}", job["target"], config)


def main() -> None:
    job = json.load(sys.stdin)
    import torch

    if job["threads"]:
        torch.set_num_threads(job["threads"])
    clock = Clock()
    {"ours": ours, "nanogcg": nanogcg}[job["side"]](job, clock)
    print(json.dumps(clock.report()))


if __name__ == "__main__":
    main()
