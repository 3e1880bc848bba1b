"""The origin of a run, for its manifest: versions, command, code revision, inputs."""

import hashlib
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import safereason
from safereason.errors import HIDDEN, redacted

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "vllm", "pydantic")


def describe() -> dict[str, object]:
    """Versions, command line without secrets, and git revision of this process, without importing anything heavy."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        # Importing torch or vllm for its version would take seconds.
        version = installed(name)
        if version is not None:
            versions[name] = version
    return {
        "safereason": safereason.__version__,
        "python": sys.version.split()[0],
        "versions": versions,
        "argv": [redacted(argument) for argument in sys.argv],
        "git": git_revision(),
    }


def going_on(what: str = "asks again") -> str:
    """The advice that resumes an incomplete run: the command line of this process, with `--resume`.

    A call from Python has no command line. A secret in it is not shown, and has to be put back.

    Args:
        what: What the command then does.
    """
    program, *arguments = sys.argv
    # Started as `safereason` or as `python -m safereason`.
    program_path = Path(program)
    is_module = program_path.stem == "__main__" and program_path.parent.name == "safereason"
    is_ours = program_path.stem == "safereason" or is_module
    if not is_ours:
        return f"--resume {what}"
    left = [argument for argument in arguments if argument not in ("--resume", "--overwrite")]
    # `safereason run` resumes by itself, and has no such option.
    if left[:1] != ["run"]:
        left.append("--resume")
    line = shlex.join(["safereason", *left])
    shown = redacted(line)
    if shown == line:
        return f"`{shown}` {what}"
    return f"`{shown}` {what}, once you put back what is {HIDDEN}"


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
        # In blocks, because a file of training rows may be larger than memory.
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
