"""`safereason eval`: measure a model or a run."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safereason.cli import catalog, eval_guard, output, pending, stage
from safereason.cli import options as opt
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.recipe.schema import Recipe
    from safereason.stages.eval import Plan

app = opt.group("Measure a model: how well it defends, and how far it still complies.")

_FORM = ("closed", "well_formed", "truncated")
ASKED = {"harmbench": ("dsr", *_FORM), "xstest": ("compliance_safe", "refusal_unsafe", *_FORM)}
"""The evals that ask a model and judge its answers."""
FIGURES = {**ASKED, "guard": eval_guard.FIGURES}
"""The evals of this version, each with the figures that `--fail-under` may set a bar for."""
Cases = Annotated[
    list[Path] | None,
    typer.Option(
        "--cases", metavar="FILE", help="Test cases that attacks found, in place of attacks; may be repeated."
    ),
]
Attacks = Annotated[str | None, typer.Option("--attacks", metavar="NAME,...", help="Attacks in place of the recipe's.")]
JudgeName = Annotated[str | None, typer.Option("--judge", metavar="JUDGE", help="Judge in place of the recipe's.")]


@app.command("ls", epilog=opt.examples("safereason eval ls", "safereason eval ls --json"))
def ls(as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """List the evals, attacks and judges, and which of them this version has."""
    found = catalog.listing()
    if as_json:
        output.print_json(found)
    else:
        rows = [
            (kind.removesuffix("s"), entry["name"], "yes" if entry["there"] else "not yet", entry["summary"])
            for kind, entries in found.items() for entry in entries
        ]  # fmt: skip
        output.print_table(("kind", "name", "there", "what it is"), rows)


def _command(name: str) -> Callable[..., None]:
    def evaluate(
        overrides: opt.Overrides = None,
        recipe: opt.MaybeRecipe = None,
        model: opt.Model = None,
        base_url: opt.BaseUrl = None,
        attacks: Attacks = None,
        cases: Cases = None,
        judge: JudgeName = None,
        limit: opt.Limit = None,
        fail_under: opt.Bars = None,
        out: opt.Out = None,
        root: opt.Root = opt.RUNS,
        seed: opt.Seed = None,
        dry_run: opt.DryRun = False,
        resume: opt.Resume = False,
        overwrite: opt.Overwrite = False,
        as_json: opt.Json = False,
        verbose: opt.Verbose = False,
    ) -> None:
        from safereason.stages import eval as stage_eval

        bars = dict(opt.bar(name, FIGURES[name], text) for text in fail_under or ())
        chosen = _recipe(recipe, model, overrides, seed)
        options = opt.stage_options(root, out, model, resume, overwrite, base_url)
        named = tuple(attack.strip() for attack in attacks.split(",")) if attacks else None
        if dry_run:
            plan = stage_eval.make_plan(chosen, name, named, judge, limit, cases or ())
            stage.print_steps(chosen, [_step(plan, model, chosen.name)], as_json)
            return
        result = stage.carry_out(
            lambda: stage_eval.run(chosen, options, name, attacks=named, judge=judge, limit=limit, cases=cases or ()),
            as_json,
        )
        stage_eval.check_bars(result.metrics, bars)

    return evaluate


def _recipe(recipe: str | None, model: str | None, overrides: list[str] | None, seed: int | None) -> "Recipe":
    if recipe is not None:
        return opt.load_recipe(recipe, overrides, seed=seed)
    if model is None:
        raise InputError("which model? name one with --model, or a recipe with --recipe")
    return opt.adhoc_recipe(model, overrides, seed)


def _step(plan: "Plan", model: str | None, recipe: str) -> str:
    """What would be done, in words; names that are unknown are refused as they would be when it is done."""
    from safereason import attacks, judges

    for attack in plan.attacks:
        attacks.get(attack)
    judges.parse(plan.judge)
    subject = model or f"the newest trained model of {recipe}"
    most = f"at most {plan.limit}" if plan.limit else "all"
    attacked = ", ".join(plan.attacks or [f"test cases of {path}" for path in plan.cases])
    return f"ask {subject} {most} prompts of {plan.source} ({attacked}), and judge the answers with {plan.judge}"


for name, figures in ASKED.items():
    app.command(
        name,
        help=f"{catalog.EVALS[name]}.",
        epilog=opt.examples(
            f"safereason eval {name} --recipe tars-smoke",
            f"safereason eval {name} --model embedded/smollm2-135m --judge refusal --limit 50",
            f"safereason eval {name} --model runs/rl/RUN --fail-under {figures[0]}=0.9",
        ),
    )(_command(name))
app.command("guard", help=f"{catalog.EVALS['guard']}.", epilog=eval_guard.EXAMPLES)(eval_guard.guard)
for name, summary in catalog.EVALS.items():
    if name not in FIGURES:
        pending.add(app, f"eval {name}", summary, f"safereason eval {name} --model runs/rl/RUN")
pending.add(
    app,
    "eval score",
    "Judge a run's saved completions again",
    "safereason eval score runs/eval/harmbench/RUN --judge harmbench",
)
pending.add(
    app, "eval compare", "Compare the figures of runs", "safereason eval compare runs/eval/xstest/A runs/eval/xstest/B"
)
