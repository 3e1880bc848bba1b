"""`safereason attack`: the search for prompts that elicit behaviors."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from safereason.cli import groups, output, stage
from safereason.cli import options as opt
from safereason.cli.groups import Command, Unloaded
from safereason.errors import InputError

if TYPE_CHECKING:
    from safereason.attacks import Attack
    from safereason.recipe.schema import Recipe
    from safereason.stages.attack_plan import AttackPlan

Prompts = Annotated[
    str | None, typer.Option("--prompts", metavar="SOURCE", help="A data source, or a file of examples.")
]
# Prompts are chosen by `--prompts` in every command. Scripts that use the older name go on working.
OldPrompts = Annotated[
    str | None, typer.Option("--behaviors", metavar="SOURCE", hidden=True, help="The old name of --prompts.")
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


def _attack_command(name: str) -> Callable[..., None]:
    """The command of one attack. All attacks have the same options, so adding one needs no code here."""

    def attack(
        overrides: opt.Overrides = None,
        recipe: opt.MaybeRecipe = None,
        model: opt.Model = None,
        prompts: Prompts = None,
        old_prompts: OldPrompts = None,
        attacker: Attacker = None,
        judge: JudgeName = None,
        judge_model: JudgeModel = None,
        base_url: opt.BaseUrl = None,
        max_queries: MaxQueries = None,
        limit: opt.Limit = None,
        precision: opt.PrecisionOption = None,
        gpus: opt.WorkGpus = None,
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
        from safereason.stages.attack_plan import AttackRequest, plan_attack

        source = opt.either_name("--prompts", prompts, "--behaviors", old_prompts)
        section_values = {
            f"attackers.{name}": attacker,
            "judge": _scorer_name(judge, judge_model),
            "max_queries": max_queries,
        }
        chosen = _attack_recipe(name, recipe, model, overrides, seed, section_values)
        gpu_choice = opt.parse_work_gpus(gpus, dry_run)
        options = opt.stage_options(root, out, model, resume, overwrite, base_url, precision, gpu_choice)
        request = AttackRequest(name, source, limit, opt.parse_shard(shard))
        # A plan loads no model, so that it also works before the target is trained.
        if dry_run:
            plan = plan_attack(chosen, options, request)
            placements = stage_attack.planned_placement(chosen, plan, options)
            stage.print_steps(chosen, [_attack_step(plan, model, chosen.name)], as_json, placements)
            return
        result = stage.run_and_print(lambda: stage_attack.run_attack(chosen, options, request), as_json)
        # The test cases are written by now. Failed verdicts among them only change the exit code.
        stage_attack.check_attack_scored(result.run, result.metrics)

    return attack


def _scorer_name(judge: str | None, model: str | None) -> str | None:
    """The scorer as a recipe names it: a judge, or the chat model of `--judge-model`, which rates answers."""
    from safereason.stages.scorer import RATING

    if model is None:
        return judge
    if judge is not None:
        raise InputError("--judge and --judge-model exclude each other; pass one of them")
    return f"{RATING}{model}"


def _attack_recipe(
    name: str,
    recipe: str | None,
    model: str | None,
    overrides: list[str] | None,
    seed: int | None,
    section_values: Mapping[str, object],
) -> "Recipe":
    """The recipe, or one for the model alone, with the command line's values in its attack section.

    Args:
        name: The attack's name.
        recipe: A shipped recipe or a file.
        model: The model that is attacked.
        overrides: `section.key=value` texts.
        seed: The value of `--seed`.
        section_values: Values of the attack section by key; None leaves the recipe's.
    """
    import json

    from safereason import attacks

    texts = list(overrides or ())
    for key, value in section_values.items():
        if value is not None:
            # Overrides are read as YAML, of which JSON is a subset.
            texts.append(f"attack.{key}={json.dumps(value)}")
    if recipe is not None:
        return opt.load_recipe(recipe, texts, seed=seed)
    # An attack that needs no model, such as a template, writes the same test cases for every one.
    if model is None and attacks.get(name).needs:
        raise InputError("which model is attacked? name one with --model, or a recipe with --recipe")
    return opt.adhoc_recipe(model or "none", texts, seed)


def _attack_step(plan: "AttackPlan", model: str | None, recipe: str) -> str:
    """The plan of an attack as one sentence, for a dry run."""
    target = model or f"the newest trained model of {recipe}"
    step = (
        f"attack {target} with {plan.attack.name} on {len(plan.behaviors)} behaviors of {plan.source} in "
        f"{len(plan.groups)} searches"
    )
    if plan.shard is not None:
        step += f", part {plan.shard[0]} of {plan.shard[1]}"
    helpers: list[str] = []
    if plan.attacker:
        helpers.append(f"attacker {plan.attacker}")
    if plan.scorer:
        helpers.append(f"judge {plan.scorer.label()}")
    settings = [f"{key}={value}" for key, value in plan.settings.model_dump().items()]
    for listed in (helpers, settings):
        if listed:
            step += f"; {', '.join(listed)}"
    return step


def _command_of(name: str, summary: str) -> Command:
    """The command of one attack."""
    epilog = opt.examples(
        f"safereason attack {name} --recipe tars-smoke --limit 10",
        f"safereason attack {name} --model runs/rl/RUN --prompts jailbreakbench --shard 2/8",
    )
    return groups.command_of(name, _attack_command(name), summary=f"{summary}.", epilog=epilog)


def _plugin(name: str) -> Command | None:
    """The command of another package's attack, or of one that is not listed yet; None where there is none."""
    from safereason.attacks import ATTACKS

    if not ATTACKS.has(name):
        return None
    attack = ATTACKS.find(name)
    return _command_of(attack.name, attack.summary)


def _attacks() -> list[Unloaded]:
    """The commands of this package's attacks."""
    commands: list[Unloaded] = []
    for name, summary in groups.help_texts()["attacks"].items():
        commands.append(Unloaded(name, f"{summary}.", partial(_command_of, name, summary)))
    return commands


app = groups.group(
    "Find prompts that elicit behaviors.",
    *_attacks(),
    # These two are no searches for single behaviors, so they are not in the registry.
    groups.imported("attack rainbow", "attack_rainbow:rainbow"),
    groups.imported("attack convert", "attack_convert:convert"),
    plugin=_plugin,
)


@app.command("ls", epilog=opt.examples("safereason attack ls", "safereason attack ls --json"))
def list_attacks(as_json: opt.Json = False, verbose: opt.Verbose = False) -> None:
    """List the attacks: what each does, what it needs, and its settings."""
    from safereason.attacks import ATTACKS

    documents: list[dict[str, object]] = []
    rows: list[tuple[str, str, str]] = []
    for name, attack in ATTACKS.every():
        if isinstance(attack, InputError):
            documents.append({"name": name, "summary": str(attack), "needs": [], "uses": [], "settings": {}})
            rows.append((name, "", str(attack)))
            continue
        settings = _describe_settings(attack)
        documents.append(
            {
                "name": name,
                "summary": attack.summary,
                "needs": sorted(attack.needs),
                "uses": sorted(attack.uses),
                "settings": settings,
            }
        )
        rows.append((name, ", ".join(sorted(attack.needs)), attack.summary))
    if as_json:
        output.print_json(documents)
    else:
        output.print_table(("attack", "needs", "what it does"), rows)


def _describe_settings(attack: "Attack") -> dict[str, dict[str, object]]:
    """The default and the description of each setting, by its name."""
    settings: dict[str, dict[str, object]] = {}
    for key, field in attack.settings.model_fields.items():
        default: object = field.get_default(call_default_factory=True)
        settings[key] = {"default": default, "about": field.description}
    return settings
