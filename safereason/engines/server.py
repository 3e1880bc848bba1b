"""Connections to servers of OpenAI's API: address and key are checked, and failed requests are tried again.

Two environment variables set the time in seconds, because a judge is opened by its name alone:

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
from safereason.errors import HIDDEN, InputError, keep_secret, message_of, one_line, redacted, without_credentials

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
"""Retries that a server may request at once; later ones wait in any case."""
SECONDS_TO_NOTICE = 10.0
"""Seconds of an outage, after which a line on stderr reports it."""
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
class ServerAddress:
    """A server's address, and the credentials that it is sent."""

    url: str
    """Up to and with `/v1`, without credentials."""
    key: str = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    """Headers of each request: credentials that were part of the address."""

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
                # The client's own retries know neither the budget nor the other requests.
                max_retries=0,
                timeout=openai.Timeout(timeout, connect=min(timeout, SECONDS_TO_CONNECT)),
            )
        except Exception as error:  # of the HTTP library, which is another one from version to version of openai
            # Without a proxy the error is not about one, and is not ours to explain.
            variables = " or ".join(_proxies())
            if not variables:
                raise
            raise InputError(f"{variables}: names no proxy to go by ({one_line(error)}); mend or unset it") from error

    def proxy(self) -> str | None:
        """The environment variable whose proxy requests to the server go through."""
        parts = urlsplit(self.url)
        if proxy_bypass(parts.netloc):
            return None
        for fitting in (f"{parts.scheme}_proxy", "all_proxy"):  # the scheme's own comes first
            for name in _proxies():
                if name.lower() == fitting:
                    return name
        return None


def connect(who: str, base_url: str | None = None, api_key: str | None = None) -> ServerAddress:
    """The server at `base_url`, else `$OPENAI_BASE_URL`, else OpenAI's, with `api_key`, else `$OPENAI_API_KEY`.

    White space around the two is dropped. A server of one's own that has no key is sent `none`.

    Args:
        who: What messages begin with.
        base_url: May hold credentials, as `http://user:password@host/v1`: they are sent, and shown nowhere.
        api_key: In place of the variable's.

    Raises:
        InputError: The address is none, or the key is missing or no key.
    """
    origin = "--base-url"
    address = base_url
    if address is None:
        origin = ADDRESS
        address = os.environ.get(ADDRESS, "")
    if api_key is None:
        api_key = os.environ.get(KEY, "")
    address = address.strip()
    key = api_key.strip()
    url = OPENAI
    headers: dict[str, str] = {}
    if address:
        url, headers = _address(address, origin)
    if not key and not address:
        raise InputError(
            f"{who}: {KEY} is not set; set it, or give the --base-url of a server (for a judge, {ADDRESS})"
        )
    _check_key(who, key)
    # From here on messages and logs show the key as hidden.
    keep_secret(key)
    return ServerAddress(url, key or "none", headers)


def seconds(variable: str, default: float) -> float:
    """The number of seconds in an environment variable, or the default where it is unset.

    Raises:
        InputError: The variable holds something else.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(f"{variable}={text}: a number of seconds is expected, such as {default:g}")
    return value


def shown_address() -> str:
    """`$OPENAI_BASE_URL` as an identity may hold it."""
    return without_credentials(os.environ.get(ADDRESS, "").strip())


class Patience:
    """The time for which requests that fail are tried again: by one request, and by all that share this object.

    After nothing but failures for that time the server counts as lost, and each request is one try. A server that is
    lost because it never answers makes each try long: then one request at a time finds out whether it is back, and the
    others fail at once.
    """

    def __init__(self, who: str, patience: float | None = None, *, at_first: float | None = None) -> None:
        """Sets the time for which requests are tried again.

        Args:
            who: The server, as messages name it.
            patience: Seconds, in place of `$SAFEREASON_PATIENCE`.
            at_first: Most seconds as long as the server has never answered.
        """
        self.who = who
        if patience is None:
            patience = seconds(PATIENCE, SECONDS_OF_PATIENCE)
        self.seconds = patience
        self.was_heard = False
        """Whether the server has ever answered, be it with a refusal."""
        self._at_first = self.seconds
        if at_first is not None:
            self._at_first = min(at_first, self.seconds)
        self._lock = Lock()
        self._heard_at = -math.inf
        self._fails_since: float | None = None
        self._is_reported = False
        self._lost: Exception | None = None
        self._is_probed = False

    def call(self, request: Callable[[], T]) -> T:
        """The result of `request`, tried again while its failures may pass; the last failure is raised."""
        with self._lock:
            is_silent = isinstance(self._lost, openai.APITimeoutError)
            # Another request is finding out whether the server is back; this one must not wait for the timeout as well.
            if is_silent and self._is_probed:
                raise self._lost or BadReply("the server never answers")
            is_probe = is_silent
            self._is_probed = self._is_probed or is_probe
        try:
            return self._call(request)
        finally:
            if is_probe:
                with self._lock:
                    self._is_probed = False

    def _call(self, request: Callable[[], T]) -> T:
        begun = time.monotonic()
        for tries in count():
            try:
                result = request()
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
                return result
        raise AssertionError("count() does not end")

    def _hear(self) -> None:
        with self._lock:
            self.was_heard = True
            self._heard_at = time.monotonic()
            self._fails_since = None
            self._lost = None
            self._is_reported = False

    def _goes_on(self, error: Exception, begun: float, pause: float) -> bool:
        """Whether a request that began then may be tried again after a pause."""
        then = time.monotonic() + pause
        with self._lock:
            # The outage is as old as the failed request, but no older than the last answer to another one.
            if self._fails_since is None:
                self._fails_since = max(begun, self._heard_at)
            limit = self._at_first
            if self.was_heard:
                limit = self.seconds
            if limit and then - self._fails_since > limit:  # without patience, each request is one try
                self._lost = error
            is_overdue = not self._is_reported and then - self._fails_since > SECONDS_TO_NOTICE
            goes_on = self._lost is None and then - begun <= limit
            if is_overdue and goes_on:
                self._is_reported = True
        if is_overdue and goes_on:
            console.say(
                f"{self.who}: does not answer ({reason_of(error)}); tried again for up to {limit:g} s ({PATIENCE})"
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
            # An empty account has status 429, too, but waiting does not fill it.
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
    """The reason of a failed request, on one line."""
    if isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
        return one_line(error.__cause__ or error)
    if isinstance(error, openai.APIStatusError) and not re.sub(r"Error code: \d+", "", str(error)):
        return redacted(" ".join(f"{one_line(error)} - {error.response.text}".split()))[:300]
    if isinstance(error, BadReply):
        return redacted(message_of(error))[:300]
    return one_line(error)


def _pause(tries: int, error: Exception) -> float:
    """Seconds before the next try: the server's own number, else twice as long as before, with some randomness."""
    # Random, so that requests which failed together do not come back together.
    own = min(0.5 * 2.0 ** min(tries, 10), LONGEST_PAUSE) * random.uniform(0.75, 1.0)
    if not isinstance(error, openai.APIStatusError):
        return own
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            requested = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if 0 <= requested < math.inf and tries < QUICK_TRIES:
            return requested
        if 0 <= requested < math.inf:
            return max(requested, own)
    return own


def _without_secrets(text: str) -> str:
    """A text that may be no address, without the parts that may hold credentials, wherever these end."""
    # The last @, because a password may hold one that was not escaped.
    _, at, rest = text.rpartition("@")
    host, query, _ = rest.partition("?")
    shown = redacted(host)
    if at:
        shown = redacted(f"{HIDDEN}@{host}")
    if query:
        shown += f"?{HIDDEN}"
    return shown


def _address(text: str, origin: str) -> tuple[str, dict[str, str]]:
    """An address without its credentials, and the header that carries them."""
    shown = _without_secrets(text).encode("unicode_escape").decode()
    if any(not c.isascii() or not c.isprintable() or c == " " for c in text):
        raise InputError(f"{origin} {shown}: holds a character that no address has; type it anew")
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        host = parts.netloc.rpartition("@")[2]
        # `port` is parsed when it is read, and raises for one that is no number.
        _ = parts.port
    except ValueError:
        is_address = False
    if not is_address:
        raise InputError(f"{origin} {shown}: is no address; it looks like http://localhost:8000/v1")
    url = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    if host == parts.netloc:
        return url, {}
    user = unquote(parts.username or "")
    password = unquote(parts.password or "")
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    # An error message may quote the header or the address, each with another spelling of the password.
    for secret in (basic, password, parts.password or ""):
        keep_secret(secret)
    return url, {"Authorization": f"Basic {basic}"}


def _check_key(who: str, key: str) -> None:
    """Refuses a key that no header can hold; the key itself is not shown."""
    for position, character in enumerate(key, start=1):
        if not character.isascii() or not character.isprintable() or character == " ":
            where = f"U+{ord(character):04X}, at place {position} of {len(key)}"
            raise InputError(f"{who}: {KEY} holds a character that no key has ({where}); copy it anew")
