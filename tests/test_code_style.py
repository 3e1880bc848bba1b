"""The style figures, on small sources whose counts are known."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "code_style.py"
STYLE = runpy.run_path(str(SCRIPT))

FIRST = '''"""A module."""

from typing import Any


# Why the number is doubled.
def double(value: Any) -> int:
    text = "# this is no comment"
    return 2 * value  # [B]


class Shop:
    def name(self, long: bool) -> str:
        return "long" if long else "short"
'''
# `make lint` refuses the comments that keep the formatter off, so that the source has them under another name.
SECOND = """def double(values):
    return [2 * value for value in values]


async def halve(values):
    # FORMATTER: off
    kept = {value: value/2 for value in values if value}
    # FORMATTER: on
    return sum(kept[value] for value in kept)  # FORMATTER: skip
""".replace("FORMATTER", "fmt")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "first.py").write_text(FIRST)
    (tmp_path / "inner" / "second.py").write_text(SECOND)
    (tmp_path / "notes.txt").write_text("[x for x in y]")
    return tmp_path


def test_what_is_counted_is_what_is_there(folder):
    style = STYLE["measure"](sorted(folder.rglob("*.py")))
    # 16 lines of the two files are not blank, out of 23.
    assert style.comments == pytest.approx(100 * 5 / 16)
    assert style.comprehensions == pytest.approx(1000 * 3 / 16)
    assert style.conditionals == pytest.approx(1000 * 1 / 16)
    assert style.any_types == pytest.approx(1000 * 1 / 23)
    assert style.escapes == 2
    # `double` is in both files and `halve` in one; `Shop.name` is no function of the module.
    assert style.shared_names == pytest.approx(100 * 2 / 3)
    assert (style.median_lines, style.p90_lines, style.max_lines) == (2.5, 5, 5)


def test_the_table_has_a_row_a_measure_and_a_column_a_folder(folder):
    style = STYLE["measure"]([folder / "first.py"])
    lines = STYLE["table"]({"ours": style}).splitlines()
    assert len(lines) == 2 + len(STYLE["MEASURES"])
    width = 1 + 1 + len(STYLE["OTHERS"])
    assert [line.count(" | ") + 1 for line in lines if not line.startswith("|---")] == [width] * (len(lines) - 1)
    assert lines[0].startswith("| | ours | safereason before | nanochat |")
    assert lines[2].startswith("| function lines: median / p90 / max | 2.5 / 3 / 3 | 7 / 19 / 62 |")
    assert all(len(figures) == len(STYLE["MEASURES"]) for figures in STYLE["OTHERS"].values())


def test_a_goal_that_is_missed_is_named_and_ends_with_1(folder, capsys):
    assert STYLE["main"]([str(folder)]) == 0
    assert STYLE["main"]([str(folder), "--check"]) == 1
    stderr = capsys.readouterr().err
    assert f"{folder}: comprehensions per 1000 non-blank lines: 187.5, and at most 25 is the goal" in stderr
    assert f"{folder}: `fmt: skip` and `fmt: off`: 2.0, and at most 0 is the goal" in stderr
    assert "comments" not in stderr


def test_a_source_that_meets_the_goals_passes(tmp_path, capsys):
    (tmp_path / "plain.py").write_text("# A reason.\ndef double(value: int) -> int:\n    return 2 * value\n")
    assert STYLE["main"]([str(tmp_path), "--check"]) == 0
    assert capsys.readouterr().err == ""


def test_a_folder_without_functions_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        STYLE["main"]([str(tmp_path)])
    assert "no Python file with a function in it" in capsys.readouterr().err
