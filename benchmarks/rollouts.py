"""Rollouts: four completions of one long prompt, by our engine and by transformers' `generate`.

    python benchmarks/rollouts.py

Both sample at temperature 1 from the same weights, up to the same length. What counts is tokens per second up to and
including each completion's end of turn; `generate` runs the prompt once a completion, our engine once.
"""

import time
from collections.abc import Callable

import long_prompt
import torch

from safereason.cli.output import print_table
from safereason.engines.base import GenerateOptions, Sampling
from safereason.engines.transformers import TransformersEngine
from safereason.text import chat

PROMPT_TOKENS, NEW_TOKENS, COMPLETIONS, ROUNDS = 1000, 64, 4, 2


def rate(draw: Callable[[], int]) -> float:
    """Tokens per second over the rounds, after one that does not count."""
    draw()
    start = time.perf_counter()
    tokens = sum(draw() for _ in range(ROUNDS))
    return tokens / (time.perf_counter() - start)


def written_tokens(row: list[int], end: int) -> int:
    """The number of tokens up to and including the first end of turn; padding follows it."""
    if end not in row:
        return len(row)
    return row.index(end) + 1


def main() -> None:
    long_prompt.need_model()
    model, tokenizer = long_prompt.load()
    conversation = chat.user(long_prompt.text(tokenizer, PROMPT_TOKENS))
    engine = TransformersEngine(model, tokenizer, name="benchmark")
    sampling = Sampling(temperature=1.0, max_new_tokens=NEW_TOKENS)
    ids = torch.tensor([chat.prompt_ids(tokenizer, conversation)], device=model.device)

    def ours() -> int:
        (completions,) = engine.generate([conversation], sampling, GenerateOptions(n=COMPLETIONS))
        return sum(len(completion.token_ids) for completion in completions)

    def theirs() -> int:
        torch.manual_seed(0)
        drawn = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=NEW_TOKENS,
            num_return_sequences=COMPLETIONS,
            pad_token_id=tokenizer.pad_token_id,
        )[:, ids.shape[1] :]
        return sum(written_tokens(row, tokenizer.eos_token_id) for row in drawn.tolist())

    fast = rate(ours)
    slow = rate(theirs)
    print(f"{COMPLETIONS} completions of up to {NEW_TOKENS} tokens on a prompt of {ids.shape[1]}, {model.device}")
    rows = [("safereason", f"{fast:.1f}", f"{fast / slow:.2f}"), ("transformers generate", f"{slow:.1f}", "1.00")]
    print_table(("engine", "tokens/s", "ratio to generate"), rows)


if __name__ == "__main__":
    main()
