import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from image_classifier.errors import ImageClassifierError, SettingError
from image_classifier.package import Package
from image_classifier.settings import Settings
from image_classifier.steps.serve import free_port, request_golden_image, serve, server_process
from tests import ports
from tests.steps.chain import Lines


class Ready(BaseHTTPRequestHandler):
    """Another program, which is ready and predicts."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def another_program(port: int):
    with ThreadingHTTPServer(("127.0.0.1", port), Ready) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "http://127.0.0.1"), ("0.0.0.0", "http://127.0.0.1"), ("::", "http://[::1]")]
)
def test_the_reported_answer_is_from_the_server_that_was_started(package_folder, capfd, host, address):
    if host == "::" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("needs IPv6")
    settings = replace(Settings(), host=host, port=ports.free_port())
    package, lines = Package.read(package_folder), Lines()
    with server_process(settings, package) as server:
        request_golden_image(settings, package, server, lines)
    assert f" to {address}:{settings.port}/predict; the answer is" in lines.text
    assert f" event=ready address={address}:{settings.port}/ " in "".join(capfd.readouterr())
    assert server.process.returncode == 0


@pytest.mark.slow
def test_an_answer_of_another_program_is_an_error(package_folder):
    settings = replace(Settings(), port=ports.free_port())
    package, lines = Package.read(package_folder), Lines()
    message = f"another program answers at http://127.0.0.1:{settings.port}, not the server that was started"
    with (
        another_program(settings.port),
        server_process(settings, package) as server,
        pytest.raises(ImageClassifierError, match=message),
    ):
        request_golden_image(settings, package, server, lines)
    assert lines == []


@pytest.mark.slow
def test_a_server_of_the_same_model_is_another_program(package_folder):
    settings = replace(Settings(), port=ports.free_port())
    package = Package.read(package_folder)
    with server_process(settings, package) as first:
        request_golden_image(settings, package, first, Lines())
        sleeping = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        with sleeping, pytest.raises(ImageClassifierError, match="another program answers"):
            request_golden_image(settings, package, replace(first, process=sleeping, instance="process-2"), Lines())


def test_a_taken_port_is_found_before_the_model_is_looked_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(home=tmp_path / "home", port=taken.getsockname()[1])
        with pytest.raises(SettingError, match="is already in use; choose another --port"):
            serve(settings, Lines())
    assert not settings.home.exists()


def test_port_0_is_any_free_port():
    assert free_port(Settings(port=0)) > 0
