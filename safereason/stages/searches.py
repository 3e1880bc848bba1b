"""The searches that an evaluation under attacks needs: those that finished before, and the others, which it runs.

A search that agrees in all that its result depends on is used, whichever recipe it was named by. One that was made with
other settings is not, and a line says which run that is, what differs, and how to measure it.
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safereason.console import say
from safereason.recipe.merge import flatten
from safereason.recipe.schema import Recipe
from safereason.runs.directory import finished, read_manifest
from safereason.stages import attack
from safereason.stages.base import Options

Identity = Mapping[str, Any]


def run(recipe: Recipe, options: Options, name: str, behaviors: str, limit: int | None) -> Path:
    """The finished search of an attack against `options.model`, run here where there is none.

    Args:
        recipe: Says what the attack works with, and its settings.
        options: Where the runs are, and the target.
        name: The attack.
        behaviors: Source of the behaviors.
        limit: Most behaviors, drawn by the seed.

    Raises:
        InputError: As `attack.run`.
    """
    plan = attack.make_plan(recipe, options, name, behaviors=behaviors, limit=limit)
    wanted = attack.identity_of(recipe, plan, str(options.model), options.base_url)
    earlier = list(_earlier(options.root, name, wanted))
    same = [path for path, identity in earlier if identity == wanted]
    if same:
        return same[-1]
    if earlier:
        path, identity = earlier[-1]
        say(_otherwise(name, path, identity, wanted))
    return attack.run(recipe, options, name, behaviors=behaviors, limit=limit).run


def _earlier(root: Path, name: str, wanted: Identity) -> Iterator[tuple[Path, Identity]]:
    """The finished searches of an attack against the same model, for behaviors of the same source, oldest first."""
    for path in finished(root, f"attack/{name}"):
        identity = (read_manifest(path) or {}).get("identity", {})
        if all(identity.get(key) == wanted.get(key) for key in ("model", "behaviors")):
            yield path, identity


def _otherwise(name: str, path: Path, theirs: Identity, wanted: Identity) -> str:
    """Says what an earlier search did otherwise, and how to measure what it found."""
    before, now = dict(flatten(theirs)), dict(flatten(wanted))
    differing = [key for key in dict.fromkeys((*now, *before)) if before.get(key) != now.get(key)]
    shown = ", ".join(f"{key} {_shown(before.get(key))} there, {_shown(now.get(key))} here" for key in differing)
    given = [_argument(name, key, before.get(key)) for key in differing]
    same = f"; {' '.join(map(str, given))} uses it as it is" if None not in given else ""
    return (
        f"attack {name}: searches anew, since {path} was made otherwise ({shown}); "
        f"--cases {path} measures what that found{same}"
    )


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _argument(name: str, key: str, value: Any) -> str | None:
    """What on the command line makes a part of the identity so; None where nothing short does."""
    section, _, setting = key.partition(".")
    if section == "settings":
        return shlex.quote(f"{name}.{setting}={json.dumps(value, ensure_ascii=False)}")
    return f"--{key} {value}" if key in ("limit", "seed") and value is not None else None
