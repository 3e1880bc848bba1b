"""Frames: prompts with a placeholder for the behavior, read from text files."""

from pathlib import Path

from safereason.errors import InputError
from safereason.files import read_text

BEHAVIOR_PLACEHOLDER = "{behavior}"
"""Placeholder of the behavior's own prompt."""
PROMPTS = Path(__file__).parent / "prompts"
"""Folder of the prompts that this package ships."""
_SEPARATOR = "\n===\n"


def fill_frame(frame: str, behavior: str) -> str:
    """The frame with the behavior in place of its placeholder."""
    # No `str.format`: frames are a person's text, which may have other braces in it.
    return frame.replace(BEHAVIOR_PLACEHOLDER, behavior)


def read_frames(path: str | Path) -> list[str]:
    """The frames of a text file. Lines of `===` separate them, and each has one `{behavior}`.

    Raises:
        InputError: The file cannot be read, or a frame has no placeholder or several.
    """
    frames = [frame.strip() for frame in read_text(Path(path)).split(_SEPARATOR)]
    for number, frame in enumerate(frames, start=1):
        # Genetic operators split a frame at its only placeholder.
        count = frame.count(BEHAVIOR_PLACEHOLDER)
        if count != 1:
            raise InputError(
                f"{path}: prompt {number} holds {BEHAVIOR_PLACEHOLDER} {count} times; write it once in each"
            )
    return frames
