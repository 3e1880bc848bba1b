"""The examples for clusters: scripts that parse, commands that can be typed, and files that are there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from safereason.cli.app import app
from safereason.cli.groups import whole
from safereason.recipe.load import load

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
RAYJOB, CONTAINER = (EXAMPLES / name for name in ("classify-rayjob.yaml", "Containerfile"))
SCRIPTS = ("tars-1.5b.slurm", "tars-7b.slurm", "tars-released.slurm")
"""The scripts for SLURM; `test_paper_order.py` plays their commands."""


def test_the_command_of_the_rayjob_parses():
    words = shlex.split(yaml.safe_load(RAYJOB.read_text())["spec"]["entrypoint"])[1:]
    click_command, path = typer.main.get_command(app), []
    while hasattr(click_command, "commands"):
        path.append(words.pop(0))
        click_command = whole(click_command.commands[path[-1]])
    recipe = click_command.make_context(" ".join(path), words).params.get("recipe")
    assert recipe is None or load(recipe)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_slurm_script_is_a_bash_script_and_says_what_it_needs(name):
    script = EXAMPLES / name
    assert subprocess.run(["bash", "-n", script], capture_output=True, check=False).stderr == b""
    text = script.read_text()
    gpus = re.search(r"^#SBATCH --gpus-per-node=(\d+)$", text, re.M)[1]
    assert f"--gpus {gpus}x48GB" in text
    assert f"sbatch docs/examples/{name}" in text
    # How many processes train, and how, is the program's own choice.
    assert "--launch" not in text


def test_no_script_is_left_out_here():
    assert sorted(path.name for path in EXAMPLES.glob("*.slurm")) == sorted(SCRIPTS)


def containers_of(groups: list[dict]) -> list[dict]:
    """The containers of a Ray cluster's groups."""
    containers = []
    for group in groups:
        containers += group["template"]["spec"]["containers"]
    return containers


def test_the_rayjob_is_one_of_kuberays():
    job = yaml.safe_load(RAYJOB.read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    workers = cluster["workerGroupSpecs"]
    groups = [cluster["headGroupSpec"], *workers]
    images = {container["image"] for container in containers_of(groups)}
    assert len(images) == 1
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in workers)
    for container in containers_of(workers):
        assert int(container["resources"]["limits"]["nvidia.com/gpu"]) >= 1


def test_the_containerfile_names_requirements_that_are_there():
    lines = CONTAINER.read_text().replace("\\\n", " ").splitlines()
    words = {line.split()[0] for line in lines if line and not line.startswith("#")}
    assert words <= {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "VOLUME", "ENTRYPOINT"}
    named = re.findall(r"-r (\S+)", CONTAINER.read_text())
    assert named
    assert all((ROOT / name).is_file() for name in named)
    copied = [line.split()[1] for line in lines if line.startswith("COPY")]
    assert all((ROOT / name).exists() for name in copied)
