"""Addresses and drift counts of a workload's servers."""

import json

import pytest

from image_classifier.errors import ServerError
from image_classifier.platform.drift_endpoints import fetch_server_report, server_addresses
from tests.platform.api_server import ClusterState


def pod(name, service, phase="Running", **status):
    labels = {"serving.kserve.io/inferenceservice": service, "component": "predictor"}
    return {"kind": "Pod", "metadata": {"name": name, "labels": labels}, "status": {"phase": phase, **status}}


def test_the_servers_of_a_workload_are_its_running_pods(connect):
    pods = [
        pod("photos-1", "photos", podIP="10.0.0.1"),
        pod("photos-2", "photos", podIP="fd00::2"),
        pod("photos-3", "photos", phase="Pending"),
        pod("candidate", "photos-candidate", podIP="10.0.0.4"),
    ]
    found = server_addresses(connect(ClusterState(pods)), "photos")
    assert found == ["http://10.0.0.1:8080", "http://[fd00::2]:8080"]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, "", "answers 401 to /drift; set its token"),
        (404, "", "answers 404 to /drift; it runs an older version"),
        (200, "<html>", "is not a server of this program"),
        (200, json.dumps({"verdict": "drift"}), "is not a server of this program"),
    ],
)
def test_an_answer_that_is_not_a_drift_report_is_an_error(http_answers, status, body, message):
    http_answers.answer = (status, body.encode())
    with pytest.raises(ServerError, match=message):
        fetch_server_report(http_answers.address, "", is_pod=False)


def test_a_server_that_does_not_answer_is_named():
    with pytest.raises(ServerError, match=r"http://127.0.0.1:9 does not answer .*is it running"):
        fetch_server_report("http://127.0.0.1:9", "", is_pod=False)


def test_a_pod_is_reached_past_the_proxy(http_answers, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    http_answers.answer = (404, b"")
    with pytest.raises(ServerError, match="answers 404"):
        fetch_server_report(http_answers.address, "", is_pod=True)
