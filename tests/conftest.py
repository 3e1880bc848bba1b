"""Fixtures every test may use."""

import os
import signal
import time
from pathlib import Path

# Before what reads them when it is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("SAFEREASON_PATIENCE", "1")  # with servers that are down on purpose
os.environ.setdefault("NUMBA_OPT", "0")  # UMAP compiles for longer than it works here

import micro
import pytest
from hypothesis import settings

# A busy machine is no failure: no example is timed.
settings.register_profile("safereason", deadline=None)
settings.load_profile("safereason")

# The suite ignores these where a shell started it in the background or `nohup` did; programs under test would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

LONGEST = (
    "test_guard_demo.py",
    "test_launch.py",
    "test_cli_guard_bulk.py",
    "test_architectures.py",
    "test_campaign.py",
    "test_demo.py",
    "test_two_processes.py",
    "test_own_code.py",
    "test_stage_guard.py",
    "test_resume.py",
    "test_stage_verl.py",
    "test_stage_rainbow.py",
)
"""Files that take half a minute or more, the longest first. A worker takes a file whole, so none takes over five."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first, lest one worker is left alone with them at the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says in one line that the checks of a GPU were skipped, whichever process skipped them."""
    reports = terminalreporter.stats.get("skipped", ())
    skipped = [report for report in reports if isinstance(report, pytest.TestReport) and "gpu" in report.keywords]
    reasons = sorted({report.longrepr[2].removeprefix("Skipped: ") for report in skipped})
    if skipped:
        terminalreporter.write_line(f"{'; '.join(reasons)}: {len(skipped)} GPU tests skipped")


@pytest.fixture(scope="session")
def micro_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the micro causal model."""
    return micro.save_model(tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="session")
def micro_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the micro reward model."""
    return micro.save_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between the tries of a failed request take a fiftieth of their time."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 50))


@pytest.fixture(scope="session")
def data_home() -> Path:
    """Folder of the public benchmark files, or the test is skipped and says so."""
    home = os.environ.get("SAFEREASON_DATA_HOME")
    if not home:
        pytest.skip("SAFEREASON_DATA_HOME is not set: the public benchmark files are not at hand")
    return Path(home)
