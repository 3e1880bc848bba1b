"""Pictures of the report for docs/how-to/read-the-report.md, taken in a headless Chromium.

    make demo && python benchmarks/report_pictures.py runs/report/tars-smoke/report.html

Chromium is the one of $SAFEREASON_CHROMIUM, else the one on PATH; nothing that the page hides is shown.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ASSETS = Path(__file__).resolve().parent.parent / "docs" / "assets"
SCREEN = {"width": 1280, "height": 900}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    address = parser.parse_args().report.resolve().as_uri()
    named = os.environ.get("SAFEREASON_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if named is None:
        sys.exit("no Chromium on PATH; install one, or name it in $SAFEREASON_CHROMIUM")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=named, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = chromium.new_page(viewport=SCREEN, color_scheme=scheme, reduced_motion="reduce")
            page.goto(address)
            picture(page, scheme)
        compare(page)
        picture(page, "transcripts")
        chromium.close()


def compare(page: Page) -> None:
    """Opens an answer to an ordinary prompt beside another model's, where their verdicts differ."""
    page.get_by_label("Evaluation", exact=True).select_option(label="XSTest")
    page.get_by_label("Kind", exact=True).select_option(label="ambiguous")
    for name, role in (("Model", "SFT"), ("Compare with", "RL")):
        field = page.get_by_label(name, exact=True)
        options = field.locator("option").all_inner_texts()
        field.select_option(label=next(option for option in options if option.startswith(role)))
    page.get_by_label("verdict differs").check()
    page.locator("#list [role=row][data-at]").first.click()
    page.locator("#transcripts").evaluate("e => e.scrollIntoView()")


def picture(page: Page, name: str) -> None:
    path = ASSETS / f"report-{name}.png"
    page.screenshot(path=path)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
