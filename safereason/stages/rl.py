"""Stage `rl`: GRPO on the prompts that `data` wrote, from the model that `sft` made.

A recipe may name DPO instead; `training/preferences.py` makes its pairs and trains on them.
"""

from collections.abc import Sequence

from safereason import processes
from safereason.data.example import Example, read_examples
from safereason.engines import vllm
from safereason.engines.open import check_precision, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges import JudgeSpec
from safereason.recipe.schema import DPO, GRPO, Recipe, TarsMix, TarsRewardSettings
from safereason.rewards import judges_of, open_reward
from safereason.rewards.base import Reward
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import sha256
from safereason.stages import data, sft
from safereason.stages.base import (
    Identity,
    Metrics,
    Options,
    Outline,
    Result,
    base_model,
    finished_result,
    open_run,
    resolved_judge,
    run_identity,
    run_model,
    source_run,
)
from safereason.stages.contents import contents
from safereason.stages.preparation.training_sources import training_sources
from safereason.stages.verl import VerlTraining
from safereason.training import preferences, tracking
from safereason.training.arguments import grpo_schedule
from safereason.training.prompt_limit import short_enough
from safereason.training.resume import resume_point
from safereason.training.training_run import TrainingRun


def rl_identity(recipe: Recipe, model: ModelSpec, options: Options) -> Identity:
    """The identity of the trained model."""
    safety, task = _judges(_reward_with_runs(recipe, options))
    hashes = contents(models=[model], judges=[safety, task], sources=training_sources(recipe))
    guard = {}
    if safety.name == "guard":
        # The recipe's section names the guard's recipe only; the run behind it can be another one later.
        guard = {"guard": safety.identity()}
    return run_identity(recipe, "data", "rl", model=model.identity(), **guard, **hashes)


def train_rl(recipe: Recipe, options: Options) -> Result:
    """Trains; a killed run goes on from its last whole checkpoint and ends with the same records.

    Raises:
        InputError: The recipe has no `rl` section, or the data or the model to start from was not made.
    """
    section = _rl_section(recipe)
    # DPO draws its rollouts before the training, with our engine.
    if isinstance(section, GRPO):
        check_rollouts(section, "rl")
    tracking.check(recipe.report_to)
    start = start_model(recipe, options)
    # The run of a GRPO training by verl has another identity, so both can be there.
    directory = open_run("rl", recipe, options, start.label(), rl_identity(recipe, start, options))
    if (result := finished_result(directory)) is not None:
        return result
    prompts = data.built_data(recipe, options) / data.TRAIN
    # An unknown model or judge is refused before a directory is made.
    start.check()
    check_precision(section.precision, "rl.precision")
    reward = open_reward(_reward_with_runs(recipe, options))
    with directory as this:
        this.inputs[str(prompts)] = sha256(prompts)
        examples = read_examples(prompts)
        if isinstance(section, DPO):
            metrics = preferences.train_dpo(section, recipe, start, examples, reward, this)
        else:
            metrics = _train_grpo(section, recipe, start, examples, reward, this)
        this.finish(metrics)
    return Result(directory.path, metrics)


def rl_for_verl(recipe: Recipe, options: Options) -> VerlTraining:
    """The training of `train_rl` for verl.

    Raises:
        InputError: As `train_rl` does; or the recipe's rl is not GRPO.
    """
    section = _rl_section(recipe)
    if not isinstance(section, GRPO):
        raise InputError(f"recipe {recipe.name}: rl.algorithm is {section.algorithm}; --backend verl trains with grpo")
    reward = _reward_with_runs(recipe, options)
    # verl opens the judges in its own workers, where a mistake in a name is found late.
    _judges(reward)
    start = start_model(recipe, options)
    rows = data.built_data(recipe, options) / data.TRAIN
    return VerlTraining(
        "rl",
        "rl",
        section.model_copy(update={"reward": reward}),
        start,
        rl_identity(recipe, start, options),
        rows,
        read_examples(rows),
    )


def start_model(recipe: Recipe, options: Options) -> ModelSpec:
    """The model that RL starts from.

    It is `options.model`, else the recipe's finished sft run, else the base model of a recipe without sft.
    """
    # A model on the command line may be of any recipe, so nothing is expected of it.
    if options.model:
        return options.model
    base = base_model(recipe)
    if recipe.sft is None:
        return base
    return run_model(source_run("sft", recipe, options, sft.sft_identity(recipe, base)))


def start_words(recipe: Recipe, options: Options) -> str:
    """The words for `start_model` in a plan, which is possible before the sft run is there."""
    if not options.model and recipe.sft:
        return "the sft run of this recipe"
    return str(options.model or recipe.model)


def _train_grpo(
    section: GRPO, recipe: Recipe, start: ModelSpec, examples: Sequence[Example], reward: Reward, this: RunDirectory
) -> Metrics:
    """Trains on the prompts that are short enough, and returns the metrics."""
    from safereason.training import grpo

    tokenizer = load_tokenizer(start)
    kept = short_enough(examples, tokenizer, section.max_prompt_tokens, "rl", batch=section.prompts_per_step)
    resume = resume_point(this.path, "metrics", "rollouts")
    with this.records("metrics") as metrics, this.records("rollouts") as rollouts:
        training_run = TrainingRun.of_recipe(recipe, "rl", section, start, tokenizer, metrics, resume)
        trained = grpo.train(training_run, kept, reward, rollouts)
    return {**trained, "prompts": len(kept), "dropped_too_long": len(examples) - len(kept)}


def rl_outline(recipe: Recipe, options: Options) -> Outline:
    """The plan of `train_rl`. It reads only the recipe, and the data if that is already built."""
    section = _rl_section(recipe)
    prompts = _number_of_prompts(recipe, options)
    if isinstance(section, DPO):
        outline = preferences.dpo_outline(section, prompts, recipe.seed, "rl", options.processes)
    else:
        outline = grpo_outline(section, prompts, "rl", options.processes)
    return {"stage": "rl", "model": start_words(recipe, options), "prompts": prompts, **outline}


def grpo_outline(section: GRPO, prompts: int, key: str, process_count: int) -> Outline:
    """The size and the arguments of a GRPO training on so many prompts.

    Args:
        section: The recipe's section.
        prompts: Number of training prompts.
        key: The section's dotted key, for messages.
        process_count: Number of processes that share the training.
    """
    schedule = grpo_schedule(section, prompts=prompts, processes=process_count, key=key)
    steps = schedule.steps
    sequences = steps * section.prompts_per_step * section.rollouts_per_prompt
    reference_model = "a frozen copy of the start"
    # Without a KL term nothing reads a reference model, and none is loaded.
    if section.kl_coef == 0:
        reference_model = "none"
    return {
        "steps": steps,
        "sequences": sequences,
        "tokens generated at most": sequences * section.sampling.max_new_tokens,
        "reference model": reference_model,
        "reward": section.reward.model_dump(mode="json"),
        "advantage": f"(r - mean) / (std + {section.advantage_epsilon:g}) inside each prompt's rollouts",
        "processes": schedule.batch.processes,
        "rollouts in one forward pass": schedule.batch.per_device,
        "forward passes a step": schedule.batch.accumulation,
    }


def check_rollouts(section: GRPO, key: str) -> None:
    """Refuses rollouts that cannot be drawn on this machine.

    Raises:
        InputError: They are drawn by vLLM, and it or a GPU is missing; or DeepSpeed would hold the model.
    """
    if processes.uses_deepspeed():
        raise InputError(f"{key}: GRPO is trained by DDP or FSDP2, not by DeepSpeed; pass --launch accelerate:fsdp2")
    if section.rollouts == "engine":
        return
    if not vllm.is_installed():
        raise InputError(
            f"{key}.rollouts: {section.rollouts} needs vLLM; `{vllm.INSTALL}` or pass {key}.rollouts=engine"
        )
    import torch

    if not torch.cuda.is_available():
        raise InputError(f"{key}.rollouts: {section.rollouts} needs a GPU; pass {key}.rollouts=engine")


def _rl_section(recipe: Recipe) -> GRPO | DPO:
    if recipe.rl is None:
        raise InputError(f"recipe {recipe.name}: it has no rl section")
    return recipe.rl


def _tars_reward(recipe: Recipe) -> TarsRewardSettings:
    reward = _rl_section(recipe).reward
    if not isinstance(reward, TarsRewardSettings):
        raise InputError(f"recipe {recipe.name}: rl.reward is {reward.name}, the reward of `guard train`")
    return reward


def _reward_with_runs(recipe: Recipe, options: Options) -> TarsRewardSettings:
    """The recipe's reward with a judge `guard:RECIPE` turned into the run of that guard."""
    reward = _tars_reward(recipe)
    safety = resolved_judge(JudgeSpec.parse(reward.safety), options)
    return reward.model_copy(update={"safety": str(safety)})


def _judges(reward: TarsRewardSettings) -> tuple[JudgeSpec, JudgeSpec]:
    """The judge of safety and the judge of the task."""
    safety, task = judges_of(reward)
    return JudgeSpec.parse(safety), JudgeSpec.parse(task)


def _number_of_prompts(recipe: Recipe, options: Options) -> int:
    """The number of prompts of the built data, or as many as the recipe asks for where it is not built."""
    try:
        folder = data.built_data(recipe, options)
        return len(read_examples(folder / data.TRAIN))
    except InputError:
        mix = recipe.data
    # A guard's mix counts rows by label, and names no number of prompts.
    if not isinstance(mix, TarsMix):
        return 0
    return mix.prompts
