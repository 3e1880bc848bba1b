"""Stage `sft`: light supervised fine-tuning on the reasoning traces that `data` wrote.

The supervised fine-tuning of a guard (`stages/guard.py`) is the same run with another prompt, so it uses `run_sft` too.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safereason import processes
from safereason.data.example import Example, read_examples
from safereason.data.prompt_builder import PromptBuilder, user_turn
from safereason.engines.open import check_precision, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.recipe.schema import SFT, Recipe, TarsMix
from safereason.runs.directory import CHECKPOINTS
from safereason.runs.manifest import sha256
from safereason.stages import data
from safereason.stages.base import (
    GUARD_STAGES,
    Identity,
    Options,
    Outline,
    Result,
    base_model,
    finished_result,
    open_run,
    run_identity,
)
from safereason.stages.contents import contents
from safereason.stages.preparation.training_sources import training_sources
from safereason.training import tracking
from safereason.training.arguments import check_left, sft_arguments
from safereason.training.resume import resume_point
from safereason.training.training_run import TrainingRun

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from safereason.training.sft import TokenizedTraces

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SFTPlan:
    """One supervised fine-tuning: of a reasoning model, or of a guard."""

    stage: str
    key: str
    """Dotted key of the section, for messages."""
    section: SFT
    start: ModelSpec
    """Model that the training starts from."""
    identity: Identity
    reasoned: bool
    """Whether the reasoning is trained on. If not, the answer alone is."""
    prompt_builder: "Callable[[PreTrainedTokenizerBase], PromptBuilder]" = lambda tokenizer: user_turn
    """Makes the function that turns a row into a prompt."""
    save_with_model: Callable[[Path], None] | None = None
    """Writes further files into the folder of the trained model."""


def sft_identity(recipe: Recipe, model: ModelSpec) -> Identity:
    """The identity of the trained model."""
    # Files of data count too: the data section holds their names only.
    hashes = contents(models=[model], sources=training_sources(recipe))
    return run_identity(recipe, "data", "sft", model=model.identity(), **hashes)


def train_sft(recipe: Recipe, options: Options) -> Result:
    """Trains the recipe's base model on its traces.

    Raises:
        InputError: The recipe has no `sft` section, or the data was not built.
    """
    section = _sft_section(recipe)
    # A tracker that is not installed would otherwise be found after the model was loaded.
    tracking.check(recipe.report_to)
    start = options.model or base_model(recipe)
    plan = SFTPlan("sft", "sft", section, start, sft_identity(recipe, start), section.reasoning)
    return run_sft(plan, recipe, options)


def run_sft(plan: SFTPlan, recipe: Recipe, options: Options) -> Result:
    """Trains on the traces of the built data, in a run directory of the plan's stage.

    A killed run goes on from its last whole checkpoint.

    Raises:
        InputError: The data was not built, or too few rows are short enough.
    """
    section = plan.section
    directory = open_run(plan.stage, recipe, options, plan.start.label(), plan.identity)
    if (result := finished_result(directory)) is not None:
        return result
    # Everything that a person may have to mend is checked before the directory is made.
    plan.start.check()
    check_precision(section.precision, f"{plan.key}.precision")
    traces = _traces_file(recipe, options)
    with directory as this:
        from safereason.training import sft

        this.inputs[str(traces)] = sha256(traces)
        tokenizer = load_tokenizer(plan.start)
        tokenized = _tokenized_rows(plan, tokenizer, read_examples(traces))
        resume = resume_point(this.path, "metrics")
        with this.records("metrics") as log:
            training_run = TrainingRun.of_recipe(recipe, plan.key, section, plan.start, tokenizer, log, resume)
            trained = sft.train(training_run, tokenized.rows)
        # One process writes these files, and all of them go on when they are there.
        save_with_model = plan.save_with_model
        if save_with_model is not None:
            processes.by_main(lambda: save_with_model(this.path / "model"))
        metrics = {
            **trained,
            "rows": len(tokenized.rows),
            "dropped_too_long": tokenized.too_long,
            "dropped_empty_reasoning": tokenized.empty_reasoning,
        }
        if plan.stage in GUARD_STAGES:
            # Older runs of guards have the count under this key alone, and scripts read it there.
            metrics["dropped_empty"] = tokenized.empty_reasoning
        this.finish(metrics)
    return Result(directory.path, metrics)


def _tokenized_rows(
    plan: SFTPlan, tokenizer: "PreTrainedTokenizerBase", traces: Sequence[Example]
) -> "TokenizedTraces":
    """The traces as token ids, without those that are too long or empty.

    Raises:
        InputError: Too few rows are left for one batch.
    """
    from safereason.training import sft

    section = plan.section
    build_prompt = plan.prompt_builder(tokenizer)
    # The mask is on the completion alone, so the model learns to write completions and no prompts.
    tokenized = sft.tokenize(tokenizer, traces, section.max_tokens, prompt_builder=build_prompt, reasoned=plan.reasoned)
    kept = len(tokenized.rows)
    too_long = tokenized.too_long
    logger.info("%d rows, %d too long, %d without reasoning", kept, too_long, tokenized.empty_reasoning)
    check_left(kept, kept + too_long, section.max_tokens, f"{plan.key}.max_tokens", section.batch_size)
    return tokenized


def sft_outline(recipe: Recipe, options: Options) -> Outline:
    """The plan of `train_sft`. It reads only the recipe, and the data if that is already built."""
    section = _sft_section(recipe)
    rows = _number_of_traces(recipe, options)
    arguments = sft_arguments(
        section, rows=rows, seed=recipe.seed, output_dir=CHECKPOINTS, processes=options.processes, cpu=False
    )
    # TRL is given steps in place of epochs, so the plan and the training cannot differ.
    steps = arguments["max_steps"]
    return {
        "stage": "sft",
        "model": str(options.model or recipe.model),
        "rows": rows,
        "steps": steps,
        "sequences": steps * section.batch_size,
        "tokens at most": steps * section.batch_size * section.max_tokens,
        "SFTConfig": arguments,
    }


def _sft_section(recipe: Recipe) -> SFT:
    if recipe.sft is None:
        raise InputError(f"recipe {recipe.name}: it has no sft section; its model starts at the next stage")
    return recipe.sft


def _traces_file(recipe: Recipe, options: Options) -> Path:
    return data.built_data(recipe, options) / data.TRACES


def _number_of_traces(recipe: Recipe, options: Options) -> int:
    """The number of traces of the built data, or as many as the recipe asks for where it is not built."""
    # A plan is possible before there is any data.
    try:
        return len(read_examples(_traces_file(recipe, options)))
    except InputError:
        mix = recipe.data
    if not isinstance(mix, TarsMix):
        return 0
    # With `trace_prompts` the traces answer the training prompts; else their shares say how many there are.
    prompts = mix.prompts
    if not mix.trace_prompts:
        prompts = sum(share.prompts for share in mix.traces)
    return prompts * mix.traces_per_prompt
