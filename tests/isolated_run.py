"""`image-classifier run` on a machine that only has loopback: python -m tests.isolated_run, in a network namespace.

A name server on loopback records the names that any library looks up, and a web server has the data set. The outcome is
written to the file that the second argument names.
"""

import base64
import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOME_NAME = "a home%2F100% ü?x=1#y"
USER, PASSWORD, SIGNATURE = "reader", "pass-7f3a9c", "signature-51c0de"
COMMAND = ("run", "--once", "--budget", "2s", "--recipe", "width=0.5", "--max-calibration-error", "1", "--port", "0")
_IFF_UP = 1
_SIOCSIFFLAGS = 0x8914
_MS_BIND = 4096
_NAME_ERROR = 0x8183  # flags of a DNS answer: no such name


def main(folder: Path, outcome: Path) -> None:
    """Run the command in `folder`, which has `photos.zip` and the empty folders `user`, `tmp` and `cwd`."""
    _bring_up_loopback()
    names = _serve_names(folder)
    port = _serve_data((folder / "photos.zip").read_bytes())
    home = folder / HOME_NAME
    data = f"http://{USER}:{PASSWORD}@127.0.0.1:{port}/photos.zip?X-Amz-Signature={SIGNATURE}"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(folder / "user"),
        "TMPDIR": str(folder / "tmp"),
        "IMAGE_CLASSIFIER_PORT": "tcp://10.0.0.1:80",
        # Not for https: the proxy would look up those names.
        **dict.fromkeys(("http_proxy", "HTTP_PROXY"), "http://127.0.0.1:9"),
    }
    command = [sys.executable, "-m", "image_classifier.cli", *COMMAND, "--home", str(home), "--data", data]
    done = subprocess.run(
        command, cwd=folder / "cwd", env=environment, capture_output=True, text=True, timeout=110, umask=0o077
    )
    found = {"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr, "names": names}
    outcome.write_text(json.dumps(found), encoding="utf-8")


def _bring_up_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _serve_names(folder: Path) -> list[str]:
    """Answer every DNS query in this namespace with "no such name"; returns the list that gets the names."""
    configuration = folder / "resolv.conf"
    configuration.write_text("nameserver 127.0.0.1\n", encoding="ascii")
    if ctypes.CDLL(None, use_errno=True).mount(bytes(configuration), b"/etc/resolv.conf", None, _MS_BIND, None):
        raise OSError(ctypes.get_errno(), "cannot mount /etc/resolv.conf")
    names: list[str] = []
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))

    def answer() -> None:
        while True:
            query, client = server.recvfrom(512)
            labels, position = [], 12
            while length := query[position]:
                labels.append(query[position + 1 : position + 1 + length].decode())
                position += 1 + length
            names.append(".".join(labels))
            server.sendto(query[:2] + struct.pack(">H", _NAME_ERROR) + query[4:], client)

    threading.Thread(target=answer, daemon=True).start()
    return names


def _serve_data(content: bytes) -> int:
    """Serve a file to whoever has the user, the password and the signature; returns the port."""
    wanted = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_allowed = self.headers["Authorization"] == wanted and SIGNATURE in self.path
            self.send_response(200 if is_allowed else 403)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 (the name is http.server's)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
