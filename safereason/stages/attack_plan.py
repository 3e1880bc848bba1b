"""Plan of an attack: its behaviors, settings, models and scorer, and the identity of the test cases that follow."""

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
from safereason.recipe.schema import Attacking, Recipe
from safereason.runs.manifest import sha256
from safereason.stages.base import Identity, Options, given_inputs, run_identity
from safereason.stages.contents import contents
from safereason.stages.scorer import ScorerSpec, parse_scorer

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
    attacker: ModelSpec | None
    scorer: ScorerSpec | None
    others: tuple[ModelSpec, ...]
    """Further target models, which the attack optimises against, too."""
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
    def attacker_in_use(self) -> ModelSpec | None:
        """Model that writes prompts; None where this attack has no use for one."""
        if "attacker" not in self.uses:
            return None
        return self.attacker

    @property
    def scorer_in_use(self) -> ScorerSpec | None:
        """Scorer that leads the search; None where this attack has no use for one."""
        if "score" not in self.uses:
            return None
        return self.scorer

    @property
    def further_models(self) -> tuple[ModelSpec, ...]:
        """Every model that the search loads beside the target and the scorer's."""
        models = [*self.settings.models, *self.others]
        if self.attacker_in_use:
            models.append(self.attacker_in_use)
        return tuple(models)


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
    scorer = _scorer_for(attack, section, options)
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
    if scorer:
        at_hand.add("score")
    attack.check(drawn, settings, frozenset(at_hand))
    return AttackPlan(
        attack=attack,
        settings=settings,
        section=section,
        attacker=attacker,
        scorer=scorer,
        others=_other_targets(attack, section),
        source=source,
        behaviors=drawn,
        limit=request.limit,
        shard=request.shard,
        prefix=prefix,
    )


def _attacker_for(attack: Attack, section: Attacking) -> ModelSpec | None:
    attacker = section.attackers.get(attack.name, section.attacker)
    if "attacker" in attack.needs and attacker is None:
        raise InputError(f"attack {attack.name}: which model writes its prompts? name one with attack.attacker=MODEL")
    if attacker is None:
        return None
    return ModelSpec.parse(attacker)


def _other_targets(attack: Attack, section: Attacking) -> tuple[ModelSpec, ...]:
    # Only attacks on weights optimise against several models.
    if "weights" not in attack.needs:
        return ()
    return tuple(map(ModelSpec.parse, section.others))


def _scorer_for(attack: Attack, section: Attacking, options: Options) -> ScorerSpec | None:
    # A guard that was not trained yet is refused here, before any model is loaded.
    scorer = None
    if section.judge:
        scorer = parse_scorer(section.judge, options)
    if "score" in attack.needs and scorer is None:
        raise InputError(
            f"attack {attack.name}: what judges the answers? name a judge with attack.judge=JUDGE, or a chat model "
            "that rates them with attack.judge=rating:MODEL"
        )
    return scorer


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
    """Checks the models and the scorer that the search will load, without loading them.

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
        model.check()
    if plan.scorer_in_use is not None:
        plan.scorer_in_use.check()


def attack_identity(recipe: Recipe, plan: AttackPlan, target: ModelSpec, base_url: str | None) -> Identity:
    """The identity of the test cases. It holds only what this attack uses, so other settings may change freely."""
    inputs: dict[str, object] = {}
    target_model = None
    if plan.attack.needs:
        target_model = target
        inputs["model"] = target.identity()
        inputs["sampling"] = plan.section.sampling.model_dump(mode="json")
        inputs["max_queries"] = plan.section.max_queries
    if plan.attacker_in_use is not None:
        inputs["attacker"] = plan.attacker_in_use.identity()
    if plan.scorer_in_use is not None:
        inputs["judge"] = plan.scorer_in_use.identity()
    others = [model.identity() for model in plan.others]
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
        **contents(models=[target_model, *plan.further_models], judges=[plan.scorer_in_use], sources=[plan.source]),
    )


def _setting_files(settings: AttackSettings) -> dict[str, str]:
    """Hashes of the files that settings name, by setting. A file can change while its name stays the same."""
    hashes = {}
    for key, value in settings.model_dump().items():
        if isinstance(value, str) and value and Path(value).is_file():
            hashes[key] = sha256(Path(value))
    return hashes
