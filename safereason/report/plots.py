"""Plots as SVG for the page (colours follow its theme, text stays text) and as SVG and PNG files.

Each panel is a figure of its own, so that a narrow screen stacks them instead of shrinking their text. Colours are
Okabe and Ito's, which people with any colour vision can tell apart; markers and dashes tell the lines apart as well.
"""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from safereason.report.read import Line
from safereason.report.visible import visible

INK, MUTED, GRID = "#1f2328", "#5c6570", "#d9dbd6"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b38600", "#5d6d7e", "#2b2f36")
"""Blue, vermilion, green, purple, ochre, slate, near black."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), "-", (0, (5, 2)), "-")
MARKERS = "os^DvPX"
LETTERS, KEY = 52, 6
"""Letters that fit beside a line's sample across a figure, and the width of that sample in letters."""
FEW_STEPS = 40
"""Up to so many steps each one has a marker."""
_THEME = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    **{c: f"var(--series-{i + 1})" for i, c in enumerate(SERIES)},
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "safereason",
    "text.parse_math": False,
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}


@dataclass(frozen=True)
class Plot:
    """One panel, drawn."""

    name: str
    """File name without its ending, unique on the page."""
    title: str
    caption: str
    inline: str
    """SVG element for the page."""
    svg: bytes
    png: bytes


@dataclass(frozen=True)
class Mark:
    """A point of the trade-off plane, in shares of 1, with its 95 % intervals where they are known."""

    label: str
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Path:
    """Points that belong together, joined by a line, such as one method over λ."""

    label: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Cloud:
    """Points of one kind in a plane."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Span:
    """A value with its 95 % interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Dots:
    """One model's values, one for each group; None where it has none."""

    label: str
    spans: tuple[Span | None, ...]


def curves(name: str, title: str, lines: Sequence[Line], caption: str = "", share: bool = False) -> Plot:
    """Curves over optimizer steps; `share` fixes the axis to 0 to 1."""
    with rc_context(_STYLE):
        figure, axes = _panel()
        for place, line in enumerate(lines):
            marker = MARKERS[place % len(MARKERS)] if len(line.x) <= FEW_STEPS else None
            dashes = DASHES[place % len(DASHES)]
            axes.plot(line.x, line.y, label=visible(line.label), color=_colour(place), linestyle=dashes, marker=marker)
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if share:
            axes.set_ylim(-0.03, 1.03)
        if len(lines) > 1:
            _legend(axes, columns=4)
        return _drawn(figure, name, title, caption, f"{title}. {' '.join(_described(line) for line in lines)}")


def tradeoff(name: str, title: str, paths: Sequence[Path], caption: str, low: float = 0.0) -> Plot:
    """Defence success against compliance, both as shares from `low` to 1; up and to the right is better."""
    columns = 3 if len(paths) <= 3 else 2
    with rc_context(_STYLE):
        figure, axes = _panel(height=3.3 + 0.17 * math.ceil(len(paths) / columns))
        for place, path in enumerate(paths):
            _draw_path(axes, path, place)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlim(low - 0.02, 1.03)
        axes.set_ylim(low - 0.02, 1.03)
        axes.set_xlabel("compliance with harmless prompts →")
        axes.set_ylabel("defence success (DSR) →")
        _legend(axes, columns)
        return _drawn(figure, name, title, caption, f"{title}. {' '.join(_located(path) for path in paths)}")


def reliability(name: str, title: str, lines: Sequence[Line], caption: str) -> Plot:
    """Share that is unsafe over the mean score, bin by bin; a score that is a probability lies on the diagonal."""
    with rc_context(_STYLE):
        figure, axes = _panel(height=3.1 + 0.17 * len(lines))
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=DASHES[2])
        for place, line in enumerate(lines):
            axes.plot(
                line.x,
                line.y,
                label=visible(line.label),
                color=_colour(place),
                linestyle=DASHES[place % len(DASHES)],
                marker=MARKERS[place % len(MARKERS)],
            )
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("mean score of the bin")
        axes.set_ylabel("share unsafe")
        if len(lines) > 1:
            _legend(axes, columns=1)
        described = " ".join(f"{line.label}: {_binned(line)}." for line in lines)
        return _drawn(figure, name, title, caption, f"{title}, share unsafe by mean score. {described}")


def dots(
    name: str, title: str, groups: Sequence[str], series: Sequence[Dots], caption: str, unit: str | None = None
) -> Plot:
    """Values by group, from the top down, with the series of a group below one another; `unit` None means shares."""
    height = len(groups) * (0.16 + 0.09 * len(series)) + 0.7 + 0.17 * len(series)
    with rc_context({**_STYLE, "axes.grid.axis": "x"}):
        figure, axes = _panel(height=height)
        for place, line in enumerate(series):
            shift = 0.7 * ((place + 0.5) / len(series) - 0.5)
            held = [(row + shift, span) for row, span in enumerate(line.spans) if span]
            for at, span in held:
                if span.low is not None and span.high is not None:
                    axes.plot([span.low, span.high], [at, at], color=_colour(place), linewidth=1.2)
            x, y = [span.value for _, span in held], [at for at, _ in held]
            axes.plot(
                x,
                y,
                label=visible(line.label),
                color=_colour(place),
                linestyle="none",
                marker=MARKERS[place % len(MARKERS)],
            )
        axes.set_yticks(range(len(groups)), [_shortened(visible(group), LETTERS // 2) for group in groups])
        axes.set_ylim(len(groups) - 0.4, -0.6)
        if unit is None:
            axes.set_xlim(-0.03, 1.03)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        else:
            axes.set_xlabel(unit)
        _legend(axes, columns=1)
        described = " ".join(f"{line.label}: {_spanned(line, groups, unit)}." for line in series)
        return _drawn(figure, name, title, caption, f"{title}. {described}")


def plane(name: str, title: str, clouds: Sequence[Cloud], line: tuple[float, float, float], caption: str) -> Plot:
    """Clouds of points, and the line p·x + q·y + r = 0 between them with its margin at ±1: `line` holds p, q and r."""
    with rc_context(_STYLE):
        figure, axes = _panel(height=3.3)
        for place, cloud in enumerate(clouds):
            x, y = zip(*cloud.points, strict=True)
            axes.plot(
                x,
                y,
                label=visible(cloud.label),
                color=_colour(place),
                linestyle="none",
                alpha=0.6,
                marker=MARKERS[place % len(MARKERS)],
                markersize=3,
            )
        axes.set_xlim(*axes.get_xlim())  # a line must not move them
        axes.set_ylim(*axes.get_ylim())
        p, q, r = line
        for level, dashes in ((0, DASHES[0]), (1, DASHES[2]), (-1, DASHES[2])):
            if p or q:
                foot = ((level - r) * p / (p * p + q * q), (level - r) * q / (p * p + q * q))
                axes.axline(foot, (foot[0] - q, foot[1] + p), color=MUTED, linewidth=0.9, linestyle=dashes)
        _legend(axes, columns=len(clouds))
        return _drawn(figure, name, title, caption, f"{title}. {caption}")


def _draw_path(axes: Axes, path: Path, place: int) -> None:
    colour = _colour(place)
    for number, mark in enumerate(path.marks):
        axes.errorbar(
            mark.x,
            mark.y,
            xerr=_bars(mark.x, mark.x_interval),
            yerr=_bars(mark.y, mark.y_interval),
            color=colour,
            elinewidth=1.1,
            capsize=2,
        )
        if mark.label:
            offset = (-14, -10) if number % 2 else (4, 4)
            axes.annotate(
                visible(mark.label), (mark.x, mark.y), offset, textcoords="offset points", fontsize=7.5, color=MUTED
            )
    x, y = [mark.x for mark in path.marks], [mark.y for mark in path.marks]
    marker, dashes = MARKERS[place % len(MARKERS)], DASHES[place % len(DASHES)]
    axes.plot(
        x, y, label=visible(path.label), color=colour, marker=marker, linestyle=dashes, markersize=5.5, linewidth=1.1
    )


def _bars(value: float, interval: tuple[float, float] | None) -> list[list[float]] | None:
    return None if interval is None else [[max(0.0, value - interval[0])], [max(0.0, interval[1] - value)]]


def _colour(place: int) -> str:
    return SERIES[place % len(SERIES)]


def _panel(height: float = 2.5) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.4, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(axes: Axes, columns: int) -> None:
    """Above the panel, in so many columns as fit: a legend wider than the figure leaves no room for the axes."""
    handles, texts = axes.get_legend_handles_labels()
    labels = [_shortened(text, LETTERS) for text in texts]
    widest = max(map(len, labels), default=0)
    axes.figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=max(1, min(columns, (LETTERS + KEY) // (widest + KEY))),
        handlelength=1.7,
        columnspacing=1.1,
        borderaxespad=0.1,
    )


def _described(line: Line) -> str:
    ends = f"{line.y[0]:.3g} at step {line.x[0]:g}, {line.y[-1]:.3g} at step {line.x[-1]:g}"
    return f"{line.label}: {ends}; lowest {min(line.y):.3g}, highest {max(line.y):.3g}."


def _binned(line: Line) -> str:
    return "; ".join(f"{y:.2f} at {x:.2f}" for x, y in zip(line.x, line.y, strict=True))


def _spanned(line: Dots, groups: Sequence[str], unit: str | None) -> str:
    held = [(group, span.value) for group, span in zip(groups, line.spans, strict=True) if span]
    return "; ".join(f"{g} {100 * v:.1f} %" if unit is None else f"{g} {v:.1f} {unit}" for g, v in held)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _located(path: Path) -> str:
    points = [f"{mark.label} compliance {100 * mark.x:.1f} %, DSR {100 * mark.y:.1f} %".strip() for mark in path.marks]
    return f"{path.label}: {'; '.join(points)}."


def _drawn(figure: Figure, name: str, title: str, caption: str, alt: str) -> Plot:
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=180, facecolor="white", metadata={"Software": None})
    return Plot(name, title, caption, _inline(svg.getvalue().decode(), name, alt), svg.getvalue(), png.getvalue())


def _without(text: str, opening: str, closing: str) -> str:
    """Text without its elements between these tags; one that is never closed stays."""
    kept, place = [], 0
    while (start := text.find(opening, place)) >= 0 and (end := text.find(closing, start)) >= 0:
        kept.append(text[place:start])
        place = end + len(closing)
    return "".join([*kept, text[place:]])


def _inline(svg: str, name: str, alt: str) -> str:
    """The SVG as an element of the page: ids made unique, colours from the theme, fonts from the page, an alt text."""
    body = svg[svg.index("<svg") :]
    body = _without(body, "<metadata>", "</metadata>")
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    for colour, variable in _THEME.items():
        body = body.replace(colour, variable)
    body = _without(body, "<style", "</style>")
    body = re.sub(r"font-family: [^;\"]{0,200}; ", "", body)
    opening = re.match(r"<svg[^>]*>", body)
    assert opening is not None
    view = re.search(r'viewBox="[^"]*"', opening.group())
    head = f'<svg {view.group() if view else ""} role="img" aria-label="{escape(visible(alt))}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + body[opening.end() :].strip()
