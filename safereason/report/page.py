"""The page: what is on it, and the HTML it becomes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import safereason
from safereason.evals.metrics import Figure
from safereason.evals.paper import TARS_FIGURE_3 as PAPER
from safereason.evals.paper import Point
from safereason.report import plots
from safereason.report.guard import GuardPart
from safereason.report.guard import part as guard_part
from safereason.report.plots import Plot
from safereason.report.read import Model, Rollouts, Run, measured_models, metric_lines, of_stage, read_rollouts
from safereason.report.tables import Details, Headline, details, headline, judge_title, newest_evaluations, paper_rows
from safereason.report.transcripts import Exhibit, choose
from safereason.report.visible import visible
from safereason.runs import manifest
from safereason.runs.records import read_json

TRANSCRIPTS = 20
SEED = 0
"""Of the draw of transcripts."""
NAMES = {"harmbench": "HarmBench", "xstest": "XSTest", "guard": "Guard"}
"""Evaluations, as their publishers write them."""


PARTS = {"reward": "total", "format": "format", "safety": "safety", "task": "task", "accuracy": "accuracy"}
"""Means that RL logs of the reward and of what it is made of."""
TROUBLE = {
    "completions/clipped_ratio": "cut off",
    "frac_reward_zero_std": "groups without spread",
    "unscored": "unscored",
}
"""Shares of rollouts or groups that taught nothing."""
VERDICTS = {"unparsed": "no verdict", "says_unsafe": "called unsafe"}
"""What says that a guard's verdicts collapse."""


@dataclass(frozen=True)
class Training:
    """One SFT or RL run's curves."""

    run: Run
    heading: str
    plots: list[Plot]
    notes: list[str]


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
    guard: GuardPart | None
    """What guards were measured on, where some were."""
    trainings: list[Training]
    cards: list[tuple[Run, Mapping[str, Any]]]
    exhibits: list[Exhibit]
    runs: list[Run]
    recipes: list[tuple[str, list[Run]]]
    """Each distinct resolved recipe with the runs that used it."""
    versions: list[tuple[dict[str, str], list[Run]]]
    """Each distinct set of versions, likewise."""
    left_out: list[str]
    """What the page has no part for, and why."""

    @property
    def transcripts(self) -> int:
        """How many transcripts there are."""
        return sum(len(exhibit.transcripts) for exhibit in self.exhibits)

    @property
    def plots(self) -> list[Plot]:
        """Every plot on the page."""
        return [
            *self.tradeoff,
            *(self.guard.plots if self.guard else ()),
            *(plot for training in self.trainings for plot in training.plots),
        ]

    def shares(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The headline as plain values, by model and `evaluation/figure`."""
        return {
            model.label: {
                f"{column.evaluation}/{column.name}": asdict(figure)
                for column, figure in zip(self.headline.columns, figures, strict=True)
                if figure
            }
            for model, figures in self.headline.rows
        }


def build(runs: Sequence[Run], title: str) -> Page:
    """Puts the page together from finished runs."""
    runs, superseded = newest_evaluations(runs)
    models = measured_models(runs)
    table = headline(runs, models)
    page = Page(
        title=title,
        created=manifest.now(),
        version=safereason.__version__,
        models=models,
        headline=table,
        paper_rows=paper_rows() if {"dsr", "compliance_safe"} & {column.name for column in table.columns} else [],
        paper_source=PAPER.source,
        details=details(runs, models),
        tradeoff=_tradeoff(table),
        guard=guard_part(of_stage(runs, "eval/guard"), models),
        trainings=[
            training
            for stage, make in (("sft", _sft), ("rl", _rl), ("guard/sft", _guard_sft), ("guard/rl", _guard_rl))
            for training in map(make, of_stage(runs, stage))
        ],
        cards=[(run, card) for run in of_stage(runs, "data") if (card := _card(run))],
        exhibits=choose(runs, models, TRANSCRIPTS, SEED),
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
    environment.filters.update(percent=_percent, svg=Markup, judge=judge_title, evaluation=_evaluation)
    return environment.get_template("page.html").render(page=page)


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


def _tradeoff(table: Headline) -> list[Plot]:
    places = {column.name: place for place, column in enumerate(table.columns)}
    if not {"dsr", "compliance_safe"} <= places.keys():
        return []
    paths = []
    roles = Counter(model.role for model, _ in table.rows)
    for model, cells in table.rows:
        dsr, compliance = cells[places["dsr"]], cells[places["compliance_safe"]]
        if dsr and compliance and dsr.value is not None and compliance.value is not None:
            mark = plots.Mark("", compliance.value, dsr.value, _interval(compliance), _interval(dsr))
            paths.append(plots.Path(model.role if roles[model.role] == 1 else model.label, (mark,)))
    if not paths:
        return []
    ours = plots.tradeoff("tradeoff", "These models", paths, "Bars are 95 % intervals. Up and to the right is better.")
    return [ours, _paper_tradeoff()]


def _paper_tradeoff() -> Plot:
    paths = [
        plots.Path(name, tuple(plots.Mark(_ratio(name, point), point.compliance, point.dsr) for point in points))
        for name, points in PAPER.series.items()
    ]
    caption = (
        "1.5 B and 7 B models on HarmBench under four attacks and on XSTest: for the shape of the trade-off, not "
        f"comparable with ours in absolute terms; other axes. Numbers are λ. {PAPER.source}, ± {PAPER.tolerance}."
    )
    return plots.tradeoff("tradeoff-paper", "The paper’s models", paths, caption, low=0.45)


def _ratio(name: str, point: Point) -> str:
    return f"{point.harmful_ratio}" if name == "TARS-1.5B" else ""


def _interval(figure: Figure) -> tuple[float, float] | None:
    return None if figure.low is None or figure.high is None else (figure.low, figure.high)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _evaluation(name: str) -> str:
    return NAMES.get(name, name)


def _sft(run: Run) -> Training:
    panels = [
        ("loss", "Loss", {"loss": "loss"}, False),
        ("accuracy", "Token accuracy", {"mean_token_accuracy": "share of tokens predicted"}, True),
        ("gradient", "Gradient norm", {"grad_norm": "gradient norm, before clipping"}, False),
    ]
    return Training(run, "Supervised fine-tuning", _panels(run, panels), [])


def _rl(run: Run) -> Training:
    rollouts = read_rollouts(run)
    first = [("reward", "Reward and its parts", PARTS, True)]
    rest = [
        ("kl", "KL to the reference model", {"kl": "KL"}, False),
        ("length", "Length of a completion, tokens", {"completions/mean_length": "mean tokens"}, False),
        ("entropy", "Entropy of the policy, nats", {"entropy": "entropy"}, False),
        ("shares", "Signs of trouble", TROUBLE, True),
    ]  # fmt: skip
    return Training(
        run,
        "Reinforcement learning",
        [*_panels(run, first), *_by_kind(run, rollouts), *_panels(run, rest)],
        _notes(rollouts),
    )


def _guard_sft(run: Run) -> Training:
    return replace(_sft(run), heading="A guard’s supervised fine-tuning")


def _guard_rl(run: Run) -> Training:
    held_out = {"f1": "F1 of unsafe", **VERDICTS}
    looks = metric_lines(run, held_out, "validation")
    drawn = [plots.curves(_plot_name(run, "validation"), "On rows held out", looks, share=True)] if looks else []
    rollouts = _panels(run, [("verdicts", "Verdicts of the rollouts", VERDICTS, True)])
    training = _rl(run)
    return replace(training, heading="A guard’s reinforcement learning", plots=[*drawn, *rollouts, *training.plots])


def _panels(run: Run, panels: Sequence[tuple[str, str, dict[str, str], bool]]) -> list[Plot]:
    drawn = [(name, title, metric_lines(run, keys), share) for name, title, keys, share in panels]
    return [
        plots.curves(_plot_name(run, name), title, lines, share=share) for name, title, lines, share in drawn if lines
    ]


def _by_kind(run: Run, rollouts: Rollouts) -> list[Plot]:
    drawn = [
        ("kinds", "Reward by kind of prompt", rollouts.reward),
        ("format", "Share well-formed, by kind", rollouts.well_formed),
    ]
    return [plots.curves(_plot_name(run, name), title, lines, share=True) for name, title, lines in drawn if lines]


def _plot_name(run: Run, name: str) -> str:
    return f"{run.stage.replace('/', '-')}-{run.name.rpartition('/')[2]}-{name}"


def _notes(rollouts: Rollouts) -> list[str]:
    if not rollouts.count:
        return ["This run holds no rollouts, so nothing is split by kind of prompt."]
    if rollouts.unscored:
        share = f"{rollouts.unscored} of {rollouts.count} rollouts ({_percent(rollouts.unscored / rollouts.count)} %)"
        return [f"{share} were unscored: they count in no mean and moved no weight."]
    return [f"All {rollouts.count} rollouts were scored."]


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
