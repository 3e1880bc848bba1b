"""Stage `eval`: asks a model, judges its answers, and works out figures.

Three files, so that judging can be done again without generating: `completions.jsonl`, appended in the order in which
completions end; `verdicts.jsonl`; and `metrics.json`, worked out in the order of the cases whatever that order was.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safereason import console, evals
from safereason.data import sources
from safereason.data.example import Example
from safereason.engines.base import Completion
from safereason.engines.open import check_name, open_engine
from safereason.errors import BarNotMet, InputError, StageFailed
from safereason.evals import Case, Eval, Outcome
from safereason.evals.metrics import OVERALL, Figure
from safereason.judges import Exchange, Judge, Verdict, open_judge
from safereason.recipe.schema import Evaluation, Recipe
from safereason.runs.directory import RunDirectory, finished_runs
from safereason.runs.records import Record, RecordLog, keep_records, read_records, write_json
from safereason.stages import rl, sft
from safereason.stages.base import (
    Options,
    Result,
    finished_result,
    identity,
    judge_identity,
    model_identity,
    model_label,
    open_run,
    resolved_judge,
    source_run,
)
from safereason.text import chat, reasoning

EXCHANGES_A_BATCH = 64
"""Exchanges judged, and then recorded, at a time."""


@dataclass(frozen=True)
class Plan:
    """An evaluation with what the recipe and the command line say about it."""

    evaluation: Eval
    section: Evaluation
    attacks: tuple[str, ...]
    judge: str
    limit: int | None
    source: str


def run(
    recipe: Recipe,
    options: Options,
    name: str,
    *,
    attacks: Sequence[str] | None = None,
    judge: str | None = None,
    limit: int | None = None,
) -> Result:
    """Measures `options.model`, else the recipe's newest finished rl run, else its sft run.

    Args:
        recipe: Says what is measured, on how much, and by which judge.
        options: Where to write, and the model.
        name: The evaluation.
        attacks: In place of the recipe's, for an evaluation under attacks.
        judge: In place of the recipe's.
        limit: In place of the recipe's: most examples, drawn by the seed.

    Raises:
        InputError: A name is unknown, the judge measures something else, or there is no such model or data.
    """
    plan = make_plan(recipe, name, attacks, judge, limit)
    plan = replace(plan, judge=resolved_judge(plan.judge, options))
    model = options.model or _trained_model(recipe, options)
    check_name(model)  # before a directory is made
    directory = open_run(
        f"eval/{name}", recipe, options, model_label(model), _identity(recipe, plan, model, options.base_url)
    )
    if (result := finished_result(directory)) is not None:
        return result
    available = [e for e in sources.get(plan.source).load("test") if plan.evaluation.keeps(e)]
    if not available:
        raise InputError(f"source {plan.source}: has no prompts that eval {name} is about; name another one")
    examples = draw(available, plan.limit, recipe.seed)
    cases = evals.cases(examples, plan.attacks)
    scorer = _open_judge(plan)
    with directory as this:
        _start(this)
        with this.records("completions") as log:
            _generate(cases, plan.section, recipe, options, model, log)
        with this.records("verdicts") as log:
            _judge(cases, scorer, plan.judge, log)
        metrics = {
            "eval": name,
            "model": model_identity(model),
            "recipe": recipe.name,
            "judge": plan.judge,
            "source": plan.source,
            "attacks": list(plan.attacks),
            "examples": len(examples),
            "available": len(available),
            "limit": plan.limit,
            "figures": [asdict(f) for f in plan.evaluation.figures(_outcomes(cases, this.path), scorer.measures)],
        }
        _finish(this, metrics, len(cases))
    return Result(directory.path, metrics)


def _finish(this: RunDirectory, metrics: dict[str, Any], cases: int) -> None:
    """Ends the run, unless a server failed: then the figures are written all the same, and the run can be resumed."""
    errors = [record["error"] for record in read_records(this.path / "completions.jsonl") if "error" in record]
    if errors:
        write_json(this.path / "metrics.json", metrics)
        raise StageFailed(
            f"{this.path}: {len(errors)} of {cases} completions failed ({errors[0]}); --resume asks again"
        )
    this.finish(metrics)


def draw(examples: Sequence[Example], limit: int | None, seed: int) -> list[Example]:
    """At most `limit` examples, in the source's order: which ones depends on the seed and their ids alone."""
    if limit is None or limit >= len(examples):
        return list(examples)
    order = sorted(examples, key=lambda e: hashlib.sha256(f"{seed}:{e.id}".encode()).digest())
    chosen = {e.id for e in order[:limit]}
    return [e for e in examples if e.id in chosen]


def check_bars(metrics: Mapping[str, Any], bars: Mapping[str, float]) -> None:
    """Holds figures against `--fail-under` bars, named as `Figure.label` is: `dsr`, `dsr/direct`.

    Raises:
        InputError: There is no such figure.
        BarNotMet: A figure is under its bar, or nothing of it could be scored.
    """
    figures = {figure.label: figure for figure in (Figure(**row) for row in metrics["figures"])}
    unknown = [name for name in bars if name not in figures]
    if unknown:
        known = ", ".join(name for name, figure in figures.items() if figure.group == OVERALL)
        raise InputError(f"--fail-under {unknown[0]}: eval {metrics['eval']} has no such figure; it has {known}")
    missed = [_missed(figures[name], bar) for name, bar in bars.items() if not _meets(figures[name], bar)]
    if missed:
        raise BarNotMet("; ".join(missed))


def _meets(figure: Figure, bar: float) -> bool:
    return figure.value is not None and figure.value >= bar


def _missed(figure: Figure, bar: float) -> str:
    value = "could not be scored" if figure.value is None else f"is {figure.value:.4f}"
    return f"{figure.label} {value}, under the bar of {bar:g} (n = {figure.n}, {figure.unscored} unscored)"


def make_plan(recipe: Recipe, name: str, attacks: Sequence[str] | None, judge: str | None, limit: int | None) -> Plan:
    """Puts the recipe and the command line together, as `run` does; arguments as there.

    Raises:
        InputError: The evaluation is unknown, left out of the recipe, or takes no attacks.
    """
    evaluation = evals.get(name)
    section = recipe.eval
    if section is None:
        raise InputError(f"recipe {recipe.name}: it has no eval section; add one")
    source = evaluation.source(section)
    if source is None:
        raise InputError(f"recipe {recipe.name}: eval {name} is left out (its source is null); name a source")
    if evaluation.attacks is None and attacks is not None:
        raise InputError(f"eval {name}: is not made under attacks; leave --attacks out")
    listed = evaluation.attacks(section) if evaluation.attacks else ("direct",)
    chosen = tuple(dict.fromkeys(attacks or listed))
    return Plan(evaluation, section, chosen, judge or evaluation.judge(section), limit or section.limit, source)


def _trained_model(recipe: Recipe, options: Options) -> str:
    if finished_runs(options.root, "rl", recipe.name):
        expected = rl.identity_of(recipe, rl.start_model(recipe, options), options)
        return str(source_run("rl", recipe, options, expected))
    return str(source_run("sft", recipe, options, sft.identity_of(recipe, recipe.model)))


def _identity(recipe: Recipe, plan: Plan, model: str, base_url: str | None) -> dict[str, Any]:
    server = {"base_url": base_url} if base_url else {}
    return identity(recipe, "eval", model=model_identity(model), eval=plan.evaluation.name, attacks=list(plan.attacks),
                    limit=plan.limit, judge=judge_identity(plan.judge), **server)  # fmt: skip


def _open_judge(plan: Plan) -> Judge:
    judge = open_judge(plan.judge)
    if judge.measures not in plan.evaluation.measures:
        needed = " or ".join(plan.evaluation.measures)
        raise InputError(
            f"eval {plan.evaluation.name}: judge {plan.judge} measures {judge.measures}; one of {needed} is needed"
        )
    return judge


def _start(this: RunDirectory) -> None:
    """Drops what a resumed run does again: completions a server failed at, and verdicts that could not be had."""
    keep_records(this.path / "completions.jsonl", lambda record: record["finish_reason"] != "error")
    keep_records(this.path / "verdicts.jsonl", lambda record: record["score"] is not None)


def _generate(
    cases: Sequence[Case], section: Evaluation, recipe: Recipe, options: Options, model: str, log: RecordLog
) -> None:
    held = {record["id"] for record in read_records(log.path)}
    done = {i for i, case in enumerate(cases) if case.id in held}
    if len(done) == len(cases):
        return
    engine = open_engine(model, base_url=options.base_url, precision=_precision(recipe))
    with console.progress("completions", len(cases), len(done)) as advance:

        def record(index: int, number: int, completion: Completion) -> None:
            log.append(_record(cases[index], completion))
            advance("")

        engine.generate(
            [chat.user(case.prompt) for case in cases], section.sampling,
            seed=recipe.seed, prefix=section.prefix, done=done, on_finish=record,
        )  # fmt: skip


def _precision(recipe: Recipe) -> str:
    """The arithmetic the recipe's models were trained in."""
    section = recipe.rl or recipe.sft
    return section.precision if section else "fp32"


def _record(case: Case, completion: Completion) -> Record:
    parts = completion.parts
    return {
        "id": case.id,
        "behavior": case.behavior,
        "attack": case.attack,
        "prompt": case.prompt,
        "kind": case.kind,
        "category": case.category,
        "source": case.source,
        "prefix": completion.prefix,
        "text": completion.text,
        "reasoning": parts.reasoning,
        "answer": parts.answer,
        "closed": parts.closed,
        "well_formed": reasoning.is_well_formed(completion.full_text),
        "finish_reason": completion.finish_reason,
        "tokens": len(completion.token_ids) or None,
        **({"error": completion.error} if completion.finish_reason == "error" else {}),
    }


def _judge(cases: Sequence[Case], judge: Judge, spec: str, log: RecordLog) -> None:
    """Judges in the order of the cases, batch by batch, what has no verdict yet."""
    completions = _by_id(log.path.with_name("completions.jsonl"))
    held = _by_id(log.path)
    left = [completions[case.id] for case in cases if case.id not in held]
    with console.progress("verdicts", len(cases), len(cases) - len(left)) as advance:
        for start in range(0, len(left), EXCHANGES_A_BATCH):
            batch = left[start : start + EXCHANGES_A_BATCH]
            for completion, verdict in zip(batch, _verdicts(judge, batch), strict=True):
                log.append({"id": completion["id"], "judge": spec, **asdict(verdict)})
                advance("")


def _verdicts(judge: Judge, completions: Sequence[Record]) -> list[Verdict]:
    written = [c for c in completions if c["finish_reason"] != "error"]
    judged = iter(judge.judge([Exchange(c["prompt"], c["answer"]) for c in written]))
    return [
        Verdict.unscored(f"no completion: {c['error']}") if c["finish_reason"] == "error" else next(judged)
        for c in completions
    ]


def _outcomes(cases: Sequence[Case], path: Path) -> list[Outcome]:
    completions, verdicts = _by_id(path / "completions.jsonl"), _by_id(path / "verdicts.jsonl")
    return [Outcome(completions[case.id], _verdict(verdicts[case.id])) for case in cases]


def _verdict(record: Record) -> Verdict:
    return Verdict(record["score"], record["label"], record["reason"], record["details"])


def _by_id(path: Path) -> dict[str, Record]:
    return {record["id"]: record for record in read_records(path)}
