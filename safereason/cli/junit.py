"""JUnit XML, which CI services show: a test case for each bar, then one for each figure.

A bar that is not met is a failure; a figure of which nothing could be scored is a skipped test, never a passed one.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from safereason.evals.bars import Bar, figures_of, matched
from safereason.evals.metrics import Figure
from safereason.runs.records import write_bytes

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 has no way to write."""


def write(path: Path, run: Path, metrics: Mapping[str, Any], bars: Sequence[Bar]) -> None:
    """Writes the file whole; the folder is made where it is not there.

    Raises:
        InputError: A bar is set for a figure that the run does not have.
    """
    name = f"safereason.eval.{metrics['eval']}"
    held, figures = matched(metrics, bars), figures_of(metrics).values()
    suite = Xml.Element("testsuite", name=name)
    properties = Xml.SubElement(suite, "properties")
    for key, value in (("run", run), *((key, metrics.get(key)) for key in ("model", "recipe", "judge"))):
        Xml.SubElement(properties, "property", name=key, value=_written("" if value is None else str(value)))
    for bar, figure in held:
        case = _case(suite, f"{name}.bars", f"{bar.figure} not {bar.side} {bar.bound:g}", figure)
        if not bar.is_met_by(figure):
            Xml.SubElement(case, "failure", type="BarNotMet", message=_written(bar.told_of(figure)))
    for figure in figures:
        case = _case(suite, f"{name}.figures", figure.label, figure)
        if figure.value is None:
            Xml.SubElement(case, "skipped", message=f"nothing could be scored, {figure.unscored} unscored")
    counts = {
        "tests": len(held) + len(figures),
        "failures": sum(not bar.is_met_by(figure) for bar, figure in held),
        "errors": 0,
        "skipped": sum(figure.value is None for figure in figures),
    }
    root = Xml.Element("testsuites")
    for element in (root, suite):
        element.attrib.update({key: str(value) for key, value in counts.items()})
    root.append(suite)
    Xml.indent(root)
    write_bytes(path, Xml.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n")


def _case(suite: Xml.Element, classname: str, name: str, figure: Figure) -> Xml.Element:
    """A test case with what the figure is, and how many items have no score."""
    case = Xml.SubElement(suite, "testcase", classname=classname, name=_written(name))
    properties = Xml.SubElement(case, "properties")
    for key in ("value", "low", "high", "n", "unscored", "failed", "filtered"):
        value = getattr(figure, key)
        Xml.SubElement(properties, "property", name=key, value="" if value is None else str(value))
    return case


def _written(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
