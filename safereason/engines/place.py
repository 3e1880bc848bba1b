"""The GPUs of one model among those that a process sees, and the variable that shows GPUs to a process."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Place:
    """The GPUs that a model lies on."""

    gpus: tuple[int, ...]
    """Their indices among those that this process sees; several hold the model together."""
    share: float
    """Share of each GPU's memory that vLLM may take, from 0 to 1."""


def names_of(gpus: Sequence[int]) -> str:
    """The value of `CUDA_VISIBLE_DEVICES` that shows a process these of the GPUs that this one sees."""
    names = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    if not names:
        names = list(map(str, range(max(gpus) + 1)))
    return ",".join(names[gpu] for gpu in gpus)


@contextmanager
def shown_to_children(place: Place | None) -> Iterator[None]:
    """Context in which new processes see the GPUs of a place alone, as vLLM takes the first that its processes see."""
    if place is None:
        yield
        return
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = names_of(place.gpus)
    try:
        yield
    finally:
        del os.environ[VISIBLE]
        if before is not None:
            os.environ[VISIBLE] = before
