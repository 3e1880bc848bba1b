"""Signs that a guard collapses: each is said once, and only after it has held for a while."""

import pytest

from safereason import processes
from safereason.training.collapse import WINDOW, CollapseWatch

STEADY = {"unparsed": 0.1, "says_unsafe": 0.5, "completions/mean_length": 100.0, "loss": 0.0}


def watch_of(steps, watch=None, first=1) -> CollapseWatch:
    """A watch that was shown these logs, one a step."""
    watch = watch or CollapseWatch()
    for step, logs in enumerate(steps, start=first):
        watch.add(step, dict(logs))
    return watch


def signs(watch: CollapseWatch) -> list[tuple[int, str]]:
    return [(warning["step"], warning["sign"]) for warning in watch.warnings]


def test_ordinary_training_raises_none(capsys):
    lengths = (100, 140, 90, 60, 40, 30, 30, 60, 200, 120)
    shares = (0.9, 0.6, 0.3, 0.1, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0)  # a cold start cannot be read at first
    unsafe_shares = (None, 1.0, 1.0, 0.4, 0.5, 0.6, 1.0, 0.0, 0.5, 0.5)
    steps = [
        {**STEADY, "unparsed": u, "says_unsafe": s, "completions/mean_length": float(n)}
        for n, u, s in zip(lengths, shares, unsafe_shares, strict=True)
    ]
    watch = watch_of([{k: v for k, v in step.items() if v is not None} for step in steps])
    assert watch.warnings == []
    assert capsys.readouterr().err == ""


COLLAPSES = {
    "unparsed": ({"unparsed": 0.7}, 2 * WINDOW - 1, "58% of the verdicts cannot be read"),
    "all unsafe": ({"says_unsafe": 1.0}, 2 * WINDOW, "it says unsafe of 100% of the rows"),
    "all safe": ({"says_unsafe": 0.0}, 2 * WINDOW, "it says unsafe of 0% of the rows"),
    "shrunk": ({"completions/mean_length": 10.0}, 2 * WINDOW, "its answers shrank from 100 to 10 tokens"),
}


@pytest.mark.parametrize(("change", "step", "words"), COLLAPSES.values(), ids=COLLAPSES.keys())
def test_a_sign_that_lasts_is_said_once(change, step, words, capsys):
    watch = watch_of([STEADY] * WINDOW + [{**STEADY, **change}] * 3 * WINDOW)
    (warning,) = watch.warnings
    assert (warning["step"], warning["what"]) == (step, words)
    assert capsys.readouterr().err == f"guard: collapse? after step {step}: {words}\n"


@pytest.mark.parametrize("change", [{"unparsed": 1.0}, {"says_unsafe": 1.0}], ids=["unparsed", "one-sided"])
def test_nothing_is_said_before_the_whole_window_is_there(change):
    assert watch_of([{**STEADY, **change}] * (WINDOW - 1)).warnings == []
    assert len(watch_of([{**STEADY, **change}] * WINDOW).warnings) == 1


def test_one_bad_step_is_no_collapse():
    bad = {"unparsed": 1.0, "completions/mean_length": 1.0}
    assert watch_of([STEADY] * WINDOW + [bad] + [STEADY] * WINDOW).warnings == []


def test_verdicts_that_cannot_be_read_are_of_neither_side():
    unreadable = {"unparsed": 1.0, "completions/mean_length": 100.0}
    assert signs(watch_of([unreadable] * WINDOW)) == [(WINDOW, "unparsed")]


def test_a_sign_goes_by_the_mean_of_the_window():
    leaning = [{**STEADY, "says_unsafe": share} for share in (1.0, 1.0, 1.0, 0.9, 0.9)]
    assert signs(watch_of(leaning)) == [(WINDOW, "one-sided")]
    assert signs(watch_of([{**STEADY, "says_unsafe": 0.94}] * WINDOW)) == []


def test_all_signs_are_kept_each_with_its_step():
    steps = [STEADY] * WINDOW + [{**STEADY, "says_unsafe": 1.0}] * WINDOW
    steps += [{**STEADY, "says_unsafe": 1.0, "unparsed": 1.0}] * WINDOW
    assert [sign for _, sign in signs(watch_of(steps))] == ["one-sided", "unparsed"]


@pytest.mark.parametrize("cut", range(1, 3 * WINDOW))
def test_a_resumed_training_warns_as_one_that_was_not_cut(cut, capsys):
    steps = [STEADY] * WINDOW + [{**STEADY, "completions/mean_length": 10.0}] * WINDOW
    steps += [{**STEADY, "unparsed": 0.9, "completions/mean_length": 10.0}] * WINDOW
    whole = watch_of(steps)
    stderr = capsys.readouterr().err
    records = [{"step": n, **logs} for n, logs in enumerate(steps[:cut], start=1)]
    resumed = watch_of(steps[cut:], CollapseWatch(records), first=cut + 1)
    assert resumed.warnings == whole.warnings
    assert len(whole.warnings) == 2
    assert stderr.endswith(capsys.readouterr().err)


def test_another_process_than_the_first_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(processes, "is_main", lambda: False)
    assert len(watch_of([{**STEADY, "unparsed": 1.0}] * WINDOW).warnings) == 1
    assert capsys.readouterr().err == ""
