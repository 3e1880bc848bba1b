"""What made a run."""

import hashlib
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import pytest

import safereason
from safereason.runs import manifest


def test_versions_and_command_are_those_of_this_process():
    described = manifest.describe()
    assert described["safereason"] == safereason.__version__
    assert described["argv"] == sys.argv
    assert described["python"] == ".".join(map(str, sys.version_info[:3]))
    assert described["versions"]["torch"] == metadata.version("torch")
    assert "no-such-package" not in described["versions"]


def test_a_package_that_is_not_installed_has_no_version():
    assert manifest.installed("no-such-package") is None
    assert manifest.installed("pydantic") == metadata.version("pydantic")


def test_outside_a_checkout_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(safereason, "__file__", str(tmp_path / "safereason" / "__init__.py"))
    assert manifest.git_revision() is None


def test_without_git_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert manifest.git_revision() is None


def test_the_command_that_goes_on_says_where_a_secret_has_to_be_put_back(monkeypatch: pytest.MonkeyPatch):
    words = ["/x/bin/safereason", "eval", "xstest", "--base-url", "http://host/v1", "--overwrite"]
    monkeypatch.setattr(sys, "argv", words)
    assert manifest.going_on() == "`safereason eval xstest --base-url http://host/v1 --resume` asks again"
    monkeypatch.setattr(sys, "argv", [*words[:4], "http://host/v1?api_key=planted-secret"])
    text = manifest.going_on()
    assert "planted" not in text
    assert text.endswith("` asks again, once you put back what is <hidden>")


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 7])
def test_a_file_is_hashed_with_sha256(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch):
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "file").write_bytes(content[:size])
    expected = hashlib.sha256(content[:size]).hexdigest()
    assert manifest.sha256(tmp_path / "file") == expected
    monkeypatch.delattr(hashlib, "file_digest", raising=False)
    assert manifest.sha256(tmp_path / "file") == expected


def test_times_are_in_utc_and_sort_as_text():
    moment = datetime.fromisoformat(manifest.now())
    assert moment.tzinfo == timezone.utc
    assert moment.microsecond == 0
    assert manifest.now() >= moment.isoformat()
