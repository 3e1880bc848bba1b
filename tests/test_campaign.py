"""The short form of `make campaign`: a few kills, damaged inputs, requests, outages and races, and none goes wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.slow
def test_nothing_goes_wrong(tmp_path: Path):
    command = [sys.executable, "-m", "campaign", "--short", "--minutes", "10", "--keep", str(tmp_path / "keep")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS), str(TESTS.parent)))}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}"
    assert "more were planned" not in done.stdout
