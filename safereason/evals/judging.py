"""Judging of saved completions, batch by batch into `verdicts.jsonl`, and the end of a run of an evaluation.

The model is not queried again. Stages `eval`, `eval/guard` and `data/traces` share these functions.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safereason import console, workers
from safereason.engines.engine_spec import LOADED_AT_ONCE, Loading
from safereason.errors import StageFailed
from safereason.evals.base import MISSING, Eval, Outcome, exchange, has_failed
from safereason.evals.metrics import Figure, FigureKey
from safereason.judges import Judge, JudgeSpec, Measure, Verdict
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import going_on
from safereason.runs.records import Record, RecordLog, keep_records, read_records, sort_records, write_json

COMPLETIONS = "completions.jsonl"
VERDICTS = "verdicts.jsonl"
EXCHANGES_A_BATCH = 64
"""Exchanges that are judged, and then recorded, at a time."""
_JUDGING_ENDED = "the judge was not asked any more, since it had failed before"
"""Reason of the exchanges that come after a batch in which every verdict failed."""


def drop_failed(path: Path) -> None:
    """Drops the verdicts that a resumed run judges again: failed ones, and those on failed completions.

    Unscorable verdicts stay, since the judge would say the same again. Verdicts of an earlier version do not say which
    of the two they are; of those, all unscored ones go.
    """
    keep_records(path, lambda record: not (record["score"] is None and record.get("failed", True)))


@dataclass(frozen=True)
class Judging:
    """A judge that is not opened yet. It can be sent to another process, which opens it there."""

    judge: JudgeSpec
    measures: tuple[Measure, ...]
    """Measures that its scores may have."""
    loading: Loading = LOADED_AT_ONCE
    """How its model is loaded."""


_Batch = list[Record]
"""Records of completions that are judged together."""


def judge_all(
    ids: Sequence[str], judging: Judging, run: RunDirectory, environments: Sequence[Mapping[str, str]] = ()
) -> None:
    """Judges the completions of a run that have no verdict yet, in the order of the cases.

    Judging stops after a batch in which every verdict failed: the judge is probably down, and a resumed run goes on.

    Args:
        ids: The cases.
        judging: The judge, which is opened only if there is something to judge, and closed at the end.
        run: The run, with its completions.
        environments: Variables of each worker that judges; without several, this process does.
    """
    with run.records("verdicts") as log:
        _judge_remaining(ids, judging, log, environments)
    position = {name: index for index, name in enumerate(ids)}
    sort_records(run.path / VERDICTS, lambda record: position.get(record["id"], len(position)))


def _judge_remaining(
    ids: Sequence[str], judging: Judging, log: RecordLog, environments: Sequence[Mapping[str, str]]
) -> None:
    completions = records_by_id(log.path.with_name(COMPLETIONS))
    judged = records_by_id(log.path)
    # A resumed run has the same batches, whichever of them other processes had finished.
    batches: list[_Batch] = []
    for start in range(0, len(ids), EXCHANGES_A_BATCH):
        batch = [completions[name] for name in ids[start : start + EXCHANGES_A_BATCH] if name not in judged]
        if batch:
            batches.append(batch)
    if not batches:
        return
    is_down = False

    def batches_while_up() -> Iterator[_Batch]:
        for batch in batches:
            if is_down:
                return
            yield batch

    with console.progress("verdicts", len(ids), len(judged)) as advance:

        def record_verdicts(batch: _Batch, verdicts: list[Verdict]) -> None:
            nonlocal is_down
            records: list[Record] = []
            judge_failed = []
            for completion, verdict in zip(batch, verdicts, strict=True):
                records.append({"id": completion["id"], "judge": judging.judge.label(), **asdict(verdict)})
                advance("")
                # A missing completion never reached the judge, so it says nothing about the judge's health.
                if not _is_missing(completion):
                    judge_failed.append(verdict.failed)
            # A judge may draw for a batch as a whole. A part of it alone would get other verdicts in a resumed run.
            log.extend(records)
            if judge_failed and all(judge_failed):
                is_down = True

        workers.work(_begin_judging, judging, batches_while_up(), record_verdicts, environments[: len(batches)])


def _begin_judging(judging: Judging) -> workers.Handle[_Batch, list[Verdict]]:
    judge = judging.judge.open(judging.measures, judging.loading)

    def handle(batch: _Batch, send: Callable[[list[Verdict]], None]) -> None:
        send(_judge_batch(judge, batch))

    return handle


def eval_figures(ids: Sequence[str], path: Path, evaluation: Eval, measure: Measure | None) -> list[Record]:
    """The figures of a run directory's completions and verdicts, as `metrics.json` holds them."""
    outcomes = read_outcomes(ids, path, evaluation)
    figures = _figures_with_reasons(outcomes, evaluation, measure)
    return [asdict(figure) for figure in figures]


def _figures_with_reasons(outcomes: Sequence[Outcome], evaluation: Eval, measure: Measure | None) -> list[Figure]:
    """Figures whose unscored items are divided into failed and filtered ones.

    An evaluation counts unscored items without their reasons. So the figures are worked out again without the failed
    outcomes, and without the filtered ones: the difference is the number of each.
    """
    figures = evaluation.figures(outcomes, measure)
    # In most runs nothing failed, and one pass is enough.
    if not any(outcome.is_repeated or outcome.filtered for outcome in outcomes):
        return figures

    def unscored_without(is_dropped: Callable[[Outcome], bool]) -> dict[FigureKey, int]:
        others = [outcome for outcome in outcomes if not is_dropped(outcome)]
        unscored = {}
        for figure in evaluation.figures(others, measure):
            unscored[figure.name, figure.group] = figure.unscored
        return unscored

    without_failed = unscored_without(lambda outcome: outcome.is_repeated)
    without_filtered = unscored_without(lambda outcome: outcome.filtered)
    divided = []
    for figure in figures:
        key = (figure.name, figure.group)
        failed = figure.unscored - without_failed.get(key, 0)
        filtered = figure.unscored - without_filtered.get(key, 0)
        divided.append(replace(figure, failed=failed, filtered=filtered))
    return divided


def outcome_counts(ids: Sequence[str], path: Path, evaluation: Eval) -> Record:
    """Numbers of completions and verdicts by their kind, for `metrics.json`."""
    completions: Record = {"answered": 0, "filtered": 0, "failed": 0}
    verdicts: Record = {"scored": 0, "unscorable": 0, "failed": 0}
    reasons = []
    errors = []
    for outcome in read_outcomes(ids, path, evaluation):
        if outcome.filtered:
            completions["filtered"] += 1
        elif outcome.failed:
            completions["failed"] += 1
            errors.append(str(outcome.completion["error"]))
        else:
            completions["answered"] += 1
            # Only answers are judged, so the three kinds of verdicts add up to the answers.
            verdicts[_kind_of(outcome.verdict)] += 1
            reasons.append(str(outcome.verdict.reason))
    # A person needs to know why where all figures are missing.
    if errors and not completions["answered"]:
        completions["reason"] = most_common_reason(errors)
    if evaluation.judge is None:
        return {"completions": completions}
    if reasons and not verdicts["scored"]:
        verdicts["reason"] = most_common_reason(reasons)
    return {"completions": completions, "verdicts": verdicts}


def _kind_of(verdict: Verdict) -> str:
    """The kind of a verdict, as the counts name it."""
    if verdict.failed:
        return "failed"
    if verdict.score is None:
        return "unscorable"
    return "scored"


def finish_eval(this: RunDirectory, ids: Sequence[str], evaluation: Eval, metrics: Record) -> None:
    """Ends a run. If completions or verdicts failed, the figures are written and the run can be resumed.

    Raises:
        StageFailed: Completions or verdicts failed; `--resume` tries those again.
    """
    outcomes = read_outcomes(ids, this.path, evaluation)
    problem = _failure_of(outcomes, evaluation)
    if problem:
        write_json(this.path / "metrics.json", metrics)
        raise StageFailed(f"{this.path}: {problem}")
    filtered = [outcome.completion["error"] for outcome in outcomes if outcome.filtered]
    if filtered:
        console.say(
            f"{len(filtered)} of {len(outcomes)} completions were filtered by the provider "
            f"({most_common_reason(filtered)}); they count as neither refused nor harmful"
        )
    this.finish(metrics)


def check_eval_scored(run: Path, metrics: Mapping[str, Record]) -> None:
    """Refuses an evaluation without a single score. Its run is finished all the same, so other steps go on.

    Raises:
        StageFailed: Not one answer could be scored, or no prompt got an answer.
    """
    completions = metrics.get("completions") or {}
    if "reason" in completions:
        count = completions["failed"] + completions["filtered"]
        raise StageFailed(
            f"{run}: none of {count} prompts got an answer ({completions['reason']}); "
            "measure on other prompts, or another model"
        )
    if completions.get("filtered") and not completions["answered"]:
        raise StageFailed(
            f"{run}: no answer, since the provider filtered all {completions['filtered']} prompts; "
            "measure on other prompts, or by another provider"
        )
    verdicts = metrics.get("verdicts") or {}
    if "reason" in verdicts:
        count = verdicts["unscorable"] + verdicts["failed"]
        raise StageFailed(
            f"{run}: none of {count} answers could be scored ({verdicts['reason']}); "
            "look at them, or name another judge"
        )


def _failure_of(outcomes: Sequence[Outcome], evaluation: Eval) -> str:
    """Reason why a run is not finished; empty where it is."""
    failed_completions = []
    failed_verdicts = []
    for outcome in outcomes:
        if has_failed(outcome.completion):
            failed_completions.append(outcome.completion["error"])
        # A filtered completion has no verdict, and none is missing.
        if outcome.verdict.failed and not outcome.filtered:
            failed_verdicts.append(str(outcome.verdict.reason))
    # Completions go first: their verdicts fail with them.
    if failed_completions:
        reason = most_common_reason(failed_completions)
        return f"{len(failed_completions)} of {len(outcomes)} completions failed ({reason}); {going_on()}"
    if evaluation.judge is None:
        return ""
    if failed_verdicts:
        reason = most_common_reason(failed_verdicts)
        return f"{len(failed_verdicts)} of {len(outcomes)} verdicts failed ({reason}); {going_on()}"
    return ""


def most_common_reason(reasons: Iterable[str]) -> str:
    """The most common reason; of equally common ones, the earliest."""
    # Exchanges after the judge's failure carry no reason of their own.
    counted = Counter(reasons)
    del counted[_JUDGING_ENDED]
    return counted.most_common(1)[0][0]


def read_outcomes(ids: Sequence[str], path: Path, evaluation: Eval) -> list[Outcome]:
    """The recorded completions of these cases, each with its verdict."""
    completions = records_by_id(path / COMPLETIONS)
    verdicts: dict[str, Record] = {}
    missing_verdict = Verdict.unscored(f"eval {evaluation.name} asks no judge")
    if evaluation.judge:
        verdicts = records_by_id(path / VERDICTS)
        missing_verdict = Verdict.failure(_JUDGING_ENDED)
    outcomes = []
    for case_id in ids:
        verdict = missing_verdict
        if case_id in verdicts:
            verdict = _verdict_from(verdicts[case_id])
        outcomes.append(Outcome(completions[case_id], verdict))
    return outcomes


def records_by_id(path: Path) -> dict[str, Record]:
    """The records of a file by their ids."""
    return {record["id"]: record for record in read_records(path)}


def _judge_batch(judge: Judge, completions: Sequence[Record]) -> list[Verdict]:
    """A verdict on each completion; the judge sees only those that are there."""
    exchanges = []
    for completion in completions:
        if not _is_missing(completion):
            exchanges.append(exchange(completion))
    # Some judges load a model at their first call, so none is called for nothing.
    judged: Iterator[Verdict] = iter(())
    if exchanges:
        judged = iter(judge.judge(exchanges))
    verdicts = []
    for completion in completions:
        if _is_missing(completion):
            verdicts.append(_verdict_on_missing(completion))
        else:
            verdicts.append(next(judged))
    return verdicts


def _is_missing(completion: Record) -> bool:
    return completion["finish_reason"] in MISSING


def _verdict_on_missing(completion: Record) -> Verdict:
    """The verdict on a missing completion; failed if a resumed run tries the completion again."""
    reason = f"no completion: {completion['error']}"
    if has_failed(completion):
        return Verdict.failure(reason)
    return Verdict.unscored(reason)


def _verdict_from(record: Record) -> Verdict:
    """A verdict from its record. Records of an earlier version do not say whether it failed."""
    return Verdict(record["score"], record["label"], record["reason"], record["details"], record.get("failed", False))
