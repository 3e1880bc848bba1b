"""Stage `attack`: searches for prompts that elicit behaviors, and records the result of each search as it ends.

`cases.jsonl` holds one record a behavior, appended when its search ends, and put in the order of the behaviors when all
are there. A killed run repeats its unfinished searches. The seed of a search depends on its behaviors only, so the
repeated search ends with the same records, and several may be under way at once, each in a process of its own.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from safereason import attacks, console, workers
from safereason.attacks.base import ScoreFunction, SearchStep, Setup, TestCase
from safereason.attacks.formats import CASES
from safereason.attacks.meter import LostError, Meter, Metered, SpentError
from safereason.data.example import Example
from safereason.data.sources import files
from safereason.engines.base import Completion, Engine, Likelihood, generation_prefix
from safereason.engines.engine_spec import EngineSpec
from safereason.engines.memory import release
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError, StageFailed
from safereason.judges import BehaviorRequest, Exchange
from safereason.recipe.schema import Attacking, Recipe
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import going_on
from safereason.runs.records import Record, RecordLog, keep_records, read_records, sort_records, write_json
from safereason.stages.attack_plan import (
    AttackPlan,
    AttackRequest,
    attack_identity,
    check_at_hand,
    plan_attack,
    settings_of,
)
from safereason.stages.base import Metrics, Options, Result, base_model, finished_result
from safereason.stages.contents import file_hashes
from safereason.stages.placement import Placement, Role, gpus_to_use, judge_roles, loading_of, place
from safereason.stages.resolve_model import model_of
from safereason.stages.run_engine import RunEngine, engine_of, noted_engine
from safereason.stages.scorer import Harm, RatingSpec, open_harm
from safereason.training.fit import Gpus

NOTHING_FOUND = "the budget ended before the search began; the behavior's own words"


def run_attack(recipe: Recipe, options: Options, request: AttackRequest) -> Result:
    """Attacks `options.model`, else the recipe's newest trained model.

    Args:
        recipe: Recipe with the attacks' models and settings.
        options: Where to write, and the target.
        request: The attack.

    Raises:
        InputError: A name or a setting is unknown, or a model, a judge or a source cannot be had.
        StageFailed: A model or the judge failed; `--resume` repeats the searches that met it.
    """
    plan = plan_attack(recipe, options, request)
    # An attack without needs makes the same cases for every model, so its run names none.
    target = ModelSpec("none")
    if plan.attack.needs:
        target = model_of(recipe, options)
    check_at_hand(plan, target)
    engine = target_engine(plan, target, options)
    identity = attack_identity(recipe, plan, target, options.base_url)
    directory = engine.open_run(f"attack/{plan.attack.name}", recipe, options, target.label(), identity)
    if (result := finished_result(directory)) is not None:
        return result
    placement = place_attack(plan, engine.spec, options, gpus_to_use(options))
    with directory as this:
        this.inputs.update(file_hashes(files.inputs(plan.source)))
        # A search that met a failed model or judge is repeated, since it may find more now.
        keep_records(this.path / CASES, lambda record: not record.get("failed"))
        _search_remaining(plan, recipe.seed, engine, placement, options, this)
        release()
        records = list(read_records(this.path / CASES))
        metrics = {**_attack_metrics(plan, target, records), **noted_engine(this.path)}
        _finish_attack(this, metrics, records)
    return Result(directory.path, metrics)


def cases_of(run: Path) -> list[TestCase]:
    """The test cases of a run of this stage, in the order of their searches."""
    return [case_of(record) for record in read_records(run / CASES)]


def case_of(record: Record) -> TestCase:
    """A test case from its record."""
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
    """The test cases of an attack that needs no model.

    Raises:
        InputError: A setting is wrong.
    """
    attack = attacks.get(name)
    section = recipe.attack or Attacking()
    settings = settings_of(name, attack.settings, section.settings.get(name, {}))
    cases: list[TestCase] = []
    for group in attack.groups(behaviors, settings):
        setup = Setup(_NoEngine(), prefix, seed=seed_of(recipe.seed, name, group))
        *_, last = attack.search(group, settings, setup)
        cases += last.cases
    return cases


def seed_of(seed: int, name: str, group: Sequence[Example]) -> int:
    """The seed of one search, 63 bits, from its own behaviors. A shard or a limit does not change it."""
    key = f"{seed}/{name}/{'/'.join(behavior.id for behavior in group)}"
    # Python's `hash` differs between processes. One bit is dropped because torch's seeds are signed.
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def target_engine(plan: AttackPlan, target: ModelSpec, options: Options) -> RunEngine:
    """The engine of the target model; of transformers where the attack reads more than answers.

    Raises:
        InputError: The GPU does not have the precision.
    """
    if not plan.attack.needs:
        # The target is the name of no model.
        return RunEngine(EngineSpec(target), {}, "")
    reads_more = bool(plan.uses & {"likelihood", "weights"})
    return RunEngine.choose(target, options, plan.section.engine, option="attack.engine={}", by_transformers=reads_more)


def planned_placement(recipe: Recipe, plan: AttackPlan, options: Options) -> list[Record]:
    """The placement of an attack that is planned, a row a model; none without GPUs.

    A model that is not trained yet is as large as the one that it is trained from.

    Raises:
        InputError: The models do not fit the GPUs.
    """
    gpus = gpus_to_use(options)
    if gpus is None:
        return []
    target = target_engine(plan, options.model or base_model(recipe), options)
    return place_attack(plan, target.spec, options, gpus).rows("searches")


def place_attack(plan: AttackPlan, target: EngineSpec, options: Options, gpus: Gpus | None) -> Placement:
    """The placement of the models of each search on these GPUs.

    Raises:
        InputError: They do not fit the GPUs.
    """
    return place(_roles(plan, target, options), gpus, f"attack {plan.attack.name}")


def _roles(plan: AttackPlan, target: EngineSpec, options: Options) -> list[Role]:
    """The models of a search, each with its part."""
    if not plan.attack.needs:
        return []
    roles = [Role("target model", target)]
    if plan.attacker_in_use is not None:
        roles.append(Role("attacker", _asked_engine(plan.attacker_in_use, plan, options)))
    for model in plan.others:
        roles.append(Role("other target model", _read_engine(model, options)))
    for model in plan.settings.models:
        roles.append(Role("draft", _read_engine(model, options)))
    scorer = plan.scorer_in_use
    if isinstance(scorer, RatingSpec):
        roles.append(Role("rater", _asked_engine(scorer.model, plan, options)))
    else:
        roles += judge_roles(scorer, options)
    return roles


def _asked_engine(model: ModelSpec, plan: AttackPlan, options: Options) -> EngineSpec:
    """The engine of a model that only writes replies."""
    return engine_of(model, options, plan.section.engine)


def _read_engine(model: ModelSpec, options: Options) -> EngineSpec:
    """The engine of a model whose weights are read."""
    return engine_of(model, options, by_transformers=True)


def _search_remaining(
    plan: AttackPlan, seed: int, engine: RunEngine, placement: Placement, options: Options, this: RunDirectory
) -> None:
    """Searches for the behaviors that have no record yet, group by group."""
    with this.records("cases") as log:
        # A group is searched again as a whole if one of its behaviors is missing, since they share a search.
        recorded = {record["behavior"] for record in read_records(log.path)}
        remaining = []
        for group in plan.groups:
            if any(behavior.id not in recorded for behavior in group):
                remaining.append(group)
        # Loading the models would take minutes for nothing.
        if remaining:
            engine.begin(this.path)
            searches = _Searches(plan, engine.spec, placement, options, seed, this.path)
            _search_groups(searches, remaining, recorded, engine, log)
    position = {behavior.id: index for index, behavior in enumerate(chain.from_iterable(plan.groups))}
    sort_records(this.path / CASES, lambda record: position.get(record["behavior"], len(position)))


@dataclass(frozen=True)
class _Searches:
    """All that the searches of a run share. Each process that searches gets a copy."""

    plan: AttackPlan
    target: EngineSpec
    placement: Placement
    options: Options
    seed: int
    """Seed of the recipe; each search has one of its own that follows from it."""
    run: Path


@dataclass(frozen=True)
class _StepShown:
    """What is shown of one step of a search."""

    number: int
    value: float | None
    queries: int
    best: str


_Part = _StepShown | list[Record]
"""A step of a search, or the records that it ends with."""


def _search_groups(
    searches: _Searches,
    remaining: Sequence[list[Example]],
    recorded: Collection[str],
    engine: RunEngine,
    log: RecordLog,
) -> None:
    plan = searches.plan
    # Attacks that a judge leads maximise its score, and all others minimise a loss.
    value_name = "loss"
    if "score" in plan.attack.needs:
        value_name = "score"
    total = len(plan.groups)
    with console.searches("behavior", total, total - len(remaining), value_name) as watch:

        def take(group: list[Example], part: _Part) -> None:
            name = group[0].id
            if isinstance(part, _StepShown):
                watch.step(name, part.number, part.value, part.queries, part.best)
                return
            if plan.attack.needs:
                engine.note(searches.run)
            for record in part:
                # A killed run may have recorded some of a group; those records stay as they are.
                if record["behavior"] not in recorded:
                    log.append(record)
            watch.end(name)

        environments = searches.placement.environments[: len(remaining)]
        workers.work(_begin_searching, searches, remaining, take, environments)


def _begin_searching(searches: _Searches) -> workers.Handle[list[Example], _Part]:
    plan = searches.plan
    models = _open_models(searches)

    def search(group: list[Example], send: Callable[[_Part], None]) -> None:
        setup = models.setup_for(plan, seed_of(searches.seed, plan.attack.name, group))
        try:
            send(_search_group(plan, group, setup, send))
        except LostError as error:
            raise StageFailed(
                f"{searches.run}: the search of {group[0].id} was given up ({error}); {going_on()}"
            ) from error

    return search


@dataclass(frozen=True)
class _SearchModels:
    """The models of all searches of a process, each opened once."""

    target: Engine
    attacker: Engine | None
    scorer: Callable[[Meter], ScoreFunction] | None
    others: tuple[Engine, ...]
    prefix: str
    open_model: Callable[[ModelSpec], Engine]

    def setup_for(self, plan: AttackPlan, seed: int) -> Setup:
        """The setup of one search, with a query budget of its own."""
        # Engines count in the meter by themselves, so an attack cannot forget to count a query.
        meter = Meter(plan.section.max_queries, gives_up=True)
        attacker = None
        if self.attacker is not None:
            attacker = Metered(self.attacker, meter, is_target=False)
        score = None
        if self.scorer is not None:
            score = self.scorer(meter)
        target = Metered(self.target, meter, is_target=True)
        return Setup(
            target_model=target,
            prefix=self.prefix,
            sampling=plan.section.sampling,
            seed=seed,
            attacker=attacker,
            score=score,
            others=self.others,
            meter=meter,
            open_model=self.open_model,
        )


def _open_models(searches: _Searches) -> _SearchModels:
    plan, options, placement = searches.plan, searches.options, searches.placement

    def open_read(model: ModelSpec) -> Engine:
        return placement.placed(_read_engine(model, options)).open()

    def open_asked(model: ModelSpec) -> Engine:
        return placement.placed(_asked_engine(model, plan, options)).open()

    engine: Engine = _NoEngine()
    if plan.attack.needs:
        engine = placement.placed(searches.target).open()
    attacker = None
    if plan.attacker_in_use is not None:
        attacker = open_asked(plan.attacker_in_use)
    scorer = None
    if isinstance(plan.scorer_in_use, RatingSpec):
        scorer = _scorer_of_rater(open_asked(plan.scorer_in_use.model))
    elif plan.scorer_in_use is not None:
        scorer = _scorer_of_harm(open_harm(plan.scorer_in_use, loading_of(placement, options)))
    others = tuple(open_read(model) for model in plan.others)
    return _SearchModels(engine, attacker, scorer, others, generation_prefix(engine, plan.prefix), open_read)


def _search_group(
    plan: AttackPlan, group: Sequence[Example], setup: Setup, show: Callable[[_StepShown], None]
) -> list[Record]:
    """The records of one search, one a behavior."""
    meter = setup.meter
    last = _unattacked(plan.attack.name, group)
    is_spent = False
    try:
        for last in plan.attack.search(group, plan.settings, setup):
            show(_StepShown(last.number, last.value, meter.queries, last.cases[0].prompt))
    except SpentError:
        # The best cases so far count, or the behavior's own words where the budget allowed no step.
        is_spent = True
    return [_case_record(case, last, meter, is_spent) for case in last.cases]


def _unattacked(attack: str, group: Sequence[Example]) -> SearchStep:
    """The step before the first one: each behavior in its own words."""
    cases = []
    for behavior in group:
        details = {"nothing_found": NOTHING_FOUND}
        cases.append(TestCase(behavior.id, attack, behavior.prompt, details=details))
    return SearchStep(0, tuple(cases))


def _case_record(case: TestCase, last: SearchStep, meter: Meter, is_spent: bool) -> Record:
    record: Record = {
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
        "read": meter.prompt_tokens,
        "written": meter.completion_tokens,
        "spent": is_spent,
    }
    # Both keys are rare, so they are in those records only that need them.
    if meter.failed:
        record["failed"] = meter.failed
        record["failure"] = meter.failure
    if meter.unscored and last.value is None:
        record["unscored"] = meter.unscored.most_common(1)[0][0]
    return record


def _finish_attack(this: RunDirectory, metrics: Metrics, records: Sequence[Record]) -> None:
    """Ends the run. If a search met a failed model or judge, the metrics are written and the run can be resumed."""
    failed = [record for record in records if record.get("failed")]
    if failed:
        # The metrics count as preliminary until the manifest says that the run is finished.
        write_json(this.path / "metrics.json", metrics)
        raise StageFailed(
            f"{this.path}: {len(failed)} of {len(records)} searches met what could not be had "
            f"({failed[0]['failure']}); {going_on()}"
        )
    this.finish(metrics)


def check_attack_scored(run: Path, metrics: Metrics) -> None:
    """Refuses an attack whose judge scored nothing. The run is finished all the same.

    Raises:
        StageFailed: The judge could not score a single answer.
    """
    reasons = Counter(record["unscored"] for record in read_records(run / CASES) if "unscored" in record)
    # One score is enough to have led the search, if only a little.
    if metrics["mean_value"] is None and reasons:
        reason = reasons.most_common(1)[0][0]
        raise StageFailed(f"{run}: no answer could be scored ({reason}); name another judge, or look at the answers")


def _attack_metrics(plan: AttackPlan, target: ModelSpec, records: Sequence[Record]) -> Metrics:
    first_behaviors = {group[0].id for group in plan.groups}
    totals = Counter[str]()
    values = []
    for record in records:
        totals["nothing_found"] += "nothing_found" in record["details"]
        totals["budget_ended"] += record["spent"]
        if record["value"] is not None:
            values.append(record["value"])
        # Behaviors of one search share its queries, and each record holds all of them. They count once.
        if record["behavior"] in first_behaviors:
            totals["failed"] += record.get("failed", 0)
            totals["queries"] += record["queries"]
            totals["tokens_read"] += record["read"]
            totals["tokens_written"] += record["written"]
    model = None
    if plan.attack.needs:
        model = target.identity()
    mean_value = None
    if values:
        mean_value = sum(values) / len(values)
    return {
        "attack": plan.attack.name,
        "model": model,
        "source": plan.source,
        "behaviors": len(records),
        "nothing_found": totals["nothing_found"],
        "budget_ended": totals["budget_ended"],
        "failed": totals["failed"],
        "mean_value": mean_value,
        "queries": totals["queries"],
        "tokens_read": totals["tokens_read"],
        "tokens_written": totals["tokens_written"],
    }


def _scorer_of_rater(engine: Engine) -> Callable[[Meter], ScoreFunction]:
    """A function that makes the score of one search from its meter, by the ratings of a chat model."""
    from safereason.attacks.rating import rater

    # The meter counts no tokens of judges, so it counts none of a rating model.
    return lambda meter: rater(Metered(engine, meter, is_target=False, counts_tokens=False))


def _scorer_of_harm(harm: Harm) -> Callable[[Meter], ScoreFunction]:
    """A function that makes the score of one search from its meter, by a judge."""

    def scorer_of_search(meter: Meter) -> ScoreFunction:
        def score_answers(behavior: Example, answers: Sequence[str]) -> list[float | None]:
            request = BehaviorRequest(behavior.id, behavior.request, behavior.context, behavior.category)
            # The judge reads the behavior's plain prompt. An attack's disguise must not change its verdict.
            exchanges = [Exchange(behavior.prompt, answer, request) for answer in answers]
            scores = []
            failures = []
            for verdict in harm(exchanges):
                scores.append(verdict.score)
                if verdict.score is None:
                    meter.unscored[str(verdict.reason)] += 1
                if verdict.failed:
                    failures.append(str(verdict.reason))
            # A search in which every verdict of a call failed ends here, and a resumed run repeats it.
            meter.count_failures(failures, len(scores))
            return scores

        return score_answers

    return scorer_of_search


class _NoEngine:
    """Stand-in for the target model of an attack that needs none."""

    name = "none"
    tokenizer = None
    local = None

    def generate(self, *positional: object, **named: object) -> list[list[Completion]]:
        """Refuses, since no such attack may query a target model."""
        raise InputError("this attack has no target model; its `needs` leave out what it uses")

    def loglikelihood(self, *positional: object, **named: object) -> list[Likelihood]:
        """Refuses as `generate` does."""
        raise InputError("this attack has no target model; its `needs` leave out what it uses")
