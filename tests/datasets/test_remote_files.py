import hashlib
import io
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from image_classifier.datasets.public_datasets import PublicDataset, PublicFile
from image_classifier.datasets.remote_files import _Download, fetch, file_system
from image_classifier.errors import DataError
from image_classifier.progress import Progress
from tests.datasets.samples import files, prepared, write
from tests.datasets.test_archive import zipped


class Site:
    """The content of a loopback server, and how it behaves."""

    def __init__(self):
        self.contents = {}
        self.requests = []
        self.hang = threading.Event()
        self.stop_after = None
        """Bytes after which it stops sending a file."""
        self.drop = False
        """Whether it closes the connection then, instead of hanging."""
        self.ranges = True


def handler(site):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.do_GET(body=False)

        def do_GET(self, body=True):
            site.requests.append((self.command, self.path, self.headers.get("Range")))
            path = self.path.split("?")[0]
            if path == "/hang":
                site.hang.wait(30)
            content = site.contents.get(path)
            if content is None:
                self.send_error(404)
                return
            etag, start, end = hashlib.md5(content).hexdigest(), 0, len(content)
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if wanted and site.ranges and body:
                start, end = int(wanted[1]), min(int(wanted[2] or end) + 1, end)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(end - start))
            self.send_header("ETag", etag)
            self.send_header("Accept-Ranges", "bytes" if site.ranges else "none")
            self.end_headers()
            if not body:
                return
            if site.stop_after is not None and end > site.stop_after:
                self.wfile.write(content[start : site.stop_after])
                self.wfile.flush()
                if not site.drop:
                    site.hang.wait(30)
                self.close_connection = True
                return
            self.wfile.write(content[start:end])

        def log_message(self, *_):
            pass

    return Handler


@pytest.fixture
def site():
    return Site()


@pytest.fixture
def address(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        site.hang.set()
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_a_url_is_read_like_the_file_and_downloaded_once(tmp_path, site, address):
    packed = zipped(tmp_path / "pets.zip", files())
    site.contents["/pets.zip"] = packed.read_bytes()
    local = prepared(packed, tmp_path / "local")
    remote = prepared(f"{address}/pets.zip?token=secret", tmp_path)
    assert remote.digest == local.digest
    assert remote.source == f"{address}/pets.zip"
    site.requests.clear()
    prepared(f"{address}/pets.zip?token=secret", tmp_path)
    assert {method for method, *_ in site.requests} <= {"HEAD"}


@pytest.mark.slow
def test_a_file_that_changed_at_its_url_is_downloaded_again(tmp_path, site, address):
    digests = set()
    for seed in (0, 50):
        site.contents["/pets.zip"] = zipped(tmp_path / "pets.zip", files(seed=seed)).read_bytes()
        digests.add(prepared(f"{address}/pets.zip", tmp_path).digest)
    assert len(digests) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranges", "drop", "message"),
    [
        (True, False, "not fetched within 1 s; .*resume the download, raise fetch_timeout"),
        (True, True, "pets.zip cannot be fetched: "),
        (False, True, "pets.zip cannot be fetched: "),
    ],
    ids=["timeout", "connection lost", "connection lost, no ranges"],
)
def test_an_interrupted_download_is_resumed(tmp_path, site, address, ranges, drop, message):
    content = zipped(tmp_path / "pets.zip", files(count=40, side=150)).read_bytes()
    site.contents["/pets.zip"] = content
    site.stop_after, site.ranges, site.drop = 3 * 2**20, ranges, drop
    with pytest.raises(DataError, match=message):
        prepared(f"{address}/pets.zip", tmp_path, fetch_timeout=60 if drop else 1)
    site.stop_after = None
    site.requests.clear()
    dataset = prepared(f"{address}/pets.zip", tmp_path)
    assert len(dataset.train.labels) + len(dataset.test.labels) == 80
    starts = [int(re.match(r"bytes=(\d+)", header)[1]) for _, _, header in site.requests if header]
    if ranges:
        assert min(starts) >= 2**20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "timeout", "message"),
    [
        ("/none.zip", 60, r"none.zip cannot be fetched: the server has no such file \(404\)"),
        ("/hang", 0.3, r"hang was not fetched within 0.3 s"),
        ("/page", 60, r"neither a folder nor a zip"),
    ],
)
def test_a_url_without_data_is_an_error_of_one_line(tmp_path, site, address, path, timeout, message):
    site.contents["/page"] = b"<html>not here</html>"
    with pytest.raises(DataError, match=message) as caught:
        prepared(address + path, tmp_path, fetch_timeout=timeout)
    assert "\n" not in str(caught.value)


def test_an_address_without_a_server_is_an_error_of_one_line(tmp_path):
    with pytest.raises(DataError, match="cannot be fetched: Cannot connect") as caught:
        prepared("http://127.0.0.1:9/pets.zip", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_file_above_the_size_limit_is_not_downloaded(tmp_path, site, address):
    site.contents["/pets.zip"] = zipped(tmp_path / "pets.zip", files()).read_bytes()
    with pytest.raises(DataError, match="more than max_data allows"):
        prepared(f"{address}/pets.zip", tmp_path, max_data=1000)
    assert all(method == "HEAD" for method, *_ in site.requests)


def test_files_of_unknown_size_are_downloaded_up_to_the_limit(tmp_path):
    class System:
        protocol = ("memory",)

        def open(self, name, mode):
            return io.BytesIO(bytes(1000))

    with Progress("fetch", None, "B") as progress:
        download = _Download(System(), "pets", 1500, progress, threading.Event())
        download.copy("a", None, tmp_path / "a")
        with pytest.raises(DataError, match=r"pets has more bytes than max_data allows \(1,500\)"):
            download.copy("b", None, tmp_path / "b")
    assert (tmp_path / "a").stat().st_size == 1000


@pytest.mark.slow
def test_a_public_data_set_has_its_own_name_and_classes_and_is_downloaded_once(tmp_path, site, address):
    content = zipped(tmp_path / "pets.zip", files()).read_bytes()
    site.contents["/right"], site.contents["/wrong"] = content, content[:-1] + b"x"
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    mirrors = tuple(address + path for path in ("/none", "/wrong", "/right"))
    public = {"pets": PublicDataset((PublicFile("pets.zip", checksum, mirrors),), ("kitten", "puppy"), mirror=False)}
    dataset = prepared("pets", tmp_path, public)
    assert (dataset.source, dataset.classes, dataset.mirror) == ("pets", ("kitten", "puppy"), False)
    site.requests.clear()
    assert prepared("pets", tmp_path, public).digest == dataset.digest
    assert site.requests == []


def test_a_folder_url_is_read_like_the_folder(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name, content in files().items():
        memory.pipe(f"/pets/{name}", content)
    fetched = fetch("memory://pets", tmp_path / "fetched", timeout=60, max_data=10**6)
    local = write(tmp_path / "pets", files())
    assert prepared(fetched, tmp_path / "a").digest == prepared(local, tmp_path / "b").digest


def test_only_new_files_of_a_folder_url_are_downloaded(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    old = files()
    new = {f"cat/new{number}.png": content for number, content in enumerate(files(seed=50).values())}
    for name, content in {**old, "dog/gone.png": b"of another size"}.items():
        memory.pipe(f"/growing/{name}", content)
    fetched = fetch("memory://growing", tmp_path / "fetched", timeout=60, max_data=10**6)
    kept = {path: path.stat().st_mtime_ns for path in fetched.rglob("*.png") if path.name != "gone.png"}
    memory.rm("/growing/dog/gone.png")
    for name, content in new.items():
        memory.pipe(f"/growing/{name}", content)
    assert fetch("memory://growing", tmp_path / "fetched", timeout=60, max_data=10**6) == fetched
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert {str(path.relative_to(fetched)) for path in fetched.rglob("*.png")} == {*old, *new}
    assert all((fetched / name).read_bytes() == content for name, content in {**old, **new}.items())


@pytest.mark.slow
def test_the_error_of_an_s3_store_names_the_url(tmp_path, address, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    with pytest.raises(DataError, match="s3://bucket/pets.zip cannot be fetched: ") as caught:
        prepared("s3://bucket/pets.zip", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_download_goes_through_the_proxy_of_the_environment(site, address, tmp_path, monkeypatch):
    site.contents["http://data.invalid/photos.zip"] = b"content"
    monkeypatch.setenv("http_proxy", address)
    assert fetch("http://data.invalid/photos.zip", tmp_path, 30, 2**20).read_bytes() == b"content"


def test_a_host_that_the_environment_excepts_is_reached_without_the_proxy(site, address, tmp_path, monkeypatch):
    site.contents["/photos.zip"] = b"content"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert fetch(f"{address}/photos.zip", tmp_path, 30, 2**20).read_bytes() == b"content"


def test_files_of_google_cloud_storage_are_requested_through_the_proxy_of_the_environment(site, address, monkeypatch):
    monkeypatch.setenv("http_proxy", address)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://storage.invalid")
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # no metadata server gives credentials
    system, path = file_system("gs://bucket/photos.zip")
    with pytest.raises(FileNotFoundError):
        system.info(path)
    assert all(path.startswith("http://storage.invalid/") for _, path, _ in site.requests)
    assert site.requests


def write_certificate(folder: Path, host: str) -> None:
    """Write certificate.pem, which is its own certification authority, and key.pem."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


class Tunnels(BaseHTTPRequestHandler):
    """A proxy that connects every host to one server on loopback."""

    target: int
    hosts: list[str]

    def do_CONNECT(self):
        self.hosts.append(self.path)
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            self.connection.settimeout(30)
            back = threading.Thread(target=copy_bytes, args=(server, self.connection), daemon=True)
            back.start()
            copy_bytes(self.connection, server)
            back.join(30)
        self.close_connection = True

    def log_message(self, *_):
        pass


def copy_bytes(source: socket.socket, destination: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            destination.sendall(content)
        destination.shutdown(socket.SHUT_WR)


@pytest.fixture
def tunnel(site, tmp_path):
    """A proxy in front of a TLS server for data.invalid, whose certification authority only certificate.pem names."""
    write_certificate(tmp_path, "data.invalid")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    Tunnels.target, Tunnels.hosts = server.server_port, []
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Tunnels)
    for each in (server, proxy):
        threading.Thread(target=each.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{proxy.server_port}"
    for each in (proxy, server):
        each.shutdown()
        each.server_close()


def prepare_remote(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "image_classifier.cli", "data", "--home", str(tmp_path / "home")]
    own = re.compile(".*_(PROXY|CA_BUNDLE|CERT_FILE)", re.IGNORECASE)
    environment = {name: value for name, value in os.environ.items() if not own.fullmatch(name)}
    command += ["--data", "https://reader:secret@data.invalid/photos.zip?sig=secret"]
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_https_data_comes_through_a_proxy_from_a_server_with_a_private_authority(site, tunnel, tmp_path, variable):
    site.contents["/photos.zip"] = zipped(tmp_path / "photos.zip", files()).read_bytes()
    done = prepare_remote(tmp_path, HTTPS_PROXY=tunnel, **{variable: str(tmp_path / "certificate.pem")})
    assert done.returncode == 0, done.stderr
    assert "data https://data.invalid/photos.zip: " in done.stdout
    assert set(Tunnels.hosts) == {"data.invalid:443"}


@pytest.mark.slow
def test_an_unknown_authority_is_one_line_without_the_credentials(tunnel, tmp_path):
    done = prepare_remote(tmp_path, HTTPS_PROXY=tunnel)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "https://data.invalid/photos.zip cannot be fetched: " in done.stderr
    assert "certificate verify failed" in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.parametrize("data", ["https://reader:secret@[bad/x.zip?sig=secret", "https://reader:secret@h:port/x.zip"])
def test_an_address_that_is_none_is_named_without_its_credentials(tmp_path, data):
    with pytest.raises(DataError) as caught:
        fetch(data, tmp_path, 10, 2**20)
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("https://")
