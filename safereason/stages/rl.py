"""Stage `rl`: GRPO on the prompts that `data` wrote, from the model that `sft` made; or DPO (`stages/dpo.py`)."""

import logging
from pathlib import Path
from typing import Any

from safereason.data.example import Example, read_examples
from safereason.engines import vllm
from safereason.engines.open import check_name, load_tokenizer, model_location
from safereason.errors import InputError
from safereason.judges import parse
from safereason.recipe.schema import DPO, GRPO, Recipe, TarsReward
from safereason.rewards import judges_of, open_reward
from safereason.rewards.base import Reward
from safereason.runs.directory import CHECKPOINTS, RunDirectory
from safereason.runs.manifest import sha256
from safereason.runs.records import keep_records
from safereason.stages import data, dpo, sft
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
from safereason.stages.contents import contents
from safereason.stages.training_sources import needed
from safereason.stages.verl import Training
from safereason.training import tracking
from safereason.training.arguments import check_left, grpo_arguments

logger = logging.getLogger(__name__)


def identity_of(recipe: Recipe, model: str, options: Options) -> dict[str, Any]:
    """What the trained model depends on."""
    judge = resolved_judge(_reward(recipe).safety, options)
    guard = {"guard": judge_identity(judge)} if judge.startswith("guard:") else {}
    held = contents(models=[model], judges=[judge], sources=needed(recipe))
    return identity(recipe, "data", "rl", model=model_identity(model), **guard, **held)


def run(recipe: Recipe, options: Options) -> Result:
    """Trains; a killed run goes on from its last whole checkpoint and ends with the same records.

    Raises:
        InputError: The recipe has no `rl` section, or the data or the model to start from was not made.
    """
    section = _section(recipe)
    if isinstance(section, GRPO):
        check_rollouts(section, "rl")
    tracking.check(recipe.report_to)
    start = start_model(recipe, options)
    directory = open_run("rl", recipe, options, model_label(start), identity_of(recipe, start, options))
    if (result := finished_result(directory)) is not None:
        return result
    prompts = data.built(recipe, options) / "train.parquet"
    # An unknown model or judge is refused before a directory is made.
    check_name(start)
    named = _reward(recipe)
    reward = open_reward(named.model_copy(update={"safety": resolved_judge(named.safety, options)}))
    with directory as this:
        this.inputs[str(prompts)] = sha256(prompts)
        train: Any = dpo.train if isinstance(section, DPO) else _train
        metrics = train(section, recipe, start, read_examples(prompts), reward, this)
        this.finish(metrics)
    return Result(directory.path, metrics)


def for_verl(recipe: Recipe, options: Options) -> Training:
    """What `run` would train, for verl to do so.

    Raises:
        InputError: As `run` does; or the recipe's rl is not GRPO.
    """
    section, named = _section(recipe), _reward(recipe)
    if not isinstance(section, GRPO):
        raise InputError(f"recipe {recipe.name}: rl.algorithm is {section.algorithm}; --backend verl trains with grpo")
    reward = named.model_copy(update={"safety": resolved_judge(named.safety, options)})
    for spec in judges_of(reward):
        parse(spec)
    start = start_model(recipe, options)
    rows = data.built(recipe, options) / data.TRAIN
    return Training(
        "rl",
        "rl",
        section.model_copy(update={"reward": reward}),
        start,
        identity_of(recipe, start, options),
        rows,
        read_examples(rows),
    )


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
    check_left(len(kept), len(examples), section.max_prompt_tokens, "rl.max_prompt_tokens", section.prompts_per_step)
    checkpoint, done = last_checkpoint(this.path / CHECKPOINTS) or (None, 0)
    for name in ("metrics", "rollouts"):
        keep_records(this.path / f"{name}.jsonl", lambda record: record["step"] <= done)
    with this.records("metrics") as metrics, this.records("rollouts") as rollouts:
        trained = grpo.train(
            section,
            model_location(start),
            tokenizer,
            kept,
            reward,
            seed=recipe.seed,
            run=this.path,
            metrics=metrics,
            rollouts=rollouts,
            resume_from=checkpoint,
            steps_done=done,
            report_to=recipe.report_to,
        )
    return {**trained, "prompts": len(kept), "dropped_too_long": len(examples) - len(kept)}


def plan(recipe: Recipe, options: Options) -> dict[str, Any]:
    """What `run` would do: nothing is read but the recipe and the data that is already built."""
    section, prompts = _section(recipe), _prompts(recipe, options)
    outlined: Any = dpo.outline if isinstance(section, DPO) else outline
    return {
        "stage": "rl",
        "model": options.model or ("the sft run of this recipe" if recipe.sft else recipe.model),
        "prompts": prompts,
        **outlined(section, prompts, recipe.seed, "rl", options.processes),
    }


def outline(section: GRPO, prompts: int, seed: int, key: str, processes: int) -> dict[str, Any]:
    """What a GRPO section comes to on so many prompts; `key` is its dotted key, for messages."""
    arguments = grpo_arguments(
        section, prompts=prompts, seed=seed, output_dir=CHECKPOINTS, processes=processes, cpu=False, key=key
    )
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
    """Refuses rollouts that cannot be drawn here.

    Raises:
        InputError: They are by vLLM, and it or a GPU is missing.
    """
    if section.rollouts == "engine":
        return
    if not vllm.is_installed():
        raise InputError(
            f"{key}.rollouts: {section.rollouts} needs vLLM; `{vllm.INSTALL}` or pass {key}.rollouts=engine"
        )
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"{key}.rollouts: {section.rollouts} needs a GPU; pass {key}.rollouts=engine")


def _section(recipe: Recipe) -> GRPO | DPO:
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
