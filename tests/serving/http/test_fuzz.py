"""A short run of the fuzzer; `python -m tests.serving.http.fuzz PACKAGE` is the long one."""

from tests.conftest import SIZE
from tests.serving.http.fuzz import Fuzzer, ask_all, proportional_memory


def test_mutated_requests_are_answered_or_refused(server):
    name = server.ask("GET", "/v1/models").json["models"][0]
    statuses, memory = ask_all(server, Fuzzer(name, SIZE, seed=1), count=1500, every=500)
    assert {200, 400, 404, 405} <= statuses.keys()
    assert statuses[0] < 30
    assert memory[-1] < memory[0] + 30 * 2**20
    assert proportional_memory(server.process.pid) > 10 * 2**20
