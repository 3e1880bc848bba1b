"""The figure of a paper that matches one of ours: of the same prompts, and of the model that ours reproduces.

A match has the same source of prompts, base model and so size, stage of training, method and λ. Where any of these
differs or is not known there is no match. Other differences, such as another judge, other attacks or fewer prompts, are
listed by `paper.departures`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from safereason.evals.metrics import OVERALL
from safereason.evals.paper import MAIN_RATIO, PaperFigure, known
from safereason.runs.records import Record

QWEN_1_5B, QWEN_7B = "Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct"
TARS_SFT = "danielkty22/TARS-SFT-1.5B"


@dataclass(frozen=True)
class Origin:
    """The origin of a measured model: the stage and the recipe that trained it."""

    name: str
    """Name in the identity of an evaluation: `STAGE/RECIPE/HASH` of the training run, or the model's own name."""
    base: str | None = None
    """The base model of that recipe; None where it is not known."""
    harmful_ratio: float | None = None
    """Share λ of harmful prompts in that recipe's data; None where it has none."""

    @property
    def stage(self) -> str:
        """The stage that trained it; empty for a model of others."""
        return self._parts[0]

    @property
    def recipe(self) -> str:
        """The recipe that trained it; empty for a model of others."""
        return self._parts[1]

    @property
    def _parts(self) -> tuple[str, str]:
        """Stage and recipe in the name; both empty for a model that no run trained."""
        # A stage may hold a `/`, and so may the id of a model on the Hub.
        stage, *rest = self.name.rsplit("/", 2)
        if stage not in TRAINING_STAGES or len(rest) != 2:
            return "", ""
        return stage, rest[0]


TRAINING_STAGES = ("sft", "rl", "guard/sft", "guard/rl")
"""Stages that train models."""

_Training = tuple[str, str, str]
"""Stage, recipe and base model."""
# The base model decides on the size, and the recipe on the method. Another base gives another model, without a match.
NAMES_IN_PAPER: Mapping[_Training, str] = {
    ("rl", "tars-1.5b", QWEN_1_5B): "TARS-1.5B",
    ("rl", "tars-1.5b-released", TARS_SFT): "TARS-1.5B",
    ("rl", "tars-7b", QWEN_7B): "TARS-7B",
    ("rl", "baseline-rl-noreason", QWEN_1_5B): "RL without reasoning",
    ("rl", "baseline-dpo", QWEN_1_5B): "DPO",
    ("rl", "baseline-deliberative", QWEN_1_5B): "Deliberative alignment",
    ("sft", "baseline-sft", TARS_SFT): "SFT",
    ("sft", "tars-1.5b", QWEN_1_5B): "π_SFT",
    ("sft", "baseline-dpo", QWEN_1_5B): "π_SFT",
    ("sft", "baseline-deliberative", QWEN_1_5B): "π_SFT",
}
"""TARS's models by the training that reproduces them; the last three recipes share their SFT."""
PUBLISHED: Mapping[str, str] = {
    "CMU-AIRe/TARS-1.5B": "TARS-1.5B",
    "CMU-AIRe/TARS-7B": "TARS-7B",
    TARS_SFT: "π_SFT",
    QWEN_1_5B: "Qwen2.5-1.5B-Instruct",
}
"""TARS's models with weights on the Hub, by their id."""
UNTRAINED_ON_RATIO = ("π_SFT", "Qwen2.5-1.5B-Instruct")
"""Models whose training has no λ."""
PROMPT_SOURCES = {"harmbench": "harmbench", "xstest": "xstest", "wildchat": "wildchat", "adaptivity": "sorry-bench"}
"""The source of the papers' prompts, by evaluation."""


def matching_figure(
    evaluation: str, figure: str, group: str, origin: Origin, metrics: Record, identity: Record
) -> PaperFigure | None:
    """The papers' figure that matches one of ours; None where there is none.

    Args:
        evaluation: The evaluation that made ours.
        figure: Our figure's `Figure.name`.
        group: Our figure's `Figure.group`.
        origin: The origin of the model.
        metrics: The run's `metrics.json`.
        identity: The run's identity.
    """
    if not _has_paper_prompts(evaluation, group, metrics, identity):
        return None
    candidates = known(evaluation, figure, group)
    if evaluation == "guard":
        return _match_guard(candidates, origin)
    paper_model = NAMES_IN_PAPER.get((origin.stage, origin.recipe, origin.base or "")) or PUBLISHED.get(origin.name)
    if paper_model is None:
        return None
    names = _names_in_figures(paper_model, _ratio_of(paper_model, origin))
    for candidate in candidates:
        if candidate.model in names:
            return candidate
    return None


def _match_guard(candidates: Sequence[PaperFigure], origin: Origin) -> PaperFigure | None:
    """RSafe's figure of the guard that the same recipe trains; its guards are of 7 B and go through RL."""
    if (origin.stage, origin.base) != ("guard/rl", QWEN_7B):
        return None
    for candidate in candidates:
        if candidate.recipe == origin.recipe:
            return candidate
    return None


def _ratio_of(paper_model: str, origin: Origin) -> float | None:
    """λ of a model's training; None where it has none or it is not known."""
    if paper_model in UNTRAINED_ON_RATIO:
        return None
    # Weights that the authors published are of their main λ.
    if not origin.stage:
        return MAIN_RATIO
    return origin.harmful_ratio


def _names_in_figures(paper_model: str, ratio: float | None) -> set[str]:
    """The names under which the papers give figures of a model trained with this λ."""
    if ratio is None:
        return {paper_model}
    names = {f"{paper_model}, λ = {ratio}"}
    # Figures that are given without λ are of the paper's main models.
    if ratio == MAIN_RATIO:
        names.add(paper_model)
    return names


def _has_paper_prompts(evaluation: str, group: str, metrics: Record, identity: Record) -> bool:
    """Whether a run's prompts are those of the paper's figure."""
    if evaluation == "separation":
        return _has_paper_plane(metrics)
    if evaluation == "guard":
        return group != OVERALL and group in _unrenamed_sets(identity)
    return evaluation in PROMPT_SOURCES and metrics.get("source") == PROMPT_SOURCES[evaluation]


def _has_paper_plane(metrics: Record) -> bool:
    """Whether a run of `eval separation` has the paper's prompts and projection."""
    # The paper's plane is UMAP's: margins in another one have another unit.
    if metrics.get("projection") != "umap":
        return False
    for kind, source in (("harmful", "harmbench"), ("harmless", "xstest")):
        prompts = metrics.get(kind)
        if not isinstance(prompts, dict) or prompts.get("source") != source:
            return False
    return True


def _unrenamed_sets(identity: Record) -> set[str]:
    """The sets of a run that have the names of their sources."""
    names = set()
    sets = identity.get("sets")
    if isinstance(sets, list):
        for row in sets:
            # A file of one's own may be given any name, also that of a published set.
            if isinstance(row, dict) and row.get("name") in (None, "", row.get("source")):
                names.add(str(row.get("source")))
    return names
