"""Stage `eval`: asks a model, judges its answers, and works out figures.

Three files, so that judging can be done again without generating: `completions.jsonl`, appended in the order in which
completions end; `verdicts.jsonl`; and `metrics.json`, worked out in the order of the cases whatever that order was.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from safereason import attacks, console, evals
from safereason.attacks import formats
from safereason.attacks.base import TestCase
from safereason.data import sources
from safereason.data.draw import limited
from safereason.data.example import Example
from safereason.engines.base import Completion
from safereason.engines.open import check_name, open_engine
from safereason.errors import BarNotMet, InputError, StageFailed
from safereason.evals import Case, Eval, Outcome
from safereason.evals.metrics import OVERALL, Figure
from safereason.judges import Exchange, Judge, Verdict, Wanted, open_judge
from safereason.recipe.schema import Evaluation, Recipe
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import sha256
from safereason.runs.records import Record, RecordLog, keep_records, read_records, write_json
from safereason.stages import attack
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
)
from safereason.stages.trained import model_of
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
    cases: tuple[Path, ...] = ()
    """Files of test cases, in place of attacks."""


def run(
    recipe: Recipe,
    options: Options,
    name: str,
    *,
    attacks: Sequence[str] | None = None,
    judge: str | None = None,
    limit: int | None = None,
    cases: Sequence[Path] = (),
) -> Result:
    """Measures `options.model`, else the recipe's newest finished rl run, else its sft run.

    Args:
        recipe: Says what is measured, on how much, and by which judge.
        options: Where to write, and the model.
        name: The evaluation.
        attacks: In place of the recipe's, for an evaluation under attacks.
        judge: In place of the recipe's.
        limit: In place of the recipe's: most examples, drawn by the seed.
        cases: Files of test cases that attacks found, in place of attacks; a behavior that nothing was found for is
            asked for in its own words.

    Raises:
        InputError: A name is unknown, the judge measures something else, or there is no such model or data.
    """
    plan = make_plan(recipe, name, attacks, judge, limit, cases)
    plan = replace(plan, judge=resolved_judge(plan.judge, options))
    model = model_of(recipe, options)
    check_name(model)  # before a directory is made
    directory = open_run(
        f"eval/{name}", recipe, options, model_label(model), _identity(recipe, plan, model, options.base_url)
    )
    if (result := finished_result(directory)) is not None:
        return result
    available = _available(plan)
    examples = limited(available, plan.limit, recipe.seed)
    scorer = _open_judge(plan)
    tests = _read(plan, available) if plan.cases else _tests(recipe, options, plan, model, examples)
    asked = evals.cases(examples, tests)
    with directory as this:
        _start(this)
        with this.records("completions") as log:
            _generate(asked, plan.section, recipe, options, model, log)
        with this.records("verdicts") as log:
            _judge(asked, scorer, plan.judge, log)
        metrics = {
            "eval": name,
            "model": model_identity(model),
            "recipe": recipe.name,
            "judge": plan.judge,
            "source": plan.source,
            "attacks": list(dict.fromkeys(case.attack for case in asked)),
            "examples": len(examples),
            "available": len(available),
            "limit": plan.limit,
            "figures": [asdict(f) for f in plan.evaluation.figures(_outcomes(asked, this.path), scorer.measures)],
        }
        _finish(this, metrics, len(asked))
    return Result(directory.path, metrics)


def _available(plan: Plan) -> list[Example]:
    """The examples that the evaluation is about; with files of test cases, those that they have some of."""
    found = [e for e in sources.get(plan.source).load("test") if plan.evaluation.keeps(e)]
    if not found:
        raise InputError(
            f"source {plan.source}: has no prompts that eval {plan.evaluation.name} is about; name another one"
        )
    attacked = {test.behavior_id for test in _read(plan, found)} if plan.cases else {e.id for e in found}
    return [e for e in found if e.id in attacked]


def _finish(this: RunDirectory, metrics: dict[str, Any], cases: int) -> None:
    """Ends the run, unless a server failed: then the figures are written all the same, and the run can be resumed."""
    errors = [record["error"] for record in read_records(this.path / "completions.jsonl") if "error" in record]
    if errors:
        write_json(this.path / "metrics.json", metrics)
        raise StageFailed(
            f"{this.path}: {len(errors)} of {cases} completions failed ({errors[0]}); --resume asks again"
        )
    this.finish(metrics)


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


def make_plan(
    recipe: Recipe,
    name: str,
    attacks: Sequence[str] | None,
    judge: str | None,
    limit: int | None,
    cases: Sequence[Path] = (),
) -> Plan:
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
    if evaluation.attacks is None and (attacks is not None or cases):
        raise InputError(f"eval {name}: is not made under attacks; leave --attacks and --cases out")
    if attacks is not None and cases:
        raise InputError("--attacks and --cases exclude each other; pass one of them")
    listed = evaluation.attacks(section) if evaluation.attacks else ("direct",)
    chosen = tuple(dict.fromkeys(attacks or listed))
    return Plan(evaluation, section, () if cases else chosen, judge or evaluation.judge(section),
                limit or section.limit, source, tuple(cases))  # fmt: skip


def _tests(recipe: Recipe, options: Options, plan: Plan, model: str, examples: Sequence[Example]) -> Iterator[TestCase]:
    """The test cases, attack by attack; an attack that searches is run first, where its run is not there yet."""
    for name in plan.attacks:
        if attacks.get(name).needs:
            theirs = replace(options, model=model, out=None, on_existing="resume")
            done = attack.run(recipe, theirs, name, behaviors=plan.source, limit=plan.limit)
            yield from attack.cases_of(done.run)
        else:
            yield from attack.static_cases(recipe, name, examples, plan.section.prefix)


def _read(plan: Plan, available: Sequence[Example]) -> list[TestCase]:
    """The test cases of files, of behaviors that the evaluation has.

    Raises:
        InputError: A file is in no format that is known, or holds none of these behaviors.
    """
    own = {example.id: example.prompt for example in available}
    found = [one for path in plan.cases for one in formats.read(path) if one.behavior in own]
    if not found:
        raise InputError(f"--cases {plan.cases[0]}: holds no behavior of {plan.source}; name their source with "
                         "eval.behaviors=SOURCE")  # fmt: skip
    return [one.case or TestCase(one.behavior, one.attack, own[one.behavior]) for one in found]


def _identity(recipe: Recipe, plan: Plan, model: str, base_url: str | None) -> dict[str, Any]:
    server = {"base_url": base_url} if base_url else {}
    # Only where there is something to set, so that a section which no named attack reads changes nothing.
    chosen = {name: attacks.get(name) for name in plan.attacks if attacks.get(name).settings.model_fields}
    searched = {"attack": recipe.attack.model_dump(mode="json")} if recipe.attack and chosen else {}
    given = {"cases": {str(path): sha256(path) for path in plan.cases}} if plan.cases else {}
    return identity(recipe, "eval", model=model_identity(model), eval=plan.evaluation.name, attacks=list(plan.attacks),
                    limit=plan.limit, judge=judge_identity(plan.judge), **searched, **given, **server)  # fmt: skip


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
    left = {case.id for case in cases} - held
    if not left:
        return
    engine = open_engine(model, base_url=options.base_url, precision=_precision(recipe))
    with console.progress("completions", len(cases), len(held)) as advance:

        def keep(case: Case, completion: Completion) -> None:
            log.append(_record(case, completion))
            advance("")

        for case in cases:
            if case.completion is not None and case.id in left:
                keep(
                    case,
                    Completion(case.completion, (), "stop", section.prefix if case.prefix is None else case.prefix),
                )
        for prefix, asked in _by_prefix(cases, section.prefix).items():
            engine.generate(
                [[*case.turns, *chat.user(case.prompt)] for case in asked], section.sampling, seed=recipe.seed,
                prefix=prefix, done={i for i, case in enumerate(asked) if case.id not in left},
                on_finish=partial(_pass_on, asked, keep),
            )  # fmt: skip


def _pass_on(
    asked: Sequence[Case], keep: Callable[[Case, Completion], None], index: int, number: int, completion: Completion
) -> None:
    keep(asked[index], completion)


def _by_prefix(cases: Sequence[Case], own: str) -> dict[str, list[Case]]:
    """The cases that are to be asked, by what is put into the model's mouth."""
    found: dict[str, list[Case]] = {}
    for case in cases:
        if case.completion is None:
            found.setdefault(own if case.prefix is None else case.prefix, []).append(case)
    return found


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
        "request": case.request,
        "context": case.context,
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
    judged = iter(judge.judge([_exchange(completion) for completion in written]))
    return [
        Verdict.unscored(f"no completion: {c['error']}") if c["finish_reason"] == "error" else next(judged)
        for c in completions
    ]


def _exchange(completion: Record) -> Exchange:
    wanted = Wanted(completion["behavior"], completion["request"], completion["context"], completion["category"])
    return Exchange(completion["prompt"], completion["answer"], wanted)


def _outcomes(cases: Sequence[Case], path: Path) -> list[Outcome]:
    completions, verdicts = _by_id(path / "completions.jsonl"), _by_id(path / "verdicts.jsonl")
    return [Outcome(completions[case.id], _verdict(verdicts[case.id])) for case in cases]


def _verdict(record: Record) -> Verdict:
    return Verdict(record["score"], record["label"], record["reason"], record["details"])


def _by_id(path: Path) -> dict[str, Record]:
    return {record["id"]: record for record in read_records(path)}
