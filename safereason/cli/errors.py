"""The end of a command: an exception becomes one line on stderr and an exit code.

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

from typer.exceptions import Abort, TyperException

from safereason import processes
from safereason.cli import signals
from safereason.cli.child import ChildEnded
from safereason.engines.memory import held_by_others, is_device_busy, is_out_of_memory
from safereason.errors import SafeReasonError, first_line, interruption_behind, message_of, redacted
from safereason.runs import private
from safereason.text.visible import visible

LOGGER = logging.getLogger("safereason")
# 128 and the number of SIGINT, as shells count it.
INTERRUPTED = 130
# The system's errors about a name that no file can have.
IMPOSSIBLE_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
OUT_OF_MEMORY_ADVICE = (
    "take fewer tokens or rows at a time, or a smaller model; what was finished is kept, and --resume goes on"
)
BUSY_ADVICE = "wait for the process that has it, or name another GPU in CUDA_VISIBLE_DEVICES"
# Seconds in which the launcher ends the other processes once the first one has failed.
GRACE = 3.0


def guarded(call: Callable[[], object]) -> int:
    """The exit code of the command line that `call` runs; every error is printed as one line on stderr."""
    try:
        signals.take()
        private.apply()
        code = call()
        # What is left in the buffer may not fit on the disk. That error has to be caught here, not at the exit.
        sys.stdout.flush()
        # Typer turns Ctrl-C into this code by itself.
        if code == INTERRUPTED:
            return _end_of_interrupted()
        if isinstance(code, int):
            return code
        return 0
    except (KeyboardInterrupt, Abort):
        return _end_of_interrupted()
    except ChildEnded as ended:
        # Its last line is enough: one of ours would say the same again.
        return ended.exit_code
    except BrokenPipeError:
        # The reader has all that it wants, as in `| head`: this needs no message.
        return 1
    except Exception as error:
        # A usage error is about the command line, so its traceback would only show Typer's own code.
        if LOGGER.isEnabledFor(logging.DEBUG) and not isinstance(error, TyperException):
            print(redacted("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        # A signal ended the command, whatever failed on the way out.
        if signals.last() is not None or interruption_behind(error) is not None:
            return _end_of_interrupted()
        message, exit_code = _message_and_exit_code(error)
        _print_last_line(message)
        return exit_code
    finally:
        signals.release()
        _discard_unwritten_stdout()


def _end_of_interrupted() -> int:
    """The exit code of a command that a signal ended, which is printed."""
    number = signals.last()
    line, exit_code = "interrupted", INTERRUPTED
    if number is not None:
        line, exit_code = f"interrupted by {signals.name_of(number)}", 128 + number
    # A launcher ends its processes by a signal, also where one of them failed. It knows which of the two it was, and
    # says so.
    if not processes.is_launched():
        _print_last_line(line)
    return exit_code


def _message_and_exit_code(error: Exception) -> tuple[str, int]:
    # The special cases of OSError come before the general one, which would match them too.
    match error:
        case SafeReasonError():
            return f"error: {message_of(error)}", error.exit_code
        case TyperException():
            return _usage_message(error), error.exit_code
        case PermissionError() | NotADirectoryError() | IsADirectoryError():
            return f"error: {error.filename}: {_reason(error)}; choose a place you may write to", 2
        case OSError() if error.errno in IMPOSSIBLE_NAME:
            return f"error: {str(error.filename)[:80]}…: {_reason(error)}; choose another name", 2
        case OSError() if error.strerror:
            return f"error: {error.filename or 'output'}: {_reason(error)}", 1
        case RecursionError():
            return "error: an input is nested too deeply to be worked with; flatten it", 2
        case UnicodeEncodeError():
            return "error: a text holds half of a surrogate pair, which no file can hold; mend the input", 2
    if is_out_of_memory(error):
        advice = held_by_others() or OUT_OF_MEMORY_ADVICE
        return f"error: out of memory ({message_of(error)[:160] or 'no more can be had'}); {advice}", 1
    if is_device_busy(error):
        return f"error: the GPU is busy ({first_line(error)[:160]}); {BUSY_ADVICE}", 1
    return f"error: unexpected {type(error).__name__}: {message_of(error)}; -v shows the traceback", 1


def _usage_message(error: TyperException) -> str:
    message = error.format_message()
    # A group without a command raises its help, which has several lines, as its message.
    if "\n" in message:
        return message
    line = f"error: {message.rstrip('.')}"
    context = getattr(error, "ctx", None)
    if context:
        line += f"; see `{context.command_path} --help`"
    return line


def _reason(error: OSError) -> str:
    return str(error.strerror).lower()


def _print_last_line(line: str) -> None:
    """Prints the command's last line. Of several processes that fail alike, only the first one prints."""
    # From here on nothing is left to be done, so that a signal may end the process at once.
    signals.release()
    if not processes.is_main():
        # An error that all processes share ends the first one now, and the launcher ends this one while it sleeps.
        time.sleep(GRACE)
        line = f"process {processes.index()}: {line}"
    # stderr may be closed as well; then the exit code has to be enough.
    with contextlib.suppress(OSError):
        print(visible(redacted(line)), file=sys.stderr, flush=True)


def _discard_unwritten_stdout() -> None:
    """Drops output that stdout cannot take, so that the interpreter's own flush at the exit does not fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
