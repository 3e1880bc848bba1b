"""Constants of published Python files, read and never run."""

import sys
from pathlib import Path

import pytest

from safereason.errors import InputError
from safereason.text import published


def test_a_constant_is_read_without_running_the_file(tmp_path: Path):
    file = tmp_path / "theirs.py"
    file.write_text(
        "import nothing_of_this_name\nraise SystemExit\nA = {'prompt': 'x' 'y'}\nclass C:\n    B = [1]\n    A = 2\n"
    )
    assert published.read(file, "A", dict) == {"prompt": "xy"}
    assert published.read(file, "C.B", list) == [1]
    assert published.read(file, "C.A", int) == 2


@pytest.mark.parametrize("constant", ["B", "C.Z", "D.A", "made"])
def test_a_constant_that_is_not_there_or_not_written_out_is_refused(tmp_path: Path, constant: str):
    (tmp_path / "theirs.py").write_text("made = open('x')\nclass C:\n    A = 1\n")
    with pytest.raises(InputError, match=r"theirs\.py: .* cannot be read from it; get the file as it is published"):
        published.read(tmp_path / "theirs.py", constant, object)


def test_a_file_that_is_no_python_is_refused(tmp_path: Path):
    (tmp_path / "theirs.py").write_text("<html>")
    for name in ("theirs.py", "missing.py"):
        with pytest.raises(InputError, match="get the file as it is published"):
            published.read(tmp_path / name, "A", object)


def test_a_constant_of_another_type_is_refused(tmp_path: Path):
    (tmp_path / "theirs.py").write_text("A = ['x']\n")
    with pytest.raises(InputError, match="A is no str; get the file as it is published"):
        published.read(tmp_path / "theirs.py", "A", str)


def test_judgezoo_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "judgezoo"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('needs a package that is not there')\n")
    (package / "one.py").write_text("class One:\n    PROMPT = 'Ask {it}.'\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert published.judgezoo("one", "One.PROMPT", str) == "Ask {it}."
    assert "judgezoo" not in sys.modules


def test_without_judgezoo_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "judgezoo", None)
    with pytest.raises(InputError, match=r"not installed; run `pip install 'safereason\[judges\]'`") as caught:
        published.judgezoo("xstest", "XSTestJudge.OR_CLS_PROMPT", str)
    assert "\n" not in str(caught.value)
