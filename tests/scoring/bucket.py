"""A loopback server for the S3 requests that write and read a folder of objects."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
_ERROR = "<Error><Code>{0}</Code><Message>{0}</Message></Error>"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._key().startswith(f"{BUCKET}/"):
            self._respond(404, _ERROR.format("NoSuchBucket").encode())
            return
        self.objects[self._key()] = content
        self._respond(200, ETag='"1"')

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        key = self._key()
        if "list-type" in query:
            self._respond(200, self._listing(query.get("prefix", [""])[0]))
        elif key not in self.objects:
            self._respond(404, _ERROR.format("NoSuchKey").encode())
        else:
            content = self.objects[key]
            status, range_headers = 200, {}
            if requested := self.headers.get("Range"):
                first, _, last = requested.removeprefix("bytes=").partition("-")
                end = min(int(last or len(content)), len(content) - 1)
                range_headers = {"Content-Range": f"bytes {first}-{end}/{len(content)}"}
                status, content = 206, content[int(first) : end + 1]
            self._respond(status, content, ETag='"1"', **range_headers)

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).strip("/")

    def _listing(self, prefix: str) -> bytes:
        bucket = self._key()
        objects = [(key.removeprefix(f"{bucket}/"), content) for key, content in sorted(self.objects.items())]
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size><ETag>1</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, content in objects
            if key.startswith(prefix)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>".encode()

    def _respond(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *_: object) -> None:
        pass


@contextmanager
def serve_bucket(objects: dict[str, bytes]) -> Iterator[dict[str, str]]:
    """Serve the objects, `BUCKET/key` to content; yields the environment variables for an S3 client."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"objects": objects}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        }
    finally:
        server.shutdown()
        server.server_close()
