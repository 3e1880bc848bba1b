"""Stage `sft`: light supervised fine-tuning on the reasoning traces that `data` wrote."""

import logging
from pathlib import Path
from typing import Any

from safereason.data.example import read_examples
from safereason.engines.open import check_name, load_tokenizer, model_location
from safereason.errors import InputError
from safereason.recipe.schema import SFT, Recipe, TarsMix
from safereason.runs.directory import CHECKPOINTS
from safereason.runs.manifest import sha256
from safereason.runs.records import keep_records
from safereason.stages import data
from safereason.stages.base import (
    Options,
    Result,
    finished_result,
    identity,
    model_identity,
    model_label,
    open_run,
)
from safereason.stages.contents import contents
from safereason.stages.training_sources import needed
from safereason.training import tracking
from safereason.training.arguments import check_left, sft_arguments

logger = logging.getLogger(__name__)


def identity_of(recipe: Recipe, model: str) -> dict[str, Any]:
    """What the trained model depends on."""
    held = contents(models=[model], sources=needed(recipe))
    return identity(recipe, "data", "sft", model=model_identity(model), **held)


def run(recipe: Recipe, options: Options) -> Result:
    """Trains the recipe's base model on its traces.

    Raises:
        InputError: The recipe has no `sft` section, or the data was not built.
    """
    section = _section(recipe)
    tracking.check(recipe.report_to)
    start = options.model or recipe.model
    directory = open_run("sft", recipe, options, model_label(start), identity_of(recipe, start))
    if (result := finished_result(directory)) is not None:
        return result
    check_name(start)
    traces, location = _traces_file(recipe, options), model_location(start)
    with directory as this:
        from safereason.training import sft
        from safereason.training.callbacks import last_checkpoint

        this.inputs[str(traces)] = sha256(traces)
        tokenizer = load_tokenizer(start)
        rows = sft.tokenize(tokenizer, read_examples(traces), section.max_tokens, reasoned=section.reasoning)
        logger.info("%d rows, %d too long, %d without reasoning", len(rows.rows), rows.too_long, rows.empty_reasoning)
        check_left(
            len(rows.rows), len(rows.rows) + rows.too_long, section.max_tokens, "sft.max_tokens", section.batch_size
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
            )
        metrics = {
            **trained,
            "rows": len(rows.rows),
            "dropped_too_long": rows.too_long,
            "dropped_empty_reasoning": rows.empty_reasoning,
        }
        this.finish(metrics)
    return Result(directory.path, metrics)


def plan(recipe: Recipe, options: Options) -> dict[str, Any]:
    """What `run` would do: nothing is read but the recipe and the card of data that is already built."""
    section = _section(recipe)
    rows = _rows(recipe, options)
    arguments = sft_arguments(
        section, rows=rows, seed=recipe.seed, output_dir=CHECKPOINTS, processes=options.processes, cpu=False
    )
    steps = arguments["max_steps"]
    return {
        "stage": "sft",
        "model": options.model or recipe.model,
        "rows": rows,
        "steps": steps,
        "sequences": steps * section.batch_size,
        "tokens at most": steps * section.batch_size * section.max_tokens,
        "SFTConfig": arguments,
    }


def _section(recipe: Recipe) -> SFT:
    if recipe.sft is None:
        raise InputError(f"recipe {recipe.name}: it has no sft section; its model starts at the next stage")
    return recipe.sft


def _traces_file(recipe: Recipe, options: Options) -> Path:
    return data.built(recipe, options) / "traces.parquet"


def _rows(recipe: Recipe, options: Options) -> int:
    """Traces of the built data, or as many as the recipe asks for where it is not built."""
    try:
        return len(read_examples(_traces_file(recipe, options)))
    except InputError:
        if not isinstance(recipe.data, TarsMix):
            return 0
        mix = recipe.data
        prompts = mix.prompts if mix.trace_prompts else sum(share.prompts for share in mix.traces)
        return prompts * mix.traces_per_prompt
