"""The papers' own figures, to stand beside ours in a report."""

from dataclasses import dataclass


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
    Closing("TARS", "gcg", 68.65, 92.79, 83.82),
    Closing("SFT", "gcg", 91.85, 82.73, 78.90),
    Closing("TARS", "pair", 99.89, 94.45, None),
    Closing("SFT", "pair", 94.79, 72.97, None),
)
"""λ = 0.5. Under PAIR almost every answer closes its reasoning."""


@dataclass(frozen=True)
class GuardScore:
    """F1 of `unsafe` that somebody gives for a guard on a set."""

    set: str
    """The set's label here."""
    guard: str
    f1: float
    source: str
    """Who says so, and of what."""


RSAFE = "RSafe, arXiv 2506.07736"
_DEVELOPMENT = (
    f"{RSAFE}: a 7 B development run whose data is closest to the released mix, from the authors' logs; rows without a "
    "verdict left out"
)
_ABLATION = f"{RSAFE}: training on vanilla prompts only, from the history of the authors' code"
_THIRD_PARTY = "quoted by a third party"

RSAFE_F1 = (
    *(
        GuardScore(name, "RSafe-7B, development run", f1, _DEVELOPMENT)
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
    GuardScore("toxicchat", "RSafe-7B, development run, by the labels of November 2023", 0.728, _DEVELOPMENT),
    *(
        GuardScore(f"wildguardtest-{part}", guard, f1, _ABLATION)
        for guard, adversarial, other in (
            ("RSafe-7B on vanilla prompts", 0.723, 0.885),
            ("RSafe-7B on vanilla prompts, after SFT", 0.733, 0.866),
            ("RSafe-7B on vanilla prompts, no reasoning, another policy", 0.634, 0.806),
        )
        for part, f1 in (("adversarial", adversarial), ("vanilla", other))
    ),
    GuardScore("wildguardtest-adversarial", "RSafe-7B, WildGuard's policy", 0.717, _THIRD_PARTY),
    GuardScore("wildguardtest-adversarial", "LlamaGuard-3-8B", 0.609, _THIRD_PARTY),
)
"""No table by data set of the authors' could be had; a set's first entry is the nearest target that is known."""


def guard_scores(name: str) -> tuple[GuardScore, ...]:
    """What is known of guards on a set, the nearest target first; none for a set nobody gives figures for."""
    return tuple(score for score in RSAFE_F1 if score.set == name)
