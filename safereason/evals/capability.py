"""Accuracy on mathematics, knowledge and reading, by the tasks of EleutherAI's lm-evaluation-harness.

TARS (arXiv 2507.00971) looks at GSM8K, MATH-500, GPQA, MMLU-Pro and SQuAD. Prompts, the reading of answers and metrics
are the harness's; our engine answers, by the model's own chat template.

Deviations: (1) which variants of the tasks the paper took is not known: ours let the model reason before it answers;
(2) reasoning is left out before an answer is scored, and a task's stop texts cut the answer alone; (3) the recipe says
how completions are drawn, a task only for how many tokens there has to be room; (4) where a task compares likelihoods,
the thought of a model that reasons is left empty; (5) intervals are Wilson's or Student's where a figure is the mean
of its items, else the harness's standard error taken 1.96 times either way.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from safereason.errors import InputError
from safereason.evals.metrics import Figure, mean, proportion

TASKS = ("gsm8k_cot_zeroshot", "minerva_math500", "gpqa_diamond_cot_zeroshot", "mmlu_pro", "squad_completion")
"""Those nearest to the paper's, by the harness's names."""
_Z = 1.959964
"""Standard errors of a normal 95 % interval."""


def check_installed() -> None:
    """Refuses where the harness is not installed, before anything is done.

    Raises:
        InputError: It is not.
    """
    if find_spec("lm_eval") is None:
        raise InputError("eval capability: lm-eval is not installed; pip install 'safereason[capability]'")


def figures(results: Mapping[str, Any]) -> list[Figure]:
    """What the harness measured: a figure for each task or group of tasks (its `group`) and metric.

    A metric is called as the harness calls it, with the filter that read the answer after a colon, as in
    `exact_match:flexible-extract`.
    """
    return [figure for task, row in results["results"].items() for figure in _of_task(task, row, results)]


def names(found: Sequence[Figure]) -> tuple[str, ...]:
    """Names of figures, each once."""
    return tuple(dict.fromkeys(figure.name for figure in found))


def _of_task(task: str, row: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[Figure]:
    for key, value in row.items():
        metric, comma, way = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        name = metric if way == "none" else f"{metric}:{way}"
        samples = results.get("samples", {}).get(task, ())
        items = [s[metric] for s in samples if s["filter"] == way and metric in s]
        if _is_mean_of(value, items):
            yield _of_items(name, items, task)
        else:
            yield _of_error(name, value, row.get(f"{metric}_stderr,{way}"), int(row.get("sample_len", 0)), task)


def _is_mean_of(value: Any, items: Sequence[Any]) -> bool:
    """Whether a figure is what its items come to on average; some tasks' items are no numbers, or are pooled."""
    if not items or not all(isinstance(item, int | float) for item in items):
        return False
    return math.isclose(math.fsum(items) / len(items), value, abs_tol=1e-9)


def _of_items(name: str, items: Sequence[float], task: str) -> Figure:
    if all(item in (0, 1) for item in items):
        return proportion(name, sum(map(int, items)), len(items), group=task)
    return mean(name, [float(item) for item in items], group=task)


def _of_error(name: str, value: Any, error: Any, n: int, task: str) -> Figure:
    if not isinstance(value, int | float) or math.isnan(value):
        return Figure(name, None, 0, None, None, n, task)
    known = isinstance(error, int | float) and not math.isnan(error)
    half = _Z * error if known else None
    return Figure(
        name,
        float(value),
        n,
        None if half is None else value - half,
        None if half is None else value + half,
        group=task,
    )
