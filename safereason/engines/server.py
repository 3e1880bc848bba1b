"""How a server of OpenAI's API is reached: address and key checked, and asked again while it is down or busy.

How long is for the person to say, in seconds, by two environment variables, since a judge is opened by its name alone:

- `SAFEREASON_PATIENCE`: a request that fails for a reason that may pass is tried again for so long (300).
- `SAFEREASON_TIMEOUT`: a try may take so long (600, a moderation 60).
"""

import base64
import math
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import proxy_bypass

import openai

from safereason import console
from safereason.errors import HIDDEN, InputError, keep_secret, one_line, redacted, without_credentials

OPENAI = "https://api.openai.com/v1"
ADDRESS, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"
PATIENCE, TIMEOUT = "SAFEREASON_PATIENCE", "SAFEREASON_TIMEOUT"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
SECONDS_OF_PATIENCE = 300.0
SECONDS_AT_FIRST = 15.0
"""Patience with a server that has never answered: its address may be wrong."""
SECONDS_TO_CONNECT = 30.0
LONGEST_PAUSE = 20.0
QUICK_TRIES = 5
"""Tries again that a server may ask for at once; later ones wait in any case."""
SECONDS_UNSAID = 10.0
"""Seconds of an outage before the person watching is told of it."""
MAY_PASS = frozenset({408, 409, 425, 429})
"""Statuses that a later try may not meet, beside 5xx."""
OURS_TO_MEND = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)

T = TypeVar("T")


class BadReply(Exception):
    """A reply with a good status that holds no result."""

    def __init__(self, message: str, *, may_pass: bool = True, code: str = "") -> None:
        super().__init__(message)
        self.may_pass = may_pass
        """Whether another try may bring a result."""
        self.code = code
        """The server's own word for what is wrong."""


@dataclass(frozen=True)
class Connection:
    """A server's address and what it is shown."""

    url: str
    """Up to and with `/v1`, without credentials."""
    key: str = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    """What goes with each request: credentials that the address held."""

    def client(self, timeout: float) -> openai.OpenAI:
        """A client that tries once; `Patience` tries again.

        Raises:
            InputError: A variable names a proxy whose address is none.
        """
        try:
            return openai.OpenAI(
                api_key=self.key,
                base_url=self.url,
                default_headers=self.headers,
                max_retries=0,
                timeout=openai.Timeout(timeout, connect=min(timeout, SECONDS_TO_CONNECT)),
            )
        except Exception as error:  # of the HTTP library, which is another one from version to version of openai
            if not (named := " or ".join(_proxies())):
                raise
            raise InputError(f"{named}: names no proxy to go by ({one_line(error)}); mend or unset it") from error

    def proxy(self) -> str | None:
        """The environment variable whose proxy stands between here and the server."""
        parts = urlsplit(self.url)
        if proxy_bypass(parts.netloc):
            return None
        fits = (f"{parts.scheme}_proxy", "all_proxy")
        return next((name for fit in fits for name in _proxies() if name.lower() == fit), None)


def connect(who: str, base_url: str | None = None, api_key: str | None = None) -> Connection:
    """The server at `base_url`, else `$OPENAI_BASE_URL`, else OpenAI's, with `api_key`, else `$OPENAI_API_KEY`.

    White space around the two is dropped. A server of one's own that has no key is sent `none`.

    Args:
        who: What messages begin with.
        base_url: May hold credentials, as `http://user:password@host/v1`: they are sent, and shown nowhere.
        api_key: In place of the variable's.

    Raises:
        InputError: The address is none, or the key is missing or no key.
    """
    named = "--base-url" if base_url is not None else ADDRESS
    address = (base_url if base_url is not None else os.environ.get(ADDRESS, "")).strip()
    key = (api_key if api_key is not None else os.environ.get(KEY, "")).strip()
    url, headers = _address(address, named) if address else (OPENAI, {})
    if not key and not address:
        raise InputError(
            f"{who}: {KEY} is not set; set it, or give the --base-url of a server (for a judge, {ADDRESS})"
        )
    _check_key(who, key)
    keep_secret(key)
    return Connection(url, key or "none", headers)


def seconds(variable: str, default: float) -> float:
    """The seconds that an environment variable says.

    Raises:
        InputError: It says something else.
    """
    said = os.environ.get(variable, "").strip()
    try:
        found = float(said) if said else default
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise InputError(f"{variable}={said}: a number of seconds is expected, such as {default:g}")
    return found


def shown_address() -> str:
    """`$OPENAI_BASE_URL` as an identity may hold it."""
    return without_credentials(os.environ.get(ADDRESS, "").strip())


class Patience:
    """How long a server that fails is asked again: by one request, and by all that share this object together.

    Where all of them have met nothing but failures for so long, the server counts as lost: each request is then one
    try. Where it is lost because it never answers, a try takes long: one at a time finds out whether it is back, and
    the others fail unasked.
    """

    def __init__(self, who: str, patience: float | None = None, *, at_first: float | None = None) -> None:
        """Takes how long.

        Args:
            who: What the person watching is told about.
            patience: Seconds, in place of `$SAFEREASON_PATIENCE`.
            at_first: Most seconds as long as the server has never answered.
        """
        self.who = who
        self.seconds = seconds(PATIENCE, SECONDS_OF_PATIENCE) if patience is None else patience
        self.was_heard = False
        """Whether the server ever gave an answer, a refusal included."""
        self._at_first = self.seconds if at_first is None else min(at_first, self.seconds)
        self._lock = Lock()
        self._heard_at = -math.inf
        self._fails_since: float | None = None
        self._is_said = False
        self._lost: Exception | None = None
        self._is_probed = False

    def ask(self, call: Callable[[], T]) -> T:
        """What `call` gives, tried again while its failures may pass; the last of them is raised."""
        with self._lock:
            is_silent = isinstance(self._lost, openai.APITimeoutError)
            if is_silent and self._is_probed:
                raise self._lost or BadReply("the server never answers")
            is_probe = is_silent
            self._is_probed = self._is_probed or is_probe
        try:
            return self._ask(call)
        finally:
            if is_probe:
                with self._lock:
                    self._is_probed = False

    def _ask(self, call: Callable[[], T]) -> T:
        begun = time.monotonic()
        for tries in count():
            try:
                found = call()
            except Exception as error:
                if not may_pass(error):
                    if isinstance(error, (openai.APIStatusError, BadReply)):
                        self._hear()
                    raise
                pause = _pause(tries, error)
                if not self._goes_on(error, begun, pause):
                    raise
                time.sleep(pause)
            else:
                self._hear()
                return found
        raise AssertionError("count() does not end")

    def _hear(self) -> None:
        with self._lock:
            self.was_heard, self._heard_at = True, time.monotonic()
            self._fails_since, self._lost, self._is_said = None, None, False

    def _goes_on(self, error: Exception, begun: float, pause: float) -> bool:
        """Whether a request that began then may be tried again after a pause."""
        then = time.monotonic() + pause
        with self._lock:
            if self._fails_since is None:
                self._fails_since = max(begun, self._heard_at)
            limit = self.seconds if self.was_heard else self._at_first
            if limit and then - self._fails_since > limit:  # without patience, each request is one try
                self._lost = error
            is_told = not self._is_said and then - self._fails_since > SECONDS_UNSAID
            goes_on = self._lost is None and then - begun <= limit
            if is_told and goes_on:
                self._is_said = True
        if is_told and goes_on:
            console.say(
                f"{self.who}: does not answer ({reason_of(error)}); asked again for up to {limit:g} s ({PATIENCE})"
            )
        return goes_on


def may_pass(error: Exception) -> bool:
    """Whether a later try may go well."""
    match error:
        case BadReply():
            return error.may_pass
        case openai.APIConnectionError():
            return True
        case openai.APIStatusError():
            is_spent = getattr(error, "code", None) == "insufficient_quota"
            return not is_spent and (error.status_code in MAY_PASS or error.status_code >= 500)
    return False


def was_answered(error: Exception) -> bool:
    """Whether a request that failed on its way had an answer begun, which broke off or is not what its head says."""
    cause = error.__cause__  # of the HTTP library, which is another one from version to version of openai
    return type(cause).__name__ == "DecodingError" or "without sending complete message body" in str(cause)


def _proxies() -> list[str]:
    """The environment variables that name a proxy."""
    return [name for name, value in os.environ.items() if value and name.lower() in PROXIES]


def reason_of(error: Exception) -> str:
    """Why a request failed, on one line."""
    if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
        return one_line(error.__cause__ or error)
    if isinstance(error, openai.APIStatusError) and not re.sub(r"Error code: \d+", "", str(error)):
        return redacted(" ".join(f"{one_line(error)} - {error.response.text}".split()))[:300]
    return redacted(" ".join(str(error).split()))[:300] if isinstance(error, BadReply) else one_line(error)


def _pause(tries: int, error: Exception) -> float:
    """Seconds before the next try: what the server asks for, else twice as long as before, and not all at once."""
    own = min(0.5 * 2.0 ** min(tries, 10), LONGEST_PAUSE) * random.uniform(0.75, 1.0)
    headers = error.response.headers if isinstance(error, openai.APIStatusError) else {}
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            asked = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= asked < math.inf:
            return asked if tries < QUICK_TRIES else max(asked, own)
    return own


def _without_secrets(text: str) -> str:
    """What may be shown of a text that may be no address, so that no grammar says where its credentials end."""
    _, at, rest = text.rpartition("@")
    host, asks, _ = rest.partition("?")
    return redacted(f"{HIDDEN}{at}{host}" if at else host) + (f"?{HIDDEN}" if asks else "")


def _address(text: str, named: str) -> tuple[str, dict[str, str]]:
    """An address without its credentials, and the header that stands for them."""
    shown = _without_secrets(text).encode("unicode_escape").decode()
    if any(not c.isascii() or not c.isprintable() or c == " " for c in text):
        raise InputError(f"{named} {shown}: holds a character that no address has; type it anew")
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        host = parts.netloc.rpartition("@")[2]
        _ = parts.port
    except ValueError:
        is_address = False
    if not is_address:
        raise InputError(f"{named} {shown}: is no address; it looks like http://localhost:8000/v1")
    url = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    if host == parts.netloc:
        return url, {}
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    for secret in (basic, password, parts.password or ""):
        keep_secret(secret)
    return url, {"Authorization": f"Basic {basic}"}


def _check_key(who: str, key: str) -> None:
    """Refuses what no header can hold; the key itself is not shown."""
    for place, character in enumerate(key, start=1):
        if not character.isascii() or not character.isprintable() or character == " ":
            where = f"U+{ord(character):04X}, at place {place} of {len(key)}"
            raise InputError(f"{who}: {KEY} holds a character that no key has ({where}); copy it anew")
