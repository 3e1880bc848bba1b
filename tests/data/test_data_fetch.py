import hashlib
import http.server
import os
import shutil
import ssl
import subprocess
import sys
import threading

import pytest

from safereason.data import fetch as fetching
from safereason.data.fetch import File, HubFile, fetch
from safereason.errors import InputError

CONTENT = b"id,prompt\n1,hello\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("SAFEREASON_DATA_HOME", raising=False)
    monkeypatch.setenv("SAFEREASON_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SAFEREASON_DATA_HOME", str(tmp_path))
    (tmp_path / "src").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def publisher(tmp_path_factory):
    """Address of an https server on this machine that answers like a publisher, and its certificate."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed: no certificate for an https server")
    folder = tmp_path_factory.mktemp("publisher")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(command, check=True, capture_output=True)
    server = http.server.ThreadingHTTPServer(("localhost", 0), Publisher)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}", certificate
    server.shutdown()
    server.server_close()


class Publisher(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/moved.csv":
            self.send_response(302)
            self.send_header("Location", "http://localhost/data.csv")
            self.end_headers()
        elif self.path == "/data.csv":
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)
        else:
            self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture
def published(publisher, cache, monkeypatch):
    """Makes a File at a path of the publisher."""
    address, certificate = publisher
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("no_proxy", "localhost")
    return lambda path="data.csv", sha256=SHA256: File("src", "data.csv", f"{address}/{path}", sha256)


def leftovers(cache):
    return [path.name for path in cache.rglob("*") if path.is_file()]


def test_the_data_home_is_read_and_checked(home):
    (home / "src" / "data.csv").write_bytes(CONTENT)
    assert fetch(File("src", "data.csv", "https://localhost/x", SHA256)) == home / "src" / "data.csv"
    assert fetch(File("src", "data.csv", "https://localhost/x")) == home / "src" / "data.csv"
    assert fetch(File("src", "data.csv", "https://localhost/x", "0" * 64, (SHA256,))) == home / "src" / "data.csv"


def test_a_changed_file_is_named_with_both_hashes(home):
    (home / "src" / "data.csv").write_bytes(CONTENT + b"2,more\n")
    actual = hashlib.sha256(CONTENT + b"2,more\n").hexdigest()
    with pytest.raises(InputError) as error:
        fetch(File("src", "data.csv", "https://localhost/x", SHA256))
    assert all(part in str(error.value) for part in ("src/data.csv", actual, SHA256))
    assert "\n" not in str(error.value)


def test_a_missing_file_says_where_it_was_looked_for(home):
    with pytest.raises(InputError) as error:
        fetch(File("src", "data.csv", "https://localhost/x", SHA256))
    assert str(home / "src" / "data.csv") in str(error.value)
    assert "SAFEREASON_DATA_HOME" in str(error.value)


def test_a_download_is_kept_and_not_repeated(published, cache, monkeypatch):
    path = fetch(published())
    assert path == cache / "src" / "data.csv"
    assert path.read_bytes() == CONTENT
    assert fetch(published("gone.csv")) == path
    assert leftovers(cache) == ["data.csv"]


@pytest.mark.parametrize(
    ("path", "sha256", "message"),
    [
        ("gone.csv", SHA256, "Not Found"),
        ("moved.csv", SHA256, "not https"),
        ("data.csv", "0" * 64, "the recorded 0000"),
    ],
)
def test_a_download_that_fails_is_one_line_and_leaves_nothing(published, cache, path, sha256, message):
    with pytest.raises(InputError, match=message) as error:
        fetch(published(path, sha256))
    assert "\n" not in str(error.value)
    assert leftovers(cache) == []


def test_a_download_that_is_too_large_is_given_up(published, cache, monkeypatch):
    monkeypatch.setattr(fetching, "LARGEST", 4)
    with pytest.raises(InputError, match="larger than"):
        fetch(published())
    assert leftovers(cache) == []


def test_without_a_network_the_error_is_one_line(cache):
    with pytest.raises(InputError, match="cannot be downloaded") as error:
        fetch(File("src", "data.csv", "https://localhost:1/data.csv", SHA256))
    assert "\n" not in str(error.value)


def test_plain_http_is_refused(cache):
    with pytest.raises(InputError, match="only https"):
        fetch(File("src", "data.csv", "http://localhost/data.csv", SHA256))


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file, not a folder")
    monkeypatch.delenv("SAFEREASON_DATA_HOME", raising=False)
    monkeypatch.setenv("SAFEREASON_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="cannot be downloaded"):
        fetch(File("src", "data.csv", "https://localhost:1/data.csv", SHA256))


# The Hub's client reads its address when it is imported, hence programs of their own.
HUB_FILE = "HubFile('src', 'owner/name', 'data/data.csv', 'c' * 40{})"
FETCH_FROM_HUB = """
import sys
from safereason.data.fetch import HubFile, fetch
from safereason.errors import InputError
try:
    print(fetch({}).read_text(), end="")
except InputError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers like the Hub, by what the token says that it should be."""

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        status = int(self.headers.get("Authorization", "Bearer 401").removeprefix("Bearer "))
        is_known = self.path == f"/datasets/owner/name/resolve/{'c' * 40}/data/data.csv"
        self.send_response(status if is_known else 410)
        self.send_header("X-Repo-Commit", "c" * 40)
        if status in (401, 403):
            self.send_header("X-Error-Code", "GatedRepo")
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        content = CONTENT if status == 200 else b""
        self.send_header("ETag", f'"{SHA256}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def hub():
    """Address of a server on this machine that answers like the Hub."""
    server = http.server.ThreadingHTTPServer(("localhost", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


def from_hub(tmp_path, endpoint, token=None, offline="0", more=""):
    environment = {k: v for k, v in os.environ.items() if k not in ("SAFEREASON_DATA_HOME", "HF_TOKEN")}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "no_proxy": "localhost",
    }
    if token:
        environment["HF_TOKEN"] = token
    program = FETCH_FROM_HUB.format(HUB_FILE.format(more))
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)


def test_a_file_of_the_hub_is_downloaded_with_the_token_and_kept(hub, tmp_path):
    done = from_hub(tmp_path, hub, token="200")
    assert (done.returncode, done.stdout) == (0, CONTENT.decode()), done.stderr
    again = from_hub(tmp_path, hub, offline="1")
    assert (again.returncode, again.stdout) == (0, CONTENT.decode()), again.stderr


@pytest.mark.parametrize("token", [None, "403"])
def test_a_gated_dataset_says_where_its_terms_are(hub, tmp_path, token):
    done = from_hub(tmp_path, hub, token)
    assert done.returncode == 2
    assert done.stderr == (
        f"src/data/data.csv: the Hub refuses access (HTTP {token or 401}); accept the terms at "
        "https://huggingface.co/datasets/owner/name and set HF_TOKEN to a token of yours\n"
    )


@pytest.mark.parametrize(
    ("endpoint", "token", "offline", "why"),
    [
        (None, "404", "0", "HTTP 404"),
        ("http://localhost:1", None, "0", "Connection refused"),
        (None, "200", "1", "offline mode is enabled"),
    ],
)
def test_a_file_that_the_hub_cannot_give_is_one_line(hub, tmp_path, endpoint, token, offline, why):
    done = from_hub(tmp_path, endpoint or hub, token, offline)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("src/data/data.csv: cannot be downloaded (")
    assert why in done.stderr
    assert f"https://huggingface.co/datasets/owner/name/resolve/{'c' * 40}/data/data.csv by hand" in done.stderr
    assert "put it at FOLDER/src/data/data.csv, and set SAFEREASON_DATA_HOME=FOLDER" in done.stderr


def test_a_file_of_the_hub_whose_recorded_hash_differs_is_refused(hub, tmp_path):
    done = from_hub(tmp_path, hub, "200", more=f", sha256='{'0' * 64}'")
    assert done.returncode == 2
    assert SHA256 in done.stderr


def test_a_file_of_the_hub_is_read_from_the_data_home_first(home):
    file = HubFile("src", "owner/name", "data/data.csv", "c" * 40, SHA256)
    with pytest.raises(InputError, match=r"where .SAFEREASON_DATA_HOME says to look"):
        fetch(file)
    (home / "src" / "data").mkdir()
    (home / "src" / "data" / "data.csv").write_bytes(CONTENT)
    assert fetch(file) == home / "src" / "data" / "data.csv"
