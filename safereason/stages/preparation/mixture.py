"""The mix of a recipe's training data: drawn with a teacher's traces, or the prompts that a teacher has to answer."""

from collections.abc import Iterable, Sequence

from safereason.data import rsafe_mix, sources, tars_mix
from safereason.data.example import Example
from safereason.data.filters import Refuse, refuse_any
from safereason.data.sampling import Mixture, SourceReader
from safereason.recipe.schema import Recipe, RSafeMix
from safereason.stages.base import Options
from safereason.stages.preparation import guard_data
from safereason.stages.preparation.contamination import ContaminationCheck
from safereason.stages.preparation.training_sources import (
    check_sources,
    located,
    teacher_written,
    trace_sources,
)


def draw_mixture(recipe: Recipe, options: Options, contamination: ContaminationCheck) -> Mixture:
    """Draws the mix of a recipe whose sources can all be had.

    Raises:
        InputError: A source is too small, or a guard's SFT has no reasoning to train on.
    """
    # A mistake in the recipe is found before any source is read.
    guard_data.check_traces(recipe)
    teacher_sources = trace_sources(recipe)
    read_traces = _trace_reader(teacher_sources, teacher_written(recipe, options))
    read_prompts = _prompt_reader(recipe, options)
    refuse = _refusal(recipe, contamination)
    mix = recipe.data
    if isinstance(mix, RSafeMix):
        drawn = rsafe_mix.build(mix, recipe.seed, read_prompts, read_traces, taught=teacher_sources, refuse=refuse)
        return guard_data.with_verdicts(recipe, drawn)
    return tars_mix.build(mix, recipe.seed, read_prompts, read_traces, taught=teacher_sources, refuse=refuse)


def prompts_for_teacher(recipe: Recipe) -> list[Example]:
    """The prompts of the recipe's traces whose source has no traces of its own, in order.

    For a guard these are labelled rows; the teacher classifies them with the guard's own prompt.

    Raises:
        InputError: Sources cannot be had; a line for each says how to get it.
    """
    teacher_sources = trace_sources(recipe)
    check_sources(teacher_sources)
    # Rainbow teaming attacks the SFT model, so its archive comes after the traces and none has to be located.
    read_prompts = _prompt_reader(recipe, Options())
    refuse = _refusal(recipe, ContaminationCheck.of(recipe))
    mix = recipe.data
    if isinstance(mix, RSafeMix):
        return rsafe_mix.to_trace(mix, recipe.seed, read_prompts, teacher_sources, refuse=refuse)
    read_traces = _trace_reader(teacher_sources, ())
    return tars_mix.to_trace(mix, recipe.seed, read_prompts, read_traces, taught=teacher_sources, refuse=refuse)


def _prompt_reader(recipe: Recipe, options: Options) -> SourceReader:
    return lambda name: sources.get(located(recipe, options, name)).stream("train")


def _trace_reader(teacher_sources: Sequence[str], teacher_traces: Iterable[Example]) -> SourceReader:
    """A function that reads a source's traces: the teacher's, or those that the source holds itself."""

    def read_traces(name: str) -> Iterable[Example]:
        # The mix takes a teacher's traces by source, as it does those that a source holds.
        if name in teacher_sources:
            return teacher_traces
        return sources.get(name).traces("train")

    return read_traces


def _refusal(recipe: Recipe, contamination: ContaminationCheck) -> Refuse:
    """The reason to refuse a row: it is a test row, or too long for a guard's prompt."""
    # Comparing texts is cheaper than tokenizing them, so it comes first.
    return refuse_any(contamination.refuse(), guard_data.too_long(recipe))
