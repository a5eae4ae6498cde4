from dataclasses import replace

import pytest

from image_classifier.errors import AcceptanceError
from image_classifier.package.package import GoldenImage
from image_classifier.platform.acceptance import AcceptanceResult, ExpectedServer, try_candidate, wait_for_rollout
from tests.platform.conftest import SERVER_IMAGE
from tests.ports import free_port

EXPECTED = ExpectedServer("7", SERVER_IMAGE)


def attempt(url, package, expected=EXPECTED, *, max_latency=10.0, timeout=0.0) -> AcceptanceResult:
    return try_candidate(url, package, expected, max_latency=max_latency, timeout=timeout, report=print)


@pytest.mark.slow
def test_a_candidate_that_is_still_starting_is_retried_and_accepted(server_url, served_package):
    result = attempt(server_url, served_package, timeout=30)
    assert result.images == len(served_package.golden)
    assert result.largest_difference < 1e-3
    assert result.latency_p95 < 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("expected", "message"),
    [
        (ExpectedServer("8", SERVER_IMAGE), "did not answer as version 8 in .* within 0 s: it answers as version 7"),
        (ExpectedServer("7", "other@sha256:2"), "did not answer as version 7 in other@sha256:2 within 0 s"),
    ],
)
def test_another_version_or_image_is_not_the_candidate(ready_server_url, served_package, expected, message):
    with pytest.raises(AcceptanceError, match=message):
        attempt(ready_server_url, served_package, expected)


@pytest.mark.slow
def test_answers_that_differ_from_the_recorded_ones_are_refused(ready_server_url, served_package):
    golden = served_package.golden[0]
    other = GoldenImage(golden.png, golden.label, tuple(reversed(golden.probabilities)))
    with pytest.raises(AcceptanceError, match=r"answers 'red' \(.* 'white' \(.*\) was recorded"):
        attempt(ready_server_url, replace(served_package, golden=(other, *served_package.golden[1:])))


@pytest.mark.slow
def test_an_image_that_the_server_rejects_is_an_error(ready_server_url, served_package):
    broken = GoldenImage(b"no image", "red", served_package.golden[0].probabilities)
    with pytest.raises(AcceptanceError, match="rejects a held-out image: it answers 400"):
        attempt(ready_server_url, replace(served_package, golden=(broken,)))


@pytest.mark.slow
def test_a_slow_candidate_is_refused(ready_server_url, served_package):
    with pytest.raises(AcceptanceError, match=r"p95 latency of [\d,]+ ms .* max_latency is 0 ms"):
        attempt(ready_server_url, served_package, max_latency=1e-6)


@pytest.mark.slow
def test_a_rollout_is_complete_if_all_answers_come_from_the_expected_server(ready_server_url):
    wait_for_rollout(ready_server_url, EXPECTED, timeout=0)
    with pytest.raises(AcceptanceError, match=r"not all answers of .* came from version 8 within 0 s"):
        wait_for_rollout(ready_server_url, ExpectedServer("8", ""), timeout=0)


def test_a_candidate_that_does_not_answer_is_retried_until_the_timeout(served_package, clock):
    with pytest.raises(AcceptanceError, match=r"within 2 s: it does not answer \(.*refused"):
        attempt(f"http://127.0.0.1:{free_port()}", served_package, timeout=2)
    assert clock.pauses == [0.5] * 4


def test_temporary_failures_are_retried_and_others_are_not(http_answers, served_package, clock):
    http_answers.first_answers = [(404, b""), (503, b"")]
    http_answers.answer = (400, b"no such route")
    with pytest.raises(AcceptanceError, match="it answers 400, no such route"):
        attempt(http_answers.address, served_package, timeout=60)
    assert clock.pauses == [0.5, 0.5]
