"""`safereason doctor`."""

import json
from importlib import metadata

from program import safereason

import safereason as package


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
