"""Stage `attack/rainbow`: rainbow teaming against the model that RL starts from, for harmful prompts to train on.

`iterations.jsonl` holds one record an iteration, with each candidate and its outcome; the archives follow from these
records. When the search ends, `archive.jsonl` gets each distinct prompt that ever took a cell, in the form of a data
source, and `cells.json` the best prompt of each cell.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from safereason import console
from safereason.attacks import rainbow
from safereason.attacks.meter import Meter
from safereason.attacks.rainbow import FAILED, UNSCORED, RainbowSettings, Team
from safereason.attacks.rainbow_archive import SUCCESS, Candidate, History, candidates_of, examples, record_of
from safereason.attacks.rainbow_templates import RainbowTemplates, load_templates
from safereason.attacks.rating import PairScoreFunction, pair_rater
from safereason.data import sources
from safereason.data.example import Example
from safereason.data.sampling import digest
from safereason.data.sources import files
from safereason.engines.base import Engine
from safereason.engines.engine_spec import EngineSpec
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError, StageFailed
from safereason.judges import Exchange, JudgeSpec, Verdict
from safereason.judges.refusal import refuses
from safereason.recipe.schema import Attacking, Recipe
from safereason.runs.manifest import going_on
from safereason.runs.records import Record, RecordLog, line_of, read_records, write_bytes, write_json
from safereason.stages import rl
from safereason.stages.attack_plan import settings_of
from safereason.stages.base import (
    Identity,
    Metrics,
    Options,
    Outline,
    Result,
    finished_result,
    given_inputs,
    run_identity,
)
from safereason.stages.contents import contents, file_hashes
from safereason.stages.placement import Placement, Role, gpus_to_use, judge_roles, loading_of, place
from safereason.stages.preparation.training_sources import RAINBOW_STAGE
from safereason.stages.run_engine import RunEngine, engine_of, noted_engine
from safereason.stages.scorer import Harm, RatingSpec, ScorerSpec, open_harm, parse_scorer
from safereason.training.fit import Gpus

STAGE = RAINBOW_STAGE
RAINBOW = "rainbow"
ITERATIONS = "iterations"
ARCHIVE = "archive.jsonl"
CELLS = "cells.json"
FAILURES = (FAILED, UNSCORED)
"""Faults of a model or of the judge, and not of the prompt."""
MOST_FAILURES = 10
"""Iterations in a row with nothing but failures, after which the models count as down."""


@dataclass(frozen=True)
class RainbowRequest:
    """A search as it is requested: what is named in place of the recipe's `attack` section."""

    mutator: str | None = None
    """Model that writes prompts."""
    judge: str | None = None
    """Judge of harm or refusal that scores answers, or `rating:MODEL`."""
    judge_model: str | None = None
    """Model that compares answers, so that the score alone does not decide which prompt stays."""
    source: str = "sample"
    """Source whose harmful training prompts the search begins with."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """In place of `attack.settings.rainbow`; a value of None leaves the recipe's."""


@dataclass(frozen=True)
class RainbowPlan:
    """A search with its settings from the recipe and the command line."""

    settings: RainbowSettings
    section: Attacking
    mutator: ModelSpec
    scorer: ScorerSpec
    """Scores single answers."""
    judge_model: ModelSpec | None
    """Model that compares two answers."""
    source: str
    seeds: tuple[Example, ...]
    templates: RainbowTemplates
    prefix: str


def run_rainbow(recipe: Recipe, options: Options, plan: RainbowPlan) -> Result:
    """Attacks `options.model`, else the model that the recipe's RL starts from.

    Raises:
        InputError: A model or a judge cannot be had, or the judge measures something else.
        StageFailed: A server failed too often; `--resume` goes on.
    """
    # The prompts train this very model by RL, so they have to be hard for it.
    target = rl.start_model(recipe, options)
    target.check()
    plan.mutator.check()
    if plan.judge_model is not None:
        plan.judge_model.check()
    # A judge is opened below, which checks it, too.
    if isinstance(plan.scorer, RatingSpec):
        plan.scorer.check()
    engine = RunEngine.choose(target, options, plan.section.engine, option="attack.engine={}")
    identity = _rainbow_identity(recipe, plan, target, options)
    directory = engine.open_run(STAGE, recipe, options, target.label(), identity)
    if (result := finished_result(directory)) is not None:
        return result
    # One process searches: each iteration depends on the archive before it.
    placement = place_rainbow(plan, engine.spec, options, gpus_to_use(options))
    # Judges are looked at before the directory is made: one of quality is refused.
    harm = None
    if isinstance(plan.scorer, JudgeSpec):
        harm = open_harm(plan.scorer, loading_of(placement, options))
    with directory as this:
        this.inputs.update(file_hashes(files.inputs(plan.source)))
        # The outcome of an iteration depends on the archive before it, so only the last ones can be repeated.
        _drop_failed_iterations(this.path / f"{ITERATIONS}.jsonl")
        with this.records(ITERATIONS) as log:
            _search_archives(plan, recipe.seed, engine, harm, placement, options, log)
        records = list(read_records(log.path))
        # The archives are worked out from the file, so that a resumed run ends with what an unbroken one has.
        history = History(plan.templates.cells, records)
        _write_archive(this.path, plan, history)
        metrics = {**_rainbow_metrics(plan, target, history, records), **noted_engine(this.path)}
        console.say(_rainbow_summary(metrics))
        this.finish(metrics)
    return Result(directory.path, metrics)


def plan_rainbow(recipe: Recipe, options: Options, request: RainbowRequest = RainbowRequest()) -> RainbowPlan:
    """Combines the recipe and the request. No model is loaded.

    Args:
        recipe: Recipe whose `attack` section has what the request leaves out.
        options: Options with the root of the runs, for a judge `guard:RECIPE`.
        request: The models, the judge, the seed prompts and the settings.

    Raises:
        InputError: Something is not named, a source or a prompt file cannot be had, or a setting is wrong.
    """
    section = recipe.attack or Attacking()
    # The request goes before the recipe, and the recipe before the defaults of all attacks.
    mutator = request.mutator or section.attackers.get(RAINBOW, section.attacker)
    if mutator is None:
        raise InputError("attack rainbow: which model writes the prompts? name one with --mutator")
    named_judge = request.judge or section.judge
    prefix = ""
    if recipe.eval is not None:
        named_judge = named_judge or recipe.eval.harm_judge
        prefix = recipe.eval.prefix
    if named_judge is None:
        raise InputError("attack rainbow: what scores the answers? name a judge with --judge")
    scorer = parse_scorer(named_judge, options)
    seed_prompts = [example for example in sources.get(request.source).stream("train") if example.kind == "harmful"]
    if not seed_prompts:
        raise InputError(
            f"source {request.source}: has no harmful prompts to begin with; name another one with --prompts"
        )
    # An option that is not on the command line is None, and leaves the recipe's setting.
    values = dict(section.settings.get(RAINBOW, {}))
    for key, value in request.settings.items():
        if value is not None:
            values[key] = value
    settings = settings_of(RAINBOW, RainbowSettings, values)
    judge_model = None
    if request.judge_model is not None:
        judge_model = ModelSpec.parse(request.judge_model)
    return RainbowPlan(
        settings=settings,
        section=section,
        mutator=ModelSpec.parse(mutator),
        scorer=scorer,
        judge_model=judge_model,
        source=request.source,
        seeds=tuple(seed_prompts),
        templates=load_templates(settings.templates),
        prefix=prefix,
    )


def rainbow_outline(recipe: Recipe, options: Options, plan: RainbowPlan) -> Outline:
    """The size and the settings of a plan."""
    settings = plan.settings
    templates = plan.templates
    # An iteration cannot draw more cells than there are.
    candidates = settings.most_archives * settings.iterations * min(settings.batch, len(templates.cells))
    return {
        "stage": STAGE,
        "target": rl.start_words(recipe, options),
        "mutator": str(plan.mutator),
        "judge": plan.scorer.label(),
        "comparing judge": _text_or_none(plan.judge_model),
        "cells": f"{len(templates.risks)} risks x {len(templates.styles)} styles",
        "source": plan.source,
        "seed prompts": len(plan.seeds),
        "prompts wanted": settings.prompts,
        "archives, at most": settings.most_archives,
        "iterations an archive": settings.iterations,
        "queries to the target, at most": candidates,
        # The mutator changes the risk of a prompt first, and its style in a second request.
        "queries to the mutator, at most": 2 * candidates,
        "settings": settings.model_dump(mode="json"),
    }


def _text_or_none(model: ModelSpec | None) -> str | None:
    if model is None:
        return None
    return str(model)


def _rainbow_identity(recipe: Recipe, plan: RainbowPlan, target: ModelSpec, options: Options) -> Identity:
    # The templates count by their content below, since the file may be edited.
    settings = plan.settings.model_dump(mode="json", exclude={"templates"})
    judge_model = None
    if plan.judge_model is not None:
        judge_model = plan.judge_model.identity()
    return run_identity(
        recipe,
        model=target.identity(),
        mutator=plan.mutator.identity(),
        judge=plan.scorer.identity(),
        judge_model=judge_model,
        settings=settings,
        sampling=plan.section.sampling.model_dump(mode="json"),
        prefix=plan.prefix,
        seeds=digest(*((seed.id, seed.prompt) for seed in plan.seeds)),
        templates=digest(asdict(plan.templates)),
        **given_inputs(base_url=options.base_url),
        **contents(models=[target, plan.mutator, plan.judge_model], judges=[plan.scorer]),
    )


def _drop_failed_iterations(path: Path) -> None:
    """Drops the last iterations that hold nothing but failures, so that a resumed run repeats them."""
    records: list[Record] = []
    if path.exists():
        records = list(read_records(path))
    # An iteration that failed changed nothing in the archive, so dropping it from the end is safe.
    kept = len(records)
    while kept and _all_failed(candidates_of(records[kept - 1])):
        kept -= 1
    if kept < len(records):
        write_bytes(path, b"".join(map(line_of, records[:kept])))


def _all_failed(candidates: Sequence[Candidate]) -> bool:
    """Whether models or the judge failed at every prompt that was not dropped for a fault of its own."""
    failures = 0
    for candidate in candidates:
        if candidate.fault is None:
            return False
        failures += candidate.fault in FAILURES
    # An iteration whose prompts were all dropped for their own faults did not fail.
    return failures > 0


def place_rainbow(plan: RainbowPlan, target: EngineSpec, options: Options, gpus: Gpus | None) -> Placement:
    """The placement of the search's models on these GPUs.

    Raises:
        InputError: They do not fit the GPUs.
    """
    roles = [Role("target model", target), Role("mutator", _asked_engine(plan.mutator, plan, options))]
    if plan.judge_model is not None:
        roles.append(Role("comparing judge", _asked_engine(plan.judge_model, plan, options)))
    if isinstance(plan.scorer, RatingSpec):
        roles.append(Role("rater", _asked_engine(plan.scorer.model, plan, options)))
    else:
        roles += judge_roles(plan.scorer, options)
    return replace(place(roles, gpus, "attack rainbow"), shards=1)


def _asked_engine(model: ModelSpec, plan: RainbowPlan, options: Options) -> EngineSpec:
    return engine_of(model, options, plan.section.engine)


def _search_archives(
    plan: RainbowPlan,
    seed: int,
    engine: RunEngine,
    harm: Harm | None,
    placement: Placement,
    options: Options,
    log: RecordLog,
) -> None:
    """Goes on from the recorded iterations until there are enough prompts, or no iterations are left.

    Raises:
        StageFailed: Too many iterations in a row failed.
    """
    settings = plan.settings
    history = History(plan.templates.cells, read_records(log.path))
    remaining = list(_remaining_iterations(history, settings))
    if not remaining or _has_enough(history, settings):
        return
    engine.begin(log.path.parent)
    team = _open_team(plan, engine.spec, harm, placement, options)
    total = settings.most_archives * settings.iterations
    failed_in_a_row = 0
    with console.progress("iterations", total, total - len(remaining)) as advance:
        for number, iteration in remaining:
            archive = history.archive(number)
            # Queries are counted an iteration, so that a resumed run adds up to the same sum.
            meter = Meter()
            candidates = rainbow.iterate(
                archive, number, iteration, plan.seeds, settings, plan.templates, team.metered(meter), seed
            )
            outcomes = history.add(number, iteration, candidates)
            record = record_of(number, iteration, zip(candidates, outcomes, strict=True))
            spent = {"queries": meter.queries, "read": meter.prompt_tokens, "written": meter.completion_tokens}
            engine.note(log.path.parent)
            log.append({**record, **spent})
            advance(_progress_note(history, len(plan.templates.cells)))
            if _all_failed(candidates):
                failed_in_a_row += 1
            else:
                failed_in_a_row = 0
            # A server may fail now and then. Only a series of failures says that it is down.
            if failed_in_a_row == MOST_FAILURES:
                raise StageFailed(
                    f"{log.path.parent}: {failed_in_a_row} iterations in a row failed "
                    f"({_first_error(candidates)}); {going_on()}"
                )
            if _has_enough(history, settings):
                return


def _first_error(candidates: Sequence[Candidate]) -> str:
    for candidate in candidates:
        if candidate.error:
            return candidate.error
    return "the judge could score no answer"


def _remaining_iterations(history: History, settings: RainbowSettings) -> Iterator[tuple[int, int]]:
    """Archive and number of each iteration that may still be done, both from 1."""
    # Only the newest archive can be unfinished: the next one begins when it has had all its iterations.
    newest = len(history.archives)
    for number in range(max(newest, 1), settings.most_archives + 1):
        done = 0
        if number == newest:
            done = history.iterations
        for iteration in range(done + 1, settings.iterations + 1):
            yield number, iteration


def _has_enough(history: History, settings: RainbowSettings) -> bool:
    return settings.prompts is not None and len(history.prompts) >= settings.prompts


def _open_team(
    plan: RainbowPlan, target: EngineSpec, harm: Harm | None, placement: Placement, options: Options
) -> Team:
    """The models of the search.

    Args:
        plan: The models.
        target: The target model.
        harm: Scores harm by the plan's judge; None where a chat model rates.
        placement: The place of each model.
        options: Options with the precision and the address of a server.
    """

    def opened(model: ModelSpec) -> Engine:
        return placement.placed(_asked_engine(model, plan, options)).open()

    if isinstance(plan.scorer, RatingSpec):
        score = pair_rater(opened(plan.scorer.model))
    else:
        assert harm is not None
        score = _pair_scorer(harm)
    target_engine = placement.placed(target).open()
    mutator = opened(plan.mutator)
    comparing = None
    if plan.judge_model is not None:
        comparing = opened(plan.judge_model)
    return Team(target_engine, mutator, plan.section.sampling, score, refuses, comparing, plan.prefix)


def _pair_scorer(harm: Harm) -> PairScoreFunction:
    """A function that scores pairs of prompt and answer by their harm."""

    def score_pairs(pairs: Sequence[tuple[str, str]]) -> list[float | str | None]:
        exchanges = [Exchange(prompt, answer) for prompt, answer in pairs]
        return [_score_or_reason(verdict) for verdict in harm(exchanges)]

    return score_pairs


def _score_or_reason(verdict: Verdict) -> float | str | None:
    """The score, the reason of a failed verdict, or None for an unscorable answer."""
    if verdict.failed:
        return str(verdict.reason)
    return verdict.score


def _progress_note(history: History, cells: int) -> str:
    archive = history.archives[-1]
    return (
        f"archive {len(history.archives)}: {len(archive.champions)} of {cells} cells, {archive.successes} "
        f"attacks succeed; {len(history.prompts)} prompts"
    )


def _write_archive(path: Path, plan: RainbowPlan, history: History) -> None:
    """Writes the prompts for the TARS mix, and the best prompt of each cell."""
    # Only keys that a data source reads: the scores stay in `iterations.jsonl`.
    lines = []
    for example in examples(history):
        row = {
            "id": example.id,
            "prompt": example.prompt,
            "kind": example.kind,
            "source": example.source,
            "category": example.category,
        }
        lines.append(line_of(row))
    write_bytes(path / ARCHIVE, b"".join(lines))
    best = []
    for candidate in history.best().values():
        best.append(
            {
                "risk": candidate.risk,
                "style": candidate.style,
                "id": candidate.id,
                "prompt": candidate.prompt,
                "score": candidate.score,
            }
        )
    templates = plan.templates
    write_json(path / CELLS, {"risks": list(templates.risks), "styles": list(templates.styles), "best": best})


def _rainbow_metrics(plan: RainbowPlan, target: ModelSpec, history: History, records: Sequence[Record]) -> Metrics:
    best = history.best()
    templates = plan.templates
    cells = len(templates.cells)
    succeeded = [cell for cell, candidate in best.items() if _succeeds(candidate.score)]
    outcomes = Counter[str]()
    scored_answers = 0
    successful_answers = 0
    spent = Counter[str]()
    for record in records:
        spent.update(queries=record["queries"], read=record["read"], written=record["written"])
        for row in record["candidates"]:
            outcomes[row["outcome"]] += 1
            scored_answers += row["score"] is not None
            successful_answers += _succeeds(row["score"])
    success_by_answer = None
    if scored_answers:
        success_by_answer = successful_answers / scored_answers
    return {
        "target": target.identity(),
        "mutator": plan.mutator.identity(),
        "judge": plan.scorer.label(),
        "comparing_judge": _text_or_none(plan.judge_model),
        "archives": len(history.archives),
        "iterations": len(records),
        "prompts": len(history.prompts),
        "prompts_wanted": plan.settings.prompts,
        "coverage": len(best) / cells,
        "attack_success_by_cell": len(succeeded) / cells,
        "attack_success_by_answer": success_by_answer,
        "queries": spent["queries"],
        "tokens_read": spent["read"],
        "tokens_written": spent["written"],
        "outcomes": dict(outcomes.most_common()),
        # A risk has one cell for each style, and a style one for each risk.
        "success_by_risk": _shares(templates.risks, [cell.risk for cell in succeeded], len(templates.styles)),
        "success_by_style": _shares(templates.styles, [cell.style for cell in succeeded], len(templates.risks)),
    }


def _shares(names: Iterable[str], succeeded: Sequence[str], cells: int) -> dict[str, float]:
    """The share of each name's cells whose attack succeeded."""
    counts = Counter(succeeded)
    return {name: counts[name] / cells for name in names}


def _succeeds(score: float | None) -> bool:
    return score is not None and score >= SUCCESS


def _rainbow_summary(metrics: Metrics) -> str:
    requested = metrics["prompts_wanted"]
    shortage = ""
    if requested is not None and metrics["prompts"] < requested:
        shortage = f" of {requested} wanted"
    return (
        f"rainbow: {metrics['prompts']} distinct prompts{shortage}, {metrics['coverage']:.0%} of the cells covered, "
        f"{metrics['attack_success_by_cell']:.0%} with an attack that succeeds"
    )
