"""Stage `eval/guard`: classifies labelled rows with a guard, or scores a file of predictions, and works out figures.

`predictions.jsonl` is appended in the order in which verdicts end; `metrics.json` is worked out in the order of the
sets and their rows.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safereason import console
from safereason.data import rsafe_mix, sources
from safereason.data.example import Example
from safereason.data.sampling import limited
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError, StageFailed
from safereason.evals import guard_suite
from safereason.evals.guard_predictions import About, Prediction, from_record, of_example, read_file
from safereason.evals.judging import most_common_reason
from safereason.evals.metrics import OVERALL
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard import policy as policies
from safereason.guard.base import Guard, GuardVerdict, Question
from safereason.guard.open import guard_prompt_of, open_guard
from safereason.guard.others import GUARDS
from safereason.guard.reasoning import ReasoningGuard
from safereason.judges.as_guard import open_named, split_spec
from safereason.recipe.schema import GuardEvaluation, GuardSet, Precision, Recipe, Sampling
from safereason.runs.directory import RunDirectory
from safereason.runs.manifest import going_on, sha256
from safereason.runs.records import Record, RecordLog, keep_records, read_records, write_json
from safereason.stages.base import (
    Identity,
    Metrics,
    Options,
    Result,
    finished_result,
    given_inputs,
    open_run,
    run_identity,
    trained_guard,
)
from safereason.stages.contents import contents

STAGE = "eval/guard"
FILE = "predictions"


@dataclass(frozen=True)
class GuardEvalPlan:
    """A guard, the labelled sets to measure it on, and its prompt and sampling."""

    sets: tuple[GuardSet, ...]
    limit: int | None
    resamples: int
    model: str | None
    """A run or a model with a guard prompt; None where `guard` names another guard."""
    guard: str | None
    """Another guard, as `open_named` takes it."""
    policy: str | None
    template: str | None
    """File with the prompt of `guard`, where it takes one."""
    samples: int
    sampling: Sampling | None

    @property
    def may_retry(self) -> bool:
        """Whether a failed row may succeed later. A local model fails only at rows that are too long for it."""
        name, model = split_spec(str(self.guard or self.model))
        return name == "moderation" or ModelSpec.parse(model or name).is_remote


def run_guard_eval(
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
        recipe: Recipe with the sets in `guard.eval`, and the guard prompt of a model without a `guard.json`.
        options: Where to write, and the model.
        guard: Another guard in the model's place: `llama-guard:MODEL`, `moderation`, … .
        sets: In place of all sets of the recipe: labels of some, or names of sources.
        policy: In place of the guard's own, and of the sets'.
        template: File with the prompt of `guard`, where it takes one.
        samples: Verdicts that vote on a row.
        sampling: In place of the guard's own.
        limit: In place of the recipe's: most rows a set, drawn by the seed.
        allow_missing: Whether sets that cannot be had are left out; the metrics then name them.

    Raises:
        InputError: A set, the guard or the policy cannot be had.
        StageFailed: Rows failed; `--resume` tries those again.
    """
    plan = plan_guard_eval(
        recipe,
        _model_to_measure(recipe, options, guard),
        guard=guard,
        sets=sets,
        policy=policy,
        template=template,
        samples=samples,
        sampling=sampling,
        limit=limit,
    )
    # The sets are read before the directory is made, since the identity says which of them are there.
    prompt = _prompt_document(recipe, plan)
    rows, missing = _labelled_rows(plan, recipe.seed, allow_missing)
    identity = run_identity(recipe, **_guard_eval_inputs(plan, rows, prompt, options))
    directory = open_run(STAGE, recipe, options, plan.guard or ModelSpec.parse(str(plan.model)).label(), identity)
    if (result := finished_result(directory)) is not None:
        return result
    with directory as this:
        # A resumed run repeats the rows that failed, and no others.
        keep_records(this.path / f"{FILE}.jsonl", lambda record: not record["failed"])
        with this.records(FILE) as log:
            _classify_rows(rows, _GuardOpener(recipe, options, plan), plan, recipe.seed, log)
        predictions = _predictions_in_order(log.path, rows)
        metrics = _guard_eval_description(recipe, plan, identity["model"], prompt, missing)
        metrics |= scored_predictions(predictions, plan.resamples, recipe.seed)
        _finish_guard_eval(this, metrics, predictions)
    return Result(directory.path, metrics)


def _guard_eval_description(
    recipe: Recipe, plan: GuardEvalPlan, model: str, prompt: Record, missing: Mapping[str, str]
) -> Metrics:
    """The part of the metrics that says which guard was measured, and how."""
    return {
        "eval": "guard",
        # From the identity, which has no credentials: `guard` may name a server.
        "model": model,
        "recipe": recipe.name,
        "limit": plan.limit,
        "samples": plan.samples,
        "asked": _prompt_summary(prompt),
        "missing": dict(missing),
    }


def _model_to_measure(recipe: Recipe, options: Options, guard: str | None) -> str | None:
    """The model that is named, else the recipe's newest guard; None where another guard is measured."""
    if options.model:
        return options.model
    # With both a model and another guard, the plan says that they exclude each other.
    if guard:
        return None
    return str(trained_guard(recipe.name, options, recipe.reference))


def score_guard_eval(
    recipe: Recipe, options: Options, file: Path, *, sets: Sequence[str] = (), about: About | None = None
) -> Result:
    """Scores the predictions in a file with the figures of `run_guard_eval`.

    Args:
        recipe: Recipe with the number of resamples, and with sets that `sets` may name by their labels.
        options: Where to write.
        file: File in one of the forms that `evals/guard_predictions.py` reads.
        sets: Sources of the rows, or names for the sets.
        about: Whether the set is about prompts or responses, where a text has a verdict on each. By default the set's
            name decides.

    Raises:
        InputError: The file cannot be read or does not fit the source.
    """

    def read_set(name: str) -> list[Example]:
        chosen = chosen_sets(recipe, [name])[0]
        return sources.get(chosen.source).load(chosen.split)

    predictions = read_file(file, sets, about, read_set)
    resamples = _guard_eval_section(recipe).resamples
    identity = run_identity(
        recipe,
        model=file.name,
        eval="guard",
        predictions=sha256(file),
        sets=list(sets),
        about=about,
        resamples=resamples,
    )
    directory = open_run(STAGE, recipe, options, file.stem, identity)
    if (result := finished_result(directory)) is not None:
        return result
    with directory as this:
        this.inputs[str(file)] = sha256(file)
        # Nothing is saved by resuming, so a resumed run writes all records again.
        keep_records(this.path / f"{FILE}.jsonl", lambda record: False)
        with this.records(FILE) as log:
            for prediction in predictions:
                log.append(prediction.record())
        metrics = {
            "eval": "guard",
            "model": file.name,
            "recipe": recipe.name,
            "predictions": str(file),
            **scored_predictions(predictions, resamples, recipe.seed),
        }
        this.finish(metrics)
    return Result(directory.path, metrics)


def plan_guard_eval(
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
) -> GuardEvalPlan:
    """Combines the recipe and the command line; arguments as of `run_guard_eval`.

    Raises:
        InputError: There is no set, or no such set, policy or guard; or sets of one name have different policies.
    """
    if guard and model:
        raise InputError("--guard and --model exclude each other; pass one of them")
    section = _guard_eval_section(recipe)
    chosen = chosen_sets(recipe, sets)
    if not chosen:
        raise InputError(
            f"recipe {recipe.name}: it has no guard.eval section; add one, or name a source with --prompts"
        )
    _check_one_policy_a_set(recipe, chosen)
    # A recipe's own guard was trained with its template, so another one would not measure that guard.
    if template and not guard:
        raise InputError("--template: only another guard (--guard) takes one; a recipe has guard.prompt_template")
    if template and not Path(template).is_file():
        raise InputError(f"--template {template}: no such file; check the path")
    for part in chosen:
        sources.get(part.source)  # Refuses an unknown name.
    if policy:
        policies.load(policy)
    if model:
        # Last, since it may ask the Hub.
        ModelSpec.parse(model).check()
    return GuardEvalPlan(
        sets=tuple(chosen),
        limit=limit or section.limit,
        resamples=section.resamples,
        model=model,
        guard=guard and GUARDS.own_name(guard),
        policy=policy,
        template=template,
        samples=samples,
        sampling=sampling,
    )


def _check_one_policy_a_set(recipe: Recipe, chosen: Sequence[GuardSet]) -> None:
    """Refuses parts of one set under different policies: their rows share figures."""
    policies_by_label: dict[str, set[str | None]] = {}
    for part in chosen:
        policies_by_label.setdefault(part.label, set()).add(part.policy)
    # Predictions have no policy of their own, so one set has one.
    for label, names in policies_by_label.items():
        if len(names) > 1:
            raise InputError(
                f"recipe {recipe.name}: guard.eval.sets: the parts of {label} are judged by different "
                "policies; name one, or call them apart"
            )


def chosen_sets(recipe: Recipe, names: Sequence[str]) -> list[GuardSet]:
    """The recipe's sets of these labels, or sources of these names as they are; without names all sets."""
    known = _guard_eval_section(recipe).sets
    chosen: list[GuardSet] = []
    # A set that is named twice is in the list once.
    for name in dict.fromkeys(names):
        parts = [part for part in known if part.label == name]
        # A name that is no label is taken for a source; an unknown one is refused where the source is looked up.
        chosen += parts or [GuardSet(source=name)]
    # Records know a source by its own name, by whatever path it was found.
    return [part.model_copy(update={"source": sources.SOURCES.own_name(part.source)}) for part in chosen or known]


def scored_predictions(predictions: Sequence[Prediction], resamples: int, seed: int) -> Metrics:
    """The figures of predictions, for the metrics. Failed rows have no verdict and count in `failed` alone."""
    # A failed row would lower every figure, though the guard has not seen it.
    rows = [prediction.row for prediction in predictions if not prediction.failed]
    rows_by_set = guard_suite.by_set(rows)
    sizes = {}
    confusion = {}
    categories = {}
    # Scores are calibrated or not over all rows. A single set may hold one label only.
    reliability = {OVERALL: guard_suite.reliability(rows)}
    for name, members in rows_by_set.items():
        labels = Counter(row.expected for row in members)
        sizes[name] = {"safe": labels["safe"], "unsafe": labels["unsafe"]}
        confusion[name] = guard_suite.confusion(members)
        categories[name] = guard_suite.by_category(members)
        reliability[name] = guard_suite.reliability(members)
    return {
        "sets": sizes,
        "failed": len(predictions) - len(rows),
        "figures": [asdict(figure) for figure in guard_suite.figures(rows, resamples, seed)],
        "confusion": confusion,
        "categories": categories,
        "reliability": reliability,
    }


def _guard_eval_section(recipe: Recipe) -> GuardEvaluation:
    """The recipe's section; an empty one where sets are named on the command line only."""
    if recipe.guard is None or recipe.guard.eval is None:
        return GuardEvaluation(sets=())
    return recipe.guard.eval


def _guard_eval_inputs(
    plan: GuardEvalPlan, rows: Mapping[str, Sequence[Example]], prompt: Record, options: Options
) -> Identity:
    """The inputs of the run's identity. Sets that are missing are no part of it: they may be there next time."""
    return {
        "model": plan.guard or ModelSpec.parse(str(plan.model)).identity(),
        "eval": "guard",
        "sets": [chosen.model_dump(mode="json") for chosen in plan.sets if chosen.label in rows],
        "limit": plan.limit,
        "resamples": plan.resamples,
        "samples": plan.samples,
        "asked": prompt,
        **given_inputs(base_url=options.base_url),
        **contents(models=[plan.model], judges=[plan.guard], sources=[chosen.source for chosen in plan.sets]),
    }


def _prompt_document(recipe: Recipe, plan: GuardEvalPlan) -> Record:
    """The guard's prompt in full: policy, templates and sampling."""
    if plan.model is None:
        return _other_guards_prompt(plan)
    guard_prompt = guard_prompt_of(
        plan.model, policy=plan.policy, sampling=plan.sampling, otherwise=_recipe_guard_prompt(recipe)
    )
    set_policies = {}
    # The full policies go into the identity, since a policy's file may be edited.
    if not plan.policy:
        for chosen in plan.sets:
            if chosen.policy:
                set_policies[chosen.label] = asdict(policies.load(chosen.policy))
    return {**guard_prompt.document(), "policies": set_policies}


def _other_guards_prompt(plan: GuardEvalPlan) -> Record:
    """The prompt of another guard, which has a template of its own."""
    policy = None
    if plan.policy:
        policy = asdict(policies.load(plan.policy))
    template = None
    if plan.template:
        template = sha256(Path(plan.template))
    return {"policy": policy, "template": template}


def _prompt_summary(prompt: Record) -> Record:
    """The names of a prompt's policies and its settings, for the metrics."""
    # The identity has the prompt in full. People read the metrics, and policies are long.
    policy = prompt["policy"]
    summary: Record = {"policy": policy and policy["name"]}
    set_policies = prompt.get("policies")
    if set_policies:
        summary["policies"] = {label: set_policy["name"] for label, set_policy in set_policies.items()}
    for key in ("reasoning", "sampling"):
        if key in prompt:
            summary[key] = prompt[key]
    return summary


def _recipe_guard_prompt(recipe: Recipe) -> guard_prompts.GuardPrompt | None:
    if recipe.guard is None:
        return None
    return guard_prompts.of_section(recipe.guard)


def _labelled_rows(
    plan: GuardEvalPlan, seed: int, allow_missing: bool
) -> tuple[dict[str, list[Example]], dict[str, str]]:
    """The labelled rows of each set that can be had, and why the others cannot. Sets of one label are one set.

    Raises:
        InputError: A set has no labelled row, or sets are missing and `allow_missing` is false or none is left.
    """
    parts: dict[str, list[Example]] = {}
    missing: dict[str, str] = {}
    for chosen in plan.sets:
        # An unknown name is always an error; it is no set that may be missing.
        source = sources.get(chosen.source)
        try:
            part = rsafe_mix.set_rows(chosen, seed, source.load(chosen.split))
        except InputError as error:
            missing[chosen.label] = str(error)
            console.say(f"eval guard: {error}")
            continue
        if not part:
            raise InputError(f"eval guard: set {chosen.label} has no labelled row; see its `skip` and `categories`")
        parts.setdefault(chosen.label, []).extend(part)
    rows = {}
    for label, part in parts.items():
        # Without one of its parts a set would give another figure under the same name.
        if label not in missing:
            rows[label] = limited(part, plan.limit, seed)
    if missing and not (allow_missing and rows):
        advice = "get one of them, or name another with --prompts"
        if rows:
            advice = "--allow-missing measures the others"
        sets = len({chosen.label for chosen in plan.sets})
        raise InputError(f"eval guard: {len(missing)} of {sets} sets cannot be had ({', '.join(missing)}); {advice}")
    return rows, missing


class _GuardOpener:
    """The guard of an evaluation, loaded once, when the first set needs it."""

    def __init__(self, recipe: Recipe, options: Options, plan: GuardEvalPlan) -> None:
        self._recipe = recipe
        self._options = options
        self._plan = plan
        self._opened: Guard | None = None

    def for_set(self, chosen: GuardSet) -> Guard:
        """The guard under the policy of this set; a policy on the command line goes before it."""
        # A resumed run with all verdicts never gets here, and loads nothing.
        if self._opened is None:
            self._opened = _open_evaluated_guard(self._recipe, self._options, self._plan)
        guard = self._opened
        if not isinstance(guard, ReasoningGuard) or self._plan.policy or not chosen.policy:
            return guard
        # The engine holds the weights, so another policy needs no other engine.
        return guard.under(policies.load(chosen.policy))


def _open_evaluated_guard(recipe: Recipe, options: Options, plan: GuardEvalPlan) -> Guard:
    precision = _guard_precision(recipe)
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
        otherwise=_recipe_guard_prompt(recipe),
    )


def _guard_precision(recipe: Recipe) -> Precision:
    """The precision of the guard's training; fp32 without a GPU, where bf16 is slow."""
    import torch

    if recipe.guard is None or not torch.cuda.is_available():
        return "fp32"
    section = recipe.guard.train or recipe.guard.sft
    # The schema asks for one of the two, and mypy does not know.
    if section is None:
        return "fp32"
    return section.precision


def _classify_rows(
    rows: Mapping[str, Sequence[Example]], opener: _GuardOpener, plan: GuardEvalPlan, seed: int, log: RecordLog
) -> None:
    """Classifies and records the rows that have no verdict yet, set by set."""
    recorded = {(record["set"], record["id"]) for record in read_records(log.path)}
    total = sum(map(len, rows.values()))
    parts_by_label = {}
    for part in plan.sets:
        # Any part will do for a label, since all of them share one policy.
        parts_by_label[part.label] = part
    with console.progress("verdicts", total, len(recorded)) as advance:
        for label, chosen in parts_by_label.items():
            examples = rows.get(label, ())
            done = set()
            questions = []
            for index, example in enumerate(examples):
                questions.append(Question(example.prompt, example.response))
                if (label, example.id) in recorded:
                    done.add(index)
            if len(done) == len(examples):
                continue
            record_verdict = _verdict_recorder(label, examples, plan.may_retry, log, advance)
            # Recorded rows are passed too: a row's position is part of its seed.
            opener.for_set(chosen).classify(questions, seed=seed, done=done, on_verdict=record_verdict)


def _verdict_recorder(
    label: str, examples: Sequence[Example], may_retry: bool, log: RecordLog, advance: console.Advance
) -> Callable[[int, GuardVerdict], None]:
    """A callback that records the verdict on the example of an index."""

    def record_verdict(index: int, verdict: GuardVerdict) -> None:
        prediction = of_example(
            examples[index],
            label,
            label=verdict.label,
            score=verdict.score,
            categories=verdict.categories,
            reasoning=verdict.reasoning,
            text=verdict.text,
            reason=verdict.reason,
            # Without a retry a failed row would keep the run from ever finishing, so it counts as unscored.
            failed=verdict.failed and may_retry,
            tokens=verdict.tokens,
        )
        log.append(prediction.record())
        advance(label)

    return record_verdict


def _predictions_in_order(path: Path, rows: Mapping[str, Sequence[Example]]) -> list[Prediction]:
    """The recorded predictions in the order of the sets and their rows."""
    # A file of an earlier version may lack keys, and the error then names the row.
    recorded = {}
    for number, record in enumerate(read_records(path), start=1):
        prediction = from_record(record, f"{path}: row {number}")
        recorded[prediction.set, prediction.id] = prediction
    in_order = []
    for name, examples in rows.items():
        for example in examples:
            in_order.append(recorded[name, example.id])
    return in_order


def _finish_guard_eval(this: RunDirectory, metrics: Metrics, predictions: Sequence[Prediction]) -> None:
    """Ends the run. If rows failed, the figures are written without them and the run can be resumed."""
    reasons = [str(prediction.reason) for prediction in predictions if prediction.failed]
    if reasons:
        write_json(this.path / "metrics.json", metrics)
        reason = most_common_reason(reasons)
        raise StageFailed(f"{this.path}: {len(reasons)} of {len(predictions)} rows failed ({reason}); {going_on()}")
    this.finish(metrics)


def check_guard_eval_scored(run: Path) -> None:
    """Refuses figures without a single verdict behind them. The run is finished all the same.

    Raises:
        StageFailed: The guard gave no readable verdict on any row.
    """
    reasons = []
    for record in read_records(run / f"{FILE}.jsonl"):
        if record["label"] is not None:
            return
        reasons.append(str(record.get("reason") or "no verdict"))
    if reasons:
        reason = most_common_reason(reasons)
        raise StageFailed(f"{run}: none of {len(reasons)} rows has a verdict that can be read ({reason})")
