"""The package's errors, the hints in them, and the removal of secrets from texts.

Every message says what was wrong, where, and what to do; it fits on one line. None shows a secret: the console, the
error printer, the logs and the manifest all pass their texts through `redacted`.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterable
from difflib import get_close_matches

# The replacement of a secret.
HIDDEN = "<hidden>"
# A shorter value of a variable is no secret: local servers are given `none` or `EMPTY` as a key, and hiding such a word
# would garble messages.
SHORTEST_SECRET = 8

_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:APIKEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD)S?$")
# The part of an address before the last `@` of its host. A password may hold nearly any character, a further `@` too.
# The bounded repetitions keep the search linear in a text that holds many addresses.
_CREDENTIALS = re.compile(
    r"(?<=://)(?:[^\s/'\"@:]{0,99}:[^\s'\"@]{0,299}|[^\s/?#'\"@]{0,299})@(?:[^\s/?#'\"@]{0,99}@)*"
)
# In each pattern, the group is kept and the rest is hidden.
_HIDDEN_PARTS = (
    re.compile(
        r"((?<![a-z])(?:api[-_]?key|access[-_]?token|auth[-_]?token|secret|password|passwd)=|[?&](?:key|token|sig|code)=)"
        r"[^\s&#'\"]+",
        re.IGNORECASE,
    ),
    re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:bearer |basic )?)[^\s'\",]+", re.IGNORECASE),
    re.compile(r"(bearer )[A-Za-z0-9._~+/=-]{12,}", re.IGNORECASE),
    # The HTTP library refuses a header with its value in the message.
    re.compile(r"(illegal header value )(?:b?'[^']*'|b?\"[^\"]*\"|\S+)", re.IGNORECASE),
    re.compile(r"()\b(?:sk-|xai-|glpat-|xox[abp]-|gsk_|gh[opsu]_|github_pat_|hf_)[A-Za-z0-9_-]{8,}"),
)

# Secrets that are not the value of any variable.
_registered_secrets: set[str] = set()


def keep_secret(value: str) -> None:
    """Makes `redacted` hide a text from now on, such as a password in the form in which a server may repeat it."""
    if len(value) >= SHORTEST_SECRET:
        _registered_secrets.add(value)


class SafeReasonError(Exception):
    """The base of every error that this package raises on purpose, with the exit code of the command line."""

    exit_code = 1


class InputError(SafeReasonError):
    """Usage, a recipe, an input file or a model name is wrong: nothing was started."""

    exit_code = 2


class StageFailed(SafeReasonError):
    """A stage started and could not finish, or its result is incomplete."""

    exit_code = 1


class BarNotMet(SafeReasonError):
    """A bar (`--fail-under`, `--fail-over`) was not met."""

    exit_code = 3


def interruption_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interruption that an error came of, or None; an interruption itself is returned as it is.

    What is done on the way out may fail in turn, such as a message to a process that has ended already.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def one_line(error: BaseException) -> str:
    """A library's error by its class and message, without secrets, on one line of at most 300 characters."""
    return " ".join(redacted(f"{type(error).__name__}: {error}").split())[:300]


def message_of(error: BaseException) -> str:
    """The message of an error on one line, as it is."""
    return " ".join(str(error).split())


def first_line(error: BaseException) -> str:
    """The first line of a library's message, whose rest is advice for its own users; without one, the class's name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def without_credentials(text: str) -> str:
    """The text with `user:password@` taken out of every address in it, and keys out of its parameters.

    Unlike `redacted` it does not depend on the environment, so that a run's identity may hold its result.
    """
    return _HIDDEN_PARTS[0].sub(rf"\g<1>{HIDDEN}", _CREDENTIALS.sub("", text))


def redacted(text: str) -> str:
    """The text without anything that may be a secret.

    It hides credentials in addresses, values of parameters such as `api_key=`, authorization headers, tokens in the
    providers' forms, the values of environment variables with names of secrets, and the texts of `keep_secret`.
    """
    text = without_credentials(text)
    for value in _secret_values():
        text = text.replace(value, HIDDEN)
    for pattern in _HIDDEN_PARTS:
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return text


def _secret_values() -> list[str]:
    """All texts that no message may hold, the longest first: a shorter one may be a part of a longer one."""
    values = set(_registered_secrets)
    for name, value in os.environ.items():
        if not _SECRET_VARIABLE.search(name.upper()):
            continue
        secret = value.strip()
        # A variable such as `SSL_KEY` may name a file. Its path is no secret, and messages need it.
        if len(secret) >= SHORTEST_SECRET and not secret.startswith("/"):
            values.add(secret)
    return sorted(values, key=len, reverse=True)


def command(*words: object) -> str:
    """A command line of this program for a message, quoted for a shell and in backticks."""
    return f"`safereason {shlex.join(map(str, words))}`"


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "", show: Callable[[str], str] = str) -> str:
    """The hint `did you mean NAME?` at the known word that is spelled most like a word that is not known.

    Args:
        word: The word that is not known.
        known: All words that are.
        otherwise: The hint where none of them is like it.
        show: The known word as people write it, where it is compared in another form.
    """
    close = get_close_matches(word, list(known), n=1)
    if not close:
        return otherwise
    return f"did you mean {show(close[0])}?"
