"""What can go wrong, as the person at the terminal should read it.

Every message says what was wrong, where, and what to do; it fits on one line.
"""

import shlex


class SafeReasonError(Exception):
    """Base of every error this package raises on purpose. `exit_code` is what the command line ends with."""

    exit_code = 1


class InputError(SafeReasonError):
    """Usage, a recipe, an input file or a model name is wrong: nothing was started."""

    exit_code = 2


class StageFailed(SafeReasonError):
    """A stage started and could not finish, or finished incomplete."""

    exit_code = 1


class BarNotMet(SafeReasonError):
    """A bar (`--fail-under`, `--fail-over`) was not met."""

    exit_code = 3


def one_line(error: BaseException) -> str:
    """A library's error by its class and message, on one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def command(*words: object) -> str:
    """A command line of this program for a message, quoted for a shell and put between backticks."""
    return f"`safereason {shlex.join(map(str, words))}`"
