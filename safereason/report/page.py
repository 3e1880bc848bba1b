"""The page: its contents, and the HTML made of them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import safereason
from safereason.evals.paper import TARS_FIGURE_3 as PAPER
from safereason.report import embedded
from safereason.report.groups import PLOT as GROUPS_PLOT
from safereason.report.groups import Grouped, by_group
from safereason.report.guard import PLOT as GUARD_PLOT
from safereason.report.guard import GuardPart, guard_part
from safereason.report.paper_comparison import PaperComparison, compare_with_paper
from safereason.report.plots import Plot
from safereason.report.read import MeasuredModel, Run, measured_models, of_stage
from safereason.report.sample import Exhibit, choose
from safereason.report.separation import PLOT as SEPARATION_PLOT
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
from safereason.report.tradeoff import PLOT as TRADEOFF_PLOT
from safereason.report.tradeoff import tradeoffs
from safereason.report.training import PLOTS as TRAINING_PLOTS
from safereason.report.training import TrainingCurves, read_trainings
from safereason.report.transcripts import GUARD_STAGE, Transcript, collect
from safereason.report.variants import mark_variants
from safereason.runs import manifest
from safereason.runs.records import Record, read_json
from safereason.text.visible import visible_on_page

PLOTS = (TRADEOFF_PLOT, GUARD_PLOT, GROUPS_PLOT, SEPARATION_PLOT, *TRAINING_PLOTS)
"""Beginnings of the names of all plots."""
SAMPLE = 20
"""Number of transcripts that a browser without scripts shows."""
SEED = 0
"""Seed of the samples of transcripts."""
MOST_TRANSCRIPT_CHARS = 60_000_000
"""Most characters of transcripts on a page; browsers hold more than twice that without trouble."""


@dataclass(frozen=True)
class Page:
    """The contents of the page, as the templates read them."""

    title: str
    created: str
    version: str
    models: list[MeasuredModel]
    headline: Headline
    paper_rows: list[tuple[str, dict[str, float]]]
    paper_source: str
    details: list[Details]
    tradeoff: list[Plot]
    paper_comparisons: list[PaperComparison]
    """The papers' figures, each beside ours."""
    groups: list[Grouped]
    separations: list[Plot]
    guard: GuardPart | None
    """The section on guards; None where none was measured."""
    trainings: list[TrainingCurves]
    cards: list[tuple[Run, Record]]
    """Runs that drew data, with their data cards."""
    transcripts: tuple[Transcript, ...]
    no_room_for: int
    """Number of transcripts left out because the page would grow too large."""
    exhibits: list[Exhibit]
    """A sample of them, for browsers that run no script."""
    runs: list[Run]
    recipes: list[tuple[str, list[Run]]]
    """Each distinct resolved recipe with the runs that used it."""
    versions: list[tuple[dict[str, str], list[Run]]]
    """Each distinct set of versions with the runs that used it."""
    left_out: list[str]
    """Sentences on missing sections and left-out runs, with the reason."""

    @property
    def sampled(self) -> int:
        """Number of transcripts in the exhibits."""
        return sum(len(exhibit.transcripts) for exhibit in self.exhibits)

    @property
    def plots(self) -> list[Plot]:
        """Every plot on the page, in the page's order."""
        plots = list(self.tradeoff)
        for group in self.groups:
            plots += group.plots
        plots += self.separations
        if self.guard:
            plots += self.guard.plots
        for training in self.trainings:
            plots += training.plots
        return plots

    def shares(self) -> dict[str, dict[str, Record]]:
        """The headline as plain values, by model and `evaluation/figure`."""
        names = [f"{column.evaluation}/{column.name}" for column in self.headline.columns]
        keys = []
        for name, column in zip(names, self.headline.columns, strict=True):
            # Two judges, or two sources, give two columns of one name.
            if names.count(name) > 1:
                keys.append(f"{name} ({column.measured_by})")
            else:
                keys.append(name)
        shares: dict[str, dict[str, Record]] = {}
        for model, figures in self.headline.rows:
            measured = {}
            for key, figure in zip(keys, figures, strict=True):
                if figure is not None:
                    measured[key] = asdict(figure)
            shares[model.label] = measured
        return shares

    @property
    def variants(self) -> list[MeasuredModel]:
        """Models in rows of their own, because their evaluations were run with other settings than most."""
        return [model for model in self.models if model.variant]


def build_page(runs: Sequence[Run], title: str) -> Page:
    """The page of finished runs."""
    # First the variants: they decide which runs share a row, and so which models there are.
    runs, superseded = mark_variants(runs)
    models = measured_models(runs)
    table = headline(runs, models)
    # Collected once: the exhibits are a sample of the transcripts that the page holds.
    collected = collect(runs, models, MOST_TRANSCRIPT_CHARS, SEED)
    page = Page(
        title=title,
        created=manifest.now(),
        version=safereason.__version__,
        models=models,
        headline=table,
        paper_rows=_paper_rows_beside(table),
        paper_source=PAPER.source,
        details=details(runs, models),
        tradeoff=tradeoffs(table, runs),
        paper_comparisons=compare_with_paper(runs, models),
        groups=by_group(runs, models),
        separations=separations(runs, models),
        guard=guard_part(of_stage(runs, GUARD_STAGE), models),
        trainings=read_trainings(runs),
        cards=_data_cards(runs),
        transcripts=collected.transcripts,
        no_room_for=collected.left_out,
        exhibits=choose(collected.transcripts, SAMPLE, SEED),
        runs=list(runs),
        recipes=_recipes_in_use(runs),
        versions=_versions_in_use(runs),
        left_out=[],
    )
    for run in superseded:
        page.left_out.append(f"{run.name} on {run.model}: a newer run of the same evaluation is shown in its place.")
    # The remaining sentences depend on what the page came to hold.
    page.left_out.extend(_missing_runs(page))
    page.left_out.extend(_missing_contents(page))
    return page


def render_page(page: Page) -> str:
    """The page as one HTML document that loads nothing."""
    # `finalize` makes text visible in every `{{ … }}`, so that no template can forget it. `StrictUndefined` turns a
    # misspelt name in a template into an error.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=_safe_to_show,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, svg=Markup, judge=judge_title, evaluation=evaluation_title)
    environment.filters.update(quantity=quantity, bare=bare, figure_title=figure_title)
    environment.filters.update(embedded=embedded.as_json, digest=embedded.script_digest)
    return environment.get_template("page.html").render(page=page, script=embedded.script())


def _safe_to_show(value: object) -> object:
    """A value of a template, as the page shows it: a text is made visible."""
    # Markup is our own HTML. It is a `str` too, and spelling out its characters would break the page.
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible_on_page(value)
    return value


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _paper_rows_beside(table: Headline) -> list[tuple[str, dict[str, float]]]:
    """The paper's models, where the headline has an evaluation that the paper has values of."""
    # These are the two axes of the paper's plot. Without one of them its rows would only have empty cells.
    evaluations = {column.evaluation for column in table.columns}
    if evaluations & {"harmbench", "xstest"}:
        return paper_rows()
    return []


def _missing_runs(page: Page) -> Iterator[str]:
    """A sentence for each stage that no run was given of, though the other runs make a reader expect one."""
    stages = {run.stage.partition("/")[0] for run in page.runs}
    has_guard = "guard" in stages or page.guard is not None
    missing = {"data": "there is no data card"}
    # A report on guards alone is complete without the training of a model that answers.
    if _has_answers(page) or not has_guard:
        missing["sft"] = "there are no curves of SFT"
        missing["rl"] = "there are no curves of RL"
    if has_guard:
        missing["guard"] = "there are no curves of a guard's training"
    missing["eval"] = "there are no figures and no trade-off"
    for stage, consequence in missing.items():
        if stage not in stages:
            yield f"No {stage} run was given, so {consequence}."


def _missing_contents(page: Page) -> Iterator[str]:
    """A sentence for each section that the given runs have nothing for."""
    has_evaluations = bool(of_stage(page.runs, "eval"))
    has_data = bool(of_stage(page.runs, "data"))
    if has_evaluations and _has_answers(page) and not page.tradeoff:
        yield "No model has both a DSR and a compliance with a value, so there is no trade-off plot."
    if not page.exhibits:
        yield "No run holds completions or rollouts, so there are no transcripts."
    if has_data and not page.cards:
        yield "The data run holds no card.json, so there is no data card."
    for training in page.trainings:
        if not training.plots:
            yield f"{training.run.name} holds no metrics to draw."


def _has_answers(page: Page) -> bool:
    """Whether a run trained or measured a model that answers, and not only guards."""
    if of_stage(page.runs, "sft") or of_stage(page.runs, "rl"):
        return True
    return any(run.stage != GUARD_STAGE for run in of_stage(page.runs, "eval"))


def _data_cards(runs: Sequence[Run]) -> list[tuple[Run, Record]]:
    """The runs of the data stage that have a card, with the card."""
    cards = []
    for run in of_stage(runs, "data"):
        path = run.path / "card.json"
        if not path.is_file():
            continue
        card = read_json(path)
        # The file of a damaged run may hold another type.
        if isinstance(card, dict) and card:
            cards.append((run, card))
    return cards


def _recipes_in_use(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Each distinct resolved recipe with its runs, in the order of the runs."""
    users: dict[str, list[Run]] = {}
    for run in runs:
        if run.recipe_yaml:
            users.setdefault(run.recipe_yaml, []).append(run)
    return list(users.items())


def _versions_in_use(runs: Sequence[Run]) -> list[tuple[dict[str, str], list[Run]]]:
    """Each distinct set of versions with its runs, in the order of the runs."""
    # A list, since a dictionary of versions cannot be a key. There are few of them.
    sets_in_use: list[tuple[dict[str, str], list[Run]]] = []
    for run in runs:
        versions = _versions_of(run)
        for known_versions, users in sets_in_use:
            if known_versions == versions:
                users.append(run)
                break
        else:
            sets_in_use.append((versions, [run]))
    return sets_in_use


def _versions_of(run: Run) -> dict[str, str]:
    """The versions that a run was made with: ours and Python's, then those of packages."""
    versions = {}
    for name in ("safereason", "git", "python"):
        if run.manifest.get(name):
            versions[name] = str(run.manifest[name])
    packages = run.manifest.get("versions")
    if isinstance(packages, dict):
        for name, version in packages.items():
            versions[name] = str(version)
    return versions
