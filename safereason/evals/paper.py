"""The papers' own figures, to stand beside ours: in the report, in `eval compare`, and in docs/fidelity.md.

They are kept as the papers give them, by plot and table; `known` has them one by one. Where each comes from, and the
command that makes ours, is in every `PaperFigure`; what cannot be had is in `paper_places.py`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from safereason.evals.metrics import OVERALL, Figure


@dataclass(frozen=True)
class PaperFigure:
    """One figure of a paper."""

    paper: str
    place: str
    """Where it stands, such as `Table 3`."""
    model: str
    """Whose figure it is, in the paper's words, with λ where it has one."""
    evaluation: str
    """The evaluation that makes ours: `harmbench`."""
    figure: str
    """`Figure.name` of ours: `dsr`."""
    group: str
    """`Figure.group` of ours: `all`, or a part such as `gcg`."""
    value: float
    """In the unit of ours: a share in [0, 1], tokens, or a distance."""
    tolerance: float
    """How far the value may be out, either way: half its last digit, or what reading it off a plot allows."""
    source: str
    """The paper and how its figure was read."""
    command: str
    """What makes ours; MODEL stands for weights that are not named here."""
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
    """λ it was trained with; None where the paper's plot has a single point that is not one of a series."""


@dataclass(frozen=True)
class Tradeoff:
    """A plot of defence success against compliance."""

    figure: str
    benign: str
    """Where the harmless prompts are from."""
    source: str
    tolerance: float
    """How far a value read off the plot may be out, either way."""
    series: dict[str, tuple[Point, ...]]
    """Points by method, by rising λ."""


@dataclass(frozen=True)
class Closing:
    """One row of TARS's Table 4, in percent: does closing the reasoning go with safety?"""

    model: str
    attack: str
    closed: float
    """Share of answers that close `</think>`."""
    dsr_closed: float
    """DSR among those; under PAIR, where nearly all close it, the one DSR we have."""
    dsr_open: float | None
    """DSR among the others; None where we do not have it."""


TARS = "TARS, arXiv 2507.00971"
RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""λ of each series of five."""


def _series(*pairs: tuple[float, float]) -> tuple[Point, ...]:
    return tuple(Point(dsr, compliance, ratio) for (dsr, compliance), ratio in zip(pairs, RATIOS, strict=True))


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

TARS_TABLE_4 = (
    Closing("TARS-1.5B", "gcg", 68.65, 92.79, 83.82),
    Closing("SFT", "gcg", 91.85, 82.73, 78.90),
    Closing("TARS-1.5B", "pair", 99.89, 94.45, None),
    Closing("SFT", "pair", 94.79, 72.97, None),
)
"""λ = 0.5. Under PAIR almost every answer closes its reasoning."""


@dataclass(frozen=True)
class Length:
    """One row of TARS's Table 3: mean tokens on Sorry-Bench's requests of one domain."""

    category: str
    """As our source has it."""
    reasoning: float
    answer: float


TARS_TABLE_3 = (
    Length("Hate Speech Generation", 290, 165),
    Length("Assistance with Crimes or Torts", 306, 249),
    Length("Potentially Inappropriate Topics", 372, 316),
    Length("Potentially Unqualified Advice", 457, 609),
)
"""TARS-1.5B, from the plainest requests to those that want the most thought."""

TARS_MARGINS = {"TARS-1.5B": 2.21, "DPO": 1.45, "SFT": 1.03, "RL without reasoning": 0.88}
"""Margin of a linear SVM between XSTest's safe prompts and GCG's, on a 2-D UMAP of the last layer's last token."""


@dataclass(frozen=True)
class GuardScore:
    """F1 of `unsafe` that somebody gives for a guard on a set."""

    set: str
    """The set's label here."""
    guard: str
    f1: float
    source: str
    """Who says so, and of what."""
    place: str
    """Which of the experiments it is of."""
    asked: str
    """What `eval guard` is told, but for the set."""
    recipe: str | None = None
    """The shipped recipe that trains this guard."""


RSAFE = "RSafe, arXiv 2506.07736"
_DEVELOPMENT = (
    f"{RSAFE}: a 7 B development run whose data is closest to the released mix, from the authors' logs; rows without a "
    "verdict left out"
)
_ABLATION = f"{RSAFE}: training on vanilla prompts only, from the history of the authors' code"
_THIRD_PARTY = "quoted by a third party"
BY_SET, JAILBREAKS, ADAPTIVE = "F1 by set", "Robustness to jailbreaks", "Adaptive variant"
"""RSafe's experiments with known figures; the numbers of its tables are not at hand."""


def _of_rsafe(label: str, guard: str, f1: float) -> GuardScore:
    return GuardScore(label, guard, f1, _DEVELOPMENT, BY_SET, "--recipe rsafe", "rsafe")


RSAFE_F1 = (
    *(
        _of_rsafe(name, "RSafe-7B, development run", f1)
        for name, f1 in (
            ("toxicchat1123", 0.728),
            ("openai-moderation", 0.764),
            ("aegis2", 0.831),
            ("wildguardtest", 0.823),
            ("pku-saferlhf", 0.918),
            ("beavertails", 0.822),
            ("xstest-response", 0.792),
            ("wildguardtest-responses", 0.685),
        )
    ),
    _of_rsafe("toxicchat", "RSafe-7B, development run, by the labels of November 2023", 0.728),
    *(
        GuardScore(f"wildguardtest-{part}", guard, f1, _ABLATION, JAILBREAKS, asked, recipe)
        for guard, adversarial, other, asked, recipe in (
            ("RSafe-7B on vanilla prompts", 0.723, 0.885, "--recipe rsafe-ood-jailbreak", "rsafe-ood-jailbreak"),
            (
                "RSafe-7B on vanilla prompts, after SFT",
                0.733,
                0.866,
                "--recipe rsafe-ood-jailbreak --model MODEL",
                None,
            ),
            (
                "RSafe-7B on vanilla prompts, no reasoning, another policy",
                0.634,
                0.806,
                "--recipe rsafe-ood-jailbreak guard.reasoning=false",
                None,
            ),
        )
        for part, f1 in (("adversarial", adversarial), ("vanilla", other))
    ),
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
"""No table by data set of the authors' could be had; a set's first entry is the nearest target that is known."""


def guard_scores(name: str) -> tuple[GuardScore, ...]:
    """What is known of guards on a set, the nearest target first; none for a set nobody gives figures for."""
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
"""What `run --recipe tars-1.5b` measures on its way."""
MAIN_RATIO = 0.5
"""λ of the paper's main models."""
COMPLIANCE = {"xstest": "compliance_safe", "wildchat": "compliance"}
"""Name of our figure of compliance, by where a plot's harmless prompts are from."""


def known(evaluation: str, figure: str, group: str = OVERALL) -> tuple[PaperFigure, ...]:
    """The papers' figures beside one of ours, the main model's first; none where the papers have none."""
    return tuple(f for f in every() if (f.evaluation, f.figure, f.group) == (evaluation, figure, group))


PROTOCOL: dict[str, tuple[str, tuple[str, ...]]] = {
    "harmbench": ("harmbench", ("gcg", "autodan", "pair", "pap")),
    "xstest": ("strongreject", ()),
    "wildchat": ("strongreject", ()),
}
"""The judge and the attacks behind TARS's figures, by evaluation."""


def departures(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """How a run was measured otherwise than the paper's models, in words; `metrics` is its `metrics.json`."""
    if metrics.get("eval") not in PROTOCOL:
        return ()
    judge, attacks = PROTOCOL[metrics["eval"]]
    theirs, ours = ", ".join(attacks), ", ".join(metrics.get("attacks") or ())
    said = {
        f"judge {metrics.get('judge')} for {judge}": str(metrics.get("judge")).partition(":")[0] != judge,
        f"attacks {ours} for {theirs}": bool(attacks) and set(metrics.get("attacks") or ()) != set(attacks),
        f"{metrics.get('examples')} of {metrics.get('available')} prompts": bool(metrics.get("limit")),
    }
    return tuple(text for text, departs in said.items() if departs)


def covered(figure: Figure, paper: PaperFigure) -> bool | None:
    """Whether our 95 % interval, widened by the tolerance, holds the paper's value; None where we have no interval."""
    if figure.value is None or figure.low is None or figure.high is None:
        return None
    return figure.low - paper.tolerance <= paper.value <= figure.high + paper.tolerance


@cache
def every() -> tuple[PaperFigure, ...]:
    """All of them, λ = 0.5 first. One that stands in two places, as TARS's DSR in both plots, is given once."""
    first = {(f.evaluation, f.figure, f.group, f.model): f for f in reversed(as_printed())}
    kept = [f for f in as_printed() if first[f.evaluation, f.figure, f.group, f.model] is f]
    return tuple(sorted(kept, key=lambda f: not f.model.endswith(f"λ = {MAIN_RATIO}")))


@cache
def as_printed() -> tuple[PaperFigure, ...]:
    """All of them, place by place."""
    return (*_plotted(TARS_FIGURE_3), *_plotted(TARS_FIGURE_2B), *_table_3(), *_table_4(), *_margins(), *_guards())


def _plotted(plot: Tradeoff) -> Iterator[PaperFigure]:
    for name, points in plot.series.items():
        for point in points:
            ratio = point.harmful_ratio
            model = name if ratio is None else f"{name}, λ = {ratio}"
            dsr = PaperFigure(
                TARS,
                plot.figure,
                model,
                "harmbench",
                "dsr",
                OVERALL,
                point.dsr,
                plot.tolerance,
                plot.source,
                _command("harmbench", name, ratio),
                RECIPES.get(name),
            )
            yield dsr
            yield replace(
                dsr,
                evaluation=plot.benign,
                figure=COMPLIANCE[plot.benign],
                value=point.compliance,
                command=_command(plot.benign, name, ratio),
            )


def _command(evaluation: str, model: str, ratio: float | None = None) -> str:
    if model in RECIPES:
        override = "" if ratio in (None, MAIN_RATIO) else f" data.harmful_ratio={ratio}"
        return f"safereason run --recipe {RECIPES[model]}{override}"
    if model in MEASURED_BESIDE:
        return "safereason run --recipe tars-1.5b"
    return f"safereason eval {evaluation} --recipe tars-1.5b --model MODEL"


def _table_3() -> Iterator[PaperFigure]:
    for row in TARS_TABLE_3:
        for figure, value in (("reasoning_tokens", row.reasoning), ("answer_tokens", row.answer)):
            yield PaperFigure(
                TARS,
                "Table 3",
                "TARS-1.5B, λ = 0.5",
                "adaptivity",
                figure,
                f"category:{row.category}",
                value,
                0.5,
                f"{TARS}, Table 3",
                "safereason eval adaptivity --recipe tars-1.5b",
                "tars-1.5b",
            )


def _table_4() -> Iterator[PaperFigure]:
    """In shares. GCG's DSR over all answers is worked out from the two that the table has, and their weights."""
    for row in TARS_TABLE_4:
        values = {"closed": row.closed, "dsr_closed": row.dsr_closed}
        if row.dsr_open is not None:
            values["dsr_open"] = row.dsr_open
            values["dsr"] = (row.closed * row.dsr_closed + (100 - row.closed) * row.dsr_open) / 100
        for figure, value in values.items():
            how = ", worked out from its columns" if figure == "dsr" else ""
            yield PaperFigure(
                TARS,
                "Table 4",
                f"{row.model}, λ = 0.5",
                "harmbench",
                figure,
                row.attack,
                value / 100,
                1e-4 if how else 5e-5,
                f"{TARS}, Table 4{how}",
                _command("harmbench", row.model),
                RECIPES[row.model],
            )


def _margins() -> Iterator[PaperFigure]:
    """Beside either C of ours: the text says 1.0, the authors' page 0.1."""
    for figure, where in (("margin", "text: C = 1.0"), ("margin_c0.1", "as the authors' page has it: C = 0.1")):
        for name, value in TARS_MARGINS.items():
            yield PaperFigure(
                TARS,
                "Internal separation",
                name,
                "separation",
                figure,
                OVERALL,
                value,
                0.005,
                f"{TARS}, {where}",
                f"safereason eval separation --recipe {RECIPES[name]} --projection umap",
                RECIPES[name],
            )


def _guards() -> Iterator[PaperFigure]:
    for score in RSAFE_F1:
        yield PaperFigure(
            RSAFE,
            score.place,
            score.guard,
            "guard",
            "f1_parsed",
            score.set,
            score.f1,
            5e-4,
            score.source,
            f"safereason eval guard {score.asked} --set {score.set}",
            score.recipe,
        )
