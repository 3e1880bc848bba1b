"""Frames: prompts with a slot for the behavior, read from text files."""

from pathlib import Path

from safereason.errors import InputError
from safereason.files import read_text
from safereason.text.template import filled

BEHAVIOR_SLOT = "{behavior}"
"""Slot of the behavior's own prompt."""
PROMPTS_FOLDER = Path(__file__).parent / "prompts"
"""Folder of the prompts that this package ships."""
_SEPARATOR = "\n===\n"


def fill_frame(frame: str, behavior: str) -> str:
    """The frame with the behavior in its slot."""
    return filled(frame, {BEHAVIOR_SLOT: behavior})


def read_frames(path: str | Path) -> list[str]:
    """The frames of a text file. Lines of `===` separate them, and each has one `{behavior}`.

    Raises:
        InputError: The file cannot be read, or a frame has no slot or several.
    """
    frames = [frame.strip() for frame in read_text(Path(path)).split(_SEPARATOR)]
    for number, frame in enumerate(frames, start=1):
        # Genetic operators split a frame at its only slot.
        count = frame.count(BEHAVIOR_SLOT)
        if count != 1:
            raise InputError(f"{path}: prompt {number} holds {BEHAVIOR_SLOT} {count} times; write it once in each")
    return frames
