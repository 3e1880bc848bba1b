"""`safereason eval guard`: F1 of a guard's verdicts on labelled rows, with the counts behind it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from safereason.cli import options as opt
from safereason.cli import output, stage
from safereason.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from safereason.recipe.schema import Recipe, Sampling
    from safereason.runs.records import Record
    from safereason.stages.base import Options, Result
    from safereason.stages.guard_eval_plan import GuardEvalPlan, GuardEvalRequest
    from safereason.stages.guard_eval_score import PredictionsRequest

# A guard that is named without a recipe gets this recipe's prompt and sampling.
ADHOC_GUARD = "rsafe"
EXAMPLES = opt.examples(
    "safereason eval guard --recipe rsafe",
    "safereason eval guard --model runs/guard/rl/RUN --prompts openai-moderation --fail-under f1=0.7",
    "safereason eval guard --guard llama-guard:meta-llama/Llama-Guard-3-8B --prompts xstest-response",
    "safereason eval guard --predictions generated_predictions.jsonl --prompts toxicchat",
)

GuardOption = Annotated[
    str | None,
    typer.Option("--guard", metavar="NAME[:MODEL]", help="Another guard: llama-guard:MODEL, moderation, ... ."),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompts", metavar="SOURCE", help="A source, or a set of the recipe, in place of all; repeatable."),
]
# Prompts are chosen by `--prompts` in every command. Scripts that use the older name go on working.
OldPrompts = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SOURCE", hidden=True, help="The old name of --prompts."),
]
PolicyOption = Annotated[
    str | None, typer.Option("--policy", metavar="POLICY", help="A shipped policy or a YAML file, for every set.")
]
Template = Annotated[
    str | None,
    typer.Option("--template", metavar="FILE", help="Prompt file for a --guard that has no prompt of its own."),
]
Samples = Annotated[int, typer.Option("--samples", min=1, metavar="N", help="Verdicts that vote on a row.")]
Predictions = Annotated[
    Path | None,
    typer.Option("--predictions", metavar="FILE", help="Score the predictions in this JSONL file; run no guard."),
]
TaskOption = Annotated[
    Literal["prompt", "response"] | None,
    typer.Option("--task", help="The text to judge, if rows have both and the name of --prompts does not say which."),
]
AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="Leave out sets that are not available, and name them.")
]


def measure_guard(
    overrides: opt.Overrides = None,
    recipe: opt.MaybeRecipe = None,
    model: opt.Model = None,
    guard: GuardOption = None,
    base_url: opt.BaseUrl = None,
    prompts: Prompts = None,
    old_prompts: OldPrompts = None,
    policy: PolicyOption = None,
    template: Template = None,
    samples: Samples = 1,
    limit: opt.Limit = None,
    precision: opt.PrecisionOption = None,
    predictions: Predictions = None,
    task: TaskOption = None,
    allow_missing: AllowMissing = False,
    fail_under: opt.FailUnder = None,
    fail_over: opt.FailOver = None,
    junit: opt.JUnit = None,
    out: opt.Out = None,
    root: opt.Root = opt.RUNS,
    seed: opt.Seed = None,
    dry_run: opt.DryRun = False,
    resume: opt.Resume = False,
    overwrite: opt.Overwrite = False,
    as_json: opt.Json = False,
    verbose: opt.Verbose = False,
) -> None:
    """F1 of a guard's verdicts on its benchmarks."""
    from safereason.evals import GUARD
    from safereason.stages.guard_eval_plan import GuardEvalRequest
    from safereason.stages.guard_eval_score import PredictionsRequest, check_guard_eval_scored

    bars = opt.parse_bars(GUARD.name, GUARD.reports, fail_under, fail_over)
    sets = tuple(opt.either_name("--prompts", prompts, "--set", old_prompts) or ())
    chosen = _guard_recipe(recipe, model, overrides, seed)
    options = opt.stage_options(root, out, model, resume, overwrite, base_url, precision)
    result: Result | None
    if predictions:
        _refuse_with_predictions(
            model=model,
            guard=guard,
            policy=policy,
            template=template,
            limit=limit,
            base_url=base_url,
            precision=precision,
        )
        result = _score_predictions(chosen, options, PredictionsRequest(predictions, sets, task), dry_run, as_json)
    else:
        if not (recipe or model or guard):
            raise InputError("which guard? name one with --model or --guard, or a recipe with --recipe")
        request = GuardEvalRequest(
            guard=guard,
            sets=sets,
            policy=policy,
            template=template,
            samples=samples,
            sampling=_chosen_sampling(chosen, overrides),
            limit=limit,
            allow_missing=allow_missing,
        )
        result = _measure_guard(chosen, options, request, dry_run, as_json)
    # After a dry run there are no figures yet.
    if result is not None:
        stage.check_bars(result, bars, junit)
        check_guard_eval_scored(result.run)


def _score_predictions(
    recipe: "Recipe", options: "Options", request: "PredictionsRequest", dry_run: bool, as_json: bool
) -> "Result | None":
    """The result of scoring verdicts in a file, printed; None after a dry run, which prints the plan."""
    from safereason.stages.guard_eval_score import score_guard_eval

    if not dry_run:
        return stage.run_and_print(lambda: score_guard_eval(recipe, options, request), as_json, _print_guard_result)
    step = f"score {request.file}"
    if request.sets:
        step += f" as {', '.join(request.sets)}"
    stage.print_steps(recipe, [step], as_json)
    return None


def _measure_guard(
    recipe: "Recipe", options: "Options", request: "GuardEvalRequest", dry_run: bool, as_json: bool
) -> "Result | None":
    """The result of a guard's evaluation, printed; None after a dry run, which prints the plan."""
    from safereason.stages.guard_eval import run_guard_eval
    from safereason.stages.guard_eval_plan import plan_guard_eval

    if not dry_run:
        return stage.run_and_print(lambda: run_guard_eval(recipe, options, request), as_json, _print_guard_result)
    plan = plan_guard_eval(recipe, options.model, request)
    stage.print_steps(recipe, _guard_eval_steps(plan, recipe.name), as_json)
    return None


def _guard_recipe(recipe: str | None, model: str | None, overrides: list[str] | None, seed: int | None) -> "Recipe":
    """The named recipe; without one, RSafe's with its sets left out, since `--prompts` has to name them."""
    if recipe is not None:
        return opt.load_recipe(recipe, overrides, seed=seed)
    adhoc = opt.load_recipe(ADHOC_GUARD, overrides, seed=seed)
    section = adhoc.guard
    if section and section.eval:
        section = section.model_copy(update={"eval": section.eval.model_copy(update={"sets": ()})})
    # Nothing of the paper may be claimed for another guard, so there is neither its name nor its provenance.
    return adhoc.model_copy(
        update={"name": "adhoc", "model": model or adhoc.model, "paper": None, "guard": section, "provenance": {}}
    )


def _refuse_with_predictions(**values: object) -> None:
    """Refuses options that only mean something where a guard gives verdicts; each has its option's name.

    Raises:
        InputError: One of them was given.
    """
    # Ignored in silence, such an option would seem to have had an effect on the figures.
    for name, value in values.items():
        if value is not None:
            option = name.replace("_", "-")
            raise InputError(f"--{option}: --predictions asks no guard; leave --{option} out")


def _chosen_sampling(recipe: "Recipe", overrides: list[str] | None) -> "Sampling | None":
    """The recipe's sampling where the command line changes it; None leaves a trained guard the sampling of its run."""
    if not recipe.guard:
        return None
    # The recipe has values for all keys, its defaults, so only the overrides tell whether a person chose one.
    for text in overrides or ():
        key = text.partition("=")[0].strip()
        if key == "guard.sampling" or key.startswith("guard.sampling."):
            return recipe.guard.sampling
    return None


def _guard_eval_steps(plan: "GuardEvalPlan", recipe: str) -> list[str]:
    """The plan of an evaluation as one sentence per set, for a dry run."""
    guard = f"the newest guard of {recipe}"
    if plan.guard is not None:
        guard = plan.guard.label()
    elif plan.model is not None:
        guard = str(plan.model)
    votes = ""
    if plan.samples > 1:
        votes = f" {plan.samples} times"
    amount = "all rows"
    if plan.limit:
        amount = f"at most {plan.limit} rows"
    steps: list[str] = []
    for guard_set in plan.sets:
        step = f"ask {guard}{votes} about {amount} of {guard_set.label}"
        policy = plan.policy or guard_set.policy
        if policy:
            step += f" by the policy {policy}"
        steps.append(step)
    return steps


def _print_guard_result(result: "Result", as_json: bool) -> None:
    """Prints the figures beside RSafe's own, then the counts of verdicts by label."""
    metrics = result.metrics
    if as_json:
        output.print_json({"run": str(result.run), "metrics": metrics})
        return
    # These are tables. The last two are long, and for the report and `--json` only.
    tables = ("figures", "confusion", "categories", "reliability")
    summary: dict[str, object] = {"run": str(result.run)}
    for key, value in metrics.items():
        if key not in tables and value != {}:
            summary[key] = value
    output.print_mapping(summary)
    _print_figures_with_known(metrics["figures"])
    print()
    _print_confusion(metrics["confusion"])


def _print_figures_with_known(figures: "Sequence[Record]") -> None:
    # Every set has several figures, and a look-up goes through all that the paper reports.
    known: dict[str, dict[str, str]] = {}
    rows: list[tuple[object, ...]] = []
    for figure in figures:
        name, group = figure["name"], figure["group"]
        if group not in known:
            known[group] = _known_figures(group)
        value = output.interval(figure)
        rows.append((name, group, value, figure["n"], figure["unscored"], known[group].get(name, "")))
    output.print_table(("figure", "of", "value [95 % interval]", "n", "unscored", "RSafe's"), rows)


def _print_confusion(confusion: "Mapping[str, Mapping[str, Mapping[str, int]]]") -> None:
    """Prints one row per set and label, with the numbers of verdicts of each kind."""
    rows: list[tuple[object, ...]] = []
    for name, table in confusion.items():
        for label, counts in table.items():
            rows.append((name, label, counts["unsafe"], counts["safe"], counts["unparsed"]))
    output.print_table(("set", "is", "called unsafe", "called safe", "unparsed"), rows)


def _known_figures(name: str) -> dict[str, str]:
    """The nearest figure of RSafe's authors for a set. It is `f1_parsed`: they leave out rows without a verdict."""
    from safereason.evals.paper import guard_scores

    nearest = next(iter(guard_scores(name)), None)
    if nearest is None:
        return {}
    return {"f1_parsed": f"{nearest.f1:.3f}"}
