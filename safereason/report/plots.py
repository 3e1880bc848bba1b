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

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from safereason.report.read import Line
from safereason.text.visible import visible_on_page

Dashes = str | tuple[int, tuple[float, ...]]
"""A line style as matplotlib takes it: a name, or an offset with the lengths of strokes and gaps."""
INK, MUTED, GRID = "#1f2328", "#5c6570", "#d9dbd6"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b38600", "#5d6d7e", "#2b2f36")
"""Blue, vermilion, green, purple, ochre, slate, near black."""
DASHES: tuple[Dashes, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), "-", (0, (5, 2)), "-")
MARKERS = "os^DvPX"
LETTERS, KEY = 52, 6
"""Letters of a legend that fit into a figure's width, and the width of a line's sample in letters."""
FEW_STEPS = 40
"""Most steps of a curve whose points have markers; on longer ones markers run into each other."""
_SERIES_VARIABLES = {colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)}
_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", **_SERIES_VARIABLES}
"""Variables of the page's style sheet, by the colour that they replace."""
# Set by `rc_context` around each plot: a program that imports this module keeps matplotlib settings of its own.
# Text stays text, so that the page's fonts apply and a reader can search it. The salt fixes matplotlib's ids, so that
# equal runs make equal pages.
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
    """One drawn panel, as SVG and PNG, with its title and its caption."""

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
class TradeoffLine:
    """Points of the trade-off plane joined by a line, such as one method over λ."""

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
        descriptions = []
        for index, line in enumerate(lines):
            descriptions.append(_describe_curve(line))
            marker: str | None = None
            if len(line.x) <= FEW_STEPS:
                marker = _marker(index)
            axes.plot(
                line.x,
                line.y,
                label=visible_on_page(line.label),
                color=_colour_of(index),
                linestyle=_dashes(index),
                marker=marker,
            )
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if share:
            axes.set_ylim(-0.03, 1.03)
        # The title already names a single line.
        if len(lines) > 1:
            _legend(axes, columns=4)
        return _finish(figure, name, title, caption, f"{title}. {' '.join(descriptions)}")


def tradeoff(name: str, title: str, lines: Sequence[TradeoffLine], caption: str, low: float = 0.0) -> Plot:
    """Defence success against compliance, both as shares from `low` to 1; up and to the right is better."""
    columns = 2
    if len(lines) <= 3:
        columns = 3
    # The panel grows with the rows of its legend, so that the plane itself keeps its size.
    legend_rows = math.ceil(len(lines) / columns)
    with rc_context(_STYLE):
        figure, axes = _panel(height=3.3 + 0.17 * legend_rows)
        descriptions = []
        for index, line in enumerate(lines):
            _draw_tradeoff_line(axes, line, index)
            descriptions.append(_describe_tradeoff_line(line))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlim(low - 0.02, 1.03)
        axes.set_ylim(low - 0.02, 1.03)
        axes.set_xlabel("compliance with harmless prompts →")
        axes.set_ylabel("defence success (DSR) →")
        _legend(axes, columns)
        return _finish(figure, name, title, caption, f"{title}. {' '.join(descriptions)}")


def reliability_curve(name: str, title: str, lines: Sequence[Line], caption: str) -> Plot:
    """Share that is unsafe over the mean score, bin by bin; a score that is a probability lies on the diagonal."""
    with rc_context(_STYLE):
        figure, axes = _panel(height=3.1 + 0.17 * len(lines))
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=DASHES[2])
        descriptions = []
        for index, line in enumerate(lines):
            descriptions.append(f"{line.label}: {_describe_bins(line)}.")
            axes.plot(
                line.x,
                line.y,
                label=visible_on_page(line.label),
                color=_colour_of(index),
                linestyle=_dashes(index),
                marker=_marker(index),
            )
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlabel("mean score of the bin")
        axes.set_ylabel("share unsafe")
        if len(lines) > 1:
            _legend(axes, columns=1)
        alt = f"{title}, share unsafe by mean score. {' '.join(descriptions)}"
        return _finish(figure, name, title, caption, alt)


def dots(
    name: str, title: str, groups: Sequence[str], series: Sequence[Dots], caption: str, unit: str | None = None
) -> Plot:
    """Values by group, from the top down, with the series of a group below one another; `unit` as in `FigureInfo`."""
    # Inches: a group's row grows with its series, and the legend has a line for each series.
    height = len(groups) * (0.16 + 0.09 * len(series)) + 0.7 + 0.17 * len(series)
    with rc_context({**_STYLE, "axes.grid.axis": "x"}):
        figure, axes = _panel(height=height)
        descriptions = []
        for index, model_dots in enumerate(series):
            descriptions.append(f"{model_dots.label}: {_describe_dots(model_dots, groups, unit)}.")
            # The series of one group share 0.7 of the distance between two groups, evenly around the group's tick.
            shift = 0.7 * ((index + 0.5) / len(series) - 0.5)
            _draw_dots(axes, model_dots, index, shift)
        group_labels = [_shorten(visible_on_page(group), LETTERS // 2) for group in groups]
        axes.set_yticks(range(len(groups)), group_labels)
        # Upside down, so that the first group is at the top.
        axes.set_ylim(len(groups) - 0.4, -0.6)
        if unit is None:
            axes.set_xlim(-0.03, 1.03)
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        else:
            axes.set_xlabel(unit)
        _legend(axes, columns=1)
        return _finish(figure, name, title, caption, f"{title}. {' '.join(descriptions)}")


def plane(name: str, title: str, clouds: Sequence[Cloud], line: tuple[float, float, float], caption: str) -> Plot:
    """Clouds of points, and the line p·x + q·y + r = 0 between them with its margin at ±1: `line` holds p, q and r."""
    with rc_context(_STYLE):
        figure, axes = _panel(height=3.3)
        for index, cloud in enumerate(clouds):
            x, y = zip(*cloud.points, strict=True)
            axes.plot(
                x,
                y,
                label=visible_on_page(cloud.label),
                color=_colour_of(index),
                linestyle="none",
                alpha=0.6,
                marker=_marker(index),
                markersize=3,
            )
        # Without fixed limits the lines drawn next would widen the axes.
        axes.set_xlim(*axes.get_xlim())
        axes.set_ylim(*axes.get_ylim())
        _draw_boundary(axes, line)
        _legend(axes, columns=len(clouds))
        return _finish(figure, name, title, caption, f"{title}. {caption}")


def _draw_boundary(axes: Axes, line: tuple[float, float, float]) -> None:
    """The line p·x + q·y + r = 0, and dotted the lines where it is ±1."""
    p, q, r = line
    # Points of both kinds may coincide. Then p = q = 0, and there is no line.
    if not p and not q:
        return
    for level, dashes in ((0, DASHES[0]), (1, DASHES[2]), (-1, DASHES[2])):
        # The point of the line that is nearest to the origin, and another one along its direction (-q, p).
        foot = ((level - r) * p / (p * p + q * q), (level - r) * q / (p * p + q * q))
        axes.axline(foot, (foot[0] - q, foot[1] + p), color=MUTED, linewidth=0.9, linestyle=dashes)


def _draw_dots(axes: Axes, model_dots: Dots, index: int, shift: float) -> None:
    """One series of `dots`: its intervals, then its values."""
    values = []
    heights = []
    for row, span in enumerate(model_dots.spans):
        if span is None:
            continue
        height = row + shift
        values.append(span.value)
        heights.append(height)
        if span.low is not None and span.high is not None:
            axes.plot([span.low, span.high], [height, height], color=_colour_of(index), linewidth=1.2)
    axes.plot(
        values,
        heights,
        label=visible_on_page(model_dots.label),
        color=_colour_of(index),
        linestyle="none",
        marker=_marker(index),
    )


def _draw_tradeoff_line(axes: Axes, line: TradeoffLine, index: int) -> None:
    """One line of the trade-off plane: intervals and labels of its points, then the points."""
    colour = _colour_of(index)
    x = []
    y = []
    for number, mark in enumerate(line.marks):
        x.append(mark.x)
        y.append(mark.y)
        axes.errorbar(
            mark.x,
            mark.y,
            xerr=_error_bar(mark.x, mark.x_interval),
            yerr=_error_bar(mark.y, mark.y_interval),
            color=colour,
            elinewidth=1.1,
            capsize=2,
        )
        if mark.label:
            # Labels go above and below in turn, since neighbours on a line lie close together.
            offset = (4, 4)
            if number % 2:
                offset = (-14, -10)
            axes.annotate(
                visible_on_page(mark.label),
                (mark.x, mark.y),
                offset,
                textcoords="offset points",
                fontsize=7.5,
                color=MUTED,
            )
    axes.plot(
        x,
        y,
        label=visible_on_page(line.label),
        color=colour,
        marker=_marker(index),
        linestyle=_dashes(index),
        markersize=5.5,
        linewidth=1.1,
    )


def _error_bar(value: float, interval: tuple[float, float] | None) -> list[list[float]] | None:
    """Distances from a value to the ends of its interval, as matplotlib takes them: [[below], [above]]."""
    if interval is None:
        return None
    low, high = interval
    # Rounding can put a value just outside its interval, and matplotlib refuses negative lengths.
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _colour_of(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _dashes(index: int) -> Dashes:
    return DASHES[index % len(DASHES)]


def _marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


def _panel(height: float = 2.5) -> tuple[Figure, Axes]:
    """An empty figure of one panel; `height` in inches."""
    figure = Figure(figsize=(4.4, height), layout="constrained")
    return figure, figure.add_subplot()


def _legend(axes: Axes, columns: int) -> None:
    """Puts a legend above the panel, in as many columns as fit and at most `columns`.

    A legend wider than the figure would leave no room for the axes.
    """
    handles, texts = axes.get_legend_handles_labels()
    # The width of a text is known only once it is drawn, and then the layout is fixed. So letters are counted instead.
    labels = [_shorten(text, LETTERS) for text in texts]
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


# The descriptions below are the plots' alternative texts, which screen readers read out.


def _describe_curve(line: Line) -> str:
    ends = f"{line.y[0]:.3g} at step {line.x[0]:g}, {line.y[-1]:.3g} at step {line.x[-1]:g}"
    return f"{line.label}: {ends}; lowest {min(line.y):.3g}, highest {max(line.y):.3g}."


def _describe_bins(line: Line) -> str:
    descriptions = []
    for score, share in zip(line.x, line.y, strict=True):
        descriptions.append(f"{share:.2f} at {score:.2f}")
    return "; ".join(descriptions)


def _describe_dots(model_dots: Dots, groups: Sequence[str], unit: str | None) -> str:
    descriptions = []
    for group, span in zip(groups, model_dots.spans, strict=True):
        if span is None:
            continue
        if unit is None:
            descriptions.append(f"{group} {100 * span.value:.1f} %")
        elif unit:
            descriptions.append(f"{group} {span.value:.1f} {unit}")
        else:
            descriptions.append(f"{group} {span.value:.3f}")
    return "; ".join(descriptions)


def _describe_tradeoff_line(line: TradeoffLine) -> str:
    descriptions = []
    for mark in line.marks:
        text = f"{mark.label} compliance {100 * mark.x:.1f} %, DSR {100 * mark.y:.1f} %"
        descriptions.append(text.strip())
    return f"{line.label}: {'; '.join(descriptions)}."


def _shorten(text: str, most: int) -> str:
    """The text with at most `most` letters, the last one `…` where some were cut."""
    if len(text) <= most:
        return text
    return f"{text[: most - 1]}…"


def _finish(figure: Figure, name: str, title: str, caption: str, alt: str) -> Plot:
    """Renders a figure; `alt` is the text for readers who do not see it."""
    # The SVG takes the page's colours. The PNG is for slides and papers, on white.
    svg = io.BytesIO()
    png = io.BytesIO()
    # Without dates and version numbers equal figures give equal files.
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    figure.savefig(png, format="png", dpi=180, facecolor="white", metadata={"Software": None})
    inline = _inline_svg(svg.getvalue().decode(), name, alt)
    return Plot(name, title, caption, inline, svg.getvalue(), png.getvalue())


def _cut_elements(text: str, opening: str, closing: str) -> str:
    """The text without its elements between these tags; one that is never closed stays."""
    kept = []
    position = 0
    # `find` takes time in proportion to the text, where a regular expression with `.*?` may not.
    while (start := text.find(opening, position)) >= 0 and (end := text.find(closing, start)) >= 0:
        kept.append(text[position:start])
        position = end + len(closing)
    kept.append(text[position:])
    return "".join(kept)


def _inline_svg(svg: str, name: str, alt: str) -> str:
    """The SVG as an element of the page: ids made unique, colours from the theme, fonts from the page, an alt text."""
    body = svg[svg.index("<svg") :]
    body = _cut_elements(body, "<metadata>", "</metadata>")
    # Every figure of matplotlib has the same ids. On one page they would refer to each other's elements.
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    # The page has a light and a dark theme.
    for colour, variable in _THEME.items():
        body = body.replace(colour, variable)
    # A style sheet inside an SVG would apply to the whole page, and a reader may not have matplotlib's fonts.
    body = _cut_elements(body, "<style", "</style>")
    body = re.sub(r"font-family: [^;\"]{0,200}; ", "", body)
    opening = re.match(r"<svg[^>]*>", body)
    assert opening is not None
    view_box = ""
    if view := re.search(r'viewBox="[^"]*"', opening.group()):
        view_box = view.group()
    head = f'<svg {view_box} role="img" aria-label="{escape(visible_on_page(alt))}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return head + body[opening.end() :].strip()
