"""`safereason eval`: evaluations of a model or a run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safereason.cli import catalog, groups, output, stage
from safereason.cli import options as opt
from safereason.cli.groups import Command, Unloaded

if TYPE_CHECKING:
    from safereason.evals import Eval
    from safereason.stages.eval import EvalPlan


Cases = Annotated[
    list[Path] | None,
    typer.Option(
        "--cases",
        metavar="FILE or RUN",
        help="Test cases of earlier attacks, in place of new ones; repeatable.",
    ),
]
Attacks = Annotated[str | None, typer.Option("--attacks", metavar="NAME,...", help="Attacks in place of the recipe's.")]
Prompts = Annotated[
    str | None, typer.Option("--prompts", metavar="SOURCE", help="Source of the prompts, in place of the eval's own.")
]
# Prompts are chosen by `--prompts` in every command. Scripts that use the older name go on working.
OldPrompts = Annotated[
    str | None, typer.Option("--source", metavar="SOURCE", hidden=True, help="The old name of --prompts.")
]
JudgeName = Annotated[str | None, typer.Option("--judge", metavar="JUDGE", help="Judge in place of the recipe's.")]


def _eval_command(name: str) -> Callable[..., None]:
    """The command of one evaluation. All of them have the same options, so adding one needs no code here."""

    def evaluate(
        overrides: opt.Overrides = None,
        recipe: opt.MaybeRecipe = None,
        model: opt.Model = None,
        base_url: opt.BaseUrl = None,
        attacks: Attacks = None,
        cases: Cases = None,
        prompts: Prompts = None,
        old_prompts: OldPrompts = None,
        judge: JudgeName = None,
        limit: opt.Limit = None,
        precision: opt.PrecisionOption = None,
        gpus: opt.WorkGpus = None,
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
        from safereason import evals
        from safereason.evals import judging
        from safereason.stages import eval as stage_eval

        # Bars are checked first: a misspelt figure must not come to light after hours of measuring.
        bars = opt.parse_bars(name, evals.get(name).reports, fail_under, fail_over)
        source = opt.either_name("--prompts", prompts, "--source", old_prompts)
        # Before the recipe, so that an override may name an attack that a dotted path led to.
        attack_names = _attack_names(attacks)
        chosen = opt.recipe_of(recipe, model, overrides, seed)
        gpu_choice = opt.parse_work_gpus(gpus, dry_run)
        options = opt.stage_options(root, out, model, resume, overwrite, base_url, precision, gpu_choice)
        request = stage_eval.EvalRequest(name, attack_names, judge, limit, cases or (), source)
        if dry_run:
            # Nothing is asked of the model, so that it need not be there yet.
            plan = stage_eval.plan_eval(chosen, request)
            stage_eval.check_attacks(chosen, options, plan)
            placements = stage_eval.planned_placements(chosen, plan, options)
            stage.print_steps(chosen, [_eval_step(plan, model, chosen.name)], as_json, placements)
            return
        result = stage.run_and_print(
            lambda: stage_eval.run_eval(chosen, options, request),
            as_json,
        )
        # The figures are printed by now. Bars come before the check for failed verdicts: exit code 3 tells more than 1.
        stage.check_bars(result, bars, junit)
        judging.check_eval_scored(result.run, result.metrics)

    return evaluate


def _attack_names(text: str | None) -> tuple[str, ...] | None:
    """The attacks of a list with commas; None where the recipe's list is to be used."""
    from safereason import attacks

    if not text:
        return None
    names: list[str] = []
    for name in text.split(","):
        # Only a dotted path is followed here: a misspelt name is refused where the evaluation is planned.
        if ":" in name:
            names.append(attacks.get(name.strip()).name)
        else:
            names.append(name.strip())
    return tuple(names)


def _eval_step(plan: "EvalPlan", model: str | None, recipe: str) -> str:
    """The plan of an evaluation as one sentence, for a dry run."""
    subject = model or f"the newest trained model of {recipe}"
    amount = "all"
    if plan.limit:
        amount = f"at most {plan.limit}"
    cases = [f"test cases of {path}" for path in plan.cases]
    attack_list = ", ".join(plan.attacks or cases)
    last_part = "count the tokens of reasoning and answer"
    if plan.judge is not None:
        last_part = f"judge the answers with {plan.judge.label()}"
    return f"ask {subject} {amount} prompts of {', '.join(plan.sources)} ({attack_list}), and {last_part}"


def figure_with_bar(evaluation: "Eval") -> str:
    """The figure that an evaluation's example sets a bar for."""
    # An eval without a judge counts tokens, which no bar suits; the share of closed reasoning has one.
    if not evaluation.judge:
        return "closed"
    return evaluation.reports[0].name


def _command_of(name: str, summary: str, figure: str) -> Command:
    """The command of one evaluation."""
    epilog = opt.examples(
        f"safereason eval {name} --recipe tars-smoke",
        f"safereason eval {name} --model embedded/smollm2-135m --limit 50",
        f"safereason eval {name} --model runs/rl/RUN --fail-under {figure}=0.9 --junit {name}.xml",
    )
    return groups.command_of(name, _eval_command(name), summary=f"{summary}.", epilog=epilog)


def _plugin(name: str) -> Command | None:
    """The command of another package's evaluation, or of one that is not listed yet; None where there is none."""
    from safereason.evals import EVALS

    if not EVALS.has(name):
        return None
    evaluation = EVALS.find(name)
    return _command_of(evaluation.name, evaluation.summary, figure_with_bar(evaluation))


def _evals() -> list[Unloaded]:
    """The commands of this package's evaluations."""
    commands: list[Unloaded] = []
    for name, texts in groups.help_texts()["evals"].items():
        load = partial(_command_of, name, texts["summary"], texts["figure"])
        commands.append(Unloaded(name, f"{texts['summary']}.", load))
    return commands


app = groups.group(
    "Measure a model: how well it defends, and how far it still complies.",
    *_evals(),
    groups.imported("eval score", "eval_score:score"),
    groups.imported("eval guard", "eval_guard:measure_guard"),
    groups.imported("eval separation", "eval_separation:separation"),
    groups.imported("eval capability", "eval_capability:capability"),
    groups.imported("eval agree", "eval_agree:agree"),
    groups.imported("eval compare", "eval_compare:compare"),
    plugin=_plugin,
)


@app.command("ls", epilog=opt.examples("safereason eval ls", "safereason eval ls --json"))
def list_evals(as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """List the evals, attacks, judges and guards, those of installed packages included."""
    entries_by_kind = catalog.listing()
    if as_json:
        output.print_json(entries_by_kind)
        return
    rows: list[tuple[str, str, str]] = []
    for kind, entries in entries_by_kind.items():
        rows += [(kind.removesuffix("s"), entry["name"], entry["summary"]) for entry in entries]
    output.print_table(("kind", "name", "what it is"), rows)
