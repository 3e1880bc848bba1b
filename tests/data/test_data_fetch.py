import hashlib
import http.server
import shutil
import ssl
import subprocess
import threading

import pytest

from safereason.data import fetch as fetching
from safereason.data.fetch import File, fetch
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
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
               "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]  # fmt: skip
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
    found = hashlib.sha256(CONTENT + b"2,more\n").hexdigest()
    with pytest.raises(InputError) as error:
        fetch(File("src", "data.csv", "https://localhost/x", SHA256))
    assert all(part in str(error.value) for part in ("src/data.csv", found, SHA256))
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


@pytest.mark.parametrize(("path", "sha256", "says"), [
    ("gone.csv", SHA256, "Not Found"),
    ("moved.csv", SHA256, "not https"),
    ("data.csv", "0" * 64, "the recorded 0000"),
])  # fmt: skip
def test_a_download_that_fails_is_one_line_and_leaves_nothing(published, cache, path, sha256, says):
    with pytest.raises(InputError, match=says) as error:
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
