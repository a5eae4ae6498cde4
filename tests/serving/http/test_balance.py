"""Which worker takes a new connection."""

import os
import time

import psutil

from image_classifier.serving.http.balance import Balance
from tests.serving.server_process import running


def test_the_worker_with_the_fewest_connections_takes_the_next():
    balance = Balance()
    assert not balance.has_share(1, 3)
    assert not balance.has_share(2, 3)
    assert balance.has_share(1, 4)
    assert not balance.has_share(2, 3)


def test_a_worker_that_ended_keeps_none_from_accepting():
    balance = Balance()
    balance.has_share(1, 0)
    assert balance.has_share(2, 1)
    balance.forget(1)
    assert not balance.has_share(2, 1)


def test_a_worker_that_stands_still_keeps_none_from_accepting(monkeypatch):
    balance = Balance()
    balance.has_share(1, 0)
    assert balance.has_share(2, 1)
    monkeypatch.setattr("image_classifier.serving.http.balance._STALE_SECONDS", 0.0)
    assert not balance.has_share(2, 1)


def test_the_counts_are_those_of_processes_forked_later():
    balance = Balance()
    if (child := os.fork()) == 0:
        balance.has_share(1, 0)
        os._exit(0)
    os.waitpid(child, 0)
    assert balance.has_share(2, 1)


def test_connections_that_are_kept_are_spread_evenly_over_the_workers(package_folder, tmp_path):
    with running(package_folder, tmp_path / "log", workers=2) as server:
        time.sleep(0.5)  # a worker says that it is ready, and begins to accept a moment later
        clients = [server.connect() for _ in range(8)]
        for client in clients:
            client.request("GET", "/healthz")
        for client in clients:
            assert client.getresponse().read()
        workers = psutil.Process(server.process.pid).children()
        held = [
            sum(connection.status == psutil.CONN_ESTABLISHED for connection in worker.connections())
            for worker in workers
        ]
        assert held == [4, 4]
        for client in clients:
            client.close()
