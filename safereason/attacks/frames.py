"""Prompts with a place for the behavior, read from text files."""

from pathlib import Path

from safereason.errors import InputError
from safereason.files import read_text

SLOT = "{behavior}"
"""Where the behavior's own text goes."""
PROMPTS = Path(__file__).parent / "prompts"
"""Those that are shipped."""
_BETWEEN = "\n===\n"


def filled(frame: str, behavior: str) -> str:
    """The prompt that a frame makes of a behavior."""
    return frame.replace(SLOT, behavior)


def read_frames(path: str | Path) -> list[str]:
    """The frames of a text file, with lines of `===` between them; each holds `{behavior}` once.

    Raises:
        InputError: The file cannot be read, or one of its frames has no place for the behavior or several.
    """
    frames = [frame.strip() for frame in read_text(Path(path)).split(_BETWEEN)]
    for number, frame in enumerate(frames, start=1):
        if (count := frame.count(SLOT)) != 1:
            raise InputError(f"{path}: prompt {number} holds {SLOT} {count} times; write it once in each")
    return frames
