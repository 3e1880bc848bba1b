"""Stage `data/traces`: a teacher answers prompts whose source has no reasoning, and what it writes well is kept.

`replies.jsonl` is appended in the order in which the teacher ends; when all are there it is put in the order of the
prompts, with what became of each reply. `verdicts.jsonl` holds what a judge said, and `traces.parquet` what is kept.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safereason import console
from safereason.data import traces
from safereason.data.example import Example, write_parquet
from safereason.data.traces import KEPT, Reading
from safereason.engines.base import Completion
from safereason.engines.open import check_name, open_engine
from safereason.errors import StageFailed
from safereason.judges import Exchange, Judge, open_judge
from safereason.recipe.schema import Recipe
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import going_on
from safereason.runs.records import Record, RecordLog, keep_records, line_of, read_records, write_bytes, write_json
from safereason.stages import eval_judge
from safereason.stages.base import Options, Result, finished_result, model_identity, model_label, open_run
from safereason.stages.eval_judge import EXCHANGES_A_BATCH
from safereason.stages.teacher import Plan, Price, cost, has_failed, identity_of, make_plan, tokens
from safereason.stages.training_sources import TEACHER_STAGE, TRACES
from safereason.text.reasoning import Reasoned

REPLIES, VERDICTS = "replies", "verdicts"
REJECTED, UNSCORED = "rejected by the judge", "unscored by the judge"
JUDGE_FAILED = "not judged: the judge failed"
BAR = 0.5
"""Of a judge's score: below it an answer is harmless, complies, or is of too little worth."""


def run(
    recipe: Recipe,
    options: Options,
    *,
    limit: int | None = None,
    price: Price | None = None,
    allow_failed: bool = False,
) -> Result:
    """Asks `options.model`, else the recipe's teacher, and keeps the replies that are traces.

    Args:
        recipe: Says what is asked, how often, and which judge an answer has to pass.
        options: Where to write, and the teacher.
        limit: Most prompts, drawn by the seed; None takes all.
        price: What the metrics' cost is worked out from.
        allow_failed: Whether the run ends well without the replies that a server failed at.

    Raises:
        InputError: There is no teacher or nothing for it to answer, or a source, the model or the judge cannot be had.
        StageFailed: Replies failed; `--resume` asks for those again.
    """
    plan = make_plan(recipe, options, limit)
    check_name(plan.teacher.model)
    about = identity_of(recipe, plan, options)
    directory = open_run(TEACHER_STAGE, recipe, options, model_label(plan.teacher.model), about)
    if (result := finished_result(directory)) is not None:
        return Result(result.run, result.metrics | cost(result.metrics["tokens"], price))
    judge = open_judge(plan.judge) if plan.judge else None
    with directory as this:
        _start(this, plan)
        with this.records(REPLIES) as log:
            _ask(plan, recipe.seed, options, log)
        replies = _in_order(plan, log.path)
        found = _readings(plan, replies)
        if judge is not None:
            with this.records(VERDICTS) as log:
                found = _judged(plan, judge, found, log)
        _write(this.path, plan, replies, found)
        metrics = _metrics(plan, replies, found)
        metrics |= cost(metrics["tokens"], price)
        _finish(this, plan, metrics, replies, allow_failed)
    return Result(directory.path, metrics)


def _start(this: RunDirectory, plan: Plan) -> None:
    """Drops what a resumed run does again: replies a server failed at, and verdicts that could not be had."""
    if plan.may_retry:
        keep_records(this.path / f"{REPLIES}.jsonl", lambda reply: not has_failed(reply))
    eval_judge.drop_failed(this.path / f"{VERDICTS}.jsonl")


def _ask(plan: Plan, seed: int, options: Options, log: RecordLog) -> None:
    """Asks for what has no reply yet; each reply is a conversation of its own, so that none is asked for twice."""
    held = _by_sample(log.path)
    done = {i for i, (example, sample) in enumerate(plan.jobs) if (example.id, sample) in held}
    if len(done) == len(plan.jobs):
        return
    import torch

    precision = "bf16" if torch.cuda.is_available() else "fp32"
    engine = open_engine(plan.teacher.model, base_url=options.base_url, precision=precision)
    kept = Counter(reply["outcome"] == KEPT for reply in held.values())
    with console.progress("replies", len(plan.jobs), len(done)) as advance:

        def record(index: int, number: int, completion: Completion) -> None:
            example, sample = plan.jobs[index]
            reply = _record(example, sample, completion)
            outcome = _outcome(plan.read(example, reply))
            log.append({**reply, "outcome": outcome})
            kept[outcome == KEPT] += 1
            advance(f"{kept[True]} kept, {kept[False]} rejected")

        engine.generate(
            [plan.conversation(example) for example, _ in plan.jobs],
            plan.teacher.sampling,
            seed=seed,
            prefix=plan.teacher.prefix,
            done=done,
            on_finish=record,
        )


def _record(example: Example, sample: int, completion: Completion) -> Record:
    return {
        "id": example.id,
        "sample": sample,
        "source": example.source,
        "prompt": example.prompt,
        "prefix": completion.prefix,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "error": completion.error or None,
        "usage": asdict(completion.usage) if completion.usage else None,
    }


def _by_sample(path: Path) -> dict[tuple[str, int], Record]:
    return {(record["id"], record["sample"]): record for record in read_records(path)}


def _in_order(plan: Plan, path: Path) -> list[Record]:
    replies = _by_sample(path)
    return [replies[example.id, sample] for example, sample in plan.jobs]


def _readings(plan: Plan, replies: Sequence[Record]) -> list[Reading]:
    """What each reply comes to beside the others to the same prompt."""
    found = [plan.read(example, reply) for (example, _), reply in zip(plan.jobs, replies, strict=True)]
    samples, only_one = plan.teacher.samples, plan.guide is not None
    starts = range(0, len(found), samples)
    return [one for i in starts for one in traces.first_of_each(found[i : i + samples], only_one=only_one)]


def _judged(plan: Plan, judge: Judge, found: Sequence[Reading], log: RecordLog) -> list[Reading]:
    """Judges the answers that have no verdict yet, batch by batch; a trace whose answer does not pass is none."""
    held = _by_sample(log.path)
    readable = [(e, k, one) for (e, k), one in zip(plan.jobs, found, strict=True) if isinstance(one, Reasoned)]
    left = [(e, k, one) for e, k, one in readable if (e.id, k) not in held]
    with console.progress("verdicts", len(readable), len(readable) - len(left)) as advance:
        for start in range(0, len(left), EXCHANGES_A_BATCH):
            batch = left[start : start + EXCHANGES_A_BATCH]
            verdicts = judge.judge([Exchange(e.prompt, one.answer) for e, _, one in batch])
            for (e, k, _), verdict in zip(batch, verdicts, strict=True):
                held[e.id, k] = {"id": e.id, "sample": k, "judge": plan.judge, **asdict(verdict)}
                log.append(held[e.id, k])
                advance("")
            if all(verdict.failed for verdict in verdicts):
                break  # the judge is gone: what is left is judged by a resumed run
    return [
        _passed(one, held.get((e.id, k)), judge.measures, e) if isinstance(one, Reasoned) else one
        for (e, k), one in zip(plan.jobs, found, strict=True)
    ]


def _passed(trace: Reasoned, verdict: Record | None, measures: str, example: Example) -> Reading:
    """The trace, where its score is on the right side: harmful prompts are to be refused, and no others."""
    if verdict is None or verdict.get("failed"):
        return JUDGE_FAILED
    score = verdict["score"]
    if score is None:
        return UNSCORED
    wants_low = measures == "harm" or (measures == "refusal" and example.kind != "harmful")
    return trace if (score < BAR) == wants_low else REJECTED


def _outcome(found: Reading) -> str:
    return found if isinstance(found, str) else KEPT


def _write(path: Path, plan: Plan, replies: Sequence[Record], found: Sequence[Reading]) -> None:
    """The traces, and the replies in order with what became of them."""
    kept = [
        replace(example, id=f"{example.id}/{sample}", reasoning=one.reasoning, answer=one.answer)
        for (example, sample), one in zip(plan.jobs, found, strict=True)
        if isinstance(one, Reasoned)
    ]
    write_parquet(path / TRACES, kept)
    lines = [line_of({**reply, "outcome": _outcome(one)}) for reply, one in zip(replies, found, strict=True)]
    write_bytes(path / f"{REPLIES}.jsonl", b"".join(lines))


def _metrics(plan: Plan, replies: Sequence[Record], found: Sequence[Reading]) -> dict[str, Any]:
    kept = [example for (example, _), one in zip(plan.jobs, found, strict=True) if isinstance(one, Reasoned)]
    by_source, with_trace = Counter(example.source for example in kept), {example.id for example in kept}
    return {
        "teacher": model_identity(plan.teacher.model),
        "judge": plan.judge,
        "prompts": len(plan.examples),
        "prompts_without_trace": len(plan.examples) - len(with_trace),
        "replies": len(replies),
        "kept": len(kept),
        "outcomes": dict(Counter(map(_outcome, found)).most_common()),
        "tokens": tokens(replies),
        "sources": {
            source: {
                "prompts": len(examples),
                "prompts_without_trace": sum(example.id not in with_trace for example in examples),
                "kept": by_source[source],
            }
            for source, examples in plan.by_source.items()
        },
    }


def _finish(
    this: RunDirectory, plan: Plan, metrics: dict[str, Any], replies: Sequence[Record], allow_failed: bool
) -> None:
    """Ends the run, unless a server failed: then the metrics are written all the same, and the run can be resumed."""
    console.say(_summary(metrics))
    failed = [reply["error"] for reply in replies if has_failed(reply)]
    if failed and plan.may_retry and not allow_failed:
        write_json(this.path / "metrics.json", metrics)
        reason = eval_judge.commonest(failed)
        raise StageFailed(
            f"{this.path}: {len(failed)} of {len(replies)} replies failed ({reason}); {going_on()}, with "
            "--allow-failed it then ends without those that still fail"
        )
    unjudged = metrics["outcomes"].get(JUDGE_FAILED, 0)
    if unjudged:  # without them, what is trained on would hang on when the judge was down
        write_json(this.path / "metrics.json", metrics)
        said = [str(one["reason"]) for one in read_records(this.path / f"{VERDICTS}.jsonl") if one.get("failed")]
        raise StageFailed(f"{this.path}: {unjudged} verdicts failed ({eval_judge.commonest(said)}); {going_on()}")
    this.finish(metrics)


def _summary(metrics: Mapping[str, Any]) -> str:
    prompts, counted = metrics["prompts"], metrics["tokens"]
    reached = prompts - metrics["prompts_without_trace"]
    parts = [f"{metrics['kept']} of {metrics['replies']} replies kept, for {reached} of {prompts} prompts"]
    parts += [f"{count} {outcome}" for outcome, count in metrics["outcomes"].items() if outcome != KEPT]
    if counted["read"] is not None:
        parts.append(f"{counted['read']} tokens read and {counted['written']} written")
    if counted["replies_without"]:
        parts.append(f"{counted['replies_without']} replies do not say how many tokens")
    if metrics.get("usd") is not None:
        parts.append(f"{metrics['usd']:.2f} USD")
    return f"traces: {', '.join(parts)}"
