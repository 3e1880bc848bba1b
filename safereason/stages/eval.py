"""Stage `eval`: asks a model, judges its answers, and works out figures.

Three files, so that judging can be done again without generating (`eval_score.py`): `completions.jsonl`, appended in
the order in which completions end; `verdicts.jsonl`; and `metrics.json`, worked out in the order of the cases whatever
that order was.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from safereason import attacks, console, evals, judges
from safereason.attacks import formats
from safereason.attacks.base import TestCase
from safereason.data import sources
from safereason.data.draw import limited
from safereason.data.example import Example
from safereason.engines.base import Completion, generation_prefix
from safereason.engines.open import REMOTE, check_name, load_tokenizer, open_engine
from safereason.errors import InputError
from safereason.evals import Case, Eval, adaptivity
from safereason.recipe.schema import Evaluation, Recipe
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import sha256
from safereason.runs.records import RecordLog, keep_records, read_records
from safereason.stages import attack, eval_judge, searches
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
from safereason.stages.contents import contents
from safereason.stages.trained import model_of, precision_of
from safereason.text import chat, reasoning


@dataclass(frozen=True)
class Plan:
    """An evaluation with what the recipe and the command line say about it."""

    evaluation: Eval
    section: Evaluation
    attacks: tuple[str, ...]
    judge: str | None
    """None where nothing is judged."""
    limit: int | None
    sources: tuple[str, ...]
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
    source: str | None = None,
) -> Result:
    """Measures `options.model`, else the recipe's newest finished rl run, else its sft run.

    Args:
        recipe: Says what is measured, on how much, and by which judge.
        options: Where to write, and the model.
        name: The evaluation.
        attacks: In place of the recipe's, for an evaluation under attacks.
        judge: In place of the recipe's.
        limit: In place of the recipe's: most examples, drawn by the seed.
        cases: Files of test cases that attacks found, or the attacks' runs, in place of attacks; a behavior that
            nothing was found for is asked for in its own words.
        source: The data source, in place of the recipe's or the evaluation's own.

    Raises:
        InputError: A name is unknown, the judge measures something else, or there is no such model or data.
        StageFailed: Completions or verdicts could not be had, and `--resume` asks again.
    """
    plan = make_plan(recipe, name, attacks, judge, limit, cases, source)
    plan = replace(plan, judge=plan.judge and resolved_judge(plan.judge, options))
    model = model_of(recipe, options)
    check_name(model)  # before a directory is made
    directory = open_run(
        f"eval/{name}", recipe, options, model_label(model), _identity(recipe, plan, model, options.base_url)
    )
    if (result := finished_result(directory)) is not None:
        return result
    if plan.judge:
        judges.check(plan.judge)
    check_attacks(recipe, options, plan, model)
    drawn = _draw(plan, recipe.seed)
    scorer = evals.judge_for(plan.evaluation, plan.judge) if plan.judge else None
    tests = drawn.tests if plan.cases else _tests(recipe, options, plan, model, drawn.examples)
    asked = evals.cases(drawn.examples, tests)
    ids = [case.id for case in asked]
    with directory as this:
        _start(this)
        with this.records("completions") as log:
            _generate(asked, plan, recipe, options, model, log)
        if scorer is not None and plan.judge is not None:
            with this.records("verdicts") as log:
                eval_judge.judge_all(ids, scorer, plan.judge, log)
        metrics = {
            "eval": name,
            "model": model_identity(model),
            "recipe": recipe.name,
            "judge": plan.judge,
            "source": ", ".join(plan.sources),
            "attacks": list(dict.fromkeys(case.attack for case in asked)),
            "examples": len(drawn.examples),
            "available": drawn.available,
            "limit": plan.limit,
            **eval_judge.counts(ids, this.path, plan.evaluation),
            "figures": eval_judge.figures(ids, this.path, plan.evaluation, scorer.measures if scorer else ""),
        }
        eval_judge.finish(this, ids, plan.evaluation, metrics)
    return Result(directory.path, metrics)


@dataclass(frozen=True)
class _Drawn:
    """What is asked about."""

    examples: list[Example]
    available: int
    """Of how many they were drawn."""
    tests: list[TestCase]
    """The test cases of files; none where attacks find them."""


def _draw(plan: Plan, seed: int) -> _Drawn:
    """The examples that the evaluation is about, up to its limit; with files of test cases, those they have some of."""
    found: Iterable[Example] = _fitting(plan)
    tests: list[TestCase] = []
    if plan.cases:
        every = list(found)
        tests = _read(plan, every)
        attacked = {test.behavior_id for test in tests}
        found = [example for example in every if example.id in attacked]
    seen = count()
    examples = limited((example for example, _ in zip(found, seen, strict=False)), plan.limit, seed)
    if not examples:
        raise InputError(
            f"source {', '.join(plan.sources)}: has no prompts that eval {plan.evaluation.name} is about; "
            "name another one"
        )
    return _Drawn(examples, next(seen), tests)


def _fitting(plan: Plan) -> Iterator[Example]:
    for name in plan.sources:
        yield from filter(plan.evaluation.keeps, sources.get(name).stream("test"))


def make_plan(
    recipe: Recipe,
    name: str,
    attacks: Sequence[str] | None = None,
    judge: str | None = None,
    limit: int | None = None,
    cases: Sequence[Path] = (),
    source: str | None = None,
) -> Plan:
    """Puts the recipe and the command line together, as `run` does; arguments as there.

    Raises:
        InputError: The evaluation is unknown, left out of the recipe, or takes no attacks or no judge.
    """
    evaluation = evals.get(name)
    section = recipe.eval
    if section is None:
        raise InputError(f"recipe {recipe.name}: it has no eval section; add one")
    chosen = (source,) if source else evaluation.sources(section)
    if not chosen:
        raise InputError(f"recipe {recipe.name}: eval {name} is left out (its source is null); name a source")
    if evaluation.judge is None and judge is not None:
        raise InputError(f"eval {name}: asks no judge; leave --judge out")
    if evaluation.attacks is None and (attacks is not None or cases):
        raise InputError(f"eval {name}: is not made under attacks; leave --attacks and --cases out")
    if attacks is not None and cases:
        raise InputError("--attacks and --cases exclude each other; pass one of them")
    listed = evaluation.attacks(section) if evaluation.attacks else ("direct",)
    return Plan(
        evaluation=evaluation,
        section=section,
        attacks=() if cases else tuple(dict.fromkeys(attacks or listed)),
        judge=judge or (evaluation.judge(section) if evaluation.judge else None),
        limit=limit or section.limit or evaluation.draws,
        sources=chosen,
        cases=tuple(map(formats.file_of, cases)),
    )


def check_attacks(recipe: Recipe, options: Options, plan: Plan, model: str | None = None) -> None:
    """Refuses what any of the attacks would refuse, before the first of them searches.

    Args:
        recipe: Says what attacks work with.
        options: Where runs are, for a judge `guard:RECIPE`.
        plan: The attacks.
        model: The target, which then has to be at hand with all that attacks load; None looks at neither.

    Raises:
        InputError: As `attack.make_plan` and `attack.check_at_hand`.
    """
    for name in plan.attacks:
        if name == "direct":
            continue
        theirs = attack.make_plan(recipe, options, name, behaviors=plan.sources[0], limit=plan.limit)
        if model is not None:
            attack.check_at_hand(theirs, model)


def _tests(recipe: Recipe, options: Options, plan: Plan, model: str, examples: Sequence[Example]) -> Iterator[TestCase]:
    """The test cases, attack by attack; an attack that searches is run first, where its run is not there yet."""
    prefix = _own_prefix(model, plan) if any(not attacks.get(name).needs for name in plan.attacks) else ""
    for name in plan.attacks:
        if attacks.get(name).needs:
            theirs = replace(options, model=model, out=None, on_existing="resume")
            yield from attack.cases_of(searches.run(recipe, theirs, name, plan.sources[0], plan.limit))
        else:
            yield from attack.static_cases(recipe, name, examples, prefix)


def _own_prefix(model: str, plan: Plan) -> str:
    """The generation prefix, after the reasoning that the model's chat template opens: what an attack may close."""
    prefix = plan.section.prefix
    is_known = model.startswith(REMOTE) or prefix.lstrip().startswith(reasoning.OPEN)
    return prefix if is_known else chat.opening(load_tokenizer(model), prefix)


def _read(plan: Plan, available: Sequence[Example]) -> list[TestCase]:
    """The test cases of files, of behaviors that the evaluation has.

    Raises:
        InputError: A file is in no format that is known, or holds none of these behaviors.
    """
    own = {example.id: example.prompt for example in available}
    found = [one for path in plan.cases for one in formats.read(path) if one.behavior in own]
    if not found:
        raise InputError(
            f"--cases {plan.cases[0]}: holds no behavior of {', '.join(plan.sources)}; name their source with --source"
        )
    return [one.case or TestCase(one.behavior, one.attack, own[one.behavior]) for one in found]


def _identity(recipe: Recipe, plan: Plan, model: str, base_url: str | None) -> dict[str, Any]:
    # Only where there is something to set, so that a section which no named attack reads changes nothing.
    chosen = {name: attacks.get(name) for name in plan.attacks if attacks.get(name).settings.model_fields}
    return identity(
        recipe,
        model=model_identity(model),
        eval=plan.evaluation.name,
        sources=list(plan.sources),
        attacks=list(plan.attacks),
        limit=plan.limit,
        judge=plan.judge and judge_identity(plan.judge),
        sampling=plan.section.sampling.model_dump(mode="json"),
        prefix=plan.section.prefix,
        **({"attack": recipe.attack.model_dump(mode="json")} if recipe.attack and chosen else {}),
        **({"cases": {str(path): sha256(path) for path in plan.cases}} if plan.cases else {}),
        **({"base_url": base_url} if base_url else {}),
        **contents(models=[model], judges=[plan.judge], sources=plan.sources),
    )


def _start(this: RunDirectory) -> None:
    """Drops what a resumed run does again: completions a server failed at, and verdicts that could not be had."""
    keep_records(this.path / eval_judge.COMPLETIONS, lambda record: not evals.has_failed(record))
    eval_judge.drop_failed(this.path / eval_judge.VERDICTS)


def _generate(cases: Sequence[Case], plan: Plan, recipe: Recipe, options: Options, model: str, log: RecordLog) -> None:
    held = {record["id"] for record in read_records(log.path)}
    left = {case.id for case in cases} - held
    if not left:
        return
    section = plan.section
    engine = open_engine(model, base_url=options.base_url, precision=precision_of(recipe))
    tokens = None if plan.judge else _tokens(model)
    with console.progress("completions", len(cases), len(held)) as advance:

        def keep(case: Case, completion: Completion) -> None:
            counted = adaptivity.lengths(completion, tokens) if tokens else {}
            log.append({**evals.record(case, completion), **counted})
            advance("")

        for case in cases:
            if case.completion is not None and case.id in left:
                prefix = section.prefix if case.prefix is None else case.prefix
                keep(case, Completion(case.completion, (), "stop", generation_prefix(engine, prefix)))
        for prefix, asked in _by_prefix(cases, section.prefix).items():
            engine.generate(
                [[*case.turns, *chat.user(case.prompt)] for case in asked],
                section.sampling,
                seed=recipe.seed,
                prefix=prefix,
                done={i for i, case in enumerate(asked) if case.id not in left},
                on_finish=partial(_pass_on, asked, keep),
            )


def _tokens(model: str) -> Callable[[str], int] | None:
    """How many tokens of the model a text has; None for a model behind a server, whose tokenizer is not known."""
    if model.startswith(REMOTE):
        return None
    tokenizer = load_tokenizer(model)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


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
