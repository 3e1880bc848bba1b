"""What a long stage says while it works: on stderr, and only there."""

import io
import re
import sys

import pytest

from safereason import console


class Terminal(io.StringIO):
    """A stderr that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_away_from_a_terminal_the_end_is_one_plain_line_on_stderr(capsys: pytest.CaptureFixture[str]):
    with console.progress("completions", 3) as advance:
        for _ in range(3):
            advance("loss 0.5")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"completions: 3/3 after \d+ s  loss 0\.5\n", err)


def test_lines_come_between_once_enough_time_has_passed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    with console.progress("steps", 3) as advance:
        for number in range(3):
            advance(f"step {number}")
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"after \d+ s", "…", line) for line in lines] == [
        "steps: 1/3 …  step 0",
        "steps: 2/3 …  step 1",
        "steps: 3/3 …  step 2",
    ]


def test_what_was_done_before_is_counted(capsys: pytest.CaptureFixture[str]):
    with console.progress("verdicts", 3, done=2) as advance:
        advance("")
    assert re.fullmatch(r"verdicts: 3/3 after \d+ s\n", capsys.readouterr().err)


def test_nothing_is_said_where_nothing_is_left(capsys: pytest.CaptureFixture[str]):
    with console.progress("verdicts", 3, done=3):
        pass
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with console.progress("completions", 4, done=1) as advance:
        advance("loss 0.5")
        advance("loss 0.25")
    last = [line for line in terminal.getvalue().splitlines() if "completions" in line][-1]
    assert "3/4" in last
    assert "loss 0.25" in last
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_an_error_passes_through(monkeypatch: pytest.MonkeyPatch, terminal: bool):
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    with pytest.raises(KeyError, match="inside"), console.progress("steps", 2):
        raise KeyError("inside")


def test_a_line_goes_to_stderr(capsys: pytest.CaptureFixture[str]):
    console.say("loading")
    assert capsys.readouterr() == ("", "loading\n")


@pytest.mark.parametrize("terminal", [False, True])
def test_units_without_a_known_end_are_counted(monkeypatch: pytest.MonkeyPatch, terminal: bool):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress("rows", None, done=1) as advance:
        advance("")
    last = [line for line in stream.getvalue().splitlines() if "rows" in line][-1]
    assert "2/?" in last if terminal else re.fullmatch(r"rows: 2 after \d+ s", last)


def test_searches_that_are_under_way_at_once_keep_their_own_lines(capsys: pytest.CaptureFixture[str]):
    with console.searches("behavior", 3, 1, "loss") as watch:
        watch.step("a", 1, 0.5, 3, "x")
        watch.step("b", 4, None, 7, "y")
        watch.end("a")
        watch.end("b")
    assert capsys.readouterr().err.splitlines() == [
        "behavior 2/3: a: step 1, loss 0.5, 3 queries",
        "behavior 3/3: b: step 4, loss –, 7 queries",
    ]


def test_a_table_has_a_row_for_each_search(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with console.searches("behavior", 3, 1, "loss") as watch:
        watch.step("first", 1, 0.5, 3, "x")
        watch.step("second", 4, None, 7, "y")
        watch.step("first", 2, 0.25, 6, "z")
        watch.end("second")
    last = terminal.getvalue().rpartition("2 of 3 done")[2]
    assert re.search(r"second +│ 4 +│ – +│ 7 +│ y", last)
    assert re.search(r"first +│ 2 +│ 0\.25 +│ 6 +│ z", last)
