"""Which figure of a paper is like one of ours: of the same prompts, and of the model that ours is a copy of.

Like means the same prompts' source, base model and so size, stage of training, method and λ. Where any of these differs
or is not known there is no such figure. How else ours was measured, by another judge, under other attacks or on fewer
prompts, is told beside it: `paper.departures`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safereason.evals.metrics import OVERALL
from safereason.evals.paper import MAIN_RATIO, PaperFigure, known

QWEN_1_5B, QWEN_7B = "Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"
TARS_SFT = "danielkty22/TARS-SFT-1.5B"


@dataclass(frozen=True)
class Origin:
    """How a model came about that a run measured."""

    name: str
    """As an evaluation's identity has it: `STAGE/RECIPE/HASH` of the run that made it, or its own name."""
    base: str | None = None
    """The base model of the recipe that made it; None where that is not known."""
    harmful_ratio: float | None = None
    """λ of that recipe."""

    @property
    def stage(self) -> str:
        """The stage that made it; empty for a model of others."""
        return self._parts[0]

    @property
    def recipe(self) -> str:
        """The recipe that made it; empty for a model of others."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str, str]:
        stage, *rest = self.name.rsplit("/", 2)
        return (stage, rest[0]) if stage in STAGES and len(rest) == 2 else ("", "")


STAGES = ("sft", "rl", "guard/sft", "guard/rl")
"""Stages that make models."""

_Trained = tuple[str, str, str]
"""Stage, recipe and base model."""
TRAINED: Mapping[_Trained, str] = {
    ("rl", "tars-1.5b", QWEN_1_5B): "TARS-1.5B",
    ("rl", "tars-7b", QWEN_7B): "TARS-7B",
    ("rl", "baseline-rl-noreason", QWEN_1_5B): "RL without reasoning",
    ("rl", "baseline-dpo", QWEN_1_5B): "DPO",
    ("rl", "baseline-deliberative", QWEN_1_5B): "Deliberative alignment",
    ("sft", "baseline-sft", TARS_SFT): "SFT",
    **{("sft", name, QWEN_1_5B): "π_SFT" for name in ("tars-1.5b", "baseline-dpo", "baseline-deliberative")},
}
"""TARS's models by what trains them here; the last three share their SFT."""
PUBLISHED: Mapping[str, str] = {
    "CMU-AIRe/TARS-1.5B": "TARS-1.5B",
    "CMU-AIRe/TARS-7B": "TARS-7B",
    TARS_SFT: "π_SFT",
    QWEN_1_5B: "Qwen2.5-1.5B-Instruct",
}
"""TARS's models whose weights are on the Hub, by their id."""
UNTRAINED_ON_RATIO = ("π_SFT", "Qwen2.5-1.5B-Instruct")
"""Models that no λ has a part in."""
SOURCES = {"harmbench": "harmbench", "xstest": "xstest", "wildchat": "wildchat", "adaptivity": "sorry-bench"}
"""Where the papers' prompts are from, by evaluation."""


def like(
    evaluation: str, figure: str, group: str, origin: Origin, metrics: Mapping[str, Any], identity: Mapping[str, Any]
) -> PaperFigure | None:
    """The papers' figure that is like one of ours.

    Args:
        evaluation: The evaluation that made ours.
        figure: Its `Figure.name`.
        group: Its `Figure.group`.
        origin: How the model came about.
        metrics: The run's `metrics.json`.
        identity: The run's identity.
    """
    if not _has_the_papers_prompts(evaluation, group, metrics, identity):
        return None
    there = known(evaluation, figure, group)
    if evaluation == "guard":
        made = (origin.stage, origin.base) == ("guard/rl", QWEN_7B)
        return next((f for f in there if made and f.recipe == origin.recipe), None)
    name = TRAINED.get((origin.stage, origin.recipe, origin.base or "")) or PUBLISHED.get(origin.name)
    if name is None:
        return None
    ratio = None if name in UNTRAINED_ON_RATIO else MAIN_RATIO if not origin.stage else origin.harmful_ratio
    # Figures that are given without λ are of the paper's main models.
    wanted = {name if ratio is None else f"{name}, λ = {ratio}", *([name] if ratio == MAIN_RATIO else ())}
    return next((f for f in there if f.model in wanted), None)


def _has_the_papers_prompts(
    evaluation: str, group: str, metrics: Mapping[str, Any], identity: Mapping[str, Any]
) -> bool:
    if evaluation == "separation":
        # The paper's plane is UMAP's: margins in another one have another unit.
        kinds = (metrics.get("harmful"), metrics.get("harmless"))
        there = [kind.get("source") if isinstance(kind, dict) else None for kind in kinds]
        return there == ["harmbench", "xstest"] and metrics.get("projection") == "umap"
    if evaluation == "guard":
        sets = identity.get("sets")
        rows = [row for row in sets if isinstance(row, dict)] if isinstance(sets, list) else []
        return group != OVERALL and any(
            group == (row.get("name") or row.get("source")) == row.get("source") for row in rows
        )
    return evaluation in SOURCES and metrics.get("source") == SOURCES[evaluation]
