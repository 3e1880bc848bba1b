"""The page: what is on it, and the HTML it becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import safereason
from safereason.evals.paper import TARS_FIGURE_3 as PAPER
from safereason.report import embedded
from safereason.report.beside import Beside, beside
from safereason.report.groups import Grouped, by_group
from safereason.report.guard import GuardPart
from safereason.report.guard import part as guard_part
from safereason.report.plots import Plot
from safereason.report.read import Model, Run, measured_models, of_stage
from safereason.report.sample import Exhibit, choose
from safereason.report.separation import separations
from safereason.report.tables import (
    Details,
    Headline,
    bare,
    details,
    evaluation_title,
    figure_title,
    headline,
    judge_title,
    paper_rows,
    quantity,
)
from safereason.report.tradeoff import tradeoffs
from safereason.report.training import Training, trainings
from safereason.report.transcripts import Transcript, collect
from safereason.report.variants import told_apart
from safereason.report.visible import visible
from safereason.runs import manifest
from safereason.runs.records import read_json

SAMPLE = 20
"""Transcripts that are there without a script."""
SEED = 0
"""Of the draws of transcripts."""
ROOM = 60_000_000
"""Most characters of transcripts on a page; browsers keep more than twice that at hand without trouble."""


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    title: str
    created: str
    version: str
    models: list[Model]
    headline: Headline
    paper_rows: list[tuple[str, dict[str, float]]]
    paper_source: str
    details: list[Details]
    tradeoff: list[Plot]
    beside: list[Beside]
    """The paper's figures, each with ours."""
    groups: list[Grouped]
    separations: list[Plot]
    guard: GuardPart | None
    """What guards were measured on, where some were."""
    trainings: list[Training]
    cards: list[tuple[Run, Mapping[str, Any]]]
    transcripts: tuple[Transcript, ...]
    no_room_for: int
    """Transcripts that the page leaves out for their number."""
    exhibits: list[Exhibit]
    """Some of them, for browsers that run no script."""
    runs: list[Run]
    recipes: list[tuple[str, list[Run]]]
    """Each distinct resolved recipe with the runs that used it."""
    versions: list[tuple[dict[str, str], list[Run]]]
    """Each distinct set of versions, likewise."""
    left_out: list[str]
    """What the page has no part for, and why."""

    @property
    def sampled(self) -> int:
        """How many transcripts the exhibits have."""
        return sum(len(exhibit.transcripts) for exhibit in self.exhibits)

    @property
    def plots(self) -> list[Plot]:
        """Every plot on the page."""
        return [
            *self.tradeoff,
            *(plot for part in self.groups for plot in part.plots),
            *self.separations,
            *(self.guard.plots if self.guard else ()),
            *(plot for training in self.trainings for plot in training.plots),
        ]

    def shares(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The headline as plain values, by model and `evaluation/figure`; columns of one name also say by whom."""
        names = [f"{column.evaluation}/{column.name}" for column in self.headline.columns]
        told = [
            name if names.count(name) == 1 else f"{name} ({column.measured_by})"
            for name, column in zip(names, self.headline.columns, strict=True)
        ]
        return {
            model.label: {name: asdict(figure) for name, figure in zip(told, figures, strict=True) if figure}
            for model, figures in self.headline.rows
        }

    @property
    def variants(self) -> list[Model]:
        """The models' rows of evaluations that were made otherwise than the others."""
        return [model for model in self.models if model.variant]


def build(runs: Sequence[Run], title: str) -> Page:
    """Puts the page together from finished runs."""
    runs, superseded = told_apart(runs)
    models = measured_models(runs)
    table = headline(runs, models)
    collected = collect(runs, models, ROOM, SEED)
    page = Page(
        title=title,
        created=manifest.now(),
        version=safereason.__version__,
        models=models,
        headline=table,
        paper_rows=paper_rows() if {"harmbench", "xstest"} & {column.evaluation for column in table.columns} else [],
        paper_source=PAPER.source,
        details=details(runs, models),
        tradeoff=tradeoffs(table, runs),
        beside=beside(runs, models),
        groups=by_group(runs, models),
        separations=separations(runs, models),
        guard=guard_part(of_stage(runs, "eval/guard"), models),
        trainings=trainings(runs),
        cards=[(run, card) for run in of_stage(runs, "data") if (card := _card(run))],
        transcripts=collected.transcripts,
        no_room_for=collected.left_out,
        exhibits=choose(collected.transcripts, SAMPLE, SEED),
        runs=list(runs),
        recipes=_recipes(runs),
        versions=_versions(runs),
        left_out=[
            f"{run.name} on {run.model}: a newer run of the same evaluation is shown in its place."
            for run in superseded
        ],
    )
    page.left_out.extend(_missing(page))
    return page


def render(page: Page) -> str:
    """The page as one HTML document that loads nothing."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, svg=Markup, judge=judge_title, evaluation=evaluation_title)
    environment.filters.update(quantity=quantity, bare=bare, figure_title=figure_title)
    environment.filters.update(embedded=embedded.as_json, digest=embedded.digest)
    return environment.get_template("page.html").render(page=page, script=embedded.script())


def _missing(page: Page) -> list[str]:
    stages = {run.stage.partition("/")[0] for run in page.runs}
    has_guard = "guard" in stages or page.guard is not None
    answers = stages & {"sft", "rl"} or any(run.stage != "eval/guard" for run in of_stage(page.runs, "eval"))
    wanted = {
        "data": "there is no data card",
        **(
            {"sft": "there are no curves of SFT", "rl": "there are no curves of RL"} if answers or not has_guard else {}
        ),
        **({"guard": "there are no curves of a guard's training"} if has_guard else {}),
        "eval": "there are no figures and no trade-off",
    }
    missing = [f"No {stage} run was given, so {what}." for stage, what in wanted.items() if stage not in stages]
    empty = [f"{t.run.name} holds no metrics to draw." for t in page.trainings if not t.plots]
    if "eval" in stages and answers and not page.tradeoff:
        missing.append("No model has both a DSR and a compliance with a value, so there is no trade-off plot.")
    if not page.exhibits:
        missing.append("No run holds completions or rollouts, so there are no transcripts.")
    if "data" in stages and not page.cards:
        missing.append("The data run holds no card.json, so there is no data card.")
    return [*missing, *empty]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _card(run: Run) -> Mapping[str, Any]:
    path = run.path / "card.json"
    card = read_json(path) if path.is_file() else {}
    return card if isinstance(card, dict) else {}


def _recipes(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    used: dict[str, list[Run]] = {}
    for run in runs:
        used.setdefault(run.recipe_yaml, []).append(run)
    return [(text, users) for text, users in used.items() if text]


def _versions(runs: Sequence[Run]) -> list[tuple[dict[str, str], list[Run]]]:
    used: list[tuple[dict[str, str], list[Run]]] = []
    for run in runs:
        own = {key: str(run.manifest[key]) for key in ("safereason", "git", "python") if run.manifest.get(key)}
        packages = run.manifest.get("versions")
        own |= {key: str(version) for key, version in packages.items()} if isinstance(packages, dict) else {}
        same = next((users for versions, users in used if versions == own), None)
        if same is None:
            used.append((own, [run]))
        else:
            same.append(run)
    return used
