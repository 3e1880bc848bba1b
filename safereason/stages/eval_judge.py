"""How saved completions are judged: batch by batch into `verdicts.jsonl`, without asking the model again."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safereason import console
from safereason.evals import Eval, Outcome
from safereason.evals.base import exchange
from safereason.judges import Judge, Verdict
from safereason.runs.records import Record, RecordLog, keep_records, read_records

COMPLETIONS, VERDICTS = "completions.jsonl", "verdicts.jsonl"
EXCHANGES_A_BATCH = 64
"""Exchanges judged, and then recorded, at a time."""


def drop_unscored(path: Path) -> None:
    """Drops what a resumed run judges again: verdicts that could not be had."""
    keep_records(path, lambda record: record["score"] is not None)


def judge_all(ids: Sequence[str], judge: Judge, spec: str, log: RecordLog) -> None:
    """Judges in the order of the cases what has no verdict yet."""
    completions = by_id(log.path.with_name(COMPLETIONS))
    held = by_id(log.path)
    left = [completions[name] for name in ids if name not in held]
    with console.progress("verdicts", len(ids), len(ids) - len(left)) as advance:
        for start in range(0, len(left), EXCHANGES_A_BATCH):
            batch = left[start : start + EXCHANGES_A_BATCH]
            for completion, verdict in zip(batch, _verdicts(judge, batch), strict=True):
                log.append({"id": completion["id"], "judge": spec, **asdict(verdict)})
                advance("")


def figures(ids: Sequence[str], path: Path, evaluation: Eval, measures: str) -> list[dict[str, Any]]:
    """The figures of a run directory's completions and verdicts, as `metrics.json` holds them."""
    return [asdict(figure) for figure in evaluation.figures(outcomes(ids, path, evaluation), measures)]


def outcomes(ids: Sequence[str], path: Path, evaluation: Eval) -> list[Outcome]:
    """What the model of a run directory made of these cases, each with its verdict."""
    completions = by_id(path / COMPLETIONS)
    verdicts = by_id(path / VERDICTS) if evaluation.judge else {}
    nothing = Verdict.unscored(f"eval {evaluation.name} asks no judge")
    return [Outcome(completions[i], _verdict(verdicts[i]) if i in verdicts else nothing) for i in ids]


def by_id(path: Path) -> dict[str, Record]:
    """The records of a file by their ids."""
    return {record["id"]: record for record in read_records(path)}


def _verdicts(judge: Judge, completions: Sequence[Record]) -> list[Verdict]:
    written = [c for c in completions if c["finish_reason"] != "error"]
    judged = iter(judge.judge([exchange(completion) for completion in written]))
    return [
        Verdict.unscored(f"no completion: {c['error']}") if c["finish_reason"] == "error" else next(judged)
        for c in completions
    ]


def _verdict(record: Record) -> Verdict:
    return Verdict(record["score"], record["label"], record["reason"], record["details"])
