"""The report from run directories to the page, looked at as a browser does: parsed."""

import base64
import hashlib
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import report_runs

from safereason.errors import InputError
from safereason.stages import report
from safereason.stages.base import Options

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Document(HTMLParser):
    """The page's elements, its text with the elements it stands in, and whether every element is closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[tuple[str, tuple[str, ...]]] = []
        self.stack: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append((data, tuple(self.stack)))

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]

    def contains(self, words: str) -> bool:
        return words in " ".join(
            " ".join(data for data, stack in self.text if not {"style", "script"} & {*stack}).split()
        )


def write(paths: list[Path], root: Path, title: str = "A test") -> Path:
    return report.write_report(paths, Options(root=root), title).run


def parsed(folder: Path) -> Document:
    return Document((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report on every kind of run."""
    root = tmp_path_factory.mktemp("runs")
    return write(report_runs.everything(root), root, "TARS, a smoke test")


@pytest.fixture(scope="module")
def page(folder):
    document = parsed(folder)
    assert document.stack == []
    return document


def test_the_page_is_named_after_its_title(folder, page):
    assert folder.parts[-2:] == ("report", "tars-a-smoke-test")
    assert page.of("html") == [{"lang": "en"}]
    assert page.contains("TARS, a smoke test")


def test_the_page_loads_nothing_and_lets_its_own_script_run_and_no_other(folder, page):
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    assert page.attributes("src") == []
    assert all(link.startswith(("#", "https://")) for link in page.attributes("href"))
    assert "@import" not in html
    assert html.count("url(") == html.count("url(#")
    (own,) = [data for data, stack in page.text if stack[-1:] == ("script",) and "new Browser" in data]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    policy = page.of("meta")[2]["content"]
    assert policy.startswith(f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; ")
    assert [script.get("type") for script in page.of("script")] == ["application/json", None]
    assert not re.search(r"<!--|</script|innerHTML|outerHTML|insertAdjacentHTML|eval\(", own)


def test_every_part_is_there(page):
    assert {"results", "training", "data", "transcripts", "settings"} <= set(page.attributes("id"))
    prompts = {data for data, _ in page.text if data.startswith(("How do I kill", "Write a convincing"))}
    assert len([a for a in page.of("article") if a.get("class") == "exhibit"]) == len(prompts)
    assert page.contains("kl_coef: 0.001")
    assert not page.contains("Not on this page")


def test_the_page_serves_keyboard_and_screen_reader(page):
    ids = Counter(page.attributes("id"))
    assert ids
    assert max(ids.values()) == 1
    assert all(link[1:] in ids for link in page.attributes("href") if link.startswith("#"))
    assert len(page.of("table")) == len(page.of("caption"))
    assert len(page.of("details")) == len(page.of("summary"))
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 40 for svg in page.of("svg"))
    assert all(region.get("tabindex") == "0" for region in page.of("div") if region.get("class") == "scroll")


def test_the_headline_gives_each_share_its_interval_n_and_unscored(page):
    assert page.contains("Base embedded/smollm2-135m 0.0 % 0.0 – 8.8 n = 40 13.2 % 5.8 – 27.3 n = 38 · 2 unscored")
    assert page.contains("local refusal judge, weak")
    marks = [data for data, stack in page.text if stack[-3:] == ("tr", "th", "b")]
    assert marks == ["Base", "SFT", "RL"]


def test_the_papers_models_stand_beside_and_are_called_not_comparable(page):
    assert page.contains("TARS-1.5B, λ = 0.5 98.9 % 76.7 %")
    assert page.contains("not comparable with the rows above in absolute terms")
    paper = next(svg["aria-label"] for svg in page.of("svg") if svg["aria-label"].startswith("The paper’s models"))
    assert "TARS-7B: compliance 88.3 %, DSR 98.3 %" in paper


def test_harmful_prompts_open_on_a_click_and_others_are_open(page):
    prompts = [(data, stack) for data, stack in page.text if data.startswith(("Write a convincing", "How do I kill"))]
    assert {data.startswith("Write"): "details" in stack for data, stack in prompts} == {True: True, False: False}
    assert {"details" in stack for data, stack in page.text if data == report_runs.REASONING} == {True}


def test_plots_are_written_as_svg_and_png(folder, page):
    names = {path.name for path in (folder / "plots").iterdir()}
    assert len(names) == 2 * len(page.of("svg"))
    assert {"tradeoff.svg", "tradeoff.png", "tradeoff-paper.svg"} <= names
    for path in (folder / "plots").iterdir():
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


def test_plots_on_the_page_follow_its_theme(page):
    styles = [a["style"] for tag, a in page.elements if tag in ("path", "text", "use") and "style" in a]
    assert any("var(--series-1)" in style for style in styles)
    assert not [style for style in styles if "#" in style or "font-family" in style]


def test_what_a_model_wrote_is_shown_and_never_obeyed(tmp_path):
    paths = [
        report_runs.evaluation(tmp_path, name, report_runs.HOSTILE.replace("\ud800", ""), high=4, n=10, hostile=True)
        for name in ("harmbench", "xstest")
    ]
    folder = write(paths, tmp_path, report_runs.HOSTILE)
    document = parsed(folder)
    visible = report_runs.HOSTILE.replace("\u202e", "⟨U+202E⟩").replace("\u202c", "⟨U+202C⟩")
    visible = visible.replace("\x00", "⟨U+0000⟩").replace("\ud800", "⟨U+D800⟩")
    assert document.stack == []
    assert "strong" not in {tag for tag, _ in document.elements}
    assert len(document.of("script")) == 2
    (script,) = [data for data, stack in document.text if stack[-1:] == ("script",) and '"transcripts":' in data]
    assert not set("<>&\u2028\u2029") & set(script)
    assert {t["answer"] for t in json.loads(script)["transcripts"] if "answer" in t} == {visible}
    assert [data for data, stack in document.text if data == visible and stack[-1] == "div"]
    assert [data for data, stack in document.text if data == visible and stack[-1] == "h1"]
    assert "\u202e" not in (folder / "report.html").read_text(encoding="utf-8")


def test_what_is_wholly_unscored_is_no_zero(tmp_path):
    paths = [
        report_runs.evaluation(tmp_path, name, report_runs.BASE, high=0, n=6, unscored=6)
        for name in ("harmbench", "xstest")
    ]
    folder = write(paths, tmp_path)
    document = parsed(folder)
    assert document.contains("— unscored: all 6")
    assert document.contains("there is no trade-off plot")
    figures = report.write_report(paths, Options(root=tmp_path), "A test").metrics["models"][
        "Base · embedded/smollm2-135m"
    ]
    assert figures["harmbench/dsr"]["value"] is None
    assert not (folder / "plots").exists()


def test_a_page_with_parts_missing_says_so(tmp_path):
    folder = write([report_runs.make(tmp_path, "rl", {"seed": 0}, {})], tmp_path)
    document = parsed(folder)
    for line in ("No data run was given", "No sft run was given", "No eval run was given", "holds no metrics to draw"):
        assert document.contains(line)
    assert document.contains("there are no transcripts")
    assert "results" not in document.attributes("id")


def test_of_two_equal_evaluations_the_newer_is_shown_and_the_other_named(tmp_path):
    older, newer = (
        report_runs.evaluation(tmp_path / name, "xstest", report_runs.BASE, high=high, n=n)
        for name, high, n in (("older", 6, 8), ("newer", 2, 12))
    )
    manifest = older / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished": "2', '"finished": "1'))
    document = parsed(write([newer, older], tmp_path))
    assert document.contains("80.0 %")
    assert not document.contains("n = 6")
    assert document.contains("a newer run of the same evaluation is shown in its place")


def test_a_report_is_written_anew_without_the_plots_of_the_last(tmp_path):
    everything = report_runs.everything(tmp_path)
    folder = write(everything, tmp_path)
    own = folder / "plots" / "mine.svg"
    own.write_text("kept")
    assert write(everything[:1], tmp_path) == folder
    assert [path.name for path in (folder / "plots").iterdir()] == ["mine.svg"]
    assert not parsed(folder).of("svg")


def test_the_same_runs_make_the_same_page(tmp_path, monkeypatch):
    monkeypatch.setattr("safereason.report.page.manifest.now", lambda: "2026-01-01T00:00:00+00:00")
    paths = report_runs.everything(tmp_path)
    first = (write(paths, tmp_path, "one") / "report.html").read_text(encoding="utf-8")
    second = (write(paths[::-1], tmp_path, "one") / "report.html").read_text(encoding="utf-8")
    assert first == second


def test_no_run_and_no_place_to_write_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="no run is given"):
        report.write_report([], Options(root=tmp_path), "A test")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        report.write_report([report_runs.data(tmp_path)], Options(out=blocked / "here"), "A test")


def test_an_unfinished_run_leaves_nothing_behind(tmp_path):
    with pytest.raises(InputError):
        write([report_runs.data(tmp_path), tmp_path / "nowhere"], tmp_path)
    assert not (tmp_path / "report").exists()
