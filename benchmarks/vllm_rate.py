"""Completions of short prompts by the vLLM engine and by the transformers engine, in one process on the same weights.

    SAFEREASON_VLLM='{"enforce_eager": true}' python benchmarks/vllm_rate.py      where vLLM is installed

Both sample at temperature 1 up to the same length, turn by turn, so that a busy machine is busy for both. What counts
is tokens per second, ends of turn included, on the second of two rounds. Starting them is timed apart.
"""

import time

from safereason.cli.output import print_table
from safereason.engines.base import Engine, GenerateOptions, Sampling
from safereason.engines.embedded import NAME
from safereason.engines.open import open_engine
from safereason.engines.spec import ModelSpec
from safereason.engines.vllm import INSTALL, is_installed
from safereason.text.chat import user

SIZES, SAMPLING = (1, 8, 32), Sampling(temperature=1.0, max_new_tokens=32)


def rate(engine: Engine, size: int) -> float:
    """Tokens per second, after a round that does not count."""
    for seed in (0, 1):
        start = time.perf_counter()
        conversations = [user(f"Tell me about the number {number}.") for number in range(size)]
        completions = engine.generate(conversations, SAMPLING, GenerateOptions(seed=seed))
        seconds = time.perf_counter() - start
    return sum(len(row[0].token_ids) for row in completions) / seconds


def main() -> None:
    if not is_installed():
        print(f"skipped: vLLM is not installed; run `{INSTALL}`")
        return
    start = time.perf_counter()
    engines = {"vllm": open_engine(ModelSpec.parse(f"vllm/{NAME}")), "transformers": open_engine(ModelSpec.parse(NAME))}
    print(f"both engines open after {time.perf_counter() - start:.0f} s")
    rows = []
    for size in SIZES:
        rates = [rate(engine, size) for engine in engines.values()]
        rows.append((str(size), *(f"{tokens:.1f}" for tokens in rates)))
    print_table(("prompts at a time", *(f"{name}, tokens/s" for name in engines)), rows)


if __name__ == "__main__":
    main()
