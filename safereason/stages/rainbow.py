"""Stage `attack/rainbow`: rainbow teaming against the model that RL starts from, so to get harmful prompts for RL.

`iterations.jsonl` holds a record an iteration, with each candidate and what became of it; the archives are a function
of these. When the search ends, `archive.jsonl` gets each distinct prompt that ever took a cell, as a data source has
them, and `cells.json` the best one of each cell.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from safereason import console
from safereason.attacks import rainbow
from safereason.attacks.meter import Meter
from safereason.attacks.rainbow import FAILED, UNSCORED, RainbowSettings, Team
from safereason.attacks.rainbow_archive import SUCCESS, Candidate, History, candidates_of, examples, record_of
from safereason.attacks.rainbow_templates import Templates, load_templates
from safereason.attacks.rating import PairScore, pair_rater
from safereason.data import sources
from safereason.data.draw import digest
from safereason.data.example import Example
from safereason.data.sources import files
from safereason.engines.base import Engine
from safereason.engines.open import check_name, open_engine
from safereason.errors import InputError, StageFailed
from safereason.judges import Exchange, Verdict, parse
from safereason.judges.refusal import refuses
from safereason.recipe.schema import Attacking, Recipe
from safereason.runs.manifest import going_on, sha256
from safereason.runs.records import Record, RecordLog, line_of, read_records, write_bytes, write_json
from safereason.stages import rl
from safereason.stages.attack import RATING, Harm, open_harm, scorer_identity, settings_of
from safereason.stages.base import (
    Options,
    Result,
    finished_result,
    identity,
    model_identity,
    model_label,
    open_run,
    resolved_judge,
)
from safereason.stages.contents import contents
from safereason.stages.trained import precision_of
from safereason.stages.training_sources import RAINBOW_STAGE

STAGE = RAINBOW_STAGE
NAME = "rainbow"
ITERATIONS, ARCHIVE, CELLS = "iterations", "archive.jsonl", "cells.json"
FAILURES = (FAILED, UNSCORED)
"""Faults that are not the prompt's."""
PATIENCE = 10
"""Iterations in a row of which nothing came but failures, after which the models are taken to be gone."""


@dataclass(frozen=True)
class Plan:
    """A search with what the recipe and the command line say about it."""

    settings: RainbowSettings
    section: Attacking
    mutator: str
    judge: str
    """Scores single answers: a judge, or `rating:MODEL`."""
    judge_model: str | None
    """Compares two answers."""
    source: str
    seeds: tuple[Example, ...]
    templates: Templates
    prefix: str

    @property
    def rates(self) -> str | None:
        """The chat model whose ratings are the scores; None where a judge gives them."""
        return self.judge.removeprefix(RATING) if self.judge.startswith(RATING) else None


def run(recipe: Recipe, options: Options, plan: Plan) -> Result:
    """Attacks `options.model`, else the model that the recipe's RL starts from.

    Raises:
        InputError: A model or a judge cannot be had, or the judge measures something else.
        StageFailed: A server failed too often; `--resume` goes on.
    """
    target = rl.start_model(recipe, options)
    for model in (target, plan.mutator, plan.judge_model, plan.rates):
        if model:
            check_name(model)
    directory = open_run(STAGE, recipe, options, model_label(target), _identity(recipe, plan, target, options))
    if (result := finished_result(directory)) is not None:
        return result
    harm = None if plan.rates else open_harm(plan.judge)
    with directory as this:
        this.inputs.update({str(path): sha256(path) for path in files.inputs(plan.source)})
        _drop_failed_end(this.path / f"{ITERATIONS}.jsonl")
        with this.records(ITERATIONS) as log:
            _search(plan, recipe, target, harm, options, log)
        records = list(read_records(log.path))
        history = History(plan.templates.cells, records)
        _write(this.path, plan, history)
        metrics = _metrics(plan, target, history, records)
        console.say(_summary(metrics))
        this.finish(metrics)
    return Result(directory.path, metrics)


def make_plan(
    recipe: Recipe,
    options: Options,
    *,
    mutator: str | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
    seeds: str = "sample",
    settings: Mapping[str, Any] | None = None,
) -> Plan:
    """Puts the recipe and the command line together. No model is loaded.

    Args:
        recipe: Its `attack` section says what is not said here; the settings are `attack.settings.rainbow`.
        options: Where runs are, for a judge `guard:RECIPE`.
        mutator: Model that writes prompts.
        judge: Scores answers: it measures harm or refusal, or is `rating:MODEL`.
        judge_model: Compares answers, so that the score alone does not decide which prompt stays.
        seeds: Source of the prompts to begin with: its harmful training prompts.
        settings: In place of the recipe's; None in it leaves the recipe's.

    Raises:
        InputError: Something is not named, a source or a prompt file cannot be had, or a setting is wrong.
    """
    section = recipe.attack or Attacking()
    writer = mutator or section.attackers.get(NAME, section.attacker)
    if writer is None:
        raise InputError("attack rainbow: which model writes the prompts? name one with --mutator")
    named = judge or section.judge or (recipe.eval.harm_judge if recipe.eval else None)
    if named is None:
        raise InputError("attack rainbow: what scores the answers? name a judge with --judge")
    scorer = resolved_judge(named, options)
    if not scorer.startswith(RATING):
        parse(scorer)
    chosen = {key: value for key, value in (settings or {}).items() if value is not None}
    found = [example for example in sources.get(seeds).stream("train") if example.kind == "harmful"]
    if not found:
        raise InputError(f"source {seeds}: has no harmful prompts to begin with; name another one with --seeds")
    checked = settings_of(NAME, RainbowSettings, {**section.settings.get(NAME, {}), **chosen})
    return Plan(
        checked,
        section,
        writer,
        scorer,
        judge_model,
        seeds,
        tuple(found),
        load_templates(checked.templates),
        recipe.eval.prefix if recipe.eval else "",
    )


def outline(recipe: Recipe, options: Options, plan: Plan) -> dict[str, Any]:
    """What a plan comes to."""
    settings, cells = plan.settings, len(plan.templates.cells)
    candidates = settings.most_archives * settings.iterations * min(settings.batch, cells)
    return {
        "stage": STAGE,
        "target": options.model or ("the sft run of this recipe" if recipe.sft else recipe.model),
        "mutator": plan.mutator,
        "judge": plan.judge,
        "comparing judge": plan.judge_model,
        "cells": f"{len(plan.templates.risks)} risks x {len(plan.templates.styles)} styles",
        "seed prompts": len(plan.seeds),
        "prompts wanted": settings.prompts,
        "archives, at most": settings.most_archives,
        "iterations an archive": settings.iterations,
        "queries to the target, at most": candidates,
        "queries to the mutator, at most": 2 * candidates,
        "settings": settings.model_dump(mode="json"),
    }


def _identity(recipe: Recipe, plan: Plan, target: str, options: Options) -> dict[str, Any]:
    settings = plan.settings.model_dump(mode="json", exclude={"templates"})
    return identity(
        recipe,
        model=model_identity(target),
        mutator=model_identity(plan.mutator),
        judge=scorer_identity(plan.judge),
        judge_model=model_identity(plan.judge_model) if plan.judge_model else None,
        settings=settings,
        sampling=plan.section.sampling.model_dump(mode="json"),
        prefix=plan.prefix,
        seeds=digest(*((e.id, e.prompt) for e in plan.seeds)),
        templates=digest(asdict(plan.templates)),
        **({"base_url": options.base_url} if options.base_url else {}),
        **contents(models=[target, plan.mutator, plan.judge_model], judges=[plan.judge]),
    )


def _drop_failed_end(path: Path) -> None:
    """Drops the iterations at the end of which nothing came but failures, so that a resumed run does them again."""
    records = list(read_records(path)) if path.exists() else []
    kept = len(records)
    while kept and _has_failed(candidates_of(records[kept - 1])):
        kept -= 1
    if kept < len(records):
        write_bytes(path, b"".join(map(line_of, records[:kept])))


def _has_failed(candidates: Sequence[Candidate]) -> bool:
    """Whether models or the judge failed at every prompt that was not dropped for what it is."""
    told = [candidate.fault for candidate in candidates if candidate.fault in (None, *FAILURES)]
    return bool(told) and None not in told


def _search(plan: Plan, recipe: Recipe, target: str, harm: Harm | None, options: Options, log: RecordLog) -> None:
    """Goes on from the recorded iterations until there are prompts enough, or iterations."""
    settings, failed = plan.settings, 0
    history = History(plan.templates.cells, read_records(log.path))
    left = list(_left(history, settings))
    if not left or _has_enough(history, settings):
        return
    team = _team(plan, recipe, target, harm, options)
    total = settings.most_archives * settings.iterations
    with console.progress("iterations", total, total - len(left)) as advance:
        for number, iteration in left:
            archive, meter = history.archive(number), Meter()
            found = rainbow.iterate(
                archive, number, iteration, plan.seeds, settings, plan.templates, team.metered(meter), recipe.seed
            )
            outcomes = history.add(number, iteration, found)
            spent = {"queries": meter.queries, "read": meter.read, "written": meter.written}
            log.append({**record_of(number, iteration, zip(found, outcomes, strict=True)), **spent})
            advance(_note(history, len(plan.templates.cells)))
            failed = failed + 1 if _has_failed(found) else 0
            if failed == PATIENCE:
                raise StageFailed(
                    f"{log.path.parent}: {failed} iterations in a row failed ({_reason(found)}); {going_on()}"
                )
            if _has_enough(history, settings):
                return


def _reason(candidates: Sequence[Candidate]) -> str:
    return next((c.error for c in candidates if c.error), "the judge could score no answer")


def _left(history: History, settings: RainbowSettings) -> Iterator[tuple[int, int]]:
    """Archive and iteration of each iteration that may be left to do."""
    for number in range(max(len(history.archives), 1), settings.most_archives + 1):
        done = history.iterations if number == len(history.archives) else 0
        for iteration in range(done + 1, settings.iterations + 1):
            yield number, iteration


def _has_enough(history: History, settings: RainbowSettings) -> bool:
    return settings.prompts is not None and len(history.prompts) >= settings.prompts


def _team(plan: Plan, recipe: Recipe, target: str, harm: Harm | None, options: Options) -> Team:
    """The models, each loaded once whatever its parts; without a judge of harm, one of them rates."""

    @cache
    def opened(model: str) -> Engine:
        return open_engine(model, base_url=options.base_url, precision=precision_of(recipe))

    score = pair_rater(opened(str(plan.rates))) if harm is None else _by_harm(harm)
    return Team(
        opened(target),
        opened(plan.mutator),
        plan.section.sampling,
        score,
        refuses,
        opened(plan.judge_model) if plan.judge_model else None,
        plan.prefix,
    )


def _by_harm(harm: Harm) -> PairScore:
    return lambda pairs: [_score_of(verdict) for verdict in harm([Exchange(*pair) for pair in pairs])]


def _score_of(verdict: Verdict) -> float | str | None:
    """The score, or why the verdict could not be had; None where the answer is unscorable."""
    return str(verdict.reason) if verdict.failed else verdict.score


def _note(history: History, cells: int) -> str:
    archive = history.archives[-1]
    return (
        f"archive {len(history.archives)}: {len(archive.champions)} of {cells} cells, {archive.successes} "
        f"attacks succeed; {len(history.prompts)} prompts"
    )


def _write(path: Path, plan: Plan, history: History) -> None:
    """What the TARS mix reads, and the best of each cell."""
    rows = [
        {name: getattr(e, name) for name in ("id", "prompt", "kind", "source", "category")} for e in examples(history)
    ]
    write_bytes(path / ARCHIVE, b"".join(map(line_of, rows)))
    best = [
        {"risk": c.risk, "style": c.style, "id": c.id, "prompt": c.prompt, "score": c.score}
        for c in history.best().values()
    ]
    axes = {"risks": list(plan.templates.risks), "styles": list(plan.templates.styles)}
    write_json(path / CELLS, {**axes, "best": best})


def _metrics(plan: Plan, target: str, history: History, records: Sequence[Record]) -> dict[str, Any]:
    best, settings, templates = history.best(), plan.settings, plan.templates
    succeeded = [cell for cell, candidate in best.items() if _succeeds(candidate)]
    tried = [row for record in records for row in record["candidates"]]
    answers = [row["score"] for row in tried if row["score"] is not None]
    by_risk, by_style = Counter(cell.risk for cell in succeeded), Counter(cell.style for cell in succeeded)
    return {
        "target": model_identity(target),
        "mutator": model_identity(plan.mutator),
        "judge": plan.judge,
        "comparing_judge": plan.judge_model,
        "archives": len(history.archives),
        "iterations": len(records),
        "prompts": len(history.prompts),
        "prompts_wanted": settings.prompts,
        "coverage": len(best) / len(templates.cells),
        "attack_success_by_cell": len(succeeded) / len(templates.cells),
        "attack_success_by_answer": sum(score >= SUCCESS for score in answers) / len(answers) if answers else None,
        "queries": sum(record["queries"] for record in records),
        "tokens_read": sum(record["read"] for record in records),
        "tokens_written": sum(record["written"] for record in records),
        "outcomes": dict(Counter(row["outcome"] for row in tried).most_common()),
        "success_by_risk": {risk: by_risk[risk] / len(templates.styles) for risk in templates.risks},
        "success_by_style": {style: by_style[style] / len(templates.risks) for style in templates.styles},
    }


def _succeeds(candidate: Candidate) -> bool:
    return candidate.score is not None and candidate.score >= SUCCESS


def _summary(metrics: Mapping[str, Any]) -> str:
    wanted = metrics["prompts_wanted"]
    few = f" of {wanted} wanted" if wanted is not None and metrics["prompts"] < wanted else ""
    return (
        f"rainbow: {metrics['prompts']} distinct prompts{few}, {metrics['coverage']:.0%} of the cells covered, "
        f"{metrics['attack_success_by_cell']:.0%} with an attack that succeeds"
    )
