"""The common beginning of a guard's questions, its policy, computed once a batch and once a question.

    python benchmarks/guard_prefix.py

Eight questions under the default policy: their first tokens generated, and loss and gradient on short verdicts after
them. Apart, the policy is run for each question, as a plain engine and a plain trainer do. Both print the same.
"""

import time
from collections.abc import Callable

import long_prompt
import torch

from safereason.cli.output import print_table
from safereason.data import sources
from safereason.engines import transformers as engines
from safereason.guard import guard_prompt
from safereason.guard.prompt import Question
from safereason.recipe.schema import Sampling
from safereason.text.chat import prompt_ids
from safereason.training import shared_prefix

QUESTIONS, NEW_TOKENS, ROUNDS = 8, 8, 1
NEVER = 1 << 30


def timed(work: Callable[[], float]) -> tuple[float, float]:
    """Least seconds of a round, the first left out, and the result of the last one."""
    times = []
    value = 0.0
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        value = work()
        times.append(time.perf_counter() - start)
    return min(times[1:]), value


def main() -> None:
    """Measures both ways in turns."""
    long_prompt.need_model()
    model, tokenizer = long_prompt.load()
    prompt = guard_prompt.default()
    examples = sources.get("sample").load("test")[:QUESTIONS]
    conversations = [prompt.conversation(Question(example.prompt)) for example in examples]
    engine = engines.TransformersEngine(model, tokenizer, name="model")
    sampling = Sampling(temperature=0.0, max_new_tokens=NEW_TOKENS)

    def generate() -> float:
        completions = engine.generate(conversations, sampling)
        return float(sum(row[0].token_ids[0] for row in completions))

    ids, mask, width = padded([prompt_ids(tokenizer, conversation) for conversation in conversations], tokenizer)

    def learn() -> float:
        model.zero_grad()
        loss = -shared_prefix.completion_logps(model, ids, mask, width, 1.0)[0].sum() / mask[:, -width:].sum()
        loss.backward()
        return loss.item()

    table = []
    for name, work in (("generation", generate), ("loss and gradient", learn)):
        seconds = {}
        results = {}
        for way, least in (("apart", NEVER), ("shared", 32)):
            engines.SHARE_FROM = shared_prefix.LEAST_COMMON_TOKENS = least
            seconds[way], results[way] = timed(work)
        table.append(
            (
                name,
                f"{seconds['apart']:.1f} s",
                f"{seconds['shared']:.1f} s",
                f"{seconds['apart'] / seconds['shared']:.1f}",
                f"{results['apart']:.6g}",
                f"{results['shared']:.6g}",
            )
        )
    print_table(("work", "apart", "shared", "ratio", "result apart", "result shared"), table)


def padded(prompts: list[list[int]], tokenizer: object) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Prompts padded on the left, each before the same verdict."""
    verdict = tokenizer(r"<think>Nothing in it.</think> \boxed{safe}", add_special_tokens=False)["input_ids"]
    before = max(map(len, prompts))
    ids = torch.zeros(len(prompts), before + len(verdict), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, before - len(prompt) :] = torch.tensor([*prompt, *verdict])
        mask[i, before - len(prompt) :] = 1
    return ids, mask, len(verdict)


if __name__ == "__main__":
    main()
