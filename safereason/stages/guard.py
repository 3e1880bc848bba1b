"""Stage `guard`: trains a guard on the labelled rows that `data` wrote, by SFT, by GRPO, or by one after the other.

Each is a run of its own, `guard/sft` and `guard/rl`; the model of either carries `guard.json`, so that it is asked
afterwards as it was in training.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from safereason import processes
from safereason.data.example import Example, read_examples
from safereason.engines.open import check_name, load_tokenizer, model_location
from safereason.errors import InputError
from safereason.guard import guide as guides
from safereason.guard.guide import Guide
from safereason.guard.prompt import Question
from safereason.recipe.schema import GRPO, Guard, Recipe, RSafeMix, RSafeReward
from safereason.rewards.rsafe import VerdictReward
from safereason.runs.directory import CHECKPOINTS, OnExisting, RunDirectory
from safereason.runs.manifest import sha256
from safereason.runs.records import keep_records, read_json, read_records
from safereason.stages import data, guard_data
from safereason.stages.base import (
    GUARD_STAGES,
    Options,
    Result,
    finished_result,
    identity,
    model_identity,
    model_label,
    open_run,
)
from safereason.stages.contents import contents
from safereason.stages.rl import check_rollouts, outline
from safereason.stages.training_sources import needed
from safereason.stages.verl import Training
from safereason.text.chat import Message, prompt_ids
from safereason.text.inert import special_tokens
from safereason.training import tracking
from safereason.training.arguments import check_left, sft_arguments

RL_STAGE, SFT_STAGE = GUARD_STAGES
BEST = "best"
LOOK = "validation.json"
"""Beside the best model: the record of the look that chose it."""


def run(recipe: Recipe, options: Options) -> Result:
    """Trains what the recipe's guard section asks for; the last run is the guard.

    A finished SFT run of the same identity is taken as it is.

    Raises:
        InputError: The recipe has no guard, or its data was not built.
    """
    section = _section(recipe)
    if section.sft is None:
        return run_rl(recipe, options)
    if section.train is None:
        return run_sft(recipe, options)
    return run_rl(recipe, replace(options, model=_after_sft(recipe, options)))


def _after_sft(recipe: Recipe, options: Options) -> str:
    """The finished SFT run that the RL starts from."""
    again: OnExisting = "overwrite" if options.on_existing == "overwrite" else "resume"
    return str(run_sft(recipe, replace(options, out=None, on_existing=again)).run)


def for_verl(recipe: Recipe, options: Options) -> Training:
    """What the RL of `run` would train, for verl to do so; an SFT before it is done first, by TRL.

    Raises:
        InputError: As `run` does; or the recipe wants the best model kept, which verl cannot.
    """
    guard = _section(recipe)
    section, guide = _part(guard.train, "train", recipe), guides.of_section(guard)
    if guard.validation is not None and guard.validation.keep_best:
        raise InputError(
            "guard.validation.keep_best: --backend verl cannot do this (it keeps the last model); "
            "pass guard.validation.keep_best=false"
        )
    folder, held_out = _data_run(recipe, options), guard.validation is not None
    _check_held_out(guard, folder)
    start = options.model or (recipe.model if guard.sft is None else _after_sft(recipe, options))
    return Training(
        RL_STAGE,
        "guard.train",
        section,
        start,
        _identity(recipe, guard, "train", start),
        folder / data.TRAIN,
        read_examples(folder / data.TRAIN),
        _asker(guide, load_tokenizer(start)),
        held_out=read_examples(folder / data.VALIDATION) if held_out else None,
        every_steps=guard.validation.every_steps if guard.validation else None,
        reasoning=guard.reasoning,
        finish=guide.save,
    )


def run_sft(recipe: Recipe, options: Options) -> Result:
    """Trains on the traces that `data` wrote: reasoning and verdict, or the verdict alone."""
    guard = _section(recipe)
    section, guide = _part(guard.sft, "sft", recipe), guides.of_section(guard)
    tracking.check(recipe.report_to)
    start = options.model or recipe.model
    directory = open_run(SFT_STAGE, recipe, options, model_label(start), _identity(recipe, guard, "sft", start))
    if (result := finished_result(directory)) is not None:
        return result
    check_name(start)
    traces, location = _data_run(recipe, options) / data.TRACES, model_location(start)
    with directory as this:
        from safereason.training import sft
        from safereason.training.callbacks import last_checkpoint

        this.inputs[str(traces)] = sha256(traces)
        tokenizer = load_tokenizer(start)
        rows = sft.tokenize(
            tokenizer, read_examples(traces), section.max_tokens, ask=_asker(guide, tokenizer), reasoned=guard.reasoning
        )
        check_left(
            len(rows.rows),
            len(rows.rows) + rows.too_long,
            section.max_tokens,
            "guard.sft.max_tokens",
            section.batch_size,
        )
        checkpoint, done = last_checkpoint(this.path / CHECKPOINTS) or (None, 0)
        keep_records(this.path / "metrics.jsonl", lambda record: record["step"] <= done)
        with this.records("metrics") as log:
            trained = sft.train(
                section,
                location,
                tokenizer,
                rows.rows,
                seed=recipe.seed,
                run=this.path,
                log=log,
                resume_from=checkpoint,
                steps_done=done,
                report_to=recipe.report_to,
                key="guard.sft",
            )
        processes.by_main(lambda: guide.save(this.path / "model"))
        metrics = {
            **trained,
            "rows": len(rows.rows),
            "dropped_too_long": rows.too_long,
            "dropped_empty": rows.empty_reasoning,
        }
        this.finish(metrics)
    return Result(directory.path, metrics)


def run_rl(recipe: Recipe, options: Options) -> Result:
    """Trains with GRPO on the labelled rows; a killed run goes on from its last whole checkpoint."""
    guard = _section(recipe)
    section, start = _part(guard.train, "train", recipe), options.model or recipe.model
    check_rollouts(section, "guard.train")
    tracking.check(recipe.report_to)
    directory = open_run(RL_STAGE, recipe, options, model_label(start), _identity(recipe, guard, "train", start))
    if (result := finished_result(directory)) is not None:
        return result
    folder = _data_run(recipe, options)
    _check_held_out(guard, folder)
    check_name(start)
    with directory as this:
        this.inputs[str(folder / data.TRAIN)] = sha256(folder / data.TRAIN)
        metrics = _train(section, guard, recipe, start, folder, this)
        this.finish(metrics)
    return Result(directory.path, metrics)


def _train(section: GRPO, guard: Guard, recipe: Recipe, start: str, folder: Path, this: RunDirectory) -> dict[str, Any]:
    from safereason.training import grpo
    from safereason.training.callbacks import last_checkpoint
    from safereason.training.collapse import CollapseWatch

    guide, tokenizer = guides.of_section(guard), load_tokenizer(start)
    ask = _asker(guide, tokenizer)
    examples = read_examples(folder / data.TRAIN)
    kept = [e for e in examples if len(prompt_ids(tokenizer, ask(e))) <= section.max_prompt_tokens]
    check_left(
        len(kept), len(examples), section.max_prompt_tokens, "guard.train.max_prompt_tokens", section.prompts_per_step
    )
    checkpoint, done = last_checkpoint(this.path / CHECKPOINTS) or (None, 0)
    for name in ("metrics", "rollouts", "validation"):
        # Without a checkpoint the look before the first step is taken again, too.
        keep_records(this.path / f"{name}.jsonl", lambda record: checkpoint is not None and record["step"] <= done)
    processes.by_main(lambda: _take_back_best(this.path))
    assert isinstance(section.reward, RSafeReward)
    reward = VerdictReward(section.reward.accuracy_weight, section.reward.format_weight, guard.reasoning)
    with this.records("metrics") as metrics, this.records("rollouts") as rollouts, this.records("validation") as looks:
        watch = CollapseWatch(read_records(metrics.path))
        callbacks = [watch]
        if guard.validation is not None:
            callbacks.append(_validation(guard, section, guide, tokenizer, folder, recipe.seed, this.path, looks))
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
            ask=ask,
            callbacks=callbacks,
            shown=("reward", "accuracy", "unparsed", "says_unsafe"),
            report_to=recipe.report_to,
            key="guard.train",
        )
    processes.by_main(lambda: _settle(this.path, guide))
    return {
        **trained,
        "rows": len(kept),
        "dropped_too_long": len(examples) - len(kept),
        "kept": _kept(this.path),
        "warnings": watch.warnings,
    }


def _check_held_out(guard: Guard, folder: Path) -> None:
    if guard.validation is not None and processes.uses_deepspeed():
        raise InputError(
            "guard.validation: cannot be done under DeepSpeed; pass guard.validation=null, or --launch accelerate:fsdp2"
        )
    if guard.validation is not None and not (folder / data.VALIDATION).exists():
        raise InputError("guard.validation: the data holds no rows for it; set data.validation_rows_per_label")


def _validation(
    guard: Guard, section: GRPO, guide: Guide, tokenizer: Any, folder: Path, seed: int, run: Path, log: Any
) -> Any:
    from safereason.training.model import save_copy
    from safereason.training.validation import Validation

    assert guard.validation is not None
    return Validation(
        read_examples(folder / data.VALIDATION),
        replace(guide, sampling=section.sampling),
        tokenizer,
        every=guard.validation.every_steps,
        seed=seed,
        log=log,
        best=run / BEST if guard.validation.keep_best else None,
        save=lambda model, to: save_copy(model, tokenizer, to, section.precision),
    )


def _settle(run: Path, guide: Guide) -> None:
    """Puts the best model in the last one's place, where there is one, and says how it is asked."""
    if (run / BEST).is_dir():
        shutil.rmtree(run / "model")
        (run / BEST).rename(run / "model")
    guide.save(run / "model")


def _kept(run: Path) -> dict[str, Any]:
    """Which model was kept."""
    look = run / "model" / LOOK
    return {"model": "best", **read_json(look)} if look.is_file() else {"model": "last"}


def _take_back_best(run: Path) -> None:
    """Undoes that where the run was killed before it finished: the last model will be written there again."""
    if (run / "model" / LOOK).is_file():
        (run / "model").rename(run / BEST)


def plan(recipe: Recipe, options: Options) -> dict[str, Any]:
    """What `run` would do: the sources with their rows, what is built already, and each training's arguments."""
    guard, guide = _section(recipe), guides.of_section(_section(recipe))
    assert isinstance(recipe.data, RSafeMix)
    counts = _counts(recipe, options)
    found: dict[str, Any] = {
        "stage": "guard",
        "model": options.model or recipe.model,
        "policy": f"{guide.policy.name}, {len(guide.policy.categories)} categories",
        "reasoning": guard.reasoning,
        "data": counts,
        "sources": guard_data.reachable(recipe),
    }
    if guard.sft is not None:
        arguments = sft_arguments(
            guard.sft,
            rows=max(counts["traces"], guard.sft.batch_size),
            seed=recipe.seed,
            output_dir=CHECKPOINTS,
            processes=options.processes,
            cpu=False,
            key="guard.sft",
        )
        found["sft"] = {"steps": arguments["max_steps"], "SFTConfig": arguments}
    if guard.train is not None:
        found["rl"] = outline(guard.train, counts["rows"], recipe.seed, "guard.train", options.processes)
    return found


def _counts(recipe: Recipe, options: Options) -> dict[str, Any]:
    """Rows of the built data, or as many as the recipe asks for where it is not built."""
    try:
        folder = _data_run(recipe, options)
    except InputError:
        mix = recipe.data
        assert isinstance(mix, RSafeMix)
        shares = sum(share.prompts for share in (*mix.safe_only, *mix.unsafe_only))
        rows = 2 * mix.rows_per_label * len(mix.sources) + shares
        guard = _section(recipe)
        verdicts = guard.sft is not None and not guard.reasoning
        return {
            "built": False,
            "rows": rows,
            "validation": 2 * mix.validation_rows_per_label,
            "traces": rows if verdicts else sum(share.prompts for share in mix.traces),
        }
    rows_of = {
        name: len(read_examples(folder / name)) if (folder / name).exists() else 0
        for name in (data.TRAIN, data.VALIDATION, data.TRACES)
    }
    return {"built": str(folder), **{name.partition(".")[0].replace("train", "rows"): n for name, n in rows_of.items()}}


def _identity(recipe: Recipe, guard: Guard, part: str, start: str) -> dict[str, Any]:
    """What the trained guard depends on: its own part of the section, what it is asked with, and the data."""
    trained = {part: getattr(guard, part).model_dump(mode="json"), "sampling": guard.sampling.model_dump(mode="json")}
    if part == "train" and guard.validation is not None:
        trained["validation"] = guard.validation.model_dump(mode="json")
    asked = {**guides.of_section(guard).asked(), **trained}
    held = contents(models=[start], sources=needed(recipe))
    return identity(recipe, "data", guard=asked, model=model_identity(start), **held)


def _section(recipe: Recipe) -> Guard:
    if recipe.guard is None:
        raise InputError(f"recipe {recipe.name}: it has no guard section")
    if not isinstance(recipe.data, RSafeMix):
        raise InputError(f"recipe {recipe.name}: a guard trains on labelled rows; its data.mix has to be rsafe")
    return recipe.guard


def _part(section: Any, name: str, recipe: Recipe) -> Any:
    if section is None:
        raise InputError(f"recipe {recipe.name}: its guard has no {name} section")
    return section


def _data_run(recipe: Recipe, options: Options) -> Path:
    return data.built(recipe, options)


def _asker(guide: Guide, tokenizer: Any) -> Any:
    """What is asked about a row: the very text that the trained guard is asked afterwards."""
    special = special_tokens(tokenizer)

    def ask(example: Example) -> list[Message]:
        return guide.conversation(Question(example.prompt, example.response), special)

    return ask
