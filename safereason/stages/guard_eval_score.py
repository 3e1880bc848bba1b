"""Stage `eval/guard` on predictions that exist already: their figures, from a file or from the verdicts of a run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safereason.data import sources
from safereason.data.example import Example
from safereason.errors import StageFailed
from safereason.evals import guard_suite
from safereason.evals.guard_predictions import About, Prediction, read_file
from safereason.evals.judging import most_common_reason
from safereason.evals.metrics import OVERALL
from safereason.recipe.schema import Recipe
from safereason.runs.manifest import sha256
from safereason.runs.records import keep_records, read_records
from safereason.stages.base import Metrics, Options, Result, finished_result, open_run, run_identity
from safereason.stages.guard_sets import chosen_sets, guard_eval_section

STAGE = "eval/guard"
FILE = "predictions"


@dataclass(frozen=True)
class PredictionsRequest:
    """A file of predictions to score, and the sets that its rows belong to."""

    file: Path
    """In one of the forms that `evals/guard_predictions.py` reads."""
    sets: Sequence[str] = ()
    """Sources of the rows, or names for the sets."""
    about: About | None = None
    """The text that the verdicts are about, where a row has one on each; None lets the set's name decide."""


def score_guard_eval(recipe: Recipe, options: Options, request: PredictionsRequest) -> Result:
    """Scores the predictions in a file with the figures of `guard_eval.run_guard_eval`.

    Args:
        recipe: Recipe with the number of resamples, and with sets that the request may name by their labels.
        options: Where to write.
        request: The file, and the sets of its rows.

    Raises:
        InputError: The file cannot be read or does not fit the source.
    """
    file = request.file

    def read_set(name: str) -> list[Example]:
        guard_set = chosen_sets(recipe, [name])[0]
        return sources.get(guard_set.source).load(guard_set.split)

    predictions = read_file(file, request.sets, request.about, read_set)
    resamples = guard_eval_section(recipe).resamples
    identity = run_identity(
        recipe,
        model=file.name,
        eval="guard",
        predictions=sha256(file),
        sets=list(request.sets),
        about=request.about,
        resamples=resamples,
    )
    directory = open_run(STAGE, recipe, options, file.stem, identity)
    if (result := finished_result(directory)) is not None:
        return result
    with directory as this:
        this.inputs[str(file)] = sha256(file)
        # Nothing is saved by resuming, so a resumed run writes all records again.
        keep_records(this.path / f"{FILE}.jsonl", lambda record: False)
        with this.records(FILE) as log:
            for prediction in predictions:
                log.append(prediction.record())
        metrics = {
            "eval": "guard",
            "model": file.name,
            "recipe": recipe.name,
            "predictions": str(file),
            **scored_predictions(predictions, resamples, recipe.seed),
        }
        this.finish(metrics)
    return Result(directory.path, metrics)


def scored_predictions(predictions: Sequence[Prediction], resamples: int, seed: int) -> Metrics:
    """The figures of predictions, for the metrics. Failed rows have no verdict and count in `failed` alone.

    Args:
        predictions: Predictions of any number of sets.
        resamples: Number of bootstrap resamples behind each interval.
        seed: Seed of the resamples.
    """
    # A failed row would lower every figure, though the guard has not seen it.
    rows = [prediction.row for prediction in predictions if not prediction.failed]
    rows_by_set = guard_suite.by_set(rows)
    sizes = {}
    confusion = {}
    categories = {}
    # Scores are calibrated or not over all rows. A single set may hold one label only.
    reliability = {OVERALL: guard_suite.reliability(rows)}
    for set_name, members in rows_by_set.items():
        labels = Counter(row.expected for row in members)
        sizes[set_name] = {"safe": labels["safe"], "unsafe": labels["unsafe"]}
        confusion[set_name] = guard_suite.confusion(members)
        categories[set_name] = guard_suite.by_category(members)
        reliability[set_name] = guard_suite.reliability(members)
    return {
        "sets": sizes,
        "failed": len(predictions) - len(rows),
        "figures": [asdict(figure) for figure in guard_suite.figures(rows, resamples, seed)],
        "confusion": confusion,
        "categories": categories,
        "reliability": reliability,
    }


def check_guard_eval_scored(run: Path) -> None:
    """Refuses figures without a single verdict behind them. The run is finished all the same.

    Raises:
        StageFailed: The guard gave no readable verdict on any row.
    """
    reasons = []
    for record in read_records(run / f"{FILE}.jsonl"):
        if record["label"] is not None:
            return
        reasons.append(str(record.get("reason") or "no verdict"))
    if reasons:
        reason = most_common_reason(reasons)
        raise StageFailed(f"{run}: none of {len(reasons)} rows has a verdict that can be read ({reason})")
