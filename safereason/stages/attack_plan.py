"""Plan of an attack: its behaviors, settings, models and judge, and the identity of the test cases that follow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from safereason import attacks
from safereason.attacks.base import Attack, AttackSettings, Need
from safereason.data import sources
from safereason.data.example import Example
from safereason.data.sampling import limited
from safereason.engines.spec import ModelSpec
from safereason.errors import InputError
from safereason.judges import JudgeSpec, own_name
from safereason.recipe.schema import Attacking, Recipe
from safereason.runs.manifest import sha256
from safereason.stages.base import Identity, Options, given_inputs, resolved_judge, run_identity
from safereason.stages.contents import contents

RATING = "rating:"
"""Prefix of a chat model whose ratings of the answers lead an attack."""

SettingsT = TypeVar("SettingsT", bound=AttackSettings)


@dataclass(frozen=True)
class AttackRequest:
    """An attack as it is requested: its name, and on which behaviors."""

    name: str
    source: str | None = None
    """Source of the behaviors, in place of that of the recipe's evaluation."""
    limit: int | None = None
    """Most behaviors, drawn by the seed."""
    shard: tuple[int, int] | None = None
    """Number of this shard, from 1, and the number of shards, for machines that share the work."""


@dataclass(frozen=True)
class AttackPlan:
    """An attack with its settings from the recipe and the command line."""

    attack: Attack
    settings: AttackSettings
    section: Attacking
    attacker: str | None
    judge: str | None
    source: str
    behaviors: tuple[Example, ...]
    limit: int | None
    shard: tuple[int, int] | None
    prefix: str

    @property
    def uses(self) -> frozenset[Need]:
        """Needs of the attack, with those that it can do without."""
        return self.attack.needs | self.attack.uses

    @property
    def groups(self) -> list[list[Example]]:
        """Behaviors by search, of the shard if there is one."""
        every = self.attack.groups(self.behaviors, self.settings)
        if self.shard is None:
            return every
        # Every machine makes the same list of groups and takes each n-th one, so no two of them overlap.
        number, count = self.shard
        return every[number - 1 :: count]

    @property
    def attacker_in_use(self) -> str | None:
        """Model that writes prompts; None where this attack has no use for one."""
        if "attacker" not in self.uses:
            return None
        return self.attacker

    @property
    def judge_in_use(self) -> str | None:
        """Judge that leads the search; None where this attack has no use for one."""
        if "score" not in self.uses:
            return None
        return self.judge

    @property
    def further_models(self) -> tuple[str, ...]:
        """Every model that the search loads beside the target and the judge's."""
        models = [*self.settings.models, *self.other_targets]
        if self.attacker_in_use:
            models.append(self.attacker_in_use)
        rating_model = rating_model_of(self.judge_in_use)
        if rating_model is not None:
            models.append(rating_model)
        return tuple(models)

    @property
    def other_targets(self) -> tuple[str, ...]:
        """Further models that the attack optimises against; only attacks on weights do so."""
        if "weights" not in self.attack.needs:
            return ()
        return self.section.others


def plan_attack(recipe: Recipe, options: Options, request: AttackRequest) -> AttackPlan:
    """Combines the recipe and the request.

    Raises:
        InputError: A name or a setting is unknown, an attacker or a judge is missing, or the source cannot be had or
            has no harmful behaviors.
    """
    attack = attacks.get(request.name)
    name = attack.name
    section = recipe.attack or Attacking()
    source = request.source
    prefix = ""
    if recipe.eval is not None:
        source = source or recipe.eval.behaviors
        prefix = recipe.eval.prefix
    if source is None:
        raise InputError(f"attack {name}: of which behaviors? name their source with --prompts")
    source = sources.SOURCES.own_name(source)
    attacker = _attacker_for(attack, section)
    judge = _judge_for(attack, section, options)
    # Sources for tests may hold benign prompts too, which no attack is measured on.
    harmful = [example for example in sources.get(source).load("test") if example.kind == "harmful"]
    if not harmful:
        raise InputError(f"source {source}: has no harmful behaviors; name another one")
    settings = settings_of(name, attack.settings, section.settings.get(name, {}))
    drawn = tuple(limited(harmful, request.limit, recipe.seed))
    # Only attackers and judges are optional. The other needs are met by the target.
    at_hand = set[Need]()
    if attacker:
        at_hand.add("attacker")
    if judge:
        at_hand.add("score")
    attack.check(drawn, settings, frozenset(at_hand))
    return AttackPlan(
        attack=attack,
        settings=settings,
        section=section,
        attacker=attacker,
        judge=judge,
        source=source,
        behaviors=drawn,
        limit=request.limit,
        shard=request.shard,
        prefix=prefix,
    )


def _attacker_for(attack: Attack, section: Attacking) -> str | None:
    attacker = section.attackers.get(attack.name, section.attacker)
    if "attacker" in attack.needs and attacker is None:
        raise InputError(f"attack {attack.name}: which model writes its prompts? name one with attack.attacker=MODEL")
    return attacker


def _judge_for(attack: Attack, section: Attacking, options: Options) -> str | None:
    """The section's judge, with `guard:RECIPE` turned into a run."""
    # A guard that was not trained yet is refused here, before any model is loaded.
    judge = None
    if section.judge:
        judge = own_name(resolved_judge(section.judge, options))
    if "score" in attack.needs and judge is None:
        raise InputError(
            f"attack {attack.name}: what judges the answers? name a judge with attack.judge=JUDGE, or a chat model "
            "that rates them with attack.judge=rating:MODEL"
        )
    if judge is not None and rating_model_of(judge) is None:
        JudgeSpec.parse(judge)
    return judge


def settings_of(name: str, settings_type: type[SettingsT], values: Mapping[str, object]) -> SettingsT:
    """The checked settings of the attack of this name.

    Raises:
        InputError: One is unknown or of the wrong type; the message names it.
    """
    try:
        # Strict validation takes no list for a tuple, but JSON has lists only; so the values go through JSON.
        return settings_type.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = ", ".join(settings_type.model_fields) or "none"
        raise InputError(f"attack.settings.{name}.{key}: {first['msg'].lower()}; attack {name} has {known}") from error


def check_at_hand(plan: AttackPlan, target: ModelSpec) -> None:
    """Checks the models and the judge that the search will load, without loading them.

    Raises:
        InputError: One of them cannot be had; the message names it, and what to do.
    """
    if not plan.attack.needs:
        return
    # Gradients need the weights, and servers and vLLM do not give them.
    if "weights" in plan.attack.needs and not target.has_weights:
        raise InputError(
            f"attack {plan.attack.name}: needs the weights, so a model of transformers; {target} does not show them"
        )
    target.check()
    for model in plan.further_models:
        ModelSpec.parse(model).check()
    judge = plan.judge_in_use
    if judge and rating_model_of(judge) is None:
        JudgeSpec.parse(judge).check()


def attack_identity(recipe: Recipe, plan: AttackPlan, target: ModelSpec, base_url: str | None) -> Identity:
    """The identity of the test cases. It holds only what this attack uses, so other settings may change freely."""
    inputs: dict[str, object] = {}
    target_model = None
    if plan.attack.needs:
        target_model = str(target)
        inputs["model"] = target.identity()
        inputs["sampling"] = plan.section.sampling.model_dump(mode="json")
        inputs["max_queries"] = plan.section.max_queries
    if plan.attacker_in_use:
        inputs["attacker"] = ModelSpec.parse(plan.attacker_in_use).identity()
    if plan.judge_in_use:
        inputs["judge"] = scorer_identity(plan.judge_in_use)
    others = [ModelSpec.parse(name).identity() for name in plan.other_targets]
    judge = plan.judge_in_use
    if rating_model_of(judge) is not None:
        judge = None
    return run_identity(
        recipe,
        attack=plan.attack.name,
        settings=plan.settings.model_dump(mode="json"),
        behaviors=plan.source,
        limit=plan.limit,
        shard=plan.shard,
        prefix=plan.prefix,
        **inputs,
        **given_inputs(others=others, files=_setting_files(plan.settings), base_url=base_url),
        **contents(models=[target_model, *plan.further_models], judges=[judge], sources=[plan.source]),
    )


def _setting_files(settings: AttackSettings) -> dict[str, str]:
    """Hashes of the files that settings name, by setting. A file can change while its name stays the same."""
    hashes = {}
    for key, value in settings.model_dump().items():
        if isinstance(value, str) and value and Path(value).is_file():
            hashes[key] = sha256(Path(value))
    return hashes


def scorer_identity(judge: str) -> str:
    """The identity of a judge, or of the model behind `rating:`."""
    rating_model = rating_model_of(judge)
    if rating_model is not None:
        return f"{RATING}{ModelSpec.parse(rating_model).identity()}"
    return JudgeSpec.parse(judge).identity()


def rating_model_of(judge: str | None) -> str | None:
    """The chat model of `rating:MODEL`; None for a judge, and where there is neither."""
    if judge is None or not judge.startswith(RATING):
        return None
    return judge.removeprefix(RATING)
