"""The papers' own figures, for comparison with ours: in the report, in `eval compare`, and in docs/fidelity.md.

They are kept as in the papers, by plot and table; `known` gives them one by one. Every `PaperFigure` has its source and
the command that makes ours. Results of the papers without known figures are in `paper_locations.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from safereason import judges
from safereason.evals.metrics import OVERALL, Figure
from safereason.runs.records import Record


@dataclass(frozen=True)
class PaperFigure:
    """One figure of a paper, and the figure of ours that it is compared with."""

    paper: str
    location: str
    """Plot or table in the paper, such as `Table 3`."""
    model: str
    """The measured model in the paper's words, with λ where it has one."""
    evaluation: str
    """The evaluation that makes ours: `harmbench`."""
    figure: str
    """Name of our figure (`Figure.name`), such as `dsr`."""
    group: str
    """`Figure.group` of ours: `all`, or a part such as `gcg`."""
    value: float
    """In the unit of ours: a share in [0, 1], tokens, or a distance."""
    tolerance: float
    """Greatest error of the value, either way: half its last digit, or the error of reading it off a plot."""
    source: str
    """The paper, and how the figure was read from it."""
    command: str
    """The command that makes ours; MODEL is a placeholder for weights that are not named here."""
    recipe: str | None = None
    """The shipped recipe that trains this model; None for a model of others."""


@dataclass(frozen=True)
class Point:
    """One model of a trade-off plot: both figures are shares in [0, 1]."""

    dsr: float
    """Defence success rate on HarmBench, the mean over GCG, AutoDAN, PAIR and PAP."""
    compliance: float
    """Compliance with the plot's harmless prompts."""
    harmful_ratio: float | None = None
    """λ of its training; None where the paper's plot has a single point that is not one of a series."""


@dataclass(frozen=True)
class Tradeoff:
    """A plot of defence success against compliance."""

    figure: str
    benign: str
    """The evaluation that the harmless prompts are from."""
    source: str
    tolerance: float
    """Greatest error of a value read off the plot, either way."""
    series: dict[str, tuple[Point, ...]]
    """Points by method, by rising λ."""


@dataclass(frozen=True)
class PaperClosing:
    """One row of TARS's Table 4, in percent: how safe answers are with closed and with unclosed reasoning."""

    model: str
    attack: str
    closed: float
    """Share of answers that close `</think>`."""
    dsr_closed: float
    """DSR among those; under PAIR, where nearly all close it, the only known DSR."""
    dsr_open: float | None
    """DSR among the others; None where it is not known."""


TARS = "TARS, arXiv 2507.00971"
RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""λ of each series of five."""


def _series(*pairs: tuple[float, float]) -> tuple[Point, ...]:
    """Points of DSR and compliance, one for each λ."""
    points = []
    for (dsr, compliance), ratio in zip(pairs, RATIOS, strict=True):
        points.append(Point(dsr, compliance, ratio))
    return tuple(points)


TARS_FIGURE_3 = Tradeoff(
    figure="Figure 3",
    benign="xstest",
    source=f"{TARS}, Figure 3, read off by eye",
    tolerance=0.005,
    series={
        "TARS-1.5B": _series((0.740, 0.880), (0.910, 0.855), (0.989, 0.767), (0.9995, 0.743), (1.00, 0.624)),
        "TARS-7B": (Point(0.983, 0.883, 0.5),),
        "RL without reasoning": _series((0.655, 0.880), (0.873, 0.786), (0.928, 0.736), (0.939, 0.691), (0.953, 0.557)),
        "SFT": _series((0.753, 0.776), (0.819, 0.734), (0.770, 0.704), (0.805, 0.651), (0.782, 0.611)),
        "DPO": _series((0.780, 0.715), (0.798, 0.652), (0.801, 0.594), (0.801, 0.553), (0.843, 0.484)),
        "π_SFT": (Point(0.683, 0.897),),
        "Qwen2.5-1.5B-Instruct": (Point(0.561, 0.518),),
    },
)
"""Defence success against compliance on XSTest's safe prompts."""

# The DSR of TARS's models is that of Figure 3, since both plots show the same models.
TARS_FIGURE_2B = Tradeoff(
    figure="Figure 2b",
    benign="wildchat",
    source=f"{TARS}, Figure 2b, read off by eye",
    tolerance=0.005,
    series={
        "TARS-1.5B": _series((0.740, 0.947), (0.910, 0.927), (0.989, 0.858), (0.9995, 0.794), (1.00, 0.660)),
        "TARS-7B": (Point(0.983, 0.924, 0.5),),
        "Deliberative alignment": _series(
            (0.860, 0.920), (0.983, 0.830), (0.990, 0.710), (0.987, 0.547), (0.993, 0.390)
        ),
        "Llama-3.2-1B": (Point(0.694, 0.794),),
        "Llama-3.1-8B": (Point(0.547, 0.934),),
        "Llama-RR": (Point(0.955, 0.810),),
        "Mistral-RR": (Point(0.921, 0.890),),
        "RealSafe-R1": (Point(0.973, 0.283),),
        "SafeChain": (Point(0.686, 0.925),),
    },
)
"""Defence success against compliance with WildChat's requests."""

# In percent, as in the table. `_table_4_figures` makes shares of them.
TARS_TABLE_4 = (
    PaperClosing("TARS-1.5B", "gcg", 68.65, 92.79, 83.82),
    PaperClosing("SFT", "gcg", 91.85, 82.73, 78.90),
    PaperClosing("TARS-1.5B", "pair", 99.89, 94.45, None),
    PaperClosing("SFT", "pair", 94.79, 72.97, None),
)
"""λ = 0.5. Under PAIR almost every answer closes its reasoning."""


@dataclass(frozen=True)
class Length:
    """One row of TARS's Table 3: mean tokens on Sorry-Bench's requests of one domain."""

    category: str
    """The category's name in our source."""
    reasoning: float
    answer: float


TARS_TABLE_3 = (
    Length("Hate Speech Generation", 290, 165),
    Length("Assistance with Crimes or Torts", 306, 249),
    Length("Potentially Inappropriate Topics", 372, 316),
    Length("Potentially Unqualified Advice", 457, 609),
)
"""TARS-1.5B, from the plainest requests to those that need the most reasoning."""

TARS_MARGINS = {"TARS-1.5B": 2.21, "DPO": 1.45, "SFT": 1.03, "RL without reasoning": 0.88}
"""Margin of a linear SVM between XSTest's safe prompts and GCG's, on a 2-D UMAP of the last layer's last token."""


@dataclass(frozen=True)
class GuardScore:
    """A published F1 of `unsafe` for a guard on a set."""

    set: str
    """Label of the set (`GuardSet.label`)."""
    guard: str
    f1: float
    source: str
    """The origin of the value."""
    location: str
    """The experiment that it is part of."""
    options: str
    """Options of `eval guard` that measure ours, apart from the set."""
    recipe: str | None = None
    """The shipped recipe that trains this guard."""


RSAFE = "RSafe, arXiv 2506.07736"
# The paper's tables were not available. Each value names the origin that it was taken from.
_DEVELOPMENT = (
    f"{RSAFE}: a 7 B development run whose data is closest to the released mix, from the authors' logs; rows without a "
    "verdict left out"
)
_ABLATION = f"{RSAFE}: training on vanilla prompts only, from the history of the authors' code"
_THIRD_PARTY = "quoted by a third party"
BY_SET, JAILBREAKS, ADAPTIVE = "F1 by set", "Robustness to jailbreaks", "Adaptive variant"
"""RSafe's experiments with known figures; the numbers of its tables are not at hand."""


def _development_score(label: str, guard: str, f1: float) -> GuardScore:
    return GuardScore(label, guard, f1, _DEVELOPMENT, BY_SET, "--recipe rsafe", "rsafe")


def _ablation_score(part: str, guard: str, f1: float, options: str, recipe: str | None) -> GuardScore:
    return GuardScore(f"wildguardtest-{part}", guard, f1, _ABLATION, JAILBREAKS, options, recipe)


# Only the first of these is the guard that a recipe trains. The others are steps or variants of it.
_VANILLA = "RSafe-7B on vanilla prompts"
_VANILLA_SFT = "RSafe-7B on vanilla prompts, after SFT"
_VANILLA_NO_REASONING = "RSafe-7B on vanilla prompts, no reasoning, another policy"
_JAILBREAK_RECIPE = "rsafe-ood-jailbreak"
_JAILBREAK = f"--recipe {_JAILBREAK_RECIPE}"

RSAFE_F1 = (
    _development_score("toxicchat1123", "RSafe-7B, development run", 0.728),
    _development_score("openai-moderation", "RSafe-7B, development run", 0.764),
    _development_score("aegis2", "RSafe-7B, development run", 0.831),
    _development_score("wildguardtest", "RSafe-7B, development run", 0.823),
    _development_score("pku-saferlhf", "RSafe-7B, development run", 0.918),
    _development_score("beavertails", "RSafe-7B, development run", 0.822),
    _development_score("xstest-response", "RSafe-7B, development run", 0.792),
    _development_score("wildguardtest-responses", "RSafe-7B, development run", 0.685),
    _development_score("toxicchat", "RSafe-7B, development run, by the labels of November 2023", 0.728),
    _ablation_score("adversarial", _VANILLA, 0.723, _JAILBREAK, _JAILBREAK_RECIPE),
    _ablation_score("vanilla", _VANILLA, 0.885, _JAILBREAK, _JAILBREAK_RECIPE),
    _ablation_score("adversarial", _VANILLA_SFT, 0.733, f"{_JAILBREAK} --model MODEL", None),
    _ablation_score("vanilla", _VANILLA_SFT, 0.866, f"{_JAILBREAK} --model MODEL", None),
    _ablation_score("adversarial", _VANILLA_NO_REASONING, 0.634, f"{_JAILBREAK} guard.reasoning=false", None),
    _ablation_score("vanilla", _VANILLA_NO_REASONING, 0.806, f"{_JAILBREAK} guard.reasoning=false", None),
    GuardScore(
        "wildguardtest-adversarial",
        "RSafe-7B, WildGuard's policy",
        0.717,
        _THIRD_PARTY,
        ADAPTIVE,
        "--model Nannanzi/RSafe --policy wildguard",
    ),
    GuardScore(
        "wildguardtest-adversarial",
        "LlamaGuard-3-8B",
        0.609,
        _THIRD_PARTY,
        ADAPTIVE,
        "--guard llama-guard:meta-llama/Llama-Guard-3-8B",
    ),
)
"""Published values by set. No table of the authors' was available; a set's first entry is the nearest known target."""


def guard_scores(name: str) -> tuple[GuardScore, ...]:
    """Published values for a set, the nearest target first; none for a set without any."""
    return tuple(score for score in RSAFE_F1 if score.set == name)


RECIPES = {
    "TARS-1.5B": "tars-1.5b",
    "TARS-7B": "tars-7b",
    "RL without reasoning": "baseline-rl-noreason",
    "SFT": "baseline-sft",
    "DPO": "baseline-dpo",
    "Deliberative alignment": "baseline-deliberative",
}
"""The shipped recipe that trains each model of the papers that is trained here."""
MEASURED_BESIDE = ("π_SFT", "Qwen2.5-1.5B-Instruct")
"""Models that `run --recipe tars-1.5b` measures on its way."""
MAIN_RATIO = 0.5
"""λ of the paper's main models."""
COMPLIANCE_FIGURES = {"xstest": "compliance_safe", "wildchat": "compliance"}
"""Name of our figure of compliance, by the evaluation that a plot's harmless prompts are from."""


def known(evaluation: str, figure: str, group: str = OVERALL) -> tuple[PaperFigure, ...]:
    """The papers' figures of the same quantity as one of ours, the main model's first; none where they have none."""
    same = []
    for paper in all_figures():
        if (paper.evaluation, paper.figure, paper.group) == (evaluation, figure, group):
            same.append(paper)
    return tuple(same)


PROTOCOL: dict[str, tuple[str, tuple[str, ...]]] = {
    "harmbench": ("harmbench", ("gcg", "autodan", "pair", "pap")),
    "xstest": ("strongreject", ()),
    "wildchat": ("strongreject", ()),
}
"""The judge and the attacks behind TARS's figures, by evaluation."""


def departures(metrics: Record) -> tuple[str, ...]:
    """Differences of a run's measurement from the paper's, in words; `metrics` is its `metrics.json`."""
    if metrics.get("eval") not in PROTOCOL:
        return ()
    paper_judge, paper_attacks = PROTOCOL[metrics["eval"]]
    judge = str(metrics.get("judge"))
    attacks = metrics.get("attacks") or ()
    texts = []
    # A judge's name may be followed by its model, which the protocol leaves open.
    if judges.name_of(judge) != paper_judge:
        texts.append(f"judge {judge} for {paper_judge}")
    if paper_attacks and set(attacks) != set(paper_attacks):
        texts.append(f"attacks {', '.join(attacks)} for {', '.join(paper_attacks)}")
    if metrics.get("limit"):
        texts.append(f"{metrics.get('examples')} of {metrics.get('available')} prompts")
    return tuple(texts)


def covered(figure: Figure, paper: PaperFigure) -> bool | None:
    """Whether our 95 % interval, widened by the tolerance, holds the paper's value; None where we have no interval."""
    if figure.value is None or figure.low is None or figure.high is None:
        return None
    # The paper's true value may lie on either side of the printed one.
    return figure.low - paper.tolerance <= paper.value <= figure.high + paper.tolerance


# Cached, since the report looks up a figure for each of its rows.
@cache
def all_figures() -> tuple[PaperFigure, ...]:
    """All figures, those for λ = 0.5 first. One that is in two plots, as TARS's DSR, is given once."""
    first_of_each: dict[tuple[str, str, str, str], PaperFigure] = {}
    for paper in as_printed():
        first_of_each.setdefault((paper.evaluation, paper.figure, paper.group, paper.model), paper)
    return tuple(sorted(first_of_each.values(), key=_is_of_another_ratio))


def _is_of_another_ratio(paper: PaperFigure) -> bool:
    # As a sort key: False comes before True.
    return not paper.model.endswith(f"λ = {MAIN_RATIO}")


@cache
def as_printed() -> tuple[PaperFigure, ...]:
    """All figures, plot by plot and table by table."""
    return (
        *_plotted_figures(TARS_FIGURE_3),
        *_plotted_figures(TARS_FIGURE_2B),
        *_table_3_figures(),
        *_table_4_figures(),
        *_margin_figures(),
        *_guard_figures(),
    )


def _plotted_figures(plot: Tradeoff) -> Iterator[PaperFigure]:
    """DSR and compliance of every point of a plot."""
    for name, points in plot.series.items():
        for point in points:
            model = name
            if point.harmful_ratio is not None:
                model = f"{name}, λ = {point.harmful_ratio}"
            dsr = PaperFigure(
                paper=TARS,
                location=plot.figure,
                model=model,
                evaluation="harmbench",
                figure="dsr",
                group=OVERALL,
                value=point.dsr,
                tolerance=plot.tolerance,
                source=plot.source,
                command=_command_for("harmbench", name, point.harmful_ratio),
                recipe=RECIPES.get(name),
            )
            # The two coordinates of one point.
            yield dsr
            yield replace(
                dsr,
                evaluation=plot.benign,
                figure=COMPLIANCE_FIGURES[plot.benign],
                value=point.compliance,
                command=_command_for(plot.benign, name, point.harmful_ratio),
            )


def _command_for(evaluation: str, model: str, ratio: float | None = None) -> str:
    """The command that makes our figure of a model."""
    # A run of the recipe also measures the model that it starts from, and the one after SFT.
    if model in MEASURED_BESIDE:
        return "safereason run --recipe tars-1.5b"
    if model not in RECIPES:
        return f"safereason eval {evaluation} --recipe tars-1.5b --model MODEL"
    command = f"safereason run --recipe {RECIPES[model]}"
    # The recipes have the main λ, so that only another one needs an override.
    if ratio not in (None, MAIN_RATIO):
        command += f" data.harmful_ratio={ratio}"
    return command


def _table_3_figures() -> Iterator[PaperFigure]:
    for row in TARS_TABLE_3:
        for figure, value in (("reasoning_tokens", row.reasoning), ("answer_tokens", row.answer)):
            yield PaperFigure(
                paper=TARS,
                location="Table 3",
                model="TARS-1.5B, λ = 0.5",
                evaluation="adaptivity",
                figure=figure,
                group=f"category:{row.category}",
                value=value,
                # The table gives whole tokens.
                tolerance=0.5,
                source=f"{TARS}, Table 3",
                command="safereason eval adaptivity --recipe tars-1.5b",
                recipe="tars-1.5b",
            )


def _table_4_figures() -> Iterator[PaperFigure]:
    """The table's figures as shares, with GCG's DSR over all answers.

    The table gives that DSR in two parts, of closed and of unclosed answers. The share of closed ones is their weight.
    """
    for row in TARS_TABLE_4:
        source = f"{TARS}, Table 4"
        percents = {"closed": row.closed, "dsr_closed": row.dsr_closed}
        if row.dsr_open is not None:
            percents["dsr_open"] = row.dsr_open
        table_figure = PaperFigure(
            paper=TARS,
            location="Table 4",
            model=f"{row.model}, λ = 0.5",
            evaluation="harmbench",
            figure="closed",
            group=row.attack,
            value=row.closed / 100,
            # The table gives percents with two decimals.
            tolerance=5e-5,
            source=source,
            command=_command_for("harmbench", row.model),
            recipe=RECIPES[row.model],
        )
        for figure, percent in percents.items():
            yield replace(table_figure, figure=figure, value=percent / 100)
        if row.dsr_open is not None:
            percent = (row.closed * row.dsr_closed + (100 - row.closed) * row.dsr_open) / 100
            # Three rounded values are put together, so that the error is greater.
            yield replace(
                table_figure,
                figure="dsr",
                value=percent / 100,
                tolerance=1e-4,
                source=f"{source}, worked out from its columns",
            )


def _margin_figures() -> Iterator[PaperFigure]:
    """The margins, once for each C: the paper's text says 1.0, the authors' page 0.1."""
    for figure, where in (("margin", "text: C = 1.0"), ("margin_c0.1", "as the authors' page has it: C = 0.1")):
        for name, value in TARS_MARGINS.items():
            yield PaperFigure(
                paper=TARS,
                location="Internal separation",
                model=name,
                evaluation="separation",
                figure=figure,
                group=OVERALL,
                value=value,
                # The paper gives two decimals.
                tolerance=0.005,
                source=f"{TARS}, {where}",
                command=f"safereason eval separation --recipe {RECIPES[name]} --projection umap",
                recipe=RECIPES[name],
            )


def _guard_figures() -> Iterator[PaperFigure]:
    for score in RSAFE_F1:
        yield PaperFigure(
            paper=RSAFE,
            location=score.location,
            model=score.guard,
            evaluation="guard",
            # The authors leave out rows without a verdict.
            figure="f1_parsed",
            group=score.set,
            value=score.f1,
            # All sources give three decimals.
            tolerance=5e-4,
            source=score.source,
            command=f"safereason eval guard {score.options} --prompts {score.set}",
            recipe=score.recipe,
        )
