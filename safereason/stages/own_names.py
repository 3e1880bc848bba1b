"""A recipe's sources and judges by the own names of their entries.

A plugin has several names: that of its entry point, and its dotted path. A run's identity, and the data that is drawn,
may not depend on which of them a recipe has. The recipe that a run writes keeps the names as they were typed, since a
dotted path is the only way to an entry that is not installed.
"""

from collections.abc import Collection, Iterable
from typing import TypeVar

from safereason.data.sources import SOURCES
from safereason.guard.others import GUARDS
from safereason.judges import JUDGES
from safereason.recipe.schema import (
    DPO,
    GRPO,
    Attacking,
    Evaluation,
    GuardSection,
    GuardSet,
    Recipe,
    RSafeMix,
    SourceShare,
    TarsMix,
    TarsRewardSettings,
    Teacher,
)
from safereason.registry import split_argument

Named = TypeVar("Named", SourceShare, GuardSet)
DATA_SECTIONS = ("data", "guard", "eval")
"""Sections with sources that the data is drawn from or compared with."""


def with_own_names(recipe: Recipe, sections: Collection[str]) -> Recipe:
    """The recipe with each source and judge of these sections by its entry's own name.

    Built-in names and files stay as they are. Plugins are imported, so a stage names the sections that it reads: those
    of another section need not be there.

    Raises:
        InputError: A plugin cannot be imported, or is no such entry.
    """
    changes: dict[str, object] = {}
    if "data" in sections:
        changes["data"] = _data(recipe.data)
    if "rl" in sections and recipe.rl is not None:
        changes["rl"] = _training(recipe.rl)
    if "guard" in sections and recipe.guard is not None:
        changes["guard"] = _guard(recipe.guard)
    if "attack" in sections and recipe.attack is not None:
        changes["attack"] = _attacking(recipe.attack)
    if "eval" in sections and recipe.eval is not None:
        changes["eval"] = _evaluation(recipe.eval)
    return recipe.model_copy(update=changes)


def _data(mix: TarsMix | RSafeMix) -> TarsMix | RSafeMix:
    changes: dict[str, object] = {
        "traces": _each(mix.traces),
        "without_sources": tuple(map(SOURCES.own_name, mix.without_sources)),
        "teacher": _teacher(mix.teacher),
    }
    if isinstance(mix, TarsMix):
        changes["harmful"] = _each(mix.harmful)
        changes["harmless"] = _each(mix.harmless)
        changes["ambiguous"] = _each(mix.ambiguous)
    else:
        changes["sources"] = tuple(map(SOURCES.own_name, mix.sources))
        changes["safe_only"] = _each(mix.safe_only)
        changes["unsafe_only"] = _each(mix.unsafe_only)
    return mix.model_copy(update=changes)


def _each(named: Iterable[Named]) -> tuple[Named, ...]:
    renamed = []
    for one in named:
        renamed.append(one.model_copy(update={"source": SOURCES.own_name(one.source)}))
    return tuple(renamed)


def _teacher(teacher: Teacher | None) -> Teacher | None:
    if teacher is None:
        return None
    return teacher.model_copy(update={"judge": _judge(teacher.judge)})


def _training(section: GRPO | DPO) -> GRPO | DPO:
    reward = section.reward
    if not isinstance(reward, TarsRewardSettings):
        return section
    # The task may be a reward model's name, which leads to no judge and stays.
    judges = {"safety": _judge(reward.safety), "task": _judge(reward.task)}
    return section.model_copy(update={"reward": reward.model_copy(update=judges)})


def _guard(section: GuardSection) -> GuardSection:
    if section.eval is None:
        return section
    evaluation = section.eval.model_copy(update={"sets": _each(section.eval.sets)})
    return section.model_copy(update={"eval": evaluation})


def _attacking(section: Attacking) -> Attacking:
    return section.model_copy(update={"judge": _judge(section.judge)})


def _evaluation(section: Evaluation) -> Evaluation:
    # Its judges are no part of this: a plan reads them, and no other stage has a use for them.
    return section.model_copy(update={"behaviors": _source(section.behaviors), "benign": _source(section.benign)})


def _source(name: str | None) -> str | None:
    if name is None:
        return None
    return SOURCES.own_name(name)


def _judge(text: str | None) -> str | None:
    if text is None:
        return None
    text = JUDGES.own_name(text)
    # The guard of `guard:NAME:MODEL` may be a plugin, too.
    name, argument = split_argument(text)
    if name == "guard" and argument:
        return f"{name}:{GUARDS.own_name(argument)}"
    return text
