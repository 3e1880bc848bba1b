"""What is printed: escaped, aligned, and one JSON document."""

import json

from hypothesis import given
from hypothesis import strategies as st

from safereason.cli import output


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1))
def test_a_table_has_one_line_a_row(rows):
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as out:
        output.print_table(("one", "two"), [(a.replace("\n", " "), b.replace("\n", " ")) for a, b in rows])
    assert out.getvalue().count("\n") == len(rows) + 1


def test_columns_are_aligned(capsys):
    output.print_table(("name", "n"), [("long name", 1), ("x", None)])
    assert capsys.readouterr().out == "name       n\nlong name  1\nx\n"


def test_a_nested_mapping_becomes_sections(capsys):
    output.print_mapping({"run": "a", "by_kind": {"harmful": 3, "ratio": 0.5, "none": None}, "long name": True})
    assert (
        capsys.readouterr().out
        == "run        a\nlong name  true\nby_kind\n  harmful  3\n  ratio    0.5\n  none     -\n"
    )


def test_a_figure_shows_its_interval_or_that_it_is_unscored():
    figure = {"value": 0.5, "low": 0.25, "high": 0.75}
    assert output.interval(figure) == "0.500 [0.250, 0.750]"
    assert output.interval({**figure, "low": None, "high": None}) == "0.500"
    assert output.interval({"value": None, "low": None, "high": None}) == "unscored"


def test_libraries_cannot_write_to_stdout_while_a_stage_works(capsys):
    with output.results_only():
        print("noise")
    output.print_json({"ü": 1})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"ü": 1}
    assert err == "noise\n"
