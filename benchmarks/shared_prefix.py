"""Loss and gradient on four completions of one long prompt: the prompt computed once, and once for each.

    python benchmarks/shared_prefix.py

Each way runs in a process of its own, so that its peak memory is its own. The plain way is the one of TRL's trainer:
every row whole through the model, logits of the completion only. Both print the loss, which has to be the same.
"""

import multiprocessing
import resource
import sys
import time

import long_prompt
import torch
from torch import Tensor

from safereason.cli.output import print_table
from safereason.training import shared_prefix

PROMPT_TOKENS, NEW_TOKENS, COMPLETIONS, ROUNDS = 800, 100, 4, 2


def plain(model: torch.nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities [B, C] row by row."""
    from trl.trainer.utils import selective_log_softmax

    logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=NEW_TOKENS + 1, use_cache=False).logits[:, :-1]
    return selective_log_softmax(logits, ids[:, -NEW_TOKENS:])


def shared(model: torch.nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities [B, C] with the prompt computed once."""
    return shared_prefix.completion_logps(model, ids, mask, NEW_TOKENS, temperature=1.0)[0]


def measure(way: str) -> tuple[float, float, float]:
    """Seconds a round, peak memory in GiB, and the loss."""
    model, tokenizer = long_prompt.load()
    model.train()
    prompt = tokenizer(long_prompt.text(tokenizer, PROMPT_TOKENS), add_special_tokens=False)["input_ids"]
    torch.manual_seed(0)
    completions = torch.randint(100, 10_000, (COMPLETIONS, NEW_TOKENS))
    ids = torch.cat([torch.tensor([prompt] * COMPLETIONS), completions], dim=1).to(model.device)
    mask = torch.ones_like(ids)
    log_probabilities = {"plain": plain, "shared": shared}[way]
    times = []
    for _ in range(ROUNDS + 1):
        model.zero_grad()
        start = time.perf_counter()
        loss = -log_probabilities(model, ids, mask).mean()
        loss.backward()
        value = loss.item()  # waits for a GPU
        times.append(time.perf_counter() - start)
    return min(times[1:]), peak_memory(), value


def peak_memory() -> float:
    """GiB, of the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def main() -> None:
    long_prompt.need_model()  # and no more: a child's peak memory starts from this process's
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        fast, small, loss = pool.apply(measure, ("shared",))
        slow, large, plain_loss = pool.apply(measure, ("plain",))
    print(f"{COMPLETIONS} completions of {NEW_TOKENS} tokens on a prompt of {PROMPT_TOKENS}")
    rows = [
        ("prompt once", f"{fast:.2f}", f"{slow / fast:.2f}", f"{small:.2f}", f"{large / small:.2f}", f"{loss:.5f}"),
        ("row by row", f"{slow:.2f}", "1.00", f"{large:.2f}", "1.00", f"{plain_loss:.5f}"),
    ]
    print_table(("way", "seconds", "times faster", "peak GiB", "times smaller", "loss"), rows)


if __name__ == "__main__":
    main()
