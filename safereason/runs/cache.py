"""The cache folder: converted models, downloads and paid verdicts, shared by all runs."""

import os
from pathlib import Path


def cache_home() -> Path:
    """The folder `$SAFEREASON_CACHE`, or `~/.cache/safereason`."""
    return Path(os.environ.get("SAFEREASON_CACHE") or Path.home() / ".cache" / "safereason")
