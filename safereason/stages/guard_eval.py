"""Stage `eval/guard`: classifies labelled rows with a guard and works out figures.

`predictions.jsonl` is appended in the order in which verdicts end; `metrics.json` is worked out in the order of the
sets and their rows. `guard_eval_plan.py` says what is measured, `measured_guard.py` how the guard is asked, and
`guard_eval_score.py` scores the predictions of a file, without a guard.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from safereason import console
from safereason.data.example import Example
from safereason.engines.spec import ModelSpec
from safereason.errors import StageFailed
from safereason.evals.guard_predictions import Prediction, from_record, of_example
from safereason.evals.judging import most_common_reason
from safereason.guard import policy as policies
from safereason.guard.base import Guard, GuardVerdict, Question
from safereason.guard.reasoning import ReasoningGuard
from safereason.recipe.schema import GuardSet, Recipe
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import going_on
from safereason.runs.records import Record, RecordLog, keep_records, read_records, write_json
from safereason.stages.base import (
    Identity,
    Metrics,
    Options,
    Result,
    finished_result,
    given_inputs,
    run_identity,
    run_model,
    trained_guard,
)
from safereason.stages.contents import contents
from safereason.stages.guard_eval_plan import GuardEvalPlan, GuardEvalRequest, plan_guard_eval
from safereason.stages.guard_eval_score import FILE, STAGE, scored_predictions
from safereason.stages.guard_sets import labelled_rows
from safereason.stages.measured_guard import MeasuredGuard, measured_guard
from safereason.stages.run_engine import noted_engine

LabelledRows = Mapping[str, Sequence[Example]]
"""The rows of each set that can be had, by the set's name."""


def run_guard_eval(recipe: Recipe, options: Options, request: GuardEvalRequest = GuardEvalRequest()) -> Result:
    """Measures the request's guard, else `options.model`, else the recipe's newest finished guard.

    Args:
        recipe: Recipe with the sets in `guard.eval`, and the guard prompt of a model without a `guard.json`.
        options: Where to write, and the model.
        request: The guard and the sets.

    Raises:
        InputError: A set, the guard or the policy cannot be had.
        StageFailed: Rows failed; `--resume` tries those again.
    """
    plan = plan_guard_eval(recipe, _model_to_measure(recipe, options, request), request)
    measured = measured_guard(recipe, options, plan)
    # The sets are read before the directory is made, since the identity says which of them are there.
    rows, missing = labelled_rows(plan.sets, plan.limit, recipe.seed, request.allow_missing)
    identity = run_identity(recipe, **_identity_inputs(plan, measured, rows, options))
    directory = measured.engine.open_run(STAGE, recipe, options, measured.label, identity)
    if (result := finished_result(directory)) is not None:
        return result
    with directory as this:
        # A resumed run repeats the rows that failed, and no others.
        keep_records(this.path / f"{FILE}.jsonl", lambda record: not record["failed"])
        with this.records(FILE) as log:
            _classify_rows(rows, measured, plan, recipe.seed, log)
        predictions = _predictions_in_order(log.path, rows)
        metrics = {
            "eval": "guard",
            # From the identity, which has no credentials: a guard's name may hold a server's.
            "model": identity["model"],
            "recipe": recipe.name,
            "limit": plan.limit,
            "samples": plan.samples,
            "asked": _prompt_summary(measured.prompt),
            "missing": dict(missing),
            **noted_engine(this.path),
            **scored_predictions(predictions, plan.resamples, recipe.seed),
        }
        _finish_guard_eval(this, metrics, predictions)
    return Result(directory.path, metrics)


def _model_to_measure(recipe: Recipe, options: Options, request: GuardEvalRequest) -> ModelSpec | None:
    """The model that is named, else the recipe's newest guard; None where another guard is measured."""
    # With both a model and another guard, the plan says that they exclude each other.
    if options.model is not None or request.guard:
        return options.model
    return run_model(trained_guard(recipe.name, options, recipe.reference))


def _identity_inputs(plan: GuardEvalPlan, measured: MeasuredGuard, rows: LabelledRows, options: Options) -> Identity:
    """The inputs of the run's identity. Sets that are missing are no part of it: they may be there next time."""
    return {
        "model": measured.identity,
        "eval": "guard",
        "sets": [guard_set.model_dump(mode="json") for guard_set in plan.sets if guard_set.label in rows],
        "limit": plan.limit,
        "resamples": plan.resamples,
        "samples": plan.samples,
        "asked": measured.prompt,
        **given_inputs(base_url=options.base_url),
        **contents(models=[measured.model], sources=[guard_set.source for guard_set in plan.sets]),
    }


def _prompt_summary(prompt: Record) -> Record:
    """The names of a prompt's policies and its settings, for the metrics."""
    # The identity has the prompt in full. People read the metrics, and policies are long.
    policy = prompt["policy"]
    summary: Record = {"policy": policy and policy["name"]}
    set_policies = prompt.get("policies")
    if set_policies:
        summary["policies"] = {set_name: set_policy["name"] for set_name, set_policy in set_policies.items()}
    for key in ("reasoning", "sampling"):
        if key in prompt:
            summary[key] = prompt[key]
    return summary


def _classify_rows(rows: LabelledRows, measured: MeasuredGuard, plan: GuardEvalPlan, seed: int, log: RecordLog) -> None:
    """Classifies and records the rows that have no verdict yet, set by set."""
    recorded = {(record["set"], record["id"]) for record in read_records(log.path)}
    total = sum(map(len, rows.values()))
    sets_by_name: dict[str, GuardSet] = {}
    for guard_set in plan.sets:
        # Any set of a name will do, since all of them share one policy.
        sets_by_name[guard_set.label] = guard_set
    guard: Guard | None = None
    with console.progress("verdicts", total, len(recorded)) as advance:
        for set_name, guard_set in sets_by_name.items():
            examples = rows.get(set_name, ())
            done = set()
            questions = []
            for index, example in enumerate(examples):
                questions.append(Question(example.prompt, example.response))
                if (set_name, example.id) in recorded:
                    done.add(index)
            if len(done) == len(examples):
                continue
            # A resumed run with all verdicts never gets here, and loads nothing.
            if guard is None:
                measured.engine.begin(log.path.parent)
                guard = measured.open()
            record_verdict = _verdict_recorder(set_name, examples, measured, log, advance)
            # Recorded rows are passed too: a row's position is part of its seed.
            _under_policy_of(guard_set, guard, plan).classify(
                questions, seed=seed, done=done, on_verdict=record_verdict
            )


def _under_policy_of(guard_set: GuardSet, guard: Guard, plan: GuardEvalPlan) -> Guard:
    """The guard under the policy of this set; a policy on the command line goes before it."""
    if not isinstance(guard, ReasoningGuard) or plan.policy or not guard_set.policy:
        return guard
    # The engine holds the weights, so another policy needs no other engine.
    return guard.under(policies.load(guard_set.policy))


def _verdict_recorder(
    set_name: str, examples: Sequence[Example], measured: MeasuredGuard, log: RecordLog, advance: console.Advance
) -> Callable[[int, GuardVerdict], None]:
    """A callback that records the verdict on the example of an index."""

    def record_verdict(index: int, verdict: GuardVerdict) -> None:
        # A local model fails only at rows that are too long for it, and would fail again. Such a row counts as
        # unscored: repeated at every resume, it would keep the run from ever finishing.
        if not measured.model.is_remote:
            verdict = replace(verdict, failed=False)
        measured.engine.note(log.path.parent)
        log.append(of_example(examples[index], set_name, verdict).record())
        advance(set_name)

    return record_verdict


def _predictions_in_order(path: Path, rows: LabelledRows) -> list[Prediction]:
    """The recorded predictions in the order of the sets and their rows."""
    # A file of an earlier version may lack keys, and the error then names the row.
    recorded = {}
    for number, record in enumerate(read_records(path), start=1):
        prediction = from_record(record, f"{path}: row {number}")
        recorded[prediction.set, prediction.id] = prediction
    in_order = []
    for set_name, examples in rows.items():
        for example in examples:
            in_order.append(recorded[set_name, example.id])
    return in_order


def _finish_guard_eval(this: RunDirectory, metrics: Metrics, predictions: Sequence[Prediction]) -> None:
    """Ends the run. If rows failed, the figures are written without them and the run can be resumed."""
    reasons = [str(prediction.reason) for prediction in predictions if prediction.failed]
    if reasons:
        write_json(this.path / "metrics.json", metrics)
        reason = most_common_reason(reasons)
        raise StageFailed(f"{this.path}: {len(reasons)} of {len(predictions)} rows failed ({reason}); {going_on()}")
    this.finish(metrics)
