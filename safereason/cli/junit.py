"""JUnit XML, which CI services display: one test case per bar, then one per figure.

A bar that is not met is a failure; a figure of which nothing could be scored is a skipped test, never a passed one.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as Xml

from safereason.evals.bars import Bar, figures_by_label, match_bars
from safereason.evals.metrics import Figure
from safereason.runs.records import Record, write_bytes

# All characters that XML 1.0 cannot hold, not even as an escape.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(path: Path, run: Path, metrics: Record, bars: Sequence[Bar]) -> None:
    """Writes the bars and figures of a run to a file, which is whole or absent; its folder is made.

    Raises:
        InputError: A bar is set for a figure that the run does not have.
    """
    name = f"safereason.eval.{metrics['eval']}"
    figures_with_bars = match_bars(metrics, bars)
    figures = figures_by_label(metrics).values()
    suite = Xml.Element("testsuite", name=name)
    properties = Xml.SubElement(suite, "properties")
    _add_property(properties, "run", run)
    for key in ("model", "recipe", "judge"):
        _add_property(properties, key, metrics.get(key))
    # One test case per bar lets CI show which of several bars failed.
    failures = 0
    for bar, figure in figures_with_bars:
        case = _add_case(suite, f"{name}.bars", f"{bar.figure} not {bar.side} {bar.bound:g}", figure)
        if not bar.is_met_by(figure):
            failures += 1
            Xml.SubElement(case, "failure", type="BarNotMet", message=_xml_text(bar.result_for(figure)))
    skipped = 0
    for figure in figures:
        case = _add_case(suite, f"{name}.figures", figure.label, figure)
        if figure.value is None:
            skipped += 1
            Xml.SubElement(case, "skipped", message=f"nothing could be scored, {figure.unscored} unscored")
    counts = {
        "tests": str(len(figures_with_bars) + len(figures)),
        "failures": str(failures),
        "errors": "0",
        "skipped": str(skipped),
    }
    root = Xml.Element("testsuites")
    # Some services read the counts of the whole file, others those of each suite.
    root.attrib.update(counts)
    suite.attrib.update(counts)
    root.append(suite)
    Xml.indent(root)
    write_bytes(path, Xml.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _add_case(suite: Xml.Element, classname: str, name: str, figure: Figure) -> Xml.Element:
    """A new test case of the suite, with the figure's value, interval and counts as properties."""
    case = Xml.SubElement(suite, "testcase", classname=classname, name=_xml_text(name))
    properties = Xml.SubElement(case, "properties")
    for key in ("value", "low", "high", "n", "unscored", "failed", "filtered"):
        _add_property(properties, key, getattr(figure, key))
    return case


def _add_property(properties: Xml.Element, name: str, value: object) -> None:
    """Adds a property; None becomes an empty text."""
    text = ""
    if value is not None:
        text = _xml_text(str(value))
    Xml.SubElement(properties, "property", name=name, value=text)


def _xml_text(text: str) -> str:
    """The text with a replacement character for each one that XML cannot hold."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
