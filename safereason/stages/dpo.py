"""The rl stage where the recipe asks for DPO: responses of the start model, their rewards, pairs, and the training.

Each part is recorded as it goes, so that a killed run asks for no response and no verdict twice: `completions.jsonl`,
appended in the order in which responses end; `rollouts.jsonl`, the same with their rewards; `pairs.jsonl`, worked out
from both in the order of the prompts; then `metrics.jsonl` and checkpoints, as of any training.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safereason import console, processes
from safereason.data.example import Example
from safereason.engines.base import Completion
from safereason.engines.open import load_tokenizer, model_location, open_engine
from safereason.errors import InputError, StageFailed
from safereason.recipe.schema import DPO, Recipe
from safereason.rewards.base import Reward, RewardParts, RewardRow
from safereason.runs.directory import CHECKPOINTS, RunDirectory
from safereason.runs.manifest import going_on
from safereason.runs.records import Record, RecordLog, keep_records, line_of, read_records, write_bytes
from safereason.text.chat import prompt_ids, user
from safereason.training.arguments import check_left, dpo_arguments
from safereason.training.pairs import best_with_worst

logger = logging.getLogger(__name__)

ROLLOUTS_A_BATCH = 64
"""Rollouts scored, and then recorded, at a time."""
PAIRS = "pairs.jsonl"
STEP = 0
"""The step that rollouts are recorded at: all are drawn before the first."""
Key = tuple[str, int]
"""A response: its prompt's id and its number."""


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected response."""

    chosen: Key
    rejected: Key


def train(
    section: DPO, recipe: Recipe, start: str, examples: Sequence[Example], reward: Reward, this: RunDirectory
) -> dict[str, Any]:
    """Draws, scores, pairs and trains.

    Raises:
        InputError: The pairs do not fill one batch.
    """
    tokenizer = load_tokenizer(start)
    asked = {e.id: prompt_ids(tokenizer, user(e.prompt)) for e in examples}
    kept = [e for e in examples if len(asked[e.id]) <= section.max_prompt_tokens]
    check_left(len(kept), len(examples), section.max_prompt_tokens, "rl.max_prompt_tokens")
    jobs = [(example, number) for example in kept for number in range(section.rollouts_per_prompt)]
    with this.records("completions") as log:
        processes.by_main(lambda: _draw(section, recipe.seed, start, jobs, log))
    drawn = _held(this.path / "completions.jsonl")
    if not (this.path / PAIRS).exists():  # the training may have begun with these pairs
        keep_records(
            this.path / "rollouts.jsonl", lambda record: record["total"] is not None or not record.get("failed", True)
        )
    with this.records("rollouts") as log:
        processes.by_main(lambda: _score(jobs, drawn, reward, log))
    _check_scored(this.path, jobs)
    rollouts = _held(this.path / "rollouts.jsonl")
    pairs = _pairs(jobs, rollouts)
    lines = b"".join(line_of(_record_of(pair, rollouts)) for pair in pairs)
    processes.by_main(lambda: write_bytes(this.path / PAIRS, lines))
    rows = [
        {
            "prompt_ids": asked[pair.chosen[0]],
            "chosen_ids": drawn[pair.chosen]["token_ids"],
            "rejected_ids": drawn[pair.rejected]["token_ids"],
        }
        for pair in pairs
    ]
    trained = _fit(section, recipe, start, tokenizer, rows, this)
    return {**trained, **_counts(jobs, rollouts, pairs), "dropped_too_long": len(examples) - len(kept)}


def _draw(section: DPO, seed: int, start: str, jobs: Sequence[tuple[Example, int]], log: RecordLog) -> None:
    """Draws what is not there yet; each response is a conversation of its own, so that none is drawn twice."""
    held = _held(log.path)
    done = {i for i, (example, number) in enumerate(jobs) if (example.id, number) in held}
    if len(done) == len(jobs):
        return
    import torch

    engine = open_engine(start, precision=section.precision if torch.cuda.is_available() else "fp32")
    with console.progress("rl: responses", len(jobs), len(done)) as advance:

        def record(index: int, _: int, completion: Completion) -> None:
            example, number = jobs[index]
            if completion.finish_reason == "error":
                raise InputError(f"{example.id}: {completion.error}")
            log.append(
                {
                    "id": example.id,
                    "number": number,
                    "text": completion.full_text,
                    "token_ids": list(completion.token_ids),
                    "finish_reason": completion.finish_reason,
                }
            )
            advance("")

        engine.generate(
            [user(example.prompt) for example, _ in jobs], section.sampling, seed=seed, done=done, on_finish=record
        )


def _score(jobs: Sequence[tuple[Example, int]], drawn: dict[Key, Record], reward: Reward, log: RecordLog) -> None:
    """Scores what has no reward yet, batch by batch."""
    held = _held(log.path)
    left = [(example, number) for example, number in jobs if (example.id, number) not in held]
    unscored = 0
    with console.progress("rl: rewards", len(jobs), len(jobs) - len(left)) as advance:
        for start in range(0, len(left), ROLLOUTS_A_BATCH):
            batch = left[start : start + ROLLOUTS_A_BATCH]
            rows = [RewardRow(e.prompt, e.kind, drawn[e.id, number]["text"]) for e, number in batch]
            scored = reward.score(rows)
            for (example, number), parts in zip(batch, scored, strict=True):
                log.append(_rollout(example, number, drawn[example.id, number], parts))
                unscored += parts.total is None
                advance(f"{unscored} unscored" if unscored else "")
            if any(parts.failed for parts in scored) and not any(parts.judged for parts in scored):
                return  # the judge is gone: what is left is scored by a resumed run


def _check_scored(run: Path, jobs: Sequence[tuple[Example, int]]) -> None:
    """Refuses to make pairs while verdicts are missing: they would be made of what happened to be scored.

    Raises:
        StageFailed: Verdicts failed; `--resume` asks for those again.
    """
    if (run / PAIRS).exists():
        return
    rollouts = _held(run / "rollouts.jsonl")
    failed = [str(rollout["reason"]) for rollout in rollouts.values() if rollout.get("failed")]
    if failed:
        missing = len(failed) + len(jobs) - len(rollouts)
        reason = Counter(failed).most_common(1)[0][0]
        raise StageFailed(f"{run}: {missing} of {len(jobs)} rewards failed ({reason}); {going_on()}")


def _rollout(example: Example, number: int, drawn: Record, parts: RewardParts) -> Record:
    return {
        "step": STEP,
        "id": example.id,
        "number": number,
        "prompt": example.prompt,
        "kind": example.kind,
        "text": drawn["text"],
        "total": parts.total,
        "parts": parts.parts,
        "reason": parts.reason,
        "failed": parts.failed,
        "finish_reason": drawn["finish_reason"],
        "tokens": len(drawn["token_ids"]),
    }


def _held(path: Path) -> dict[Key, Record]:
    return {(record["id"], record["number"]): record for record in read_records(path)}


def _pairs(jobs: Sequence[tuple[Example, int]], rollouts: dict[Key, Record]) -> list[Pair]:
    """The pairs of every prompt, in the order of the prompts."""
    groups: dict[str, list[int]] = {}
    for example, number in jobs:
        groups.setdefault(example.id, []).append(number)
    return [
        Pair((prompt, numbers[better]), (prompt, numbers[worse]))
        for prompt, numbers in groups.items()
        for better, worse in best_with_worst([rollouts[prompt, number]["total"] for number in numbers])
    ]


def _record_of(pair: Pair, rollouts: dict[Key, Record]) -> Record:
    """A pair for a person to read."""
    sides = {"chosen": rollouts[pair.chosen], "rejected": rollouts[pair.rejected]}
    about = {key: sides["chosen"][key] for key in ("id", "kind", "prompt")}
    return about | {side: {key: rollout[key] for key in ("number", "total", "text")} for side, rollout in sides.items()}


def _fit(
    section: DPO, recipe: Recipe, start: str, tokenizer: Any, rows: Sequence[dict[str, list[int]]], this: RunDirectory
) -> dict[str, Any]:
    from safereason.training import dpo
    from safereason.training.callbacks import last_checkpoint

    checkpoint, done = last_checkpoint(this.path / CHECKPOINTS) or (None, 0)
    keep_records(this.path / "metrics.jsonl", lambda record: record["step"] <= done)
    with this.records("metrics") as log:
        return dpo.train(
            section,
            model_location(start),
            tokenizer,
            rows,
            seed=recipe.seed,
            run=this.path,
            log=log,
            resume_from=checkpoint,
            steps_done=done,
            report_to=recipe.report_to,
        )


def _counts(jobs: Sequence[tuple[Example, int]], rollouts: dict[Key, Record], pairs: Sequence[Pair]) -> dict[str, int]:
    prompts, paired = {example.id for example, _ in jobs}, Counter(pair.chosen[0] for pair in pairs)
    found = {
        "prompts": len(prompts),
        "rollouts": len(jobs),
        "unscored": sum(rollout["total"] is None for rollout in rollouts.values()),
        "pairs": len(pairs),
        "prompts_without_pair": len(prompts) - len(paired),
    }
    logger.info("%s", ", ".join(f"{count} {name}" for name, count in found.items()))
    return found


def outline(section: DPO, prompts: int, seed: int, key: str, processes: int) -> dict[str, Any]:
    """What a DPO section comes to on so many prompts, if no two rewards of a prompt are equal; `key` for messages."""
    rollouts = prompts * section.rollouts_per_prompt
    pairs = prompts * (section.rollouts_per_prompt // 2)
    arguments = dpo_arguments(
        section,
        pairs=max(pairs, section.batch_size),
        seed=seed,
        output_dir=CHECKPOINTS,
        processes=processes,
        cpu=False,
        key=key,
    )
    return {
        "rollouts": rollouts,
        "tokens generated at most": rollouts * section.sampling.max_new_tokens,
        "pairs at most": pairs,
        "steps at most": arguments["max_steps"],
        "reference model": "the model without its adapters" if section.lora else "a frozen copy of the start",
        "reward": section.reward.model_dump(mode="json"),
        "pairing": "best with worst, second best with second worst, and so on; equal and unscored ones make none",
        "DPOConfig": arguments,
    }
