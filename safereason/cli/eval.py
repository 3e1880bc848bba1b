"""`safereason eval`: measure a model or a run."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safereason.cli import (
    catalog,
    eval_agree,
    eval_capability,
    eval_compare,
    eval_guard,
    eval_score,
    eval_separation,
    output,
    stage,
)
from safereason.cli import options as opt
from safereason.evals import EVALS

if TYPE_CHECKING:
    from safereason.stages.eval import Plan

app = opt.group("Measure a model: how well it defends, and how far it still complies.")

FIGURES = {
    **{name: evaluation.reports for name, evaluation in EVALS.items()},
    "guard": eval_guard.FIGURES,
    "separation": eval_separation.FIGURES,
    "capability": (),
}
"""The evals of this version, each with the figures that may have a bar; those of `capability` are its tasks'."""
Cases = Annotated[
    list[Path] | None,
    typer.Option(
        "--cases",
        metavar="FILE or RUN",
        help="Test cases that attacks found, in place of attacks; may be repeated.",
    ),
]
Attacks = Annotated[str | None, typer.Option("--attacks", metavar="NAME,...", help="Attacks in place of the recipe's.")]
Source = Annotated[
    str | None, typer.Option("--source", metavar="SOURCE", help="Source of the prompts, in place of the eval's own.")
]
JudgeName = Annotated[str | None, typer.Option("--judge", metavar="JUDGE", help="Judge in place of the recipe's.")]


@app.command("ls", epilog=opt.examples("safereason eval ls", "safereason eval ls --json"))
def ls(as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """List the evals, attacks and judges."""
    found = catalog.listing()
    if as_json:
        output.print_json(found)
    else:
        rows = [
            (kind.removesuffix("s"), entry["name"], entry["summary"])
            for kind, entries in found.items()
            for entry in entries
        ]
        output.print_table(("kind", "name", "what it is"), rows)


def _command(name: str) -> Callable[..., None]:
    def evaluate(
        overrides: opt.Overrides = None,
        recipe: opt.MaybeRecipe = None,
        model: opt.Model = None,
        base_url: opt.BaseUrl = None,
        attacks: Attacks = None,
        cases: Cases = None,
        source: Source = None,
        judge: JudgeName = None,
        limit: opt.Limit = None,
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
        from safereason.stages import eval as stage_eval
        from safereason.stages import eval_judge

        bars = opt.bars(name, FIGURES[name], fail_under, fail_over)
        chosen = opt.recipe_of(recipe, model, overrides, seed)
        options = opt.stage_options(root, out, model, resume, overwrite, base_url)
        named = tuple(attack.strip() for attack in attacks.split(",")) if attacks else None
        asked: dict[str, Any] = {
            "attacks": named,
            "judge": judge,
            "limit": limit,
            "cases": cases or (),
            "source": source,
        }
        if dry_run:
            plan = stage_eval.make_plan(chosen, name, **asked)
            stage_eval.check_attacks(chosen, options, plan)
            stage.print_steps(chosen, [_step(plan, model, chosen.name)], as_json)
            return
        result = stage.carry_out(lambda: stage_eval.run(chosen, options, name, **asked), as_json)
        stage.hold(result, bars, junit)
        eval_judge.check_scored(result.run, result.metrics)

    return evaluate


def _step(plan: "Plan", model: str | None, recipe: str) -> str:
    """What would be done, in words; names that are unknown are refused as they would be when it is done."""
    from safereason import attacks, judges

    for attack in plan.attacks:
        attacks.get(attack)
    if plan.judge:
        judges.parse(plan.judge)
    subject = model or f"the newest trained model of {recipe}"
    most = f"at most {plan.limit}" if plan.limit else "all"
    attacked = ", ".join(plan.attacks or [f"test cases of {path}" for path in plan.cases])
    then = f"judge the answers with {plan.judge}" if plan.judge else "count the tokens of reasoning and answer"
    return f"ask {subject} {most} prompts of {', '.join(plan.sources)} ({attacked}), and {then}"


for name, evaluation in EVALS.items():
    most_telling = evaluation.reports[0] if evaluation.judge else "closed"
    app.command(
        name,
        help=f"{evaluation.summary}.",
        epilog=opt.examples(
            f"safereason eval {name} --recipe tars-smoke",
            f"safereason eval {name} --model embedded/smollm2-135m --limit 50",
            f"safereason eval {name} --model runs/rl/RUN --fail-under {most_telling}=0.9 --junit {name}.xml",
        ),
    )(_command(name))
app.command("score", epilog=eval_score.EXAMPLES)(eval_score.score)
app.command("guard", help=f"{catalog.EVALS['guard']}.", epilog=eval_guard.EXAMPLES)(eval_guard.guard)
app.command("separation", epilog=eval_separation.EXAMPLES)(eval_separation.separation)
app.command("capability", epilog=eval_capability.EXAMPLES)(eval_capability.capability)
app.command("agree", epilog=eval_agree.EXAMPLES)(eval_agree.agree)
app.command("compare", epilog=eval_compare.EXAMPLES)(eval_compare.compare)
