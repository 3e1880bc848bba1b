"""`safereason eval guard`: F1 of a guard's verdicts on labelled rows, with what it is made of."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from safereason.cli import options as opt
from safereason.cli import output, stage
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.recipe.schema import Recipe
    from safereason.stages.base import Result
    from safereason.stages.guard_eval import Plan

FIGURES = (
    "f1",
    "f1_parsed",
    "precision",
    "recall",
    "accuracy",
    "f1_always_unsafe",
    "f1_always_safe",
    "auroc",
    "f1_pooled",
    "unparsed",
    "says_unsafe",
)
"""What may have a bar, of all sets or, after a slash, of one: `f1/openai-moderation`."""
ADHOC = "rsafe"
"""The recipe by which a guard is asked that is named without a recipe."""
EXAMPLES = opt.examples(
    "safereason eval guard --recipe rsafe",
    "safereason eval guard --model runs/guard/rl/RUN --set openai-moderation --fail-under f1=0.7",
    "safereason eval guard --guard llama-guard:meta-llama/Llama-Guard-3-8B --set xstest-response",
    "safereason eval guard --predictions generated_predictions.jsonl --set toxicchat",
)

Guard = Annotated[
    str | None,
    typer.Option("--guard", metavar="NAME[:MODEL]", help="Another guard: llama-guard:MODEL, moderation, ... ."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SOURCE", help="A source, or a set of the recipe, in place of all; repeatable."),
]
Policy = Annotated[
    str | None, typer.Option("--policy", metavar="POLICY", help="A shipped policy or a YAML file, for every set.")
]
Template = Annotated[
    str | None, typer.Option("--template", metavar="FILE", help="The prompt of a --guard that comes without its own.")
]
Samples = Annotated[int, typer.Option("--samples", min=1, metavar="N", help="Verdicts that vote on a row.")]
Predictions = Annotated[
    Path | None, typer.Option("--predictions", metavar="FILE", help="Score what this JSONL file says; ask no guard.")
]
Task = Annotated[
    Literal["prompt", "response"] | None,
    typer.Option("--task", help="What --set is about, where its name does not say so and the texts have both."),
]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Leave out sets that cannot be had, and say so.")]


def guard(
    overrides: opt.Overrides = None,
    recipe: opt.MaybeRecipe = None,
    model: opt.Model = None,
    guard: Guard = None,
    base_url: opt.BaseUrl = None,
    sets: Sets = None,
    policy: Policy = None,
    template: Template = None,
    samples: Samples = 1,
    limit: opt.Limit = None,
    predictions: Predictions = None,
    task: Task = None,
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
    """Measure a guard on labelled rows: F1 of `unsafe`, AUROC, verdicts that cannot be read."""
    from safereason.stages import guard_eval

    bars = opt.bars("guard", FIGURES, fail_under, fail_over)
    chosen = _recipe(recipe, model, overrides, seed)
    options = opt.stage_options(root, out, model, resume, overwrite, base_url)
    named = tuple(sets or ())
    if predictions:
        _refuse(model=model, guard=guard, policy=policy, template=template, limit=limit, base_url=base_url)
        if dry_run:
            stage.print_steps(chosen, [f"score {predictions}{' as ' + ', '.join(named) if named else ''}"], as_json)
            return
        work = partial(guard_eval.score, chosen, options, predictions, sets=named, about=task)
    else:
        if not (recipe or model or guard):
            raise InputError("which guard? name one with --model or --guard, or a recipe with --recipe")
        sampling = chosen.guard.sampling if chosen.guard and _is_set(overrides, "guard.sampling") else None
        asked: dict[str, Any] = {
            "guard": guard,
            "sets": named,
            "policy": policy,
            "template": template,
            "samples": samples,
            "sampling": sampling,
            "limit": limit,
        }
        if dry_run:
            stage.print_steps(chosen, _steps(guard_eval.make_plan(chosen, model, **asked), chosen.name), as_json)
            return
        work = partial(guard_eval.run, chosen, options, **asked, allow_missing=allow_missing)
    result = stage.carry_out(work, as_json, _print)
    stage.hold(result, bars, junit)
    guard_eval.check_scored(result.run)


def _recipe(recipe: str | None, model: str | None, overrides: list[str] | None, seed: int | None) -> "Recipe":
    """The recipe; where none is named, one without sets that asks as RSafe does."""
    if recipe is not None:
        return opt.load_recipe(recipe, overrides, seed=seed)
    adhoc = opt.load_recipe(ADHOC, overrides, seed=seed)
    asks = adhoc.guard and adhoc.guard.model_copy(
        update={"eval": adhoc.guard.eval and adhoc.guard.eval.model_copy(update={"sets": ()})}
    )
    return adhoc.model_copy(
        update={"name": "adhoc", "model": model or adhoc.model, "paper": None, "guard": asks, "provenance": {}}
    )


def _refuse(**given: Any) -> None:
    """Options that only mean something where a guard is asked."""
    for name, value in given.items():
        if value is not None:
            option = name.replace("_", "-")
            raise InputError(f"--{option}: --predictions asks no guard; leave --{option} out")


def _is_set(overrides: list[str] | None, key: str) -> bool:
    names = [text.partition("=")[0].strip() for text in overrides or ()]
    return any(name == key or name.startswith(f"{key}.") for name in names)


def _steps(plan: "Plan", recipe: str) -> list[str]:
    """What would be done, in words."""
    most = f"at most {plan.limit} rows" if plan.limit else "all rows"
    votes = f" {plan.samples} times" if plan.samples > 1 else ""
    return [
        f"ask {plan.guard or plan.model or f'the newest guard of {recipe}'}{votes} about {most} of {chosen.label}"
        f"{' by the policy ' + policy if (policy := plan.policy or chosen.policy) else ''}"
        for chosen in plan.sets
    ]


def _print(result: "Result", as_json: bool) -> None:
    """Figures beside what is known of others, then what they are made of."""
    metrics = result.metrics
    if as_json:
        output.print_json({"run": str(result.run), "metrics": metrics})
        return
    tables = ("figures", "confusion", "categories", "reliability")
    output.print_mapping({"run": str(result.run), **{k: v for k, v in metrics.items() if k not in tables and v != {}}})
    known = {figure["group"]: _known(figure["group"]) for figure in metrics["figures"]}
    rows = [
        (f["name"], f["group"], output.interval(f), f["n"], f["unscored"], known[f["group"]].get(f["name"], ""))
        for f in metrics["figures"]
    ]
    output.print_table(("figure", "of", "value [95 % interval]", "n", "unscored", "RSafe's"), rows)
    print()
    columns = ("unsafe", "safe", "unparsed")
    counts = [
        (name, expected, *(row[found] for found in columns))
        for name, table in metrics["confusion"].items()
        for expected, row in table.items()
    ]
    output.print_table(("set", "is", *(f"called {name}" if name != "unparsed" else name for name in columns)), counts)


def _known(name: str) -> dict[str, str]:
    """The nearest figure of the paper's authors for a set; they leave out rows without a verdict."""
    from safereason.evals.paper import guard_scores

    nearest = next(iter(guard_scores(name)), None)
    return {"f1_parsed": f"{nearest.f1:.3f}"} if nearest else {}
