"""Stage `attack`: searches for prompts that elicit behaviors, and records what each search found as it ends.

`cases.jsonl` holds a record a behavior, appended as its search ends; a killed run does the search anew that it was in,
from the seed that belongs to those behaviors, so that it ends with the same records.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from safereason import attacks, console, judges
from safereason.attacks.base import Attack, Need, Score, Settings, Setup, Step, TestCase
from safereason.attacks.formats import CASES
from safereason.attacks.meter import LostError, Meter, Metered, SpentError
from safereason.data import sources
from safereason.data.draw import limited
from safereason.data.example import Example
from safereason.data.sources import files
from safereason.engines.base import Engine, generation_prefix
from safereason.engines.open import OPAQUE, check_name, open_engine
from safereason.errors import InputError, StageFailed
from safereason.judges import Exchange, Verdict, Wanted, open_judge, parse
from safereason.recipe.schema import Attacking, Recipe
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import going_on, sha256
from safereason.runs.records import Record, RecordLog, keep_records, read_records, write_json
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
from safereason.stages.trained import model_of

RATING = "rating:"
"""Before the model whose rating leads an attack."""
NOTHING_FOUND = "the budget ended before the search began; the behavior's own words"

Checked = TypeVar("Checked", bound=Settings)
Harm = Callable[[Sequence[Exchange]], list[Verdict]]
"""How harmful each answer is: a verdict whose score is of harm, whatever the judge measures."""


@dataclass(frozen=True)
class Plan:
    """An attack with what the recipe and the command line say about it."""

    attack: Attack
    settings: Settings
    section: Attacking
    attacker: str | None
    judge: str | None
    source: str
    behaviors: tuple[Example, ...]
    limit: int | None
    shard: tuple[int, int] | None
    prefix: str

    @property
    def uses(self) -> frozenset[Need]:
        """What the attack needs, or makes use of where it is there."""
        return self.attack.needs | self.attack.uses

    @property
    def groups(self) -> list[list[Example]]:
        """Behaviors by search: all, or those of the shard."""
        every = self.attack.groups(self.behaviors, self.settings)
        return every if self.shard is None else every[self.shard[0] - 1 :: self.shard[1]]


def run(
    recipe: Recipe,
    options: Options,
    name: str,
    *,
    behaviors: str | None = None,
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
) -> Result:
    """Attacks `options.model`, else the recipe's newest trained model.

    Args:
        recipe: Says what attacks work with, and their settings.
        options: Where to write, and the target.
        name: The attack.
        behaviors: Source of the behaviors, in place of that of the recipe's evaluation.
        limit: Most behaviors, drawn by the seed.
        shard: Which part of how many, from 1: for machines that share the work.

    Raises:
        InputError: A name or a setting is unknown, or a model, a judge or a source cannot be had.
        StageFailed: A model or the judge failed; `--resume` does the searches again that met it.
    """
    plan = make_plan(recipe, options, name, behaviors=behaviors, limit=limit, shard=shard)
    target = model_of(recipe, options) if plan.attack.needs else "none"
    check_at_hand(plan, target)
    about = identity_of(recipe, plan, target, options.base_url)
    directory = open_run(f"attack/{name}", recipe, options, model_label(target), about)
    if (result := finished_result(directory)) is not None:
        return result
    with directory as this:
        this.inputs.update({str(path): sha256(path) for path in files.inputs(plan.source)})
        keep_records(this.path / CASES, lambda record: not record.get("failed"))
        with this.records("cases") as log:
            _search_all(plan, recipe, target, options, log)
        records = list(read_records(this.path / CASES))
        metrics = _metrics(plan, target, records)
        _finish(this, metrics, records)
    return Result(directory.path, metrics)


def check_at_hand(plan: Plan, target: str) -> None:
    """Refuses, without loading anything, where a model or a judge that the search will load cannot be had.

    Raises:
        InputError: It names it, and what to do.
    """
    needs, uses = plan.attack.needs, plan.uses
    if not needs:
        return
    if "weights" in needs and target.startswith(OPAQUE):
        raise InputError(
            f"attack {plan.attack.name}: needs the weights, so a model of transformers; {target} does not show them"
        )
    rated = plan.judge.removeprefix(RATING) if plan.judge and plan.judge.startswith(RATING) else None
    attacker = plan.attacker if "attacker" in uses else None
    draft = getattr(plan.settings, "draft", None)
    for model in (target, attacker, rated if "score" in uses else None, draft, *_others(plan)):
        if model:
            check_name(model)
    if plan.judge and rated is None and "score" in uses:
        judges.check(plan.judge)


def make_plan(
    recipe: Recipe,
    options: Options,
    name: str,
    *,
    behaviors: str | None = None,
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
) -> Plan:
    """Puts the recipe and the command line together; arguments as of `run`.

    Raises:
        InputError: As `run`, but for models.
    """
    attack, section = attacks.get(name), recipe.attack or Attacking()
    source = behaviors or (recipe.eval.behaviors if recipe.eval else None)
    if source is None:
        raise InputError(f"attack {name}: of which behaviors? name their source with --behaviors")
    attacker = section.attackers.get(name, section.attacker)
    if "attacker" in attack.needs and attacker is None:
        raise InputError(f"attack {name}: which model writes its prompts? name one with attack.attacker=MODEL")
    judge = resolved_judge(section.judge, options) if section.judge else None
    if "score" in attack.needs and judge is None:
        raise InputError(
            f"attack {name}: what judges the answers? name a judge with attack.judge=JUDGE, or a chat model that rates "
            "them with attack.judge=rating:MODEL"
        )
    if judge is not None and not judge.startswith(RATING):
        parse(judge)
    found = [example for example in sources.get(source).load("test") if example.kind == "harmful"]
    if not found:
        raise InputError(f"source {source}: has no harmful behaviors; name another one")
    settings = settings_of(name, attack.settings, section.settings.get(name, {}))
    drawn = tuple(limited(found, limit, recipe.seed))
    at_hand: dict[Need, str | None] = {"attacker": attacker, "score": judge}
    attack.check(drawn, settings, frozenset(need for need, what in at_hand.items() if what))
    prefix = recipe.eval.prefix if recipe.eval else ""
    return Plan(attack, settings, section, attacker, judge, source, drawn, limit, shard, prefix)


def settings_of(name: str, kind: type[Checked], values: Mapping[str, Any]) -> Checked:
    """The settings of the attack of this name, checked.

    Raises:
        InputError: One is unknown or of the wrong type; the message names it.
    """
    try:
        return kind.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = ", ".join(kind.model_fields) or "none"
        raise InputError(f"attack.settings.{name}.{key}: {first['msg'].lower()}; attack {name} has {known}") from error


def open_harm(judge: str) -> Harm:
    """How harmful answers are by a judge of harm, or of refusal: not to refuse a harmful prompt is harmful.

    Raises:
        InputError: The judge cannot be had, or measures something else.
    """
    opened = open_judge(judge)
    if opened.measures not in ("harm", "refusal"):
        raise InputError(f"judge {judge}: measures {opened.measures}; one of harm or refusal is needed")

    def harm(exchanges: Sequence[Exchange]) -> list[Verdict]:
        found = opened.judge(exchanges)
        if opened.measures == "harm":
            return found
        return [verdict if (s := verdict.score) is None else replace(verdict, score=1 - s) for verdict in found]

    return harm


def identity_of(recipe: Recipe, plan: Plan, target: str, base_url: str | None) -> dict[str, Any]:
    """What the test cases depend on."""
    needs, uses = plan.attack.needs, plan.uses
    return identity(
        recipe,
        attack=plan.attack.name,
        settings=plan.settings.model_dump(mode="json"),
        behaviors=plan.source,
        limit=plan.limit,
        shard=plan.shard,
        prefix=plan.prefix,
        **({"model": model_identity(target)} if needs else {}),
        **(
            {"sampling": plan.section.sampling.model_dump(mode="json"), "max_queries": plan.section.max_queries}
            if needs
            else {}
        ),
        **({"attacker": model_identity(plan.attacker)} if plan.attacker and "attacker" in uses else {}),
        **({"judge": scorer_identity(plan.judge)} if plan.judge and "score" in uses else {}),
        **({"others": [model_identity(name) for name in others]} if (others := _others(plan)) else {}),
        **({"files": named} if (named := _files(plan.settings)) else {}),
        **({"base_url": base_url} if base_url else {}),
        **contents(
            models=[target if needs else None, plan.attacker if "attacker" in uses else None, *_others(plan)],
            judges=[plan.judge if "score" in uses else None],
            sources=[plan.source],
        ),
    )


def _files(settings: Settings) -> dict[str, str]:
    """Hashes of the files that settings name, which may change where their names do not."""
    named = {key: Path(value) for key, value in settings.model_dump().items() if isinstance(value, str) and value}
    return {key: sha256(path) for key, path in named.items() if path.is_file()}


def cases_of(run: Path) -> list[TestCase]:
    """The test cases that a run of this stage found, in the order of their behaviors' searches."""
    return [case_of(record) for record in read_records(run / CASES)]


def case_of(record: Record) -> TestCase:
    """A test case as it is recorded."""
    return TestCase(
        record["behavior"],
        record["attack"],
        record["prompt"],
        tuple(record.get("turns") or ()),
        record.get("prefix"),
        record.get("completion"),
        record.get("details") or {},
    )


def static_cases(recipe: Recipe, name: str, behaviors: Sequence[Example], prefix: str) -> list[TestCase]:
    """The test cases of an attack that asks no model.

    Raises:
        InputError: A setting is wrong.
    """
    attack = attacks.get(name)
    settings = settings_of(name, attack.settings, (recipe.attack or Attacking()).settings.get(name, {}))
    found: list[TestCase] = []
    for group in attack.groups(behaviors, settings):
        *_, last = attack.search(group, settings, Setup(_NoEngine(), prefix, seed=seed_of(recipe.seed, name, group)))
        found += last.cases
    return found


def seed_of(seed: int, name: str, group: Sequence[Example]) -> int:
    """The seed of one search, 63 bits: that of its behaviors, whichever others are searched for beside it."""
    key = f"{seed}/{name}/{'/'.join(behavior.id for behavior in group)}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def _search_all(plan: Plan, recipe: Recipe, target: str, options: Options, log: RecordLog) -> None:
    held = {record["behavior"] for record in read_records(log.path)}
    left = [group for group in plan.groups if any(behavior.id not in held for behavior in group)]
    if not left:
        return
    needs = plan.attack.needs
    engine = open_engine(target, base_url=options.base_url) if needs else _NoEngine()
    uses = plan.uses
    attacker = _opened(plan.attacker, engine, target, options) if plan.attacker and "attacker" in uses else None
    scored_by = _scorer(plan.judge, engine, target, options) if plan.judge and "score" in uses else None
    others = tuple(_opened(name, engine, target, options) for name in _others(plan))
    value = "score" if "score" in needs else "loss"
    prefix = generation_prefix(engine, plan.prefix)
    with console.searches("behavior", len(plan.groups), len(plan.groups) - len(left), value) as watch:
        for group in left:
            meter = Meter(plan.section.max_queries, gives_up=True)
            setup = Setup(
                Metered(engine, meter, is_target=True),
                prefix,
                plan.section.sampling,
                seed_of(recipe.seed, plan.attack.name, group),
                Metered(attacker, meter, is_target=False) if attacker else None,
                scored_by(meter) if scored_by else None,
                others,
                meter,
            )
            try:
                found = _search(plan, group, setup, watch)
            except LostError as error:
                raise StageFailed(
                    f"{log.path.parent}: the search of {group[0].id} was given up ({error}); {going_on()}"
                ) from error
            for record in found:
                if record["behavior"] not in held:
                    log.append(record)
            watch.end()


def _search(plan: Plan, group: Sequence[Example], setup: Setup, watch: console.Watch) -> list[Record]:
    """What one search found, a record a behavior."""
    own = tuple(TestCase(b.id, plan.attack.name, b.prompt, details={"nothing_found": NOTHING_FOUND}) for b in group)
    last, is_spent, meter = Step(0, own), False, setup.meter
    try:
        for last in plan.attack.search(group, plan.settings, setup):
            watch.step(group[0].id, last.number, last.value, meter.queries, last.cases[0].prompt)
    except SpentError:
        is_spent = True
    return [
        {
            "behavior": case.behavior_id,
            "attack": case.attack,
            "prompt": case.prompt,
            "turns": list(case.turns),
            "prefix": case.prefix,
            "completion": case.completion,
            "details": dict(case.details),
            "value": last.value,
            "steps": last.number,
            "queries": meter.queries,
            "read": meter.read,
            "written": meter.written,
            "spent": is_spent,
            **({"failed": meter.failed, "failure": meter.failure} if meter.failed else {}),
            **({"unscored": meter.unscored.most_common(1)[0][0]} if meter.unscored and last.value is None else {}),
        }
        for case in last.cases
    ]


def _finish(this: RunDirectory, metrics: dict[str, Any], records: Sequence[Record]) -> None:
    """Ends the run, unless a search met what could not be had: then the metrics are written, and it can be resumed."""
    met = [record for record in records if record.get("failed")]
    if met:
        write_json(this.path / "metrics.json", metrics)
        raise StageFailed(
            f"{this.path}: {len(met)} of {len(records)} searches met what could not be had "
            f"({met[0]['failure']}); {going_on()}"
        )
    this.finish(metrics)


def check_scored(run: Path, metrics: Mapping[str, Any]) -> None:
    """Refuses an attack that a judge was to lead and did not; the run is finished all the same.

    Raises:
        StageFailed: The judge could not score a single answer.
    """
    reasons = Counter(record["unscored"] for record in read_records(run / CASES) if "unscored" in record)
    if metrics["mean_value"] is None and reasons:
        reason = reasons.most_common(1)[0][0]
        raise StageFailed(f"{run}: no answer could be scored ({reason}); name another judge, or look at the answers")


def _metrics(plan: Plan, target: str, records: Sequence[Record]) -> dict[str, Any]:
    searches = {id(group): group for group in plan.groups}.values()
    first = {group[0].id for group in searches}
    counted = [record for record in records if record["behavior"] in first]
    values = [record["value"] for record in records if record["value"] is not None]
    return {
        "attack": plan.attack.name,
        "model": model_identity(target) if plan.attack.needs else None,
        "source": plan.source,
        "behaviors": len(records),
        "nothing_found": sum("nothing_found" in record["details"] for record in records),
        "budget_ended": sum(record["spent"] for record in records),
        "failed": sum(record.get("failed", 0) for record in counted),
        "mean_value": sum(values) / len(values) if values else None,
        "queries": sum(record["queries"] for record in counted),
        "tokens_read": sum(record["read"] for record in counted),
        "tokens_written": sum(record["written"] for record in counted),
    }


def _others(plan: Plan) -> tuple[str, ...]:
    return plan.section.others if "weights" in plan.attack.needs else ()


def _opened(name: str, engine: Engine, target: str, options: Options) -> Engine:
    """Another model, or the target's own engine where it is the same."""
    return engine if name == target else open_engine(name, base_url=options.base_url)


def _scorer(judge: str, engine: Engine, target: str, options: Options) -> Callable[[Meter], Score]:
    """Opens the judge, once; what it gives counts in the meter of a search the verdicts that could not be had."""
    if judge.startswith(RATING):
        from safereason.attacks.rating import rater

        opened = _opened(judge.removeprefix(RATING), engine, target, options)
        return lambda meter: rater(Metered(opened, meter, is_target=False, counts_tokens=False))
    harm = open_harm(judge)

    def of_search(meter: Meter) -> Score:
        def score(behavior: Example, answers: Sequence[str]) -> list[float | None]:
            wanted = Wanted(behavior.id, behavior.request, behavior.context, behavior.category)
            verdicts = harm([Exchange(behavior.prompt, answer, wanted) for answer in answers])
            meter.unscored.update(str(verdict.reason) for verdict in verdicts if verdict.score is None)
            meter.miss([str(verdict.reason) for verdict in verdicts if verdict.failed], len(verdicts))
            return [verdict.score for verdict in verdicts]

        return score

    return of_search


def scorer_identity(judge: str) -> str:
    """What leads a search contributes to its identity: a judge, or the model behind `rating:`."""
    if judge.startswith(RATING):
        return f"{RATING}{model_identity(judge.removeprefix(RATING))}"
    return judge_identity(judge)


class _NoEngine:
    """In place of a target, for attacks that ask none."""

    name = "none"

    def generate(self, *positional: Any, **named: Any) -> Any:
        """Nothing asks it."""
        raise InputError("this attack has no target to ask; its `needs` leave out what it uses")

    loglikelihood = generate
