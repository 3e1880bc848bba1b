"""Stage `guard`: trains a guard on the labelled rows that `data` wrote, by SFT, by GRPO, or by SFT and then GRPO.

Each is a run of its own, `guard/sft` and `guard/rl`. The trained model carries `guard.json`, so that it is used later
with the prompt of its training.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from safereason import processes
from safereason.data.example import Example, read_examples
from safereason.engines.open import check_precision, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard.guard_prompt import GuardPrompt
from safereason.recipe.schema import (
    GRPO,
    PLACEMENT,
    SFT,
    GuardSection,
    Recipe,
    RecipeSection,
    RSafeMix,
    RSafeRewardSettings,
)
from safereason.rewards.rsafe import VerdictReward
from safereason.runs.directory import CHECKPOINTS, OnExisting, RunDirectory
from safereason.runs.manifest import sha256
from safereason.runs.records import Record, RecordLog, read_record, read_records
from safereason.stages import data
from safereason.stages.base import (
    GUARD_STAGES,
    Identity,
    Metrics,
    Options,
    Outline,
    Result,
    base_model,
    finished_result,
    open_run,
    run_identity,
    run_model,
)
from safereason.stages.contents import contents
from safereason.stages.preparation import guard_data
from safereason.stages.preparation.training_sources import training_sources
from safereason.stages.rl import check_rollouts, grpo_outline
from safereason.stages.sft import SFTPlan, run_sft
from safereason.stages.verl import VerlTraining
from safereason.training import tracking
from safereason.training.arguments import sft_arguments
from safereason.training.prompt_limit import short_enough
from safereason.training.resume import resume_point
from safereason.training.training_run import TrainingRun

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from safereason.training.validation import Validation

RL_STAGE, SFT_STAGE = GUARD_STAGES
BEST = "best"
"""Folder of the best model so far, until the end of the training."""
BEST_VALIDATION = "validation.json"
"""File beside the best model: the record of the validation that chose it."""


def train_guard(recipe: Recipe, options: Options) -> Result:
    """Trains the guard as its section says; the last run is the guard.

    A finished SFT run of the same identity is used as it is.

    Raises:
        InputError: The recipe has no guard, or its data was not built.
    """
    section = _guard_section(recipe)
    # `--model` is then the start of the SFT, and the RL goes on from its result.
    if section.sft is None:
        return train_guard_rl(recipe, options)
    if section.train is None:
        return train_guard_sft(recipe, options)
    return train_guard_rl(recipe, replace(options, model=_after_sft(recipe, options)))


def _after_sft(recipe: Recipe, options: Options) -> ModelSpec:
    """The finished SFT run that the RL starts from; it is made first where it is missing."""
    # `--out` and a refusal of what is there are for the last run, which is the RL.
    on_existing: OnExisting = "resume"
    if options.on_existing == "overwrite":
        on_existing = "overwrite"
    return run_model(train_guard_sft(recipe, replace(options, out=None, on_existing=on_existing)).run)


def guard_for_verl(recipe: Recipe, options: Options) -> VerlTraining:
    """The RL of `train_guard` as a training for verl. An SFT before it is done here, by TRL.

    Raises:
        InputError: As `train_guard` does; or the recipe wants the best model kept, which verl cannot.
    """
    guard = _guard_section(recipe)
    section = _grpo_part(guard, recipe)
    guard_prompt = guard_prompts.of_section(guard)
    if guard.validation is not None and guard.validation.keep_best:
        raise InputError(
            "guard.validation.keep_best: --backend verl cannot do this (it keeps the last model); "
            "pass guard.validation.keep_best=false"
        )
    folder = data.built_data(recipe, options)
    # An SFT can take hours, so all that the RL would refuse is refused before it.
    _check_validation(guard, folder)
    held_out = None
    every_steps = None
    if guard.validation is not None:
        held_out = read_examples(folder / data.VALIDATION)
        every_steps = guard.validation.every_steps
    start = options.model or base_model(recipe)
    if not options.model and guard.sft is not None:
        start = _after_sft(recipe, options)
    return VerlTraining(
        RL_STAGE,
        "guard.train",
        section,
        start,
        _guard_identity(recipe, guard, "train", section, start),
        folder / data.TRAIN,
        read_examples(folder / data.TRAIN),
        guard_data.prompt_builder(recipe, load_tokenizer(start)),
        held_out=held_out,
        every_steps=every_steps,
        reasoning=guard.reasoning,
        finish=guard_prompt.save,
    )


def train_guard_sft(recipe: Recipe, options: Options) -> Result:
    """Trains on the traces that `data` wrote: reasoning and verdict, or the verdict alone.

    Raises:
        InputError: The recipe has no guard with an SFT, or its data was not built.
    """
    guard = _guard_section(recipe)
    section = _sft_part(guard, recipe)
    guard_prompt = guard_prompts.of_section(guard)
    tracking.check(recipe.report_to)
    start = options.model or base_model(recipe)
    plan = SFTPlan(
        SFT_STAGE,
        "guard.sft",
        section,
        start,
        _guard_identity(recipe, guard, "sft", section, start),
        guard.reasoning,
        prompt_builder=partial(guard_data.prompt_builder, recipe),
        save_with_model=guard_prompt.save,
    )
    return run_sft(plan, recipe, options)


def train_guard_rl(recipe: Recipe, options: Options) -> Result:
    """Trains with GRPO on the labelled rows; a killed run goes on from its last whole checkpoint.

    Raises:
        InputError: The recipe has no guard with RL, or its data was not built.
    """
    guard = _guard_section(recipe)
    section = _grpo_part(guard, recipe)
    start = options.model or base_model(recipe)
    # Checks that read no file come first.
    check_rollouts(section, "guard.train")
    tracking.check(recipe.report_to)
    identity = _guard_identity(recipe, guard, "train", section, start)
    directory = open_run(RL_STAGE, recipe, options, start.label(), identity)
    if (result := finished_result(directory)) is not None:
        return result
    folder = data.built_data(recipe, options)
    _check_validation(guard, folder)
    start.check()
    check_precision(section.precision, "guard.train.precision")
    with directory as this:
        this.inputs[str(folder / data.TRAIN)] = sha256(folder / data.TRAIN)
        metrics = _train_guard_grpo(section, guard, recipe, start, folder, this)
        this.finish(metrics)
    return Result(directory.path, metrics)


def _train_guard_grpo(
    section: GRPO, guard: GuardSection, recipe: Recipe, start: ModelSpec, folder: Path, this: RunDirectory
) -> Metrics:
    """Trains on the rows of the built data in `folder`, and returns the metrics."""
    from safereason.training import grpo
    from safereason.training.collapse import CollapseWatch

    guard_prompt = guard_prompts.of_section(guard)
    tokenizer = load_tokenizer(start)
    build_prompt = guard_data.prompt_builder(recipe, tokenizer)
    examples = read_examples(folder / data.TRAIN)
    # The policy and the chat template count too.
    kept = short_enough(
        examples,
        tokenizer,
        section.max_prompt_tokens,
        "guard.train",
        batch=section.prompts_per_step,
        prompt_builder=build_prompt,
    )
    resume = resume_point(this.path, "metrics", "rollouts", "validation")
    # One process moves files, and the others wait until it has.
    processes.by_main(lambda: _restore_best(this.path))
    assert isinstance(section.reward, RSafeRewardSettings)
    reward = VerdictReward(section.reward.accuracy_weight, section.reward.format_weight, guard.reasoning)
    with (
        this.records("metrics") as metrics,
        this.records("rollouts") as rollouts,
        this.records("validation") as validations,
    ):
        # A resumed training has the records of its earlier steps, so the watch sees a collapse across the break.
        watch = CollapseWatch(read_records(metrics.path))
        validate = None
        if guard.validation is not None:
            rows = read_examples(folder / data.VALIDATION)
            # Validation draws as the rollouts do, so that its scores are those of the model being trained.
            sampled_prompt = replace(guard_prompt, sampling=section.sampling)
            validation = _validation(guard, section, sampled_prompt, tokenizer, rows, recipe, this, validations)
            validate = validation.after_step
        training_run = TrainingRun.of_recipe(recipe, "guard.train", section, start, tokenizer, metrics, resume)
        trained = grpo.train(
            training_run,
            kept,
            reward,
            rollouts,
            prompt_builder=build_prompt,
            validate=validate,
            watch=watch.add,
            shown=("reward", "accuracy", "unparsed", "says_unsafe"),
        )
    processes.by_main(lambda: _install_guard(this.path, guard_prompt))
    return {
        **trained,
        "rows": len(kept),
        "dropped_too_long": len(examples) - len(kept),
        "kept": _kept_model(this.path),
        "warnings": watch.warnings,
    }


def _check_validation(guard: GuardSection, folder: Path) -> None:
    """Refuses a validation that cannot be made."""
    if guard.validation is None:
        return
    if not (folder / data.VALIDATION).exists():
        raise InputError("guard.validation: the data holds no rows for it; set data.validation_rows_per_label")


def _validation(
    guard: GuardSection,
    section: GRPO,
    guard_prompt: GuardPrompt,
    tokenizer: "PreTrainedTokenizerBase",
    rows: Sequence[Example],
    recipe: Recipe,
    this: RunDirectory,
    log: RecordLog,
) -> "Validation":
    """The validation of the guard on held-out rows while it is trained."""
    from safereason.training.model import save_copy
    from safereason.training.validation import Validation

    assert guard.validation is not None
    best = None
    if guard.validation.keep_best:
        best = this.path / BEST
    return Validation(
        rows,
        guard_prompt,
        tokenizer,
        every=guard.validation.every_steps,
        seed=recipe.seed,
        log=log,
        best=best,
        save=lambda model, folder: save_copy(model, tokenizer, folder, section.precision),
    )


def _install_guard(run: Path, guard_prompt: GuardPrompt) -> None:
    """Replaces the last model by the best one, if one was kept, and writes the guard's prompt beside it."""
    if (run / BEST).is_dir():
        # A run that is killed between the two lines still has the best model, in its own folder.
        shutil.rmtree(run / "model")
        (run / BEST).rename(run / "model")
    guard_prompt.save(run / "model")


def _kept_model(run: Path) -> Record:
    """Record of which model was kept: the last one, or the best one with its validation."""
    validation = run / "model" / BEST_VALIDATION
    if not validation.is_file():
        return {"model": "last"}
    return {"model": "best", **read_record(validation)}


def _restore_best(run: Path) -> None:
    """Moves the best model back if the run was killed after `_install_guard`: the training writes `model` again."""
    if (run / "model" / BEST_VALIDATION).is_file():
        (run / "model").rename(run / BEST)


def guard_outline(recipe: Recipe, options: Options) -> Outline:
    """The plan of `train_guard`: rows of each source, the data if it is built, and each training's arguments."""
    guard = _guard_section(recipe)
    guard_prompt = guard_prompts.of_section(guard)
    assert isinstance(recipe.data, RSafeMix)
    # All sources are read to count their labels, so a plan also says what cannot be had.
    counts = row_counts(recipe, options)
    outline: Outline = {
        "stage": "guard",
        "model": str(options.model or recipe.model),
        "policy": f"{guard_prompt.policy.name}, {len(guard_prompt.policy.categories)} categories",
        "reasoning": guard.reasoning,
        "data": counts,
        "sources": guard_data.rows_by_source(recipe),
    }
    if guard.sft is not None:
        outline["sft"] = training_outline(recipe, options, "guard.sft", counts)
    if guard.train is not None:
        outline["rl"] = training_outline(recipe, options, "guard.train", counts)
    return outline


def training_outline(recipe: Recipe, options: Options, key: str, counts: Record) -> Outline:
    """The size and the arguments of one training of a guard.

    Args:
        recipe: The recipe.
        options: Options with the number of processes.
        key: The dotted key of the training's section.
        counts: From `row_counts`.
    """
    guard = _guard_section(recipe)
    if key == "guard.train":
        return grpo_outline(_grpo_part(guard, recipe), counts["rows"], key, options.processes)
    section = _sft_part(guard, recipe)
    arguments = sft_arguments(
        section,
        # A plan is possible before there are any traces.
        rows=max(counts["traces"], section.batch_size),
        seed=recipe.seed,
        output_dir=CHECKPOINTS,
        processes=options.processes,
        cpu=False,
        key=key,
    )
    steps = arguments["max_steps"]
    return {"steps": steps, "sequences": steps * section.batch_size, "SFTConfig": arguments}


def row_counts(recipe: Recipe, options: Options) -> Record:
    """The numbers of rows of the built data, or as many as the recipe asks for where it is not built."""
    try:
        folder = data.built_data(recipe, options)
    except InputError:
        return _requested_rows(recipe)
    # A file is missing where the recipe has no such rows.
    counts: Record = {"built": str(folder)}
    for key, name in (("rows", data.TRAIN), ("validation", data.VALIDATION), ("traces", data.TRACES)):
        counts[key] = 0
        if (folder / name).exists():
            counts[key] = len(read_examples(folder / name))
    return counts


def _requested_rows(recipe: Recipe) -> Record:
    """The numbers of rows that the recipe asks for. Its sources may turn out to hold fewer."""
    mix = recipe.data
    assert isinstance(mix, RSafeMix)
    guard = _guard_section(recipe)
    one_sided = sum(share.prompts for share in (*mix.safe_only, *mix.unsafe_only))
    # Every source gives as many safe rows as unsafe ones.
    rows = 2 * mix.rows_per_label * len(mix.sources) + one_sided
    traces = sum(share.prompts for share in mix.traces)
    if guard.sft is not None and not guard.reasoning:
        # A guard that does not reason is trained on the label of every row.
        traces = rows
    return {"built": False, "rows": rows, "validation": 2 * mix.validation_rows_per_label, "traces": traces}


def _guard_identity(
    recipe: Recipe, guard: GuardSection, part: str, section: RecipeSection, start: ModelSpec
) -> Identity:
    """The identity of the trained guard: its own part of the section, its prompt, and the data."""
    settings = {
        **guard_prompts.of_section(guard).prompt_settings(),
        part: section.model_dump(mode="json", exclude=PLACEMENT),
        "sampling": guard.sampling.model_dump(mode="json"),
    }
    # Validation decides which model is kept, and only RL has any.
    if part == "train" and guard.validation is not None:
        settings["validation"] = guard.validation.model_dump(mode="json")
    hashes = contents(models=[start], sources=training_sources(recipe))
    return run_identity(recipe, "data", guard=settings, model=start.identity(), **hashes)


def _guard_section(recipe: Recipe) -> GuardSection:
    if recipe.guard is None:
        raise InputError(f"recipe {recipe.name}: it has no guard section")
    if not isinstance(recipe.data, RSafeMix):
        raise InputError(f"recipe {recipe.name}: a guard trains on labelled rows; its data.mix has to be rsafe")
    return recipe.guard


def _sft_part(guard: GuardSection, recipe: Recipe) -> SFT:
    if guard.sft is None:
        raise InputError(f"recipe {recipe.name}: its guard has no sft section")
    return guard.sft


def _grpo_part(guard: GuardSection, recipe: Recipe) -> GRPO:
    if guard.train is None:
        raise InputError(f"recipe {recipe.name}: its guard has no train section")
    return guard.train
