"""Accuracy on mathematics, knowledge and reading, by the tasks of EleutherAI's lm-evaluation-harness.

TARS (arXiv 2507.00971) measures GSM8K, MATH-500, GPQA, MMLU-Pro and SQuAD. Prompts, the parsing of answers and metrics
are the harness's; our engine generates the answers, with the model's own chat template.

Deviations: (1) which variants of the tasks the paper took is not known: ours let the model reason before it answers;
(2) reasoning is left out before an answer is scored, and a task's stop texts cut the answer alone; (3) the recipe says
how completions are drawn, and a task only how many tokens they need; (4) where a task compares likelihoods,
the reasoning of a model that reasons is left empty; (5) intervals are Wilson's or Student's where a figure is the mean
of its items, else the harness's standard error taken 1.96 times either way.
"""

import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TypeGuard

from safereason.errors import InputError
from safereason.evals.metrics import Figure, mean, proportion
from safereason.runs.records import Record

TASKS = ("gsm8k_cot_zeroshot", "minerva_math500", "gpqa_diamond_cot_zeroshot", "mmlu_pro", "squad_completion")
"""The harness's names of the tasks nearest to the paper's."""
_Z = 1.959964
"""Half the width of a normal 95 % interval, in standard errors."""


def check_installed() -> None:
    """Refuses an evaluation without the harness, before a model is loaded.

    Raises:
        InputError: The harness is not installed.
    """
    # Looked for and not imported, which takes seconds.
    if find_spec("lm_eval") is None:
        raise InputError("eval capability: lm-eval is not installed; pip install 'safereason[capability]'")


def figures(results: Record) -> list[Figure]:
    """The harness's results as figures: one for each metric of each task or group of tasks, which is its `group`.

    A metric has the harness's name. A filter that parsed the answer follows after a colon, as in
    `exact_match:flexible-extract`.
    """
    made: list[Figure] = []
    for task, row in results["results"].items():
        samples = results.get("samples", {}).get(task, ())
        made += _task_figures(task, row, samples)
    return made


def names(figures: Sequence[Figure]) -> tuple[str, ...]:
    """Names of figures, each once."""
    return tuple(dict.fromkeys(figure.name for figure in figures))


def _task_figures(task: str, row: Record, samples: Sequence[Record]) -> Iterator[Figure]:
    """The figures of one task; `samples` are its items."""
    # The keys of a row are `metric,filter`, `metric_stderr,filter`, and names of other kinds without a comma.
    for key, value in row.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        name = metric
        if filter_name != "none":
            name = f"{metric}:{filter_name}"
        items = _sample_values(samples, metric, filter_name)
        # From the items come better intervals than from the harness's standard error. But some metrics are no means.
        if _are_numbers(items) and _is_mean_of(value, items):
            yield _figure_of_items(name, items, task)
        else:
            error = row.get(f"{metric}_stderr,{filter_name}")
            yield _figure_with_error(name, value, error, int(row.get("sample_len", 0)), task)


def _sample_values(samples: Sequence[Record], metric: str, filter_name: str) -> list[object]:
    """A metric's value for each item that has one."""
    values = []
    for sample in samples:
        if sample["filter"] == filter_name and metric in sample:
            values.append(sample[metric])
    return values


def _are_numbers(items: list[object]) -> TypeGuard[list[float]]:
    """Whether there are items, and all are numbers; those of some tasks are lists, which the metric pools."""
    return bool(items) and all(isinstance(item, int | float) for item in items)


def _is_mean_of(value: float, items: Sequence[float]) -> bool:
    return math.isclose(math.fsum(items) / len(items), value, abs_tol=1e-9)


def _figure_of_items(name: str, items: Sequence[float], task: str) -> Figure:
    """A share of items that are all 0 or 1; a mean of others."""
    # Wilson's interval is the better one for shares, and does not apply to other means.
    if set(items) <= {0, 1}:
        return proportion(name, sum(map(int, items)), len(items), group=task)
    return mean(name, [float(item) for item in items], group=task)


def _figure_with_error(name: str, value: object, error: object, n: int, task: str) -> Figure:
    """A figure with the harness's standard error, which is text or NaN where there is none."""
    if not isinstance(value, int | float) or math.isnan(value):
        return Figure(name, None, 0, None, None, n, task)
    if not isinstance(error, int | float) or math.isnan(error):
        return Figure(name, float(value), n, None, None, group=task)
    # The harness gives no interval of its own.
    half = _Z * error
    return Figure(name, float(value), n, value - half, value + half, group=task)
