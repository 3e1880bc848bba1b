"""Stage `data/traces`: a teacher answers prompts whose source has no reasoning, and its good replies become traces.

`replies.jsonl` is appended in the order in which replies end. When all are there it is put in the order of the prompts,
and each reply gets its outcome. `verdicts.jsonl` holds a judge's verdicts, and `traces.parquet` the traces.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safereason import console
from safereason.data import traces
from safereason.data.example import Example, write_parquet
from safereason.data.traces import KEPT, Reading
from safereason.engines.base import Completion, GenerateOptions
from safereason.engines.memory import release
from safereason.errors import StageFailed
from safereason.evals import judging
from safereason.evals.judging import EXCHANGES_A_BATCH
from safereason.judges import Exchange, Judge, Measure, Verdict
from safereason.judges.base import is_good
from safereason.recipe.schema import Recipe
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import going_on
from safereason.runs.records import Record, RecordLog, keep_records, line_of, read_records, write_bytes, write_json
from safereason.stages.base import Metrics, Options, Result, finished_result
from safereason.stages.placement import gpus_to_use, judge_roles, loading_of, place, place_alone
from safereason.stages.preparation.teacher import (
    Price,
    TeacherPlan,
    cost,
    count_tokens,
    plan_teacher,
    reply_failed,
    teacher_identity,
)
from safereason.stages.preparation.training_sources import TEACHER_STAGE, TRACES
from safereason.stages.run_engine import RunEngine, noted_engine
from safereason.text.reasoning import Reasoned

REPLIES = "replies"
VERDICTS = "verdicts"
REJECTED = "rejected by the judge"
UNSCORED = "unscored by the judge"
JUDGE_FAILED = "not judged: the judge failed"


@dataclass(frozen=True)
class TeacherReply:
    """One sample of a prompt: the trace that it holds, or the reason why it holds none."""

    example: Example
    sample: int
    reading: Reading

    @property
    def key(self) -> tuple[str, int]:
        """The reply's key in the records."""
        return self.example.id, self.sample

    @property
    def outcome(self) -> str:
        """The reply's outcome, as it is recorded and counted."""
        return _outcome_of(self.reading)


def write_traces(
    recipe: Recipe,
    options: Options,
    *,
    limit: int | None = None,
    price: Price | None = None,
    allow_failed: bool = False,
) -> Result:
    """Draws replies of `options.model`, else of the recipe's teacher, and keeps those that are traces.

    Args:
        recipe: Recipe with the prompts, the number of samples, and the judge that an answer has to pass.
        options: Where to write, and the teacher.
        limit: Most prompts, drawn by the seed; None takes all.
        price: Price for the cost in the metrics.
        allow_failed: Whether the run may finish without the replies that a server failed at.

    Raises:
        InputError: There is no teacher or no prompt for it, or a source, the model or the judge cannot be had.
        StageFailed: Replies failed; `--resume` tries those again.
    """
    plan = plan_teacher(recipe, options, limit)
    # An unknown model is refused before a directory is made.
    plan.model.check()
    engine = RunEngine.choose(plan.model, options)
    identity = teacher_identity(recipe, plan, options)
    directory = engine.open_run(TEACHER_STAGE, recipe, options, plan.model.label(), identity)
    if (result := finished_result(directory)) is not None:
        # The price is no part of the identity, so a finished run is priced anew.
        return Result(result.run, result.metrics | cost(result.metrics["tokens"], price))
    # A judge that cannot be had is refused before the teacher, who may cost money, writes anything.
    judge = None
    if plan.judge is not None:
        placement = place(judge_roles(plan.judge, options), gpus_to_use(options), "data traces")
        judge = plan.judge.open(loading=loading_of(placement, options))
    with directory as this:
        _drop_failed_records(this, plan)
        with this.records(REPLIES) as log:
            _generate_replies(plan, recipe.seed, engine, options, log)
        # The judge's model may need the memory of the teacher.
        release()
        # From here on all is worked out from the records, in the order of the prompts.
        records = _records_in_order(plan, log.path)
        replies = _read_replies(plan, records)
        if judge is not None:
            with this.records(VERDICTS) as log:
                replies = _judge_replies(plan, judge, replies, log)
        _write_kept_traces(this.path, records, replies)
        metrics = _traces_metrics(plan, records, replies)
        metrics |= {**cost(metrics["tokens"], price), **noted_engine(this.path)}
        _finish_traces(this, plan, metrics, records, allow_failed)
    return Result(directory.path, metrics)


def _drop_failed_records(this: RunDirectory, plan: TeacherPlan) -> None:
    """Drops the records that a resumed run makes again: failed replies and failed verdicts."""
    # A local model would fail at the same prompts again.
    if plan.may_retry:
        keep_records(this.path / f"{REPLIES}.jsonl", lambda reply: not reply_failed(reply))
    judging.drop_failed(this.path / f"{VERDICTS}.jsonl")


def _generate_replies(plan: TeacherPlan, seed: int, engine: RunEngine, options: Options, log: RecordLog) -> None:
    """Draws and records the replies that are not recorded yet.

    Each sample is a conversation of its own. So a run that was killed between two samples of a prompt draws the second
    one alone.
    """
    recorded = _records_by_sample(log.path)
    done = set()
    for index, (example, sample) in enumerate(plan.jobs):
        if (example.id, sample) in recorded:
            done.add(index)
    if len(done) == len(plan.jobs):
        return
    engine.begin(log.path.parent)
    teacher = place_alone(engine.spec, options, "data traces").open()
    kept = Counter[bool]()
    for reply in recorded.values():
        kept[reply["outcome"] == KEPT] += 1
    with console.progress("replies", len(plan.jobs), len(done)) as advance:

        def record_reply(index: int, number: int, completion: Completion) -> None:
            example, sample = plan.jobs[index]
            reply = _reply_record(example, sample, completion)
            # This outcome is preliminary: the judge, and other replies to the same prompt, can still reject it.
            outcome = _outcome_of(plan.read(example, reply))
            engine.note(log.path.parent)
            log.append({**reply, "outcome": outcome})
            kept[outcome == KEPT] += 1
            advance(f"{kept[True]} kept, {kept[False]} rejected")

        teacher.generate(
            [plan.conversation(example) for example, _ in plan.jobs],
            plan.teacher.sampling,
            GenerateOptions(seed=seed, prefix=plan.teacher.prefix, done=done, on_finish=record_reply),
        )


def _reply_record(example: Example, sample: int, completion: Completion) -> Record:
    usage = None
    if completion.usage:
        usage = asdict(completion.usage)
    return {
        "id": example.id,
        "sample": sample,
        "source": example.source,
        "prompt": example.prompt,
        "prefix": completion.prefix,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "error": completion.error or None,
        "usage": usage,
    }


def _records_by_sample(path: Path) -> dict[tuple[str, int], Record]:
    return {(record["id"], record["sample"]): record for record in read_records(path)}


def _records_in_order(plan: TeacherPlan, path: Path) -> list[Record]:
    """The recorded replies in the order of the prompts and their samples."""
    records = _records_by_sample(path)
    return [records[example.id, sample] for example, sample in plan.jobs]


def _read_replies(plan: TeacherPlan, records: Sequence[Record]) -> list[TeacherReply]:
    """The replies with their traces, after a comparison of the replies to each prompt."""
    replies = []
    for (example, sample), record in zip(plan.jobs, records, strict=True):
        replies.append(TeacherReply(example, sample, plan.read(example, record)))
    # Equal replies to one prompt count once. A guard's row keeps one trace, since its label leaves one verdict.
    only_one = plan.guard_prompt is not None
    compared = []
    for start in range(0, len(replies), plan.teacher.samples):
        group = replies[start : start + plan.teacher.samples]
        group_readings = [reply.reading for reply in group]
        readings = traces.first_of_each(group_readings, only_one=only_one)
        for reply, reading in zip(group, readings, strict=True):
            compared.append(replace(reply, reading=reading))
    return compared


def _judge_replies(
    plan: TeacherPlan, judge: Judge, replies: Sequence[TeacherReply], log: RecordLog
) -> list[TeacherReply]:
    """Judges the answers that have no verdict yet, batch by batch, and rejects the traces that do not pass."""
    verdicts = _records_by_sample(log.path)
    # The judge sees only replies that would be kept: verdicts cost as much as replies.
    traces_found = [reply for reply in replies if isinstance(reply.reading, Reasoned)]
    remaining = [reply for reply in traces_found if reply.key not in verdicts]
    with console.progress("verdicts", len(traces_found), len(traces_found) - len(remaining)) as advance:
        for reply, verdict in _verdicts_by_batch(judge, remaining):
            record = {"id": reply.example.id, "sample": reply.sample, "judge": _judge_label(plan), **asdict(verdict)}
            verdicts[reply.key] = record
            log.append(record)
            advance("")
    judged = []
    for reply in replies:
        reading = reply.reading
        if isinstance(reading, Reasoned):
            reading = _reading_by_verdict(reading, verdicts.get(reply.key), judge.measure, reply.example)
        judged.append(replace(reply, reading=reading))
    return judged


def _judge_label(plan: TeacherPlan) -> str | None:
    if plan.judge is None:
        return None
    return plan.judge.label()


def _verdicts_by_batch(judge: Judge, replies: Sequence[TeacherReply]) -> Iterator[tuple[TeacherReply, Verdict]]:
    """Verdicts on the answers of replies that are traces. They end after a batch in which every verdict failed.

    The judge is down then, and a resumed run judges the rest.
    """
    for start in range(0, len(replies), EXCHANGES_A_BATCH):
        batch = replies[start : start + EXCHANGES_A_BATCH]
        exchanges = []
        for reply in batch:
            assert isinstance(reply.reading, Reasoned)
            exchanges.append(Exchange(reply.example.prompt, reply.reading.answer))
        verdicts = judge.judge(exchanges)
        yield from zip(batch, verdicts, strict=True)
        if all(verdict.failed for verdict in verdicts):
            return


def _reading_by_verdict(trace: Reasoned, verdict: Record | None, measure: Measure, example: Example) -> Reading:
    """The trace if it passes the judge, else the reason why it does not.

    Harmful prompts have to be refused and all others answered. A quality judge has to give every answer a high score.
    """
    if verdict is None or verdict.get("failed"):
        return JUDGE_FAILED
    score = verdict["score"]
    if score is None:
        return UNSCORED
    if not is_good(score, measure, example.kind == "harmful"):
        return REJECTED
    return trace


def _outcome_of(reading: Reading) -> str:
    """The outcome of a reply: kept, or the reason why not."""
    if isinstance(reading, str):
        return reading
    return KEPT


def _write_kept_traces(path: Path, records: Sequence[Record], replies: Sequence[TeacherReply]) -> None:
    """Writes the traces, and the replies in order with their final outcomes."""
    kept = []
    for reply in replies:
        trace = reply.reading
        if isinstance(trace, Reasoned):
            # The samples of one prompt are rows of their own, and ids are unique.
            name = f"{reply.example.id}/{reply.sample}"
            kept.append(replace(reply.example, id=name, reasoning=trace.reasoning, answer=trace.answer))
    write_parquet(path / TRACES, kept)
    # The outcomes of the first pass are replaced by those after the comparison and the judge.
    lines = []
    for record, reply in zip(records, replies, strict=True):
        lines.append(line_of({**record, "outcome": reply.outcome}))
    write_bytes(path / f"{REPLIES}.jsonl", b"".join(lines))


def _traces_metrics(plan: TeacherPlan, records: Sequence[Record], replies: Sequence[TeacherReply]) -> Metrics:
    kept_by_source = Counter[str]()
    outcomes = Counter[str]()
    ids_with_trace = set()
    for reply in replies:
        outcomes[reply.outcome] += 1
        if reply.outcome == KEPT:
            kept_by_source[reply.example.source] += 1
            ids_with_trace.add(reply.example.id)
    sources = {}
    for source, examples in plan.by_source.items():
        without_trace = sum(example.id not in ids_with_trace for example in examples)
        sources[source] = {
            "prompts": len(examples),
            "prompts_without_trace": without_trace,
            "kept": kept_by_source[source],
        }
    return {
        "teacher": plan.model.identity(),
        "judge": _judge_label(plan),
        "prompts": len(plan.examples),
        "prompts_without_trace": len(plan.examples) - len(ids_with_trace),
        "replies": len(replies),
        "kept": kept_by_source.total(),
        "outcomes": dict(outcomes.most_common()),
        "tokens": count_tokens(records),
        "sources": sources,
    }


def _finish_traces(
    this: RunDirectory, plan: TeacherPlan, metrics: Metrics, records: Sequence[Record], allow_failed: bool
) -> None:
    """Ends the run. If replies or verdicts failed, the metrics are written and the run can be resumed."""
    console.say(_traces_summary(metrics))
    errors = [record["error"] for record in records if reply_failed(record)]
    if errors and plan.may_retry and not allow_failed:
        write_json(this.path / "metrics.json", metrics)
        reason = judging.most_common_reason(errors)
        raise StageFailed(
            f"{this.path}: {len(errors)} of {len(records)} replies failed ({reason}); {going_on()}, with "
            "--allow-failed it then ends without those that still fail"
        )
    unjudged = metrics["outcomes"].get(JUDGE_FAILED, 0)
    if unjudged:
        # `--allow-failed` does not apply here: the training data would depend on when the judge was down.
        write_json(this.path / "metrics.json", metrics)
        verdicts = read_records(this.path / f"{VERDICTS}.jsonl")
        reason = judging.most_common_reason(str(verdict["reason"]) for verdict in verdicts if verdict.get("failed"))
        raise StageFailed(f"{this.path}: {unjudged} verdicts failed ({reason}); {going_on()}")
    this.finish(metrics)


def _traces_summary(metrics: Metrics) -> str:
    prompts = metrics["prompts"]
    counted = metrics["tokens"]
    with_trace = prompts - metrics["prompts_without_trace"]
    parts = [f"{metrics['kept']} of {metrics['replies']} replies kept, for {with_trace} of {prompts} prompts"]
    for outcome, count in metrics["outcomes"].items():
        if outcome != KEPT:
            parts.append(f"{count} {outcome}")
    if counted["read"] is not None:
        parts.append(f"{counted['read']} tokens read and {counted['written']} written")
    # Local engines always count. Some servers do not, and the sum is then too low.
    if counted["replies_without"]:
        parts.append(f"{counted['replies_without']} replies do not say how many tokens")
    if metrics.get("usd") is not None:
        parts.append(f"{metrics['usd']:.2f} USD")
    return f"traces: {', '.join(parts)}"
