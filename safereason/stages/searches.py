"""The searches of an evaluation under attacks: finished ones are used, and missing ones are run.

A search that agrees in all of its identity is used, under any recipe's name. If there is only one with other settings,
a line names that run, the differences, and the command that measures it.
"""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from safereason.console import say
from safereason.recipe.merge import flatten
from safereason.recipe.schema import Recipe
from safereason.runs.directory import finished, read_manifest
from safereason.stages import attack
from safereason.stages.attack_plan import AttackRequest, attack_identity, plan_attack
from safereason.stages.base import Identity, Options


def run_searches(recipe: Recipe, options: Options, request: AttackRequest) -> Path:
    """The finished search of an attack against `options.model`; it is run here where there is none.

    Args:
        recipe: Recipe with the attack's models and settings.
        options: Options with the root of the runs, and the target, which has to be named.
        request: The attack.

    Raises:
        InputError: As `attack.run_attack`.
    """
    assert options.model is not None
    plan = plan_attack(recipe, options, request)
    engine = attack.target_engine(plan, options.model, options)
    identity = attack_identity(recipe, plan, options.model, options.base_url)
    similar = list(_similar_searches(options.root, plan.attack.name, identity))
    # The newest one is used: `--overwrite` may have made a search again.
    same = [path for path, similar_identity in similar if similar_identity == engine.identity(identity, path)]
    if same:
        return same[-1]
    if similar:
        # A search takes hours, so a person should learn that one with other settings is already there.
        path, similar_identity = similar[-1]
        say(_difference_message(plan.attack.name, path, similar_identity, engine.identity(identity, path)))
    return attack.run_attack(recipe, options, request).run


def _similar_searches(root: Path, name: str, identity: Identity) -> Iterator[tuple[Path, Identity]]:
    """The finished searches of an attack with the same model and source of behaviors, oldest first."""
    for path in finished(root, f"attack/{name}"):
        similar = (read_manifest(path) or {}).get("identity", {})
        same_model = similar.get("model") == identity.get("model")
        if same_model and similar.get("behaviors") == identity.get("behaviors"):
            yield path, similar


def _difference_message(name: str, path: Path, earlier: Identity, current: Identity) -> str:
    """A line on the settings of an earlier search that differ, with the arguments that measure its test cases."""
    before = dict(flatten(earlier))
    now = dict(flatten(current))
    differences = []
    arguments: list[str | None] = []
    for key in dict.fromkeys((*now, *before)):
        if before.get(key) != now.get(key):
            differences.append(f"{key} {_as_json(before.get(key))} there, {_as_json(now.get(key))} here")
            arguments.append(_argument_for(name, key, before.get(key)))
    reuse = ""
    # Some settings have no argument of their own, and half a command would mislead.
    if None not in arguments:
        reuse = f"; {' '.join(map(str, arguments))} uses it as it is"
    return (
        f"attack {name}: searches anew, since {path} was made otherwise ({', '.join(differences)}); "
        f"--cases {path} measures what that found{reuse}"
    )


def _as_json(value: object) -> str:
    if value is None:
        return "none"
    return json.dumps(value, ensure_ascii=False)


def _argument_for(name: str, key: str, value: object) -> str | None:
    """The command-line argument that sets a part of the identity; None where no short one does."""
    section, _, setting = key.partition(".")
    if section == "settings":
        return shlex.quote(f"{name}.{setting}={json.dumps(value, ensure_ascii=False)}")
    if key in ("limit", "seed", "precision") and value is not None:
        return f"--{key} {value}"
    if key == "engine" and value is not None:
        return f"attack.engine={value}"
    return None
