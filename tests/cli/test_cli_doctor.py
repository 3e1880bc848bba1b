"""`safereason doctor`."""

import json
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
from program import safereason

import safereason as package
from safereason.cli import doctor


def test_doctor_finds_versions_machine_and_folders(tmp_path):
    done = safereason("doctor", "--json", SAFEREASON_CACHE=str(tmp_path), SAFEREASON_DATA_HOME=str(tmp_path / "none"))
    report = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert report["versions"]["safereason"] == package.__version__
    assert report["versions"]["torch"] == metadata.version("torch")
    assert report["machine"]["cores"] >= 1
    assert report["folders"]["cache"] == str(tmp_path)
    assert report["folders"]["data home"].endswith("none: does not exist")
    assert report["embedded model"]["converted"] == "not yet: done at first use"


def test_doctor_names_every_extra_of_the_package():
    extras = set(metadata.metadata("safereason").get_all("Provides-Extra"))
    assert json.loads(safereason("doctor", "--json").stdout)["extras"].keys() == extras


def test_doctor_says_what_its_devices_cannot_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert doctor._devices() == "cpu (no CUDA device; Apple's GPU is not used)"
    gpus = [
        SimpleNamespace(name="Tesla T4", total_memory=15 * 2**30, major=7, minor=5),
        SimpleNamespace(name="A40", total_memory=45 * 2**30, major=8, minor=6),
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpus[index])
    assert doctor._devices() == "Tesla T4 (15.0 GiB, no bf16: precision fp32), A40 (45.0 GiB)"
