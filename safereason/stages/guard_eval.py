"""Stage `eval/guard`: classifies labelled rows with a guard and works out figures.

`predictions.jsonl` is appended in the order in which verdicts end; `metrics.json` is worked out in the order of the
sets and their rows. `guard_eval_score.py` scores the predictions of a file, without a guard.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safereason import console
from safereason.data import sources
from safereason.data.example import Example
from safereason.engines.open import precision_here
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError, StageFailed
from safereason.evals.guard_predictions import Prediction, from_record, of_example
from safereason.evals.judging import most_common_reason
from safereason.guard import guard_prompt as guard_prompts
from safereason.guard import policy as policies
from safereason.guard.base import Guard, GuardVerdict, Question
from safereason.guard.open import guard_prompt_of, open_guard
from safereason.guard.others import GUARDS
from safereason.guard.reasoning import ReasoningGuard
from safereason.judges import as_guard
from safereason.judges.as_guard import open_named, split_spec
from safereason.recipe.schema import GuardSet, Precision, Recipe, Sampling
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
from safereason.stages.guard_eval_score import FILE, STAGE, scored_predictions
from safereason.stages.guard_sets import check_one_policy_a_set, chosen_sets, guard_eval_section, labelled_rows


@dataclass(frozen=True)
class GuardEvalRequest:
    """An evaluation of a guard as it is requested: what is named in place of the recipe's and of the guard's own."""

    guard: str | None = None
    """Another guard in the model's place: `llama-guard:MODEL`, `moderation`, … ."""
    sets: Sequence[str] = ()
    """In place of all sets of the recipe: labels of some, or names of sources."""
    policy: str | None = None
    """In place of the guard's own, and of the sets'."""
    template: str | None = None
    """File with the prompt of `guard`, where it takes one."""
    samples: int = 1
    """Verdicts that vote on a row."""
    sampling: Sampling | None = None
    """In place of the guard's own."""
    limit: int | None = None
    """In place of the recipe's: most rows a set, drawn by the seed."""
    allow_missing: bool = False
    """Whether sets that cannot be had are left out; the metrics then name them."""


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


def run_guard_eval(recipe: Recipe, options: Options, request: GuardEvalRequest = GuardEvalRequest()) -> Result:
    """Measures the request's guard, else `options.model`, else the recipe's newest finished guard.

    Args:
        recipe: Recipe with the sets in `guard.eval`, and the guard prompt of a model without a `guard.json`.
        options: Where to write, and the model.
        request: The guard and the sets.

    Raises:
        InputError: A set, the guard or the policy cannot be had.
        StageFailed: Rows failed; `--resume` tries those again.
    """
    plan = plan_guard_eval(recipe, _model_to_measure(recipe, options, request.guard), request)
    # The sets are read before the directory is made, since the identity says which of them are there.
    prompt = _prompt_document(recipe, plan)
    rows, missing = labelled_rows(plan.sets, plan.limit, recipe.seed, request.allow_missing)
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
        metrics = _guard_eval_description(recipe, plan, str(identity["model"]), prompt, missing)
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


def plan_guard_eval(recipe: Recipe, model: str | None, request: GuardEvalRequest = GuardEvalRequest()) -> GuardEvalPlan:
    """Combines the recipe and the request.

    Args:
        recipe: Recipe with the sets.
        model: The model to measure; None where the request names another guard.
        request: The guard and the sets.

    Raises:
        InputError: There is no set, or no such set, policy or guard; or sets of one name have different policies.
    """
    if request.guard and model:
        raise InputError("--guard and --model exclude each other; pass one of them")
    section = guard_eval_section(recipe)
    guard_sets = chosen_sets(recipe, request.sets)
    if not guard_sets:
        raise InputError(
            f"recipe {recipe.name}: it has no guard.eval section; add one, or name a source with --prompts"
        )
    check_one_policy_a_set(recipe, guard_sets)
    # A recipe's own guard was trained with its template, so another one would not measure that guard.
    if request.template and not request.guard:
        raise InputError("--template: only another guard (--guard) takes one; a recipe has guard.prompt_template")
    if request.template and not Path(request.template).is_file():
        raise InputError(f"--template {request.template}: no such file; check the path")
    for guard_set in guard_sets:
        sources.get(guard_set.source)  # Refuses an unknown name.
    if request.policy:
        policies.load(request.policy)
    if model:
        # Last, since it may send a request to the Hub.
        ModelSpec.parse(model).check()
    return GuardEvalPlan(
        sets=tuple(guard_sets),
        limit=request.limit or section.limit,
        resamples=section.resamples,
        model=model,
        guard=request.guard and GUARDS.own_name(request.guard),
        policy=request.policy,
        template=request.template,
        samples=request.samples,
        sampling=request.sampling,
    )


def _guard_eval_inputs(
    plan: GuardEvalPlan, rows: Mapping[str, Sequence[Example]], prompt: Record, options: Options
) -> Identity:
    """The inputs of the run's identity. Sets that are missing are no part of it: they may be there next time."""
    if plan.guard:
        model = as_guard.model_of(plan.guard)
        subject = as_guard.identity_of(plan.guard)
    else:
        model = plan.model
        subject = ModelSpec.parse(str(model)).identity()
    return {
        "model": subject,
        "eval": "guard",
        "sets": [guard_set.model_dump(mode="json") for guard_set in plan.sets if guard_set.label in rows],
        "limit": plan.limit,
        "resamples": plan.resamples,
        "samples": plan.samples,
        "asked": prompt,
        **given_inputs(base_url=options.base_url),
        **contents(models=[model], sources=[guard_set.source for guard_set in plan.sets]),
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
        for guard_set in plan.sets:
            if guard_set.policy:
                set_policies[guard_set.label] = asdict(policies.load(guard_set.policy))
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
        summary["policies"] = {set_name: set_policy["name"] for set_name, set_policy in set_policies.items()}
    for key in ("reasoning", "sampling"):
        if key in prompt:
            summary[key] = prompt[key]
    return summary


def _recipe_guard_prompt(recipe: Recipe) -> guard_prompts.GuardPrompt | None:
    if recipe.guard is None:
        return None
    return guard_prompts.of_section(recipe.guard)


class _GuardOpener:
    """The guard of an evaluation, loaded once, when the first set needs it."""

    def __init__(self, recipe: Recipe, options: Options, plan: GuardEvalPlan) -> None:
        self._recipe = recipe
        self._options = options
        self._plan = plan
        self._opened: Guard | None = None

    def for_set(self, guard_set: GuardSet) -> Guard:
        """The guard under the policy of this set; a policy on the command line goes before it."""
        # A resumed run with all verdicts never gets here, and loads nothing.
        if self._opened is None:
            self._opened = _open_evaluated_guard(self._recipe, self._options, self._plan)
        guard = self._opened
        if not isinstance(guard, ReasoningGuard) or self._plan.policy or not guard_set.policy:
            return guard
        # The engine holds the weights, so another policy needs no other engine.
        return guard.under(policies.load(guard_set.policy))


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
    """The precision of the guard's training; fp32 without a GPU, and where nothing was trained."""
    if recipe.guard is None:
        return "fp32"
    section = recipe.guard.train or recipe.guard.sft
    # The schema asks for one of the two, and mypy does not know.
    if section is None:
        return "fp32"
    return precision_here(section.precision)


def _classify_rows(
    rows: Mapping[str, Sequence[Example]], opener: _GuardOpener, plan: GuardEvalPlan, seed: int, log: RecordLog
) -> None:
    """Classifies and records the rows that have no verdict yet, set by set."""
    recorded = {(record["set"], record["id"]) for record in read_records(log.path)}
    total = sum(map(len, rows.values()))
    sets_by_name: dict[str, GuardSet] = {}
    for guard_set in plan.sets:
        # Any set of a name will do, since all of them share one policy.
        sets_by_name[guard_set.label] = guard_set
    with console.progress("verdicts", total, len(recorded)) as advance:
        for set_name, guard_set in sets_by_name.items():
            examples = rows.get(set_name, ())
            done = set()
            questions = []
            for index, example in enumerate(examples):
                questions.append(Question(example.prompt, example.response))
                if (set_name, example.id) in recorded:
                    done.add(index)
            if len(done) == len(examples):
                continue
            record_verdict = _verdict_recorder(set_name, examples, plan.may_retry, log, advance)
            # Recorded rows are passed too: a row's position is part of its seed.
            opener.for_set(guard_set).classify(questions, seed=seed, done=done, on_verdict=record_verdict)


def _verdict_recorder(
    set_name: str, examples: Sequence[Example], may_retry: bool, log: RecordLog, advance: console.Advance
) -> Callable[[int, GuardVerdict], None]:
    """A callback that records the verdict on the example of an index."""

    def record_verdict(index: int, verdict: GuardVerdict) -> None:
        prediction = of_example(
            examples[index],
            set_name,
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
        advance(set_name)

    return record_verdict


def _predictions_in_order(path: Path, rows: Mapping[str, Sequence[Example]]) -> list[Prediction]:
    """The recorded predictions in the order of the sets and their rows."""
    # A file of an earlier version may lack keys, and the error then names the row.
    recorded = {}
    for number, record in enumerate(read_records(path), start=1):
        prediction = from_record(record, f"{path}: row {number}")
        recorded[prediction.set, prediction.id] = prediction
    in_order = []
    for set_name, examples in rows.items():
        for example in examples:
            in_order.append(recorded[set_name, example.id])
    return in_order


def _finish_guard_eval(this: RunDirectory, metrics: Metrics, predictions: Sequence[Prediction]) -> None:
    """Ends the run. If rows failed, the figures are written without them and the run can be resumed."""
    reasons = [str(prediction.reason) for prediction in predictions if prediction.failed]
    if reasons:
        write_json(this.path / "metrics.json", metrics)
        reason = most_common_reason(reasons)
        raise StageFailed(f"{this.path}: {len(reasons)} of {len(predictions)} rows failed ({reason}); {going_on()}")
    this.finish(metrics)
