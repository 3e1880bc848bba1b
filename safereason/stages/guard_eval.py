"""Stage `eval/guard`: asks a guard about labelled rows, or reads what one said, and works out its figures.

`predictions.jsonl` is appended in the order in which the guard ends; `metrics.json` is worked out in the order of the
sets and their rows, whatever that order was.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safereason import console
from safereason.data import rsafe_mix, sources
from safereason.data.draw import limited
from safereason.data.example import Example
from safereason.engines.open import REMOTE, check_name
from safereason.errors import InputError, StageFailed
from safereason.evals import guard_suite
from safereason.evals.guard_predictions import About, Prediction, from_record, of_example, read_file
from safereason.evals.metrics import OVERALL
from safereason.guard import guide as guides
from safereason.guard import policy as policies
from safereason.guard.base import Finding, Guard, Question
from safereason.guard.open import guide_of, open_guard
from safereason.guard.reasoning import ReasoningGuard
from safereason.judges.as_guard import open_named
from safereason.recipe.schema import GuardEvaluation, GuardSet, Recipe, Sampling
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import going_on, sha256
from safereason.runs.records import RecordLog, keep_records, read_records, write_json
from safereason.stages.base import (
    Options,
    Result,
    finished_result,
    identity,
    model_identity,
    model_label,
    open_run,
    trained_guard,
)
from safereason.stages.contents import contents
from safereason.stages.eval_judge import commonest

STAGE = "eval/guard"
FILE = "predictions"


@dataclass(frozen=True)
class Plan:
    """What is measured, on which rows, and how it is asked."""

    sets: tuple[GuardSet, ...]
    limit: int | None
    resamples: int
    model: str | None
    """A run or a model that is asked with a guide; None where `guard` is, or where the recipe's newest is meant."""
    guard: str | None
    """Another guard, as `open_named` knows it."""
    policy: str | None
    template: str | None
    """File with the prompt of `guard`, where it takes one."""
    samples: int
    sampling: Sampling | None

    @property
    def may_retry(self) -> bool:
        """Whether what failed may go well later: not so where a model here has no room for a row."""
        name, _, model = str(self.guard or self.model).partition(":")
        return name == "moderation" or (model or name).startswith(REMOTE)


def run(
    recipe: Recipe,
    options: Options,
    *,
    guard: str | None = None,
    sets: Sequence[str] = (),
    policy: str | None = None,
    template: str | None = None,
    samples: int = 1,
    sampling: Sampling | None = None,
    limit: int | None = None,
    allow_missing: bool = False,
) -> Result:
    """Measures `guard`, else `options.model`, else the recipe's newest finished guard.

    Args:
        recipe: Its `guard.eval` says on what; its guard says how a model is asked that carries no `guard.json`.
        options: Where to write, and the model.
        guard: Another guard in the model's place: `llama-guard:MODEL`, `moderation`, … .
        sets: In place of all sets of the recipe: labels of some, or names of sources.
        policy: In place of the guard's own, and of the sets'.
        template: File with the prompt of `guard`, where it takes one.
        samples: Verdicts that vote on a row.
        sampling: In place of the guard's own.
        limit: In place of the recipe's: most rows a set, drawn by the seed.
        allow_missing: Whether sets that cannot be had are left out, which the metrics then say.

    Raises:
        InputError: A set, the guard or the policy cannot be had.
        StageFailed: Rows could not be asked about; `--resume` asks again.
    """
    model = options.model or (None if guard else str(trained_guard(recipe.name, options, recipe.reference)))
    plan = make_plan(
        recipe,
        model,
        guard=guard,
        sets=sets,
        policy=policy,
        template=template,
        samples=samples,
        sampling=sampling,
        limit=limit,
    )
    asked = _asked(recipe, plan)
    rows, missing = _rows(plan, recipe.seed, allow_missing)
    about = identity(recipe, **_identity(plan, rows, asked, options))
    directory = open_run(STAGE, recipe, options, plan.guard or model_label(str(plan.model)), about)
    if (result := finished_result(directory)) is not None:
        return result
    with directory as this:
        keep_records(this.path / f"{FILE}.jsonl", lambda record: not record["failed"])
        with this.records(FILE) as log:
            _ask(rows, _opener(recipe, options, plan), plan, recipe.seed, log)
        found = _in_order(log.path, rows)
        metrics = {
            "eval": "guard",
            "model": about["model"],
            "recipe": recipe.name,
            "limit": plan.limit,
            "samples": plan.samples,
            "asked": _in_short(asked),
            "missing": missing,
            **scored(found, plan.resamples, recipe.seed),
        }
        _finish(this, metrics, found)
    return Result(directory.path, metrics)


def score(
    recipe: Recipe, options: Options, file: Path, *, sets: Sequence[str] = (), about: About | None = None
) -> Result:
    """Scores predictions that a file holds, by the same code.

    Args:
        recipe: Says how many resamples; its sets are known by their labels.
        options: Where to write.
        file: In one of the forms that `evals/guard_predictions.py` reads.
        sets: What the rows are of: their source, or how to call them.
        about: Whether the set is about prompts or responses, where a text has a verdict on each; by default what the
            set's name says.

    Raises:
        InputError: The file cannot be read or does not fit the source.
    """

    def source(name: str) -> list[Example]:
        chosen = chosen_sets(recipe, [name])[0]
        return sources.get(chosen.source).load(chosen.split)

    found = read_file(file, sets, about, source)
    resamples = _section(recipe).resamples
    depends = identity(
        recipe,
        model=file.name,
        eval="guard",
        predictions=sha256(file),
        sets=list(sets),
        about=about,
        resamples=resamples,
    )
    directory = open_run(STAGE, recipe, options, file.stem, depends)
    if (result := finished_result(directory)) is not None:
        return result
    with directory as this:
        this.inputs[str(file)] = sha256(file)
        keep_records(this.path / f"{FILE}.jsonl", lambda record: False)
        with this.records(FILE) as log:
            for prediction in found:
                log.append(prediction.record())
        metrics = {
            "eval": "guard",
            "model": file.name,
            "recipe": recipe.name,
            "predictions": str(file),
            **scored(found, resamples, recipe.seed),
        }
        this.finish(metrics)
    return Result(directory.path, metrics)


def make_plan(
    recipe: Recipe,
    model: str | None,
    *,
    guard: str | None = None,
    sets: Sequence[str] = (),
    policy: str | None = None,
    template: str | None = None,
    samples: int = 1,
    sampling: Sampling | None = None,
    limit: int | None = None,
) -> Plan:
    """Puts the recipe and the command line together, as `run` does; arguments as there.

    Raises:
        InputError: There is no set, two are called alike, or there is no such set, policy or guard.
    """
    if guard and model:
        raise InputError("--guard and --model exclude each other; pass one of them")
    section, chosen = _section(recipe), chosen_sets(recipe, sets)
    if not chosen:
        raise InputError(f"recipe {recipe.name}: it has no guard.eval section; add one, or name a source with --set")
    policies_of = {label: {s.policy for s in chosen if s.label == label} for label in (s.label for s in chosen)}
    if mixed := [label for label, named in policies_of.items() if len(named) > 1]:
        raise InputError(
            f"recipe {recipe.name}: guard.eval.sets: the parts of {mixed[0]} are judged by different "
            "policies; name one, or call them apart"
        )
    if template and not guard:
        raise InputError("--template: only another guard (--guard) takes one; a recipe has guard.prompt_template")
    if template and not Path(template).is_file():
        raise InputError(f"--template {template}: no such file; check the path")
    for part in chosen:
        sources.get(part.source)  # which refuses a name that is none
    if policy:
        policies.load(policy)
    if model:
        check_name(model)  # the last, since the Hub may be asked
    return Plan(
        sets=tuple(chosen),
        limit=limit or section.limit,
        resamples=section.resamples,
        model=model,
        guard=guard,
        policy=policy,
        template=template,
        samples=samples,
        sampling=sampling,
    )


def chosen_sets(recipe: Recipe, names: Sequence[str]) -> list[GuardSet]:
    """The recipe's sets of these labels, or sources of these names as they are; without names all sets."""
    known = _section(recipe).sets
    named = {name: [s for s in known if s.label == name] or [GuardSet(source=name)] for name in names}
    return [s for parts in named.values() for s in parts] or list(known)


def scored(found: Sequence[Prediction], resamples: int, seed: int) -> dict[str, Any]:
    """What the metrics hold of predictions; those of rows that could not be asked about count in `failed` alone."""
    rows = [p.row for p in found if not p.failed]
    sets = guard_suite.by_set(rows)
    counts = {name: Counter(row.expected for row in members) for name, members in sets.items()}
    figures = guard_suite.figures(rows, resamples, seed)
    return {
        "sets": {name: {"safe": count["safe"], "unsafe": count["unsafe"]} for name, count in counts.items()},
        "failed": len(found) - len(rows),
        "figures": [asdict(figure) for figure in figures],
        "confusion": {name: guard_suite.confusion(members) for name, members in sets.items()},
        "categories": {name: guard_suite.by_category(members) for name, members in sets.items()},
        "reliability": {name: guard_suite.reliability(m) for name, m in ({OVERALL: rows} | sets).items()},
    }


def _section(recipe: Recipe) -> GuardEvaluation:
    section = recipe.guard.eval if recipe.guard else None
    return section or GuardEvaluation(sets=())


def _identity(
    plan: Plan, rows: Mapping[str, Sequence[Example]], asked: dict[str, Any], options: Options
) -> dict[str, Any]:
    return {
        "model": plan.guard or model_identity(str(plan.model)),
        "eval": "guard",
        "sets": [chosen.model_dump(mode="json") for chosen in plan.sets if chosen.label in rows],
        "limit": plan.limit,
        "resamples": plan.resamples,
        "samples": plan.samples,
        "asked": asked,
        **({"base_url": options.base_url} if options.base_url else {}),
        **contents(models=[plan.model], judges=[plan.guard], sources=[chosen.source for chosen in plan.sets]),
    }


def _asked(recipe: Recipe, plan: Plan) -> dict[str, Any]:
    """How the guard is asked, in full."""
    if plan.model is None:
        policy = asdict(policies.load(plan.policy)) if plan.policy else None
        return {"policy": policy, "template": sha256(Path(plan.template)) if plan.template else None}
    guide = guide_of(plan.model, policy=plan.policy, sampling=plan.sampling, otherwise=_guide(recipe))
    own = {} if plan.policy else {s.label: s.policy for s in plan.sets if s.policy}
    return {**guide.document(), "policies": {label: asdict(policies.load(name)) for label, name in own.items()}}


def _in_short(asked: Mapping[str, Any]) -> dict[str, Any]:
    policy, others = asked["policy"], asked.get("policies", {})
    return {
        "policy": policy and policy["name"],
        **({"policies": {name: other["name"] for name, other in others.items()}} if others else {}),
        **{key: asked[key] for key in ("reasoning", "sampling") if key in asked},
    }


def _guide(recipe: Recipe) -> guides.Guide | None:
    return guides.of_section(recipe.guard) if recipe.guard else None


def _rows(plan: Plan, seed: int, allow_missing: bool) -> tuple[dict[str, list[Example]], dict[str, str]]:
    """The labelled rows of each set that can be had, and why the others cannot; sets called alike are one."""
    found: dict[str, list[Example]] = {}
    missing: dict[str, str] = {}
    for chosen in plan.sets:
        source = sources.get(chosen.source)  # a name that is none is refused, whatever may be missing
        try:
            part = rsafe_mix.set_rows(chosen, seed, source.load(chosen.split))
        except InputError as error:
            missing[chosen.label] = str(error)
            console.say(f"eval guard: {error}")
            continue
        if not part:
            raise InputError(f"eval guard: set {chosen.label} has no labelled row; see its `skip` and `categories`")
        found.setdefault(chosen.label, []).extend(part)
    rows = {label: limited(part, plan.limit, seed) for label, part in found.items() if label not in missing}
    if missing and not (allow_missing and rows):
        advice = "--allow-missing measures the others" if rows else "get one of them, or name another with --set"
        asked = len({chosen.label for chosen in plan.sets})
        raise InputError(f"eval guard: {len(missing)} of {asked} sets cannot be had ({', '.join(missing)}); {advice}")
    return rows, missing


def _opener(recipe: Recipe, options: Options, plan: Plan) -> Callable[[GuardSet], Guard]:
    """What opens the guard once, and asks each set by the policy it is to be judged by."""
    opened: list[Guard] = []

    def of_set(chosen: GuardSet) -> Guard:
        if not opened:
            opened.append(_open(recipe, options, plan))
        guard = opened[0]
        if not isinstance(guard, ReasoningGuard) or plan.policy or not chosen.policy:
            return guard
        guide = replace(guard.guide, policy=policies.load(chosen.policy))
        return ReasoningGuard(guard.engine, guide, samples=guard.samples)

    return of_set


def _open(recipe: Recipe, options: Options, plan: Plan) -> Guard:
    import torch

    section = recipe.guard and (recipe.guard.train or recipe.guard.sft)
    precision = section.precision if section and torch.cuda.is_available() else "fp32"
    if plan.model is None:
        return open_named(
            str(plan.guard),
            base_url=options.base_url,
            policy=plan.policy,
            samples=plan.samples,
            template=plan.template,
            precision=precision,
        )
    return open_guard(
        plan.model,
        base_url=options.base_url,
        policy=plan.policy,
        sampling=plan.sampling,
        samples=plan.samples,
        precision=precision,
        otherwise=_guide(recipe),
    )


def _ask(
    rows: Mapping[str, Sequence[Example]], open_for: Callable[[GuardSet], Guard], plan: Plan, seed: int, log: RecordLog
) -> None:
    """Asks set by set what has no finding yet."""
    held = {(record["set"], record["id"]) for record in read_records(log.path)}
    with console.progress("verdicts", sum(map(len, rows.values())), len(held)) as advance:
        for chosen in {s.label: s for s in plan.sets}.values():
            examples = rows.get(chosen.label, ())
            done = {i for i, example in enumerate(examples) if (chosen.label, example.id) in held}
            if len(done) < len(examples):
                record = _recorder(chosen.label, examples, plan.may_retry, log, advance)
                questions = [Question(example.prompt, example.response) for example in examples]
                open_for(chosen).classify(questions, seed=seed, done=done, on_finding=record)


def _recorder(
    name: str, examples: Sequence[Example], may_retry: bool, log: RecordLog, advance: console.Advance
) -> Callable[[int, Finding], None]:
    def record(index: int, finding: Finding) -> None:
        found = of_example(
            examples[index],
            name,
            label=finding.label,
            score=finding.score,
            categories=finding.categories,
            reasoning=finding.reasoning,
            text=finding.text,
            reason=finding.reason,
            failed=finding.failed and may_retry,
            tokens=finding.tokens,
        )
        log.append(found.record())
        advance(name)

    return record


def _in_order(path: Path, rows: Mapping[str, Sequence[Example]]) -> list[Prediction]:
    """What was recorded, in the order of the sets and their rows."""
    recorded = [from_record(row, f"{path}: row {number}") for number, row in enumerate(read_records(path), start=1)]
    found = {(prediction.set, prediction.id): prediction for prediction in recorded}
    return [found[name, example.id] for name, examples in rows.items() for example in examples]


def _finish(this: RunDirectory, metrics: dict[str, Any], found: Sequence[Prediction]) -> None:
    """Ends the run, unless rows could not be asked about: then it can be resumed, and the figures leave them out."""
    failed = [p.reason for p in found if p.failed]
    if failed:
        write_json(this.path / "metrics.json", metrics)
        reason = commonest(map(str, failed))
        raise StageFailed(f"{this.path}: {len(failed)} of {len(found)} rows failed ({reason}); {going_on()}")
    this.finish(metrics)


def check_scored(run: Path) -> None:
    """Refuses figures that no verdict is behind; the run is finished all the same.

    Raises:
        StageFailed: The guard gave no verdict that can be read, on any row.
    """
    said = [(record["label"], record.get("reason")) for record in read_records(run / f"{FILE}.jsonl")]
    if said and all(label is None for label, _ in said):
        reason = commonest(str(reason or "no verdict") for _, reason in said)
        raise StageFailed(f"{run}: none of {len(said)} rows has a verdict that can be read ({reason})")
