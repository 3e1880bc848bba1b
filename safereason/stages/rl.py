"""Stage `rl`: GRPO on the prompts that `data` wrote, from the model that `sft` made."""

import logging
from pathlib import Path
from typing import Any

from safereason.data.example import Example, read_examples
from safereason.engines.open import load_tokenizer, model_location
from safereason.errors import InputError
from safereason.recipe.schema import GRPO, Recipe, TarsReward
from safereason.rewards import open_reward
from safereason.rewards.base import Reward
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import installed, sha256
from safereason.runs.records import keep_records
from safereason.stages import data, sft
from safereason.stages.base import (
    Options,
    Result,
    finished_result,
    identity,
    judge_identity,
    model_identity,
    model_label,
    open_run,
    resolved_judge,
    source_run,
)
from safereason.training.arguments import grpo_arguments

logger = logging.getLogger(__name__)


def identity_of(recipe: Recipe, model: str, options: Options) -> dict[str, Any]:
    """What the trained model depends on."""
    judge = resolved_judge(_reward(recipe).safety, options)
    guard = {"guard": judge_identity(judge)} if judge.startswith("guard:") else {}
    return identity(recipe, "data", "rl", model=model_identity(model), **guard)


def run(recipe: Recipe, options: Options) -> Result:
    """Trains with GRPO; a killed run goes on from its last whole checkpoint and ends with the same records.

    Raises:
        InputError: The recipe has no `rl` section, or the data or the model to start from was not made.
    """
    section = _section(recipe)
    check_rollouts(section, "rl")
    start = start_model(recipe, options)
    directory = open_run("rl", recipe, options, model_label(start), identity_of(recipe, start, options))
    if (result := finished_result(directory)) is not None:
        return result
    prompts = data.built(recipe, options) / "train.parquet"
    # An unknown model or judge is refused before a directory is made.
    model_location(start)
    named = _reward(recipe)
    reward = open_reward(named.model_copy(update={"safety": resolved_judge(named.safety, options)}))
    with directory as this:
        this.inputs[str(prompts)] = sha256(prompts)
        metrics = _train(section, recipe, start, read_examples(prompts), reward, this)
        this.finish(metrics)
    return Result(directory.path, metrics)


def start_model(recipe: Recipe, options: Options) -> str:
    """The model RL starts from: the one named, the recipe's finished sft run, or the base model where it has no sft."""
    if options.model:
        return options.model
    if recipe.sft is None:
        return recipe.model
    return str(source_run("sft", recipe, options, sft.identity_of(recipe, recipe.model)))


def _train(
    section: GRPO, recipe: Recipe, start: str, examples: list[Example], reward: Reward, this: RunDirectory
) -> dict[str, Any]:
    from safereason.text.chat import prompt_ids, user
    from safereason.training import grpo
    from safereason.training.callbacks import last_checkpoint

    tokenizer = load_tokenizer(start)
    kept = [e for e in examples if len(prompt_ids(tokenizer, user(e.prompt))) <= section.max_prompt_tokens]
    logger.info("%d prompts, %d too long", len(kept), len(examples) - len(kept))
    checkpoint, done = last_checkpoint(this.path / "checkpoints") or (None, 0)
    for name in ("metrics", "rollouts"):
        keep_records(this.path / f"{name}.jsonl", lambda record: record["step"] <= done)
    with this.records("metrics") as metrics, this.records("rollouts") as rollouts:
        trained = grpo.train(
            section, model_location(start), tokenizer, kept, reward, seed=recipe.seed,
            run=this.path, metrics=metrics, rollouts=rollouts, resume_from=checkpoint, steps_done=done,
        )  # fmt: skip
    return {**trained, "prompts": len(kept), "dropped_too_long": len(examples) - len(kept)}


def plan(recipe: Recipe, options: Options) -> dict[str, Any]:
    """What `run` would do: nothing is read but the recipe and the data that is already built."""
    section, prompts = _section(recipe), _prompts(recipe, options)
    return {
        "stage": "rl",
        "model": options.model or ("the sft run of this recipe" if recipe.sft else recipe.model),
        "prompts": prompts,
        **outline(section, prompts, recipe.seed, "rl"),
    }


def outline(section: GRPO, prompts: int, seed: int, key: str) -> dict[str, Any]:
    """What a GRPO section comes to on so many prompts; `key` is its dotted key, for messages."""
    arguments = grpo_arguments(section, prompts=prompts, seed=seed, output_dir="checkpoints", cpu=False, key=key)
    steps, sequences = arguments["max_steps"], section.prompts_per_step * section.rollouts_per_prompt
    return {
        "steps": steps,
        "sequences": steps * sequences,
        "tokens generated at most": steps * sequences * section.sampling.max_new_tokens,
        "reference model": "none" if section.kl_coef == 0 else "a frozen copy of the start",
        "reward": section.reward.model_dump(mode="json"),
        "advantage": f"(r - mean) / (std + {section.advantage_epsilon:g}) inside each prompt's rollouts",
        "GRPOConfig": arguments,
    }


def check_rollouts(section: GRPO, key: str) -> None:
    """Refuses rollouts by an engine that is not installed.

    Raises:
        InputError: They are by vLLM, which is missing.
    """
    if section.rollouts != "engine" and installed("vllm") is None:
        raise InputError(f"{key}.rollouts: {section.rollouts} needs vLLM; `pip install 'safereason[vllm]'` "
                         f"or pass {key}.rollouts=engine")  # fmt: skip


def _section(recipe: Recipe) -> GRPO:
    if recipe.rl is None:
        raise InputError(f"recipe {recipe.name}: it has no rl section")
    return recipe.rl


def _reward(recipe: Recipe) -> TarsReward:
    reward = _section(recipe).reward
    if not isinstance(reward, TarsReward):
        raise InputError(f"recipe {recipe.name}: rl.reward is {reward.name}, the reward of `guard train`")
    return reward


def _prompts(recipe: Recipe, options: Options) -> int:
    """Prompts of the built data, or as many as the recipe asks for where it is not built."""
    try:
        folder: Path = data.built(recipe, options)
        return len(read_examples(folder / "train.parquet"))
    except InputError:
        return int(getattr(recipe.data, "prompts", 0))
