"""From an exception to one line on stderr and an exit code.

0 done · 1 failed or incomplete · 2 usage, recipe or input error · 3 a bar was not met · 130 interrupted, by Ctrl-C;
143 and 129 ended by SIGTERM and SIGHUP.
"""

import contextlib
import errno
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from typer.exceptions import Abort, TyperException

from safereason import processes
from safereason.cli import signals
from safereason.cli.output import visible
from safereason.errors import SafeReasonError, redacted
from safereason.runs import private

LOGGER = logging.getLogger("safereason")
INTERRUPTED = 130
NO_PLACE = (errno.ENAMETOOLONG, errno.ELOOP)
"""What the system says of a name that no file can have."""
SMALLER = "take fewer tokens or rows at a time, or a smaller model; what was finished is kept, and --resume goes on"
GRACE = 3.0
"""Seconds in which the launcher ends the other processes once the first one has failed."""


def guarded(call: Callable[[], Any]) -> int:
    """Runs the command line and gives its exit code; whatever goes wrong ends as one line on stderr."""
    try:
        signals.take()
        private.apply()
        code = call()
        sys.stdout.flush()
        if code == INTERRUPTED:  # typer turns Ctrl-C into this code by itself
            return _interrupted()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, Abort):
        return _interrupted()
    except BrokenPipeError:  # the reader has what it wants, as in `| head`
        return 1
    except Exception as error:
        if LOGGER.isEnabledFor(logging.DEBUG) and not isinstance(error, TyperException):
            print(redacted("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        message, code = _describe(error)
        _say(message)
        return code
    finally:
        signals.release()
        _settle_stdout()


def _interrupted() -> int:
    number = signals.last()
    if number is None:
        _say("interrupted")
        return INTERRUPTED
    _say(f"interrupted by {signals.name_of(number)}")
    return 128 + number


def _describe(error: Exception) -> tuple[str, int]:
    match error:
        case SafeReasonError():
            return f"error: {_one_line(error)}", error.exit_code
        case TyperException():
            return _usage(error), error.exit_code
        case PermissionError() | NotADirectoryError() | IsADirectoryError():
            return f"error: {error.filename}: {_reason(error)}; choose a place you may write to", 2
        case OSError() if error.errno in NO_PLACE:
            return f"error: {str(error.filename)[:80]}…: {_reason(error)}; choose another name", 2
        case OSError() if error.strerror:
            return f"error: {error.filename or 'output'}: {_reason(error)}", 1
        case RecursionError():
            return "error: an input is nested too deeply to be worked with; flatten it", 2
        case UnicodeEncodeError():
            return "error: a text holds half of a surrogate pair, which no file can hold; mend the input", 2
    if _is_out_of_memory(error):
        return f"error: out of memory ({_one_line(error)[:160] or 'no more can be had'}); {SMALLER}", 1
    return f"error: unexpected {type(error).__name__}: {_one_line(error)}; -v shows the traceback", 1


def _is_out_of_memory(error: Exception) -> bool:
    """Whether this machine's memory or its GPU's is full; torch is not imported to tell."""
    is_torchs = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or is_torchs


def _usage(error: TyperException) -> str:
    message = error.format_message()
    if "\n" in message:  # a group without a command shows its help
        return message
    context = getattr(error, "ctx", None)
    hint = f"; see `{context.command_path} --help`" if context else ""
    return f"error: {message.rstrip('.')}{hint}"


def _reason(error: OSError) -> str:
    return str(error.strerror).lower()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _say(line: str) -> None:
    signals.release()  # the launcher ends the others with SIGTERM, which is no news then
    if not processes.is_main():
        time.sleep(GRACE)  # what failed in all of them is said by the first one
        line = f"process {processes.index()}: {line}"
    with contextlib.suppress(OSError):
        print(visible(redacted(line)), file=sys.stderr, flush=True)


def _settle_stdout() -> None:
    """Where stdout cannot take the rest, points it at nothing, lest the interpreter's own last flush fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
