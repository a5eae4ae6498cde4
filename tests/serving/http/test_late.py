"""What is loaded while images are answered already."""

import subprocess
import sys
import threading

import pytest

from image_classifier.serving.http.late import LateApplication
from tests.serving.server_process import running, start


def test_calls_wait_until_it_is_loaded():
    may_load, answers = threading.Event(), []

    def load():
        assert may_load.wait(10)
        return lambda environ, start_response: [environ["PATH_INFO"].encode()]

    late = LateApplication(load)
    caller = threading.Thread(target=lambda: answers.append(late({"PATH_INFO": "/a"}, print)))
    caller.start()
    caller.join(0.05)
    assert answers == []
    may_load.set()
    caller.join(10)
    assert answers == [[b"/a"]]
    assert sys.getswitchinterval() == pytest.approx(0.005)


def test_images_and_probes_are_answered_without_flask():
    code = (
        "import sys, image_classifier.serving.service\n"
        "print(sys.modules.keys() & {'flask', 'jinja2', 'torch', 'mlflow'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_who_asks_as_soon_as_the_port_is_open_is_answered_on_every_route(package_folder, pngs, tmp_path):
    with running(package_folder, tmp_path / "log", workers=2) as server:
        assert server.ask("GET", "/v1/models").status == 200
        assert server.ask("POST", "/predict", pngs["red"]).json["predictions"][0]["label"] == "red"


def test_a_server_whose_routes_cannot_be_loaded_ends_and_says_why(package_folder, tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/flask.py").write_text("raise ImportError('a broken installation')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    server = start(package_folder, tmp_path / "log")
    assert server.process.wait(60) == 3
    assert "a broken installation" in server.log.read_text()
