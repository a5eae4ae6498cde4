import hashlib
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from image_classifier.datasets import prepare
from image_classifier.datasets.fetch import fetch
from image_classifier.datasets.public_datasets import Known, KnownFile
from image_classifier.errors import DataError
from image_classifier.settings import Settings
from tests.datasets.samples import HOME, files, prepared, write
from tests.datasets.test_archive import zipped


class Site:
    """What a loopback server gives, and how it behaves."""

    def __init__(self):
        self.contents = {}
        self.requests = []
        self.hang = threading.Event()
        self.cut_after = None
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
            if site.cut_after is not None and end > site.cut_after:
                self.wfile.write(content[start : site.cut_after])
                self.wfile.flush()
                site.hang.wait(30)
                self.close_connection = True
                return
            self.wfile.write(content[start:end])

        def log_message(self, *_):
            pass

    return Handler


@contextmanager
def serving(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(site))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        site.hang.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def site():
    return Site()


@pytest.fixture
def address(site):
    with serving(site) as url:
        yield url


def test_an_address_gives_what_the_file_gives_and_is_fetched_once(tmp_path, site, address):
    packed = zipped(tmp_path / "pets.zip", files())
    site.contents["/pets.zip"] = packed.read_bytes()
    local = prepared(packed, tmp_path / "local")
    remote = prepared(f"{address}/pets.zip?token=secret", tmp_path)
    assert remote.digest == local.digest
    assert remote.source == f"{address}/pets.zip"
    site.requests.clear()
    prepared(f"{address}/pets.zip?token=secret", tmp_path)
    assert {method for method, *_ in site.requests} <= {"HEAD"}


def test_what_changed_at_its_address_is_fetched_again(tmp_path, site, address):
    digests = set()
    for start in (0, 50):
        site.contents["/pets.zip"] = zipped(tmp_path / "pets.zip", files(start=start)).read_bytes()
        digests.add(prepared(f"{address}/pets.zip", tmp_path).digest)
    assert len(digests) == 2


@pytest.mark.parametrize("ranges", [True, False])
def test_a_fetch_that_was_cut_goes_on(tmp_path, site, address, ranges):
    content = zipped(tmp_path / "pets.zip", files(count=40, side=150)).read_bytes()
    site.contents["/pets.zip"], site.cut_after, site.ranges = content, 3 * 2**20, ranges
    with pytest.raises(DataError, match=r"not fetched within 1 s; .*raise fetch_timeout"):
        prepared(f"{address}/pets.zip", tmp_path, fetch_timeout=1)
    site.cut_after = None
    site.requests.clear()
    assert len(prepared(f"{address}/pets.zip", tmp_path).train.labels) == 64
    starts = [int(re.match(r"bytes=(\d+)", wanted)[1]) for _, _, wanted in site.requests if wanted]
    if ranges:
        assert min(starts) >= 2**20


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/none.zip", r"none.zip is not there: .*\(404\)"),
        ("/hang", r"hang was not fetched within 1 s"),
        ("/page", r"neither a folder nor a zip"),
    ],
)
def test_an_address_without_data_is_one_line_and_no_hang(tmp_path, site, address, path, message):
    site.contents["/page"] = b"<html>not here</html>"
    began = time.monotonic()
    with pytest.raises(DataError, match=message) as caught:
        prepared(address + path, tmp_path, fetch_timeout=1)
    assert time.monotonic() - began < 5
    assert "\n" not in str(caught.value)


def test_an_address_that_nobody_listens_at_is_one_line(tmp_path):
    with pytest.raises(DataError, match="cannot be fetched: Cannot connect"):
        prepared("http://127.0.0.1:9/pets.zip", tmp_path, fetch_timeout=5)


def test_more_than_the_limit_is_not_fetched(tmp_path, site, address):
    site.contents["/pets.zip"] = zipped(tmp_path / "pets.zip", files()).read_bytes()
    with pytest.raises(DataError, match="more than max_data allows"):
        prepared(f"{address}/pets.zip", tmp_path, max_data=1000)
    assert all(method == "HEAD" for method, *_ in site.requests)


def test_a_file_address_is_local(tmp_path):
    folder = write(tmp_path / "my pets", files())
    assert len(prepared(folder.as_uri(), tmp_path).train.labels) == 16


def test_a_name_that_is_nothing_says_what_could_be_given(tmp_path):
    with pytest.raises(DataError, match="there is no data set, file or folder 'cats'; give digits, cifar10"):
        prepared("cats", tmp_path)


def known_pets(tmp_path, site, address, *mirrors):
    content = zipped(tmp_path / "pets.zip", files()).read_bytes()
    site.contents["/right"], site.contents["/wrong"] = content, content[:-1] + b"x"
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    file = KnownFile("pets.zip", checksum, tuple(address + mirror for mirror in mirrors))
    return {"pets": Known((file,), ("kitten", "puppy"), mirror=False)}


def test_a_known_data_set_comes_from_the_first_mirror_that_has_the_right_bytes(tmp_path, site, address):
    known = known_pets(tmp_path, site, address, "/none", "/hang", "/wrong", "/right")
    settings = Settings(data="pets", home=tmp_path / HOME, fetch_timeout=4)
    dataset = prepare(settings, known)
    assert (dataset.source, dataset.classes, dataset.mirror) == ("pets", ("kitten", "puppy"), False)
    site.requests.clear()
    assert prepare(settings, known).digest == dataset.digest
    assert site.requests == []


def test_a_known_data_set_without_a_good_mirror_names_all_and_the_way_out(tmp_path, site, address):
    known = known_pets(tmp_path, site, address, "/none", "/hang", "/wrong")
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        prepare(Settings(data="pets", home=tmp_path / HOME, fetch_timeout=3), known)
    assert time.monotonic() - began < 5
    for part in (
        "/none is not there",
        "/hang was not fetched",
        "/wrong gives other bytes",
        "embedded digits",
    ):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_address_gives_what_the_folder_gives(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name, content in files().items():
        memory.pipe(f"/pets/{name}", content)
    fetched = fetch("memory://pets", tmp_path / "fetched", timeout=10, max_data=10**6)
    local = write(tmp_path / "pets", files())
    assert prepared(fetched, tmp_path / "a").digest == prepared(local, tmp_path / "b").digest


def test_of_a_folder_address_that_has_grown_only_what_is_new_is_fetched(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    old, new = (
        files(),
        {f"cat/new{number}.png": content for number, content in enumerate(files(start=50).values())},
    )
    for name, content in {**old, "dog/gone.png": b"of another size"}.items():
        memory.pipe(f"/growing/{name}", content)
    fetched = fetch("memory://growing", tmp_path / "fetched", timeout=10, max_data=10**6)
    kept = {path: path.stat().st_mtime_ns for path in fetched.rglob("*.png") if path.name != "gone.png"}
    memory.rm("/growing/dog/gone.png")
    for name, content in new.items():
        memory.pipe(f"/growing/{name}", content)
    assert fetch("memory://growing", tmp_path / "fetched", timeout=10, max_data=10**6) == fetched
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert {str(path.relative_to(fetched)) for path in fetched.rglob("*.png")} == {*old, *new}
    assert all((fetched / name).read_bytes() == content for name, content in {**old, **new}.items())


def test_a_store_that_does_not_answer_is_one_line_and_no_hang(tmp_path, site, address, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    began = time.monotonic()
    with pytest.raises(DataError, match="s3://bucket/pets.zip"):
        prepared("s3://bucket/pets.zip", tmp_path, fetch_timeout=5)
    assert time.monotonic() - began < 8
