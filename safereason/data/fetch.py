"""Public files: from the data home, or downloaded once from their publisher or from the Hugging Face Hub.

Where a file's hash is recorded it is checked, wherever the file comes from.
"""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO

from safereason import console
from safereason.engines.embedded import cache_home
from safereason.errors import InputError
from safereason.runs.asides import aside_of, clear
from safereason.runs.manifest import sha256

HOME = "SAFEREASON_DATA_HOME"
TIMEOUT = 30.0
"""Seconds without an answer from the publisher."""
LARGEST = 256 * 1024 * 1024
"""Bytes of the largest download."""
_MAY_DOWNLOAD = ContextVar("may_download", default=True)


@dataclass(frozen=True)
class File:
    """One file of a public dataset."""

    source: str
    """Folder it lies in: the source's name."""
    name: str
    """As its publisher names it."""
    url: str
    """Where it is published, at a pinned revision where one is known."""
    sha256: str | None = None
    """Its hash, in hexadecimal; None where none is known."""
    other_editions: tuple[str, ...] = ()
    """Hashes of other published editions that the source reads the same way."""


@dataclass(frozen=True)
class HubFile:
    """One file of a dataset on the Hugging Face Hub."""

    source: str
    """Folder of the data home it lies in."""
    repo: str
    """Dataset repository, `owner/name`."""
    name: str
    """Its path in the repository, and in the folder."""
    revision: str
    """Commit it is read at."""
    sha256: str | None = None
    """Its hash, in hexadecimal; None where only the commit pins it."""

    @property
    def page(self) -> str:
        """Where its publisher describes it and, where it is gated, has its terms accepted."""
        return f"https://huggingface.co/datasets/{self.repo}"

    @property
    def url(self) -> str:
        """Where it is published."""
        return f"{self.page}/resolve/{self.revision}/{self.name}"


def fetch(file: File | HubFile) -> Path:
    """The file on this machine: in `$SAFEREASON_DATA_HOME` where that is set, else in a cache, downloaded if need be.

    The Hub's client has a cache of its own, and reads `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE`.

    Raises:
        InputError: It is not in the data home, cannot be downloaded, or is not the file whose hash is recorded.
    """
    home = data_home()
    if home:
        path = home / file.source / file.name
        if not path.is_file():
            raise InputError(
                f"{path}: not there, where ${HOME} says to look; put {file.url} there, "
                "or unset the variable to download it"
            )
    elif isinstance(file, HubFile):
        path = _from_hub(file)
    else:
        path = cache_home() / "data" / file.source / file.name
        if not path.is_file():
            _check_may_download(file)
            _download(file, path)
    _check(file, path, f"delete {path} and get it again from {file.url}")
    return path


@contextmanager
def nothing_downloaded() -> Iterator[None]:
    """Inside it, `fetch` refuses a file that would have to be downloaded."""
    before = _MAY_DOWNLOAD.set(False)
    try:
        yield
    finally:
        _MAY_DOWNLOAD.reset(before)


def _check_may_download(file: File | HubFile) -> None:
    if not _MAY_DOWNLOAD.get():
        raise InputError(f"{file.source}/{file.name}: not on this machine yet; what reads it downloads {file.url}")


def data_home() -> Path | None:
    """Where a person keeps public files: `$SAFEREASON_DATA_HOME`, or None where that is not set."""
    home = os.environ.get(HOME)
    return Path(home) if home else None


def _from_hub(file: HubFile) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    try:
        cached = isinstance(try_to_load_from_cache(file.repo, file.name, None, file.revision, "dataset"), str)
    except (ValueError, OSError) as error:  # of a name that no repository has
        raise InputError(_why_not(file, error)) from error
    if not cached:
        _check_may_download(file)
    try:
        if not cached:
            # It says at once why a file cannot be had, where the download would try again for half a minute.
            get_hf_file_metadata(hf_hub_url(file.repo, file.name, repo_type="dataset", revision=file.revision))
        return Path(hf_hub_download(file.repo, file.name, repo_type="dataset", revision=file.revision))
    except Exception as error:  # of the client, of its HTTP library, or of the disk
        raise InputError(_why_not(file, error)) from error


def _why_not(file: HubFile, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"{file.source}/{file.name}: the Hub refuses access (HTTP {status}); accept the terms at {file.page} "
            "and set HF_TOKEN to a token of yours"
        )
    why = f"HTTP {status}" if status else (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"{file.source}/{file.name}: cannot be downloaded ({why}); get {file.url} by hand, put it at "
        f"FOLDER/{file.source}/{file.name}, and set {HOME}=FOLDER"
    )


def _check(file: File | HubFile, path: Path, advice: str) -> None:
    if file.sha256 is None:
        return
    found = sha256(path)
    if found not in (file.sha256, *(file.other_editions if isinstance(file, File) else ())):
        raise InputError(f"{file.source}/{file.name}: its SHA-256 is {found}, not the recorded {file.sha256}; {advice}")


def _download(file: File, path: Path) -> None:
    """Downloads aside, checks, then renames into place: a file in the cache is whole."""
    if not file.url.startswith("https://"):
        raise InputError(f"{file.url}: only https addresses are downloaded")
    console.say(f"downloading {file.source}/{file.name}")
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear(path.parent)
        opener = urllib.request.build_opener(_HttpsOnly)
        with opener.open(file.url, timeout=TIMEOUT) as response, aside.open("wb") as out:
            _copy(response, out, file.url)
        _check(file, aside, f"{file.url} was changed by its publisher; put the recorded edition at {path}")
        aside.replace(path)
    except (OSError, HTTPException) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise InputError(
            f"{file.source}/{file.name}: cannot be downloaded ({why}); get {file.url} by hand and put it at {path}"
        ) from error
    finally:
        with suppress(OSError):
            aside.unlink()


def _copy(response: IO[bytes], out: IO[bytes], url: str) -> None:
    size = 0
    while block := response.read(1 << 16):
        size += len(block)
        if size > LARGEST:
            raise InputError(f"{url}: larger than {LARGEST >> 20} MiB, so it is not the file meant; check the address")
        out.write(block)


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to another https address."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
