"""Public files, from your data home or downloaded once from their publisher or the Hugging Face Hub.

Where a file's hash is recorded, it is checked in all of these cases.
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
from safereason.errors import InputError, first_line
from safereason.runs.asides import aside_of, clear
from safereason.runs.cache import cache_home
from safereason.runs.manifest import sha256

HOME = "SAFEREASON_DATA_HOME"
TIMEOUT = 30.0
"""Seconds to wait for the publisher's next bytes."""
# Far more than any file that a source names, so that a wrong address cannot fill the disk.
LARGEST = 256 * 1024 * 1024
"""Bytes of the largest download."""
# A context variable, so that one thread's check does not stop the downloads of another.
_MAY_DOWNLOAD = ContextVar("may_download", default=True)


@dataclass(frozen=True)
class File:
    """One file of a public dataset."""

    source: str
    """Name of its folder, which is the source's name."""
    name: str
    """The publisher's name for the file."""
    url: str
    """Address of the file, at a pinned revision where one is known."""
    sha256: str | None = None
    """Hash in hexadecimal; None where none is known."""
    other_editions: tuple[str, ...] = ()
    """Hashes of other published editions that the source reads the same way."""


@dataclass(frozen=True)
class HubFile:
    """One file of a dataset on the Hugging Face Hub."""

    source: str
    """Name of its folder in the data home."""
    repo: str
    """Dataset repository, `owner/name`."""
    name: str
    """Path in the repository, and in the folder."""
    revision: str
    """Commit of the repository."""
    sha256: str | None = None
    """Hash in hexadecimal; None where only the commit pins the file."""

    @property
    def page(self) -> str:
        """Address of the publisher's description, where the terms of a gated dataset are accepted."""
        return f"https://huggingface.co/datasets/{self.repo}"

    @property
    def url(self) -> str:
        """Address of the file."""
        return f"{self.page}/resolve/{self.revision}/{self.name}"


def fetch(file: File | HubFile) -> Path:
    """Path of the file on this machine.

    It is looked for in `$SAFEREASON_DATA_HOME` if that is set. Otherwise it is in a cache, and downloaded if it is
    missing. The Hub's client has a cache of its own, and reads `HF_TOKEN`, `HF_ENDPOINT` and `HF_HUB_OFFLINE`.

    Raises:
        InputError: The file is not in the data home, cannot be downloaded, or has another hash than the recorded one.
    """
    home = data_home()
    # Nothing is downloaded into a data home, which may be shared or read-only.
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
        path = data_folder() / file.source / file.name
        if not path.is_file():
            _check_may_download(file)
            _download(file, path)
    _check_hash(file, path, f"delete {path} and get it again from {file.url}")
    return path


@contextmanager
def nothing_downloaded() -> Iterator[None]:
    """Context in which `fetch` refuses a file that it would have to download."""
    before = _MAY_DOWNLOAD.set(False)
    try:
        yield
    finally:
        _MAY_DOWNLOAD.reset(before)


def _check_may_download(file: File | HubFile) -> None:
    if not _MAY_DOWNLOAD.get():
        raise InputError(f"{file.source}/{file.name}: not on this machine yet; what reads it downloads {file.url}")


def data_folder() -> Path:
    """Folder of public files, a folder a source in it: your own copies where they have one, else the downloads."""
    return data_home() or cache_home() / "data"


def data_home() -> Path | None:
    """Folder of your own copies of public files, `$SAFEREASON_DATA_HOME`; None where that is not set."""
    home = os.environ.get(HOME)
    # An empty variable is how a shell script switches it off.
    if not home:
        return None
    return Path(home)


def _from_hub(file: HubFile) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    try:
        cached = isinstance(try_to_load_from_cache(file.repo, file.name, None, file.revision, "dataset"), str)
    except (ValueError, OSError) as error:
        # The client refuses names that no repository can have.
        raise InputError(_hub_failure(file, error)) from error
    if not cached:
        _check_may_download(file)
    try:
        if not cached:
            # This fails at once where a file cannot be downloaded. The download itself would retry for half a minute.
            get_hf_file_metadata(hf_hub_url(file.repo, file.name, repo_type="dataset", revision=file.revision))
        return Path(hf_hub_download(file.repo, file.name, repo_type="dataset", revision=file.revision))
    except Exception as error:
        # The client raises errors of its own, of its HTTP library and of the disk, and they share no other base.
        raise InputError(_hub_failure(file, error)) from error


def _hub_failure(file: HubFile, error: Exception) -> str:
    """The reason why a file of the Hub cannot be downloaded, with advice."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"{file.source}/{file.name}: the Hub refuses access (HTTP {status}); accept the terms at {file.page} "
            "and set HF_TOKEN to a token of yours"
        )
    reason = first_line(error)
    if status:
        reason = f"HTTP {status}"
    return (
        f"{file.source}/{file.name}: cannot be downloaded ({reason}); get {file.url} by hand, put it at "
        f"FOLDER/{file.source}/{file.name}, and set {HOME}=FOLDER"
    )


def _check_hash(file: File | HubFile, path: Path, advice: str) -> None:
    if file.sha256 is None:
        return
    accepted = [file.sha256]
    if isinstance(file, File):
        accepted += file.other_editions
    actual = sha256(path)
    if actual not in accepted:
        raise InputError(
            f"{file.source}/{file.name}: its SHA-256 is {actual}, not the recorded {file.sha256}; {advice}"
        )


def _download(file: File, path: Path) -> None:
    """Downloads a file beside its place, checks it and renames it, so that files in the cache are complete."""
    # A file without a recorded hash is only as safe as its connection.
    if not file.url.startswith("https://"):
        raise InputError(f"{file.url}: only https addresses are downloaded")
    console.say(f"downloading {file.source}/{file.name}")
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What killed downloads left behind.
        clear(path.parent)
        opener = urllib.request.build_opener(_HttpsOnly)
        with opener.open(file.url, timeout=TIMEOUT) as response, aside.open("wb") as out:
            _copy_response(response, out, file.url)
        _check_hash(file, aside, f"{file.url} was changed by its publisher; put the recorded edition at {path}")
        aside.replace(path)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise InputError(
            f"{file.source}/{file.name}: cannot be downloaded ({reason}); get {file.url} by hand and put it at {path}"
        ) from error
    finally:
        # It is gone after the rename, or was never made on a disk that cannot be written.
        with suppress(OSError):
            aside.unlink()


def _copy_response(response: IO[bytes], out: IO[bytes], url: str) -> None:
    # A server's `Content-Length` may be missing or wrong, so the bytes themselves are counted.
    size = 0
    while block := response.read(1 << 16):
        size += len(block)
        if size > LARGEST:
            raise InputError(f"{url}: larger than {LARGEST >> 20} MiB, so it is not the file meant; check the address")
        out.write(block)


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """A redirect handler that follows only https addresses, so that nobody on the way can replace the file."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
