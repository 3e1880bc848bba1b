"""Fixtures of the checks of one device, their skip where there is none, and the table of what they measured."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gpu_models import Models
from gpu_trial import Figures

NO_DEVICE = "no CUDA device"
NOT_ALONE = "a GPU is checked by one process (make test-gpu)"
FIGURES = pytest.StashKey[Figures]()
FOLDER = "SAFEREASON_FIGURES"
"""Environment variable with the folder that the figures of a GPU are written to."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the checks on a GPU where there is none, and where several processes would fill its memory."""
    reason = ""
    if not torch.cuda.is_available():
        reason = NO_DEVICE
    elif "PYTEST_XDIST_WORKER" in os.environ:
        reason = NOT_ALONE
    if not reason:
        return
    for item in items:
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Prints the figures of a GPU as a table."""
    figures = config.stash.get(FIGURES, None)
    if figures is not None and figures.rows:
        terminalreporter.write_line(figures.table())


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What libraries keep for a whole process is as in a process of its own, and memory is given back."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Models whose random weights the GPU draws, where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Models(tmp_path_factory.mktemp("models"), device)


@pytest.fixture
def gpu_figures(pytestconfig: pytest.Config) -> Iterator[Figures]:
    """The figures of the session, written after each check: a session that is cut off leaves those of its beginning."""
    figures = pytestconfig.stash.setdefault(FIGURES, Figures())
    yield figures
    if folder := os.environ.get(FOLDER):
        figures.write(Path(folder), "cuda")
