"""The most memory that a call held at once, counted and not timed: it is the same on every machine."""

import tracemalloc
from collections.abc import Callable


def peak(call: Callable[[], object]) -> int:
    """Bytes that Python and NumPy allocated at most during the call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
