"""How saved completions are judged: batch by batch into `verdicts.jsonl`, without asking the model again."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safereason import console
from safereason.errors import StageFailed
from safereason.evals import Eval, Outcome
from safereason.evals.base import MISSING, exchange, has_failed
from safereason.evals.metrics import Figure
from safereason.judges import Judge, Verdict
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import going_on
from safereason.runs.records import Record, RecordLog, keep_records, read_records, write_json

COMPLETIONS, VERDICTS = "completions.jsonl", "verdicts.jsonl"
EXCHANGES_A_BATCH = 64
"""Exchanges judged, and then recorded, at a time."""
NOT_ASKED = "the judge was not asked any more, since it had failed before"


def drop_failed(path: Path) -> None:
    """Drops what a resumed run judges again: verdicts that could not be had, and those of no completion.

    A verdict that is unscorable stays: the judge was asked, and would say the same. Of verdicts of an earlier version,
    which do not say which of the two they are, all unscored ones go.
    """
    keep_records(path, lambda record: not (record["score"] is None and record.get("failed", True)))


def judge_all(ids: Sequence[str], judge: Judge, spec: str, log: RecordLog) -> None:
    """Judges in the order of the cases what has no verdict yet; the rest is not asked once all of a batch failed."""
    completions = by_id(log.path.with_name(COMPLETIONS))
    held = by_id(log.path)
    left = [completions[name] for name in ids if name not in held]
    with console.progress("verdicts", len(ids), len(ids) - len(left)) as advance:
        for start in range(0, len(left), EXCHANGES_A_BATCH):
            batch = left[start : start + EXCHANGES_A_BATCH]
            verdicts = _verdicts(judge, batch)
            for completion, verdict in zip(batch, verdicts, strict=True):
                log.append({"id": completion["id"], "judge": spec, **asdict(verdict)})
                advance("")
            asked = [
                verdict for completion, verdict in zip(batch, verdicts, strict=True) if not _is_missing(completion)
            ]
            if asked and all(verdict.failed for verdict in asked):
                return


def figures(ids: Sequence[str], path: Path, evaluation: Eval, measures: str) -> list[dict[str, Any]]:
    """The figures of a run directory's completions and verdicts, as `metrics.json` holds them."""
    found = outcomes(ids, path, evaluation)
    counted = _counted(found, evaluation, measures)
    return [asdict(figure) for figure in counted]


def _counted(found: Sequence[Outcome], evaluation: Eval, measures: str) -> list[Figure]:
    """Figures that say of their unscored items how many failed, and how many were filtered.

    An evaluation counts what it has no score of, not why: the count without some of them says how many these were.
    """

    def unscored_without(dropped: Callable[[Outcome], bool]) -> dict[tuple[str, str], int]:
        left = [outcome for outcome in found if not dropped(outcome)]
        return {(figure.name, figure.group): figure.unscored for figure in evaluation.figures(left, measures)}

    every = evaluation.figures(found, measures)
    if not any(outcome.asked_again or outcome.filtered for outcome in found):
        return every
    after_failed = unscored_without(lambda outcome: outcome.asked_again)
    after_filtered = unscored_without(lambda outcome: outcome.filtered)
    return [
        replace(
            figure,
            failed=figure.unscored - after_failed.get((figure.name, figure.group), 0),
            filtered=figure.unscored - after_filtered.get((figure.name, figure.group), 0),
        )
        for figure in every
    ]


def counts(ids: Sequence[str], path: Path, evaluation: Eval) -> dict[str, Any]:
    """How many completions and verdicts there are, and of which kind the others are, for `metrics.json`."""
    found = outcomes(ids, path, evaluation)
    completions = {
        "answered": sum(not outcome.failed for outcome in found),
        "filtered": sum(outcome.filtered for outcome in found),
        "failed": sum(outcome.failed and not outcome.filtered for outcome in found),
    }
    if evaluation.judge is None:
        return {"completions": completions}
    judged = [outcome.verdict for outcome in found if not outcome.failed]
    verdicts: dict[str, Any] = {
        "scored": sum(verdict.score is not None for verdict in judged),
        "unscorable": sum(verdict.score is None and not verdict.failed for verdict in judged),
        "failed": sum(verdict.failed for verdict in judged),
    }
    if judged and not verdicts["scored"]:
        verdicts["reason"] = commonest(str(verdict.reason) for verdict in judged)
    return {"completions": completions, "verdicts": verdicts}


def finish(this: RunDirectory, ids: Sequence[str], evaluation: Eval, metrics: dict[str, Any]) -> None:
    """Ends a run, unless something could not be had: the figures are written all the same.

    Raises:
        StageFailed: Completions or verdicts failed, and `--resume` asks for those again.
    """
    found = outcomes(ids, this.path, evaluation)
    problem = _problem(found, evaluation)
    if problem:
        write_json(this.path / "metrics.json", metrics)
        raise StageFailed(f"{this.path}: {problem}")
    filtered = [outcome.completion["error"] for outcome in found if outcome.filtered]
    if filtered:
        console.say(
            f"{len(filtered)} of {len(found)} completions were filtered by the provider ({commonest(filtered)}); "
            "they count as neither refused nor harmful"
        )
    this.finish(metrics)


def check_scored(run: Path, metrics: Mapping[str, Any]) -> None:
    """Refuses an evaluation that came to nothing; its run is finished all the same, and a recipe's other steps go on.

    Raises:
        StageFailed: There are answers, and not one of them could be scored; or the provider filtered all prompts.
    """
    completions = metrics.get("completions") or {}
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


def _problem(found: Sequence[Outcome], evaluation: Eval) -> str:
    """Why a run is not finished; empty where it is."""
    lost = [outcome.completion["error"] for outcome in found if has_failed(outcome.completion)]
    if lost:
        return f"{len(lost)} of {len(found)} completions failed ({commonest(lost)}); {going_on()}"
    if evaluation.judge is None:
        return ""
    judged = [outcome.verdict for outcome in found if not outcome.filtered]
    failed = [str(verdict.reason) for verdict in judged if verdict.failed]
    if failed:
        return f"{len(failed)} of {len(found)} verdicts failed ({commonest(failed)}); {going_on()}"
    return ""


def commonest(reasons: Iterable[str]) -> str:
    """The reason that is given most often, the earliest of equal ones."""
    return Counter(reason for reason in reasons if reason != NOT_ASKED).most_common(1)[0][0]


def outcomes(ids: Sequence[str], path: Path, evaluation: Eval) -> list[Outcome]:
    """What the model of a run directory made of these cases, each with its verdict."""
    completions = by_id(path / COMPLETIONS)
    verdicts = by_id(path / VERDICTS) if evaluation.judge else {}
    nothing = Verdict.unscored(f"eval {evaluation.name} asks no judge")
    if evaluation.judge:
        nothing = Verdict.failure(NOT_ASKED)
    return [Outcome(completions[i], _verdict(verdicts[i]) if i in verdicts else nothing) for i in ids]


def by_id(path: Path) -> dict[str, Record]:
    """The records of a file by their ids."""
    return {record["id"]: record for record in read_records(path)}


def _verdicts(judge: Judge, completions: Sequence[Record]) -> list[Verdict]:
    written = [completion for completion in completions if not _is_missing(completion)]
    judged = iter(judge.judge([exchange(completion) for completion in written]) if written else [])
    return [_without(completion) if _is_missing(completion) else next(judged) for completion in completions]


def _is_missing(completion: Record) -> bool:
    return completion["finish_reason"] in MISSING


def _without(completion: Record) -> Verdict:
    """The verdict where there is no completion: one that failed is asked for again, and so is its verdict."""
    verdict = Verdict.failure if has_failed(completion) else Verdict.unscored
    return verdict(f"no completion: {completion['error']}")


def _verdict(record: Record) -> Verdict:
    return Verdict(record["score"], record["label"], record["reason"], record["details"], record.get("failed", False))
