"""A short run of the fuzzer; `python -m tests.serving.http.fuzz PACKAGE` is the long one."""

import pytest

from tests.conftest import SIZE
from tests.serving.http.fuzz import Fuzzer, proportional_memory, send_requests


@pytest.mark.slow
def test_mutated_requests_get_a_response_or_an_error(server):
    statuses, memory = send_requests(server, Fuzzer(server.model_name(), SIZE, seed=1), count=1500, interval=500)
    assert {200, 400, 404, 405} <= statuses.keys()
    assert statuses[0] < 30
    assert memory[-1] < memory[0] + 30 * 2**20
    assert proportional_memory(server.process.pid) > 10 * 2**20
