"""What can go wrong, as the person at the terminal should read it.

Every message says what was wrong, where, and what to do; it fits on one line. None shows a secret: `redacted` is what
the console, the error printer, the logs and the manifest have in common.
"""

import os
import re
import shlex

HIDDEN = "<hidden>"
"""What stands in place of a secret."""
SHORTEST_SECRET = 8
"""Characters from which on the value of a variable is taken for a secret: `none` and `EMPTY` are words."""

_SECRET_VARIABLE = re.compile(r"(?:^|_)(?:APIKEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD)S?$")
_CREDENTIALS = re.compile(
    r"(?<=://)(?:[^\s/'\"@:]{0,99}:[^\s'\"@]{0,299}|[^\s/?#'\"@]{0,299})@(?:[^\s/?#'\"@]{0,99}@)*"
)
"""What stands before the last `@` of an address's host; a password may hold nearly anything."""
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
"""What is kept, as a group, before what is hidden."""


_HANDED_OVER: set[str] = set()


def keep_secret(value: str) -> None:
    """Has `redacted` hide a text from now on, such as a password in the form in which a server may repeat it."""
    if len(value) >= SHORTEST_SECRET:
        _HANDED_OVER.add(value)


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
    """A library's error by its class and message, without secrets, on one line of at most 300 characters."""
    return " ".join(redacted(f"{type(error).__name__}: {error}").split())[:300]


def without_credentials(text: str) -> str:
    """The text with `user:password@` taken out of every address in it, and keys out of its parameters.

    This is what an identity holds of an address: it does not depend on the environment, as `redacted` does.
    """
    return _HIDDEN_PARTS[0].sub(rf"\g<1>{HIDDEN}", _CREDENTIALS.sub("", text))


def redacted(text: str) -> str:
    """The text without what may be a secret.

    Hidden are credentials in addresses, values of parameters such as `api_key=`, authorization headers, tokens of the
    shapes that providers give out, the values of environment variables whose names say that they are secrets, and what
    `keep_secret` was told of.
    """
    text = without_credentials(text)
    for value in _secrets():
        text = text.replace(value, HIDDEN)
    for pattern in _HIDDEN_PARTS:
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return text


def _secrets() -> list[str]:
    """Values of the environment that no text may hold, the longest first; a path is none."""
    found = {value.strip() for name, value in os.environ.items() if _SECRET_VARIABLE.search(name.upper())}
    shown = {v for v in found if len(v) >= SHORTEST_SECRET and not v.startswith("/")}
    return sorted(shown | _HANDED_OVER, key=len, reverse=True)


def command(*words: object) -> str:
    """A command line of this program for a message, quoted for a shell and put between backticks."""
    return f"`safereason {shlex.join(map(str, words))}`"
