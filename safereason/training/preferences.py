"""Preference pairs for DPO: completions of the start model, their rewards, the pairs, and the training on them.

Each part is recorded as it is made, so that a killed run repeats no completion and no verdict. `completions.jsonl` is
appended in the order in which completions end. `rollouts.jsonl` adds their rewards. `pairs.jsonl` is worked out from
both in the order of the prompts. Then come `metrics.jsonl` and checkpoints, as in any training.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safereason import console, processes
from safereason.data.example import Example
from safereason.engines.base import Completion, GenerateOptions
from safereason.engines.engine_spec import choose_engine
from safereason.engines.memory import release
from safereason.engines.open import load_tokenizer, precision_here
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError, StageFailed
from safereason.recipe.schema import DPO, Recipe
from safereason.rewards.base import Reward, RewardParts, RewardRow
from safereason.runs.directory import CHECKPOINTS, RunDirectory
from safereason.runs.manifest import going_on
from safereason.runs.records import Record, RecordLog, keep_records, line_of, read_records, write_bytes
from safereason.text.chat import prompt_ids, user
from safereason.training.arguments import dpo_arguments
from safereason.training.pairs import best_with_worst
from safereason.training.prompt_limit import short_enough
from safereason.training.resume import resume_point
from safereason.training.training_run import TrainingRun

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

ROLLOUTS_A_BATCH = 64
"""Rollouts that are scored, and then recorded, at a time."""
PAIRS = "pairs.jsonl"
BEFORE_TRAINING = 0
"""The step of the rollouts in the records: all are drawn before the first step of the training."""
CompletionKey = tuple[str, int]
"""Key of a completion: its prompt's id and its number."""


@dataclass(frozen=True)
class Pair:
    """A chosen and a rejected completion to one prompt."""

    chosen: CompletionKey
    rejected: CompletionKey


@dataclass(frozen=True)
class CompletionJob:
    """One completion to draw: its prompt, and its number among the prompt's completions."""

    example: Example
    number: int

    @property
    def key(self) -> CompletionKey:
        """The completion's key in the records."""
        return self.example.id, self.number


def train_dpo(
    section: DPO, recipe: Recipe, start: ModelSpec, examples: Sequence[Example], reward: Reward, this: RunDirectory
) -> Record:
    """Draws and scores completions, pairs them, and trains on the pairs.

    Returns:
        The metrics of the run.

    Raises:
        InputError: The pairs do not fill one batch.
        StageFailed: Verdicts failed; `--resume` tries those again.
    """
    tokenizer = load_tokenizer(start)
    kept = short_enough(examples, tokenizer, section.max_prompt_tokens, "rl")
    ids_of_prompts = {example.id: prompt_ids(tokenizer, user(example.prompt)) for example in kept}
    jobs = []
    for example in kept:
        for number in range(section.rollouts_per_prompt):
            jobs.append(CompletionJob(example, number))
    with this.records("completions") as log:
        # One process draws, scores and pairs; the others wait, and all read the same files.
        processes.by_main(lambda: _draw_completions(section, recipe.seed, start, jobs, log))
    release()
    completions = _records_by_key(this.path / "completions.jsonl")
    rollouts = _scored_rollouts(jobs, completions, reward, this)
    pairs = _preference_pairs(jobs, rollouts)
    lines = b"".join(line_of(_pair_record(pair, rollouts)) for pair in pairs)
    processes.by_main(lambda: write_bytes(this.path / PAIRS, lines))
    # Tokens as they were drawn: decoding and encoding again may give others.
    rows = []
    for pair in pairs:
        prompt, _ = pair.chosen
        rows.append(
            {
                "prompt_ids": ids_of_prompts[prompt],
                "chosen_ids": completions[pair.chosen]["token_ids"],
                "rejected_ids": completions[pair.rejected]["token_ids"],
            }
        )
    trained = _train_on_pairs(section, recipe, start, tokenizer, rows, this)
    return {**trained, **_pair_counts(jobs, rollouts, pairs), "dropped_too_long": len(examples) - len(kept)}


def _draw_completions(section: DPO, seed: int, start: ModelSpec, jobs: Sequence[CompletionJob], log: RecordLog) -> None:
    """Draws and records the completions that are not recorded yet.

    Each completion is a conversation of its own, so a run that was killed between two of a prompt draws the rest alone.
    """
    recorded = _records_by_key(log.path)
    done = {index for index, job in enumerate(jobs) if job.key in recorded}
    if len(done) == len(jobs):
        # The training can then go on without a second copy of the model.
        return
    spec = choose_engine(start, precision=precision_here(section.precision))
    if spec.model.engine == "vllm" and start.engine is None:
        console.say(f"engine: {spec.title} draws the completions; --model hf/NAME takes transformers")
    engine = spec.open()
    with console.progress("rl: completions", len(jobs), len(done)) as advance:

        def record_completion(index: int, _: int, completion: Completion) -> None:
            job = jobs[index]
            if completion.finish_reason == "error":
                raise InputError(f"{job.example.id}: {completion.error}")
            log.append(
                {
                    "id": job.example.id,
                    "number": job.number,
                    "text": completion.full_text,
                    "token_ids": list(completion.token_ids),
                    "finish_reason": completion.finish_reason,
                }
            )
            advance("")

        conversations = [user(job.example.prompt) for job in jobs]
        engine.generate(
            conversations, section.sampling, GenerateOptions(seed=seed, done=done, on_finish=record_completion)
        )


def _scored_rollouts(
    jobs: Sequence[CompletionJob], completions: dict[CompletionKey, Record], reward: Reward, this: RunDirectory
) -> dict[CompletionKey, Record]:
    """All completions with their rewards; those without a reward are scored first.

    Raises:
        StageFailed: Verdicts failed; `--resume` tries those again.
    """
    path = this.path / "rollouts.jsonl"
    has_pairs = (this.path / PAIRS).exists()
    if not has_pairs:
        # Once there are pairs, the training may have begun with them. Failed verdicts then stay as they are.
        keep_records(path, lambda record: record["total"] is not None or not record.get("failed", True))
    with this.records("rollouts") as log:
        processes.by_main(lambda: _score_completions(jobs, completions, reward, log))
    rollouts = _records_by_key(path)
    if not has_pairs:
        _check_scored(this.path, rollouts, len(jobs))
    return rollouts


def _score_completions(
    jobs: Sequence[CompletionJob], completions: dict[CompletionKey, Record], reward: Reward, log: RecordLog
) -> None:
    """Scores the completions that have no reward yet, batch by batch."""
    recorded = _records_by_key(log.path)
    remaining = [job for job in jobs if job.key not in recorded]
    unscored = 0
    with console.progress("rl: rewards", len(jobs), len(jobs) - len(remaining)) as advance:
        for start in range(0, len(remaining), ROLLOUTS_A_BATCH):
            batch = remaining[start : start + ROLLOUTS_A_BATCH]
            rows = []
            for job in batch:
                rows.append(RewardRow(job.example.prompt, job.example.kind, completions[job.key]["text"]))
            scored = reward.score(rows)
            for job, parts in zip(batch, scored, strict=True):
                log.append(_rollout_record(job, completions[job.key], parts))
                note = ""
                unscored += parts.total is None
                if unscored:
                    note = f"{unscored} unscored"
                advance(note)
            judged = sum(parts.judged for parts in scored)
            failed = sum(parts.failed for parts in scored)
            # Rewards without a judge, such as of format alone, say nothing about its health.
            if failed and not judged:
                # The judge is down. A resumed run scores the rest.
                return


def _check_scored(run: Path, rollouts: dict[CompletionKey, Record], expected: int) -> None:
    """Refuses to make pairs while verdicts are missing: the pairs would depend on when the judge was down.

    Raises:
        StageFailed: Verdicts failed; `--resume` tries those again.
    """
    reasons = []
    for rollout in rollouts.values():
        if rollout.get("failed"):
            reasons.append(str(rollout["reason"]))
    if reasons:
        # Rollouts after the judge's failure have no record at all.
        missing = len(reasons) + expected - len(rollouts)
        reason = Counter(reasons).most_common(1)[0][0]
        raise StageFailed(f"{run}: {missing} of {expected} rewards failed ({reason}); {going_on()}")


def _rollout_record(job: CompletionJob, completion: Record, parts: RewardParts) -> Record:
    return {
        "step": BEFORE_TRAINING,
        "id": job.example.id,
        "number": job.number,
        "prompt": job.example.prompt,
        "kind": job.example.kind,
        "text": completion["text"],
        "total": parts.total,
        "parts": parts.parts,
        "reason": parts.reason,
        "failed": parts.failed,
        "finish_reason": completion["finish_reason"],
        "tokens": len(completion["token_ids"]),
    }


def _records_by_key(path: Path) -> dict[CompletionKey, Record]:
    return {(record["id"], record["number"]): record for record in read_records(path)}


def _preference_pairs(jobs: Sequence[CompletionJob], rollouts: dict[CompletionKey, Record]) -> list[Pair]:
    """The pairs of every prompt, in the order of the prompts."""
    numbers_by_prompt: dict[str, list[int]] = {}
    for job in jobs:
        numbers_by_prompt.setdefault(job.example.id, []).append(job.number)
    pairs = []
    for prompt, numbers in numbers_by_prompt.items():
        rewards = [rollouts[prompt, number]["total"] for number in numbers]
        for better, worse in best_with_worst(rewards):
            pairs.append(Pair((prompt, numbers[better]), (prompt, numbers[worse])))
    return pairs


def _pair_record(pair: Pair, rollouts: dict[CompletionKey, Record]) -> Record:
    """The record of a pair with both texts, for people to read; the training takes tokens."""
    chosen = rollouts[pair.chosen]
    rejected = rollouts[pair.rejected]
    return {
        "id": chosen["id"],
        "kind": chosen["kind"],
        "prompt": chosen["prompt"],
        "chosen": _pair_side(chosen),
        "rejected": _pair_side(rejected),
    }


def _pair_side(rollout: Record) -> Record:
    return {"number": rollout["number"], "total": rollout["total"], "text": rollout["text"]}


def _train_on_pairs(
    section: DPO,
    recipe: Recipe,
    start: ModelSpec,
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[dict[str, list[int]]],
    this: RunDirectory,
) -> Record:
    from safereason.training import dpo

    resume = resume_point(this.path, "metrics")
    with this.records("metrics") as log:
        training_run = TrainingRun.of_recipe(recipe, "rl", section, start, tokenizer, log, resume)
        return dpo.train(training_run, rows)


def _pair_counts(
    jobs: Sequence[CompletionJob], rollouts: dict[CompletionKey, Record], pairs: Sequence[Pair]
) -> dict[str, int]:
    prompts = {job.example.id for job in jobs}
    prompts_with_pair = {pair.chosen[0] for pair in pairs}
    unscored = sum(rollout["total"] is None for rollout in rollouts.values())
    counts = {
        "prompts": len(prompts),
        "rollouts": len(jobs),
        "unscored": unscored,
        "pairs": len(pairs),
        "prompts_without_pair": len(prompts) - len(prompts_with_pair),
    }
    logger.info("%s", ", ".join(f"{count} {name}" for name, count in counts.items()))
    return counts


def dpo_outline(section: DPO, prompts: int, seed: int, key: str, processes: int) -> Record:
    """The size and the arguments of a DPO training on so many prompts, if no two rewards of a prompt are equal.

    Args:
        section: The recipe's section.
        prompts: Number of training prompts.
        seed: The recipe's seed.
        key: The section's dotted key, for messages.
        processes: Number of processes that share the training.
    """
    rollouts = prompts * section.rollouts_per_prompt
    # Best with worst, second best with second worst: each completion is in one pair at most.
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
    # Without its adapters, the trained model is the start model.
    reference_model = "a frozen copy of the start"
    if section.lora:
        reference_model = "the model without its adapters"
    return {
        "rollouts": rollouts,
        "tokens generated at most": rollouts * section.sampling.max_new_tokens,
        "pairs at most": pairs,
        "steps at most": arguments["max_steps"],
        "reference model": reference_model,
        "reward": section.reward.model_dump(mode="json"),
        "pairing": "best with worst, second best with second worst, and so on; equal and unscored ones make none",
        "DPOConfig": arguments,
    }
