"""Each server of a workload, found and asked."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from image_classifier.errors import ServerError
from image_classifier.platform.cluster import Cluster
from image_classifier.platform.drift_endpoints import addresses_of, ask_server
from tests.platform.recorded_cluster import Records, recorded_cluster


def pod(name, service, phase="Running", **status):
    labels = {"serving.kserve.io/inferenceservice": service, "component": "predictor"}
    return {"kind": "Pod", "metadata": {"name": name, "labels": labels}, "status": {"phase": phase, **status}}


def test_the_servers_of_a_workload_are_its_pods_that_run(tmp_path, monkeypatch):
    pods = [
        pod("photos-1", "photos", podIP="10.0.0.1"),
        pod("photos-2", "photos", podIP="fd00::2"),
        pod("photos-3", "photos", phase="Pending"),
        pod("candidate", "photos-candidate", podIP="10.0.0.4"),
    ]
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with recorded_cluster(Records(pods), tmp_path / "config"):
        found = addresses_of(Cluster.connect(), "photos")
    assert found == ["http://10.0.0.1:8080", "http://[fd00::2]:8080"]


@pytest.fixture
def answers():
    """An HTTP server that gives one answer; a function that sets it."""
    given = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = given["body"].encode()
            self.send_response(given["status"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()

    def give(status, body):
        given.update(status=status, body=body)
        return f"http://127.0.0.1:{server.server_port}"

    yield give
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, "", "answers 401 to /drift; give its token"),
        (404, "", "answers 404 to /drift; it is of an earlier version"),
        (200, "<html>", "does not answer as a server of ours"),
        (200, json.dumps({"verdict": "drift"}), "does not answer as a server of ours"),
    ],
)
def test_what_is_no_server_of_ours_is_said(answers, status, body, said):
    with pytest.raises(ServerError, match=said):
        ask_server(answers(status, body), "")


def test_a_server_that_is_gone_is_said():
    with pytest.raises(ServerError, match=r"http://127.0.0.1:9 does not answer .*is it running"):
        ask_server("http://127.0.0.1:9", "")
