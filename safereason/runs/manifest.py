"""What made a run: versions, command, code revision, inputs."""

import hashlib
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import safereason
from safereason.errors import HIDDEN, redacted

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "vllm", "pydantic")


def describe() -> dict[str, Any]:
    """Versions, command line without secrets, and git revision of this process, without importing anything heavy."""
    return {
        "safereason": safereason.__version__,
        "python": sys.version.split()[0],
        "versions": {name: version for name in PACKAGES if (version := installed(name))},
        "argv": [redacted(argument) for argument in sys.argv],
        "git": git_revision(),
    }


def going_on() -> str:
    """What a person does to go on with an incomplete run: the command line of this process, to resume.

    What asked from Python has no command line; a secret in it is not shown, and has to be put back.
    """
    program, *arguments = sys.argv
    place = Path(program)
    is_ours = place.stem == "safereason" or (place.stem, place.parent.name) == ("__main__", "safereason")
    if not is_ours:
        return "--resume asks again"
    left = [argument for argument in arguments if argument not in ("--resume", "--overwrite")]
    resumes = [] if left[:1] == ["run"] else ["--resume"]  # which resumes by itself
    line = shlex.join(["safereason", *left, *resumes])
    shown = redacted(line)
    return f"`{shown}` asks again" + ("" if shown == line else f", once you put back what is {HIDDEN}")


def installed(package: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Revision of the checkout the package runs from, with `-dirty` where it was changed; None outside one."""
    here = Path(safereason.__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def sha256(path: Path) -> str:
    """Hash of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
