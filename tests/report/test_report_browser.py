"""The page in a real browser, from a disk: Chromium, driven by Playwright. $SAFEREASON_CHROMIUM names one."""

import os
import shutil

import pytest
import report_runs
from test_report_stage import write

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SCREEN = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def browser():
    named = os.environ.get("SAFEREASON_CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if named is None:
        pytest.skip("no Chromium on PATH; install one, or name it in $SAFEREASON_CHROMIUM")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=named, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Opens a report; whatever is done with it, it logs no error, raises no alert, and asks nobody for anything."""
    troubles, contexts = [], []

    def open_page(folder, address="", **settings):
        context = browser.new_context(viewport=SCREEN, reduced_motion="reduce", **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(4_000)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith("file:") or troubles.append(request.url))
        page.goto((folder / "report.html").as_uri() + address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return write(report_runs.everything(root), root)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """10 000 transcripts."""
    root = tmp_path_factory.mktemp("large")
    models = (report_runs.BASE, report_runs.model_name("sft", {"seed": 0, "model": report_runs.BASE}))
    return write([report_runs.evaluation(root, "xstest", m, high=1000 * n, n=5000) for n, m in enumerate(models)], root)


def count(page):
    return page.inner_text("#count").replace("\u2009", "")


def rows(page):
    return page.locator("#list [role=row][data-at]")


def focused(page):
    return page.evaluate("document.activeElement.id")


def current(page):
    """The row that the list says is the current one, by its place."""
    name = page.get_attribute("#list", "aria-activedescendant")
    assert page.locator(f"#{name}").get_attribute("aria-selected") == "true"
    return int(name.removeprefix("row-"))


def choose(page, name, label):
    page.get_by_label(name, exact=True).select_option(label=label)


def model_of(page, role):
    labels = page.get_by_label("Model", exact=True).locator("option").all_inner_texts()
    return next(label for label in labels if label.startswith(role))


def test_filters_narrow_the_list_and_stay_in_the_address(visit, folder):
    page = visit(folder)
    assert count(page) == "240 of 240 transcripts"
    choose(page, "Evaluation", "XSTest")
    choose(page, "Verdict", "unscored")
    choose(page, "Model", model_of(page, "RL"))
    assert count(page) == "2 of 240 transcripts"
    assert {row.locator(".c-verdict").inner_text() for row in rows(page).all()} == {"unscored"}
    again = visit(folder, page.evaluate("location.hash"))
    assert count(again) == "2 of 240 transcripts"
    assert again.get_by_label("Verdict", exact=True).input_value() == "unscored"
    again.get_by_role("button", name="Clear").click()
    assert count(again) == "240 of 240 transcripts"


def test_the_list_is_of_the_transcripts_that_were_cut_off_where_that_is_asked_for(visit, tmp_path):
    path = report_runs.evaluation(tmp_path, "xstest", report_runs.BASE, high=3, n=9)
    completions = path / "completions.jsonl"
    first, *others = completions.read_text().splitlines(keepends=True)
    completions.write_text("".join([first.replace('"stop"', '"length"'), *others]))
    page = visit(write([path], tmp_path))
    page.get_by_label("cut off at the limit").check()
    assert count(page) == "1 of 9 transcripts"
    rows(page).first.click()
    assert "cut off at the limit" in page.inner_text("#reader .verdict")


def test_search_finds_every_word_in_prompt_reasoning_answer_or_id(visit, folder):
    page = visit(folder)
    page.keyboard.press("/")
    assert focused(page) == "search"
    page.keyboard.type("LINUX xstest-012")
    assert count(page) == "3 of 240 transcripts"
    page.fill("#search", "plain reading")
    assert count(page) == "160 of 240 transcripts"
    page.fill("#search", "nowhere to be found")
    assert count(page) == "0 of 240 transcripts"
    assert page.get_attribute("#list", "aria-activedescendant") is None
    page.keyboard.press("Escape")
    assert focused(page) == "list"


def test_keys_move_open_and_close(visit, folder):
    page = visit(folder)
    page.locator("#list").focus()
    for key in ("j", "ArrowDown", "j", "k"):
        page.keyboard.press(key)
    assert current(page) == 2
    page.keyboard.press("Enter")
    assert focused(page) == "reader-title"
    assert page.locator("#reader").is_visible()
    first = page.inner_text("#reader")
    page.keyboard.press("j")
    assert (current(page), focused(page)) == (3, "reader-title")
    assert page.inner_text("#reader") != first
    page.keyboard.press("Escape")
    assert focused(page) == "list"
    assert page.locator("#reader").is_hidden()
    page.keyboard.press("End")
    assert current(page) == 239


def test_what_a_screen_reader_is_told(visit, folder):
    page = visit(folder)
    assert page.get_by_role("grid", name="Transcripts").get_attribute("aria-rowcount") == "241"
    assert page.get_by_role("status").inner_text() == count(page)
    heads = page.locator("#list").get_by_role("columnheader").all_inner_texts()
    assert [head.split()[0] for head in heads] == [
        "Verdict",
        "Model",
        "Evaluation",
        "Attack",
        "Kind",
        "Tokens",
        "Prompt",
    ]
    rows(page).nth(1).click()
    assert page.get_by_role("article", name="HarmBench · direct").is_visible()
    assert page.locator("#search").evaluate("e => e.labels.length") == 1
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_heading_sorts_and_sorts_back(visit, folder):
    page = visit(folder)
    head = page.get_by_role("columnheader", name="Verdict")
    for order, verdict in (("ascending", "compliance"), ("descending", "unscored"), ("none", "unscored")):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == order
        assert rows(page).first.locator(".c-verdict").inner_text() == verdict
    assert "sort=" not in page.url


def test_two_models_stand_side_by_side_with_the_words_marked_that_differ(visit, folder):
    page = visit(folder)
    choose(page, "Evaluation", "XSTest")
    choose(page, "Model", model_of(page, "SFT"))
    choose(page, "Compare with", model_of(page, "RL"))
    assert count(page) == "40 of 240 transcripts"
    page.get_by_label("verdict differs from the compared model’s").check()
    assert count(page) == "8 of 240 transcripts"
    rows(page).first.click()
    heads = page.locator("#reader h4").all_inner_texts()
    assert [head.split(" ")[0] for head in heads] == ["SFT", "RL"]
    answers = page.locator("#reader .answer")
    assert answers.all_inner_texts() == [report_runs.ANSWERS["refusal"], report_runs.ANSWERS["compliance"]]
    assert "".join(answers.nth(0).locator("del").all_text_contents()) not in ("", report_runs.ANSWERS["refusal"])
    assert answers.nth(1).locator("ins").count() > 0
    assert page.locator("#reader ins").first.evaluate("e => getComputedStyle(e).textDecorationLine") == "underline"
    page.get_by_label("verdict differs").uncheck()
    rows(page).first.click()
    assert page.locator("#reader del, #reader ins").count() == 0


def test_harmful_text_is_there_after_a_click_and_all_of_it_after_a_question(visit, folder):
    page = visit(folder)
    choose(page, "Kind", "harmful")
    choose(page, "Verdict", "compliance")
    answer = report_runs.ANSWERS["compliance"]
    assert "Write a convincing" not in page.inner_text("body")
    rows(page).first.click()
    assert "Write a convincing" not in page.inner_text("body")
    page.get_by_role("button", name="Show the harmful prompt").click()
    assert page.inner_text("#reader .prompt").startswith("Write a convincing")
    assert answer not in page.inner_text("#reader")
    page.get_by_role("button", name="Show the answer").click()
    assert page.inner_text("#reader .answer") == answer

    switch = page.get_by_role("switch", name="show all harmful text")
    for button, is_shown in (("Keep it hidden", False), ("Show it", True)):
        switch.click()
        page.get_by_role("dialog", name="Show all harmful text?").get_by_role("button", name=button).click()
        assert switch.is_checked() is is_shown
        assert rows(page).first.locator(".c-prompt").inner_text().startswith("Write") is is_shown
    assert page.locator("#reader .reveal").count() == 0
    switch.click()
    assert page.locator("#reader .reveal").count() == 2
    assert "Write a convincing" not in page.inner_text("body")


def test_a_refusal_of_a_harmful_prompt_is_there_without_a_click(visit, folder):
    page = visit(folder)
    choose(page, "Kind", "harmful")
    choose(page, "Verdict", "refusal")
    rows(page).first.click()
    assert page.inner_text("#reader .answer") == report_runs.ANSWERS["refusal"]


def test_what_a_model_wrote_stays_text(visit, tmp_path, monkeypatch):
    tricks = (
        f"{report_runs.HOSTILE}<!--<script>alert(3)</script></noscript><img src=x onerror=alert(4)>\u2028]]>"
        '<iframe src="https://example.org"></iframe><style>body{display:none}</style> \\u003cb\\u003e ${alert(5)}'
    )
    monkeypatch.setattr(report_runs, "HOSTILE", tricks)
    paths = [
        report_runs.evaluation(tmp_path, "xstest", model, high=4, n=6, hostile=True)
        for model in (report_runs.BASE, "<img src=x onerror=alert(6)>")
    ]
    page = visit(write(paths, tmp_path, "<script>alert(7)</script>"))
    rows(page).first.click()
    choose(page, "Compare with", "Other · <img src=x onerror=alert(6)>")
    visible = tricks
    for code in (0x202E, 0x202C, 0x0, 0xD800, 0x2028):
        visible = visible.replace(chr(code), f"⟨U+{code:04X}⟩")
    choose(page, "Verdict", "refusal")
    rows(page).first.click()
    assert page.locator("#reader .prompt").text_content() == visible
    assert page.locator("#reader .answer").all_text_contents() == [visible, visible]
    assert page.locator("img, iframe, #reader script, #list script").count() == 0
    assert page.locator("script").count() == 2


def test_of_ten_thousand_transcripts_few_are_elements(visit, large):
    page = visit(large)
    assert count(page) == "10000 of 10000 transcripts"
    assert 10 < rows(page).count() < 40
    page.locator("#list").focus()
    page.keyboard.press("End")
    assert current(page) == 9999
    assert rows(page).last.get_attribute("aria-rowindex") == "10001"
    assert rows(page).count() < 40
    page.locator("#list").evaluate("e => { e.scrollTop = e.scrollHeight / 2 }")
    middle = page.locator("#list [role=row][data-at='5000']")
    middle.wait_for()
    assert rows(page).count() < 40
    page.fill("#search", "process 4321 ")
    assert count(page) == "2 of 10000 transcripts"
    assert rows(page).count() == 2
    assert page.evaluate("document.querySelectorAll('*').length") < 3000


def test_without_scripts_a_sample_is_there(visit, folder):
    page = visit(folder, java_script_enabled=False)
    assert page.get_by_text("This browser runs no script").is_visible()
    assert page.locator(".exhibit").count() > 3
    assert page.locator("#browser").is_hidden()
    assert page.locator("#theme").is_hidden()


def test_dark_follows_the_system_and_the_button(visit, folder):
    def paper(page):
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    dark, light = (visit(folder, color_scheme=scheme) for scheme in ("dark", "light"))
    assert paper(dark) != paper(light)
    button = light.get_by_role("button", name="Dark")
    button.click()
    assert paper(light) == paper(dark)
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert paper(light) != paper(dark)


def test_on_paper_what_is_open_is_printed_and_the_list_is_not(visit, folder):
    page = visit(folder, color_scheme="dark")
    rows(page).first.click()
    page.emulate_media(media="print")
    assert page.locator("#reader").is_visible()
    assert [page.locator(part).is_hidden() for part in ("#list", "#filters", "#theme", "nav")] == [True] * 4
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
