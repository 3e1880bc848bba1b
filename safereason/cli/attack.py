"""`safereason attack`: prompts that elicit behaviors."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safereason.attacks import ATTACKS
from safereason.cli import attack_convert, attack_rainbow, catalog, output, stage
from safereason.cli import options as opt
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.recipe.schema import Recipe
    from safereason.stages.attack import Plan

app = opt.group("Find prompts that elicit behaviors.")

Behaviors = Annotated[
    str | None, typer.Option("--behaviors", metavar="SOURCE", help="A data source, or a file of examples.")
]
Attacker = Annotated[
    str | None, typer.Option("--attacker", metavar="MODEL", help="Model that writes prompts, where the attack has one.")
]
JudgeName = Annotated[
    str | None, typer.Option("--judge", metavar="JUDGE", help="Judge of harm or refusal that leads the search.")
]
JudgeModel = Annotated[
    str | None,
    typer.Option("--judge-model", metavar="MODEL", help="Chat model that rates answers, in place of a judge."),
]
MaxQueries = Annotated[
    int | None, typer.Option("--max-queries", min=1, metavar="N", help="Most queries to the target in one search.")
]


@app.command("ls", epilog=opt.examples("safereason attack ls", "safereason attack ls --json"))
def ls(as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """List the attacks: what each does, what it needs, and its settings."""
    found = catalog.listing()["attacks"]
    for entry in found:
        entry |= _about(entry["name"])
    if as_json:
        output.print_json(found)
    else:
        rows = [(entry["name"], ", ".join(entry["needs"]), entry["summary"]) for entry in found]
        output.print_table(("attack", "needs", "what it does"), rows)


def _about(name: str) -> dict[str, Any]:
    attack = ATTACKS[name]
    fields = attack.settings.model_fields
    settings = {
        key: {"default": field.get_default(call_default_factory=True), "about": field.description}
        for key, field in fields.items()
    }
    return {"needs": sorted(attack.needs), "uses": sorted(attack.uses), "settings": settings}


def _command(name: str) -> Callable[..., None]:
    def attack(
        overrides: opt.Overrides = None,
        recipe: opt.MaybeRecipe = None,
        model: opt.Model = None,
        behaviors: Behaviors = None,
        attacker: Attacker = None,
        judge: JudgeName = None,
        judge_model: JudgeModel = None,
        base_url: opt.BaseUrl = None,
        max_queries: MaxQueries = None,
        limit: opt.Limit = None,
        shard: opt.Shard = None,
        out: opt.Out = None,
        root: opt.Root = opt.RUNS,
        seed: opt.Seed = None,
        dry_run: opt.DryRun = False,
        resume: opt.Resume = False,
        overwrite: opt.Overwrite = False,
        as_json: opt.Json = False,
        verbose: opt.Verbose = False,
    ) -> None:
        from safereason.stages import attack as stage_attack

        given = {f"attackers.{name}": attacker, "judge": _judge(judge, judge_model), "max_queries": max_queries}
        chosen = _recipe(name, recipe, model, overrides, seed, given)
        options = opt.stage_options(root, out, model, resume, overwrite, base_url)
        asked: dict[str, Any] = {"behaviors": behaviors, "limit": limit, "shard": opt.shard_of(shard)}
        if dry_run:
            plan = stage_attack.make_plan(chosen, options, name, **asked)
            stage.print_steps(chosen, [_step(plan, model, chosen.name)], as_json)
        else:
            result = stage.carry_out(lambda: stage_attack.run(chosen, options, name, **asked), as_json)
            stage_attack.check_scored(result.run, result.metrics)

    return attack


def _judge(judge: str | None, model: str | None) -> str | None:
    if judge is not None and model is not None:
        raise InputError("--judge and --judge-model exclude each other; pass one of them")
    return judge if model is None else f"rating:{model}"


def _recipe(
    name: str,
    recipe: str | None,
    model: str | None,
    overrides: list[str] | None,
    seed: int | None,
    given: dict[str, Any],
) -> "Recipe":
    """The recipe with the command line's values."""
    import json

    texts = list(overrides or ())
    texts += [f"attack.{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    if recipe is not None:
        return opt.load_recipe(recipe, texts, seed=seed)
    if model is None and ATTACKS[name].needs:
        raise InputError("which model is attacked? name one with --model, or a recipe with --recipe")
    return opt.adhoc_recipe(model or "none", texts, seed)


def _step(plan: "Plan", model: str | None, recipe: str) -> str:
    """What would be done, in words."""
    target = model or f"the newest trained model of {recipe}"
    part = "" if plan.shard is None else f", part {plan.shard[0]} of {plan.shard[1]}"
    helpers = [f"{who} {what}" for who, what in (("attacker", plan.attacker), ("judge", plan.judge)) if what]
    settings = ", ".join(f"{key}={value}" for key, value in plan.settings.model_dump().items())
    return (
        f"attack {target} with {plan.attack.name} on {len(plan.behaviors)} behaviors of {plan.source} in "
        f"{len(plan.groups)} searches{part}{'; ' + ', '.join(helpers) if helpers else ''}"
        f"{'; ' + settings if settings else ''}"
    )


for name, listed in ATTACKS.items():
    app.command(
        name,
        help=f"{listed.summary}.",
        epilog=opt.examples(
            f"safereason attack {name} --recipe tars-smoke --limit 10",
            f"safereason attack {name} --model runs/rl/RUN --behaviors jailbreakbench --shard 2/8",
        ),
    )(_command(name))
app.command("rainbow", epilog=attack_rainbow.EXAMPLES)(attack_rainbow.rainbow)
app.command("convert", epilog=attack_convert.EXAMPLES)(attack_convert.convert)
