import numpy as np
import pytest
from scipy.stats import fisher_exact

from image_classifier.monitoring.revision_comparison import (
    FALSE_ALARM_RATE,
    ResponseCounts,
    RevisionComparison,
    stratified_p_value,
)

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def responses_of(generator, number, *, errors=0.0, slowdown=1.0, shares=(0.1,) * 10):
    """The counts of a number of responses with a latency of about 2 ms."""
    seconds = slowdown * generator.lognormal(np.log(0.002), 0.5, size=number)
    classes = generator.multinomial(number, shares)
    return ResponseCounts(
        number,
        int(generator.binomial(number, errors)),
        float(seconds.sum()),
        {bound: int((seconds <= bound).sum()) for bound in BOUNDS},
        {str(index): int(count) for index, count in enumerate(classes)},
    )


def roll_out(seed, *, rate=20, seconds=60, every=2, changing=False, **bad):
    """Move traffic evenly to the new revision; returns the result of the comparison.

    With `changing` traffic, classes, latency and errors change over time for both revisions.
    """
    generator = np.random.default_rng(seed)
    comparison = RevisionComparison("version 6")
    for second in range(0, seconds, every):
        moved = (second + every / 2) / seconds
        requests = int(generator.poisson(rate * every))
        new = int(generator.binomial(requests, moved))
        both = {}
        if changing:
            shares = np.full(10, 0.1 * (1 - moved))
            shares[3] += moved
            both = {"shares": shares, "slowdown": 1 + 4 * moved, "errors": 0.2 * moved}
        comparison.add(responses_of(generator, new, **{**both, **bad}), responses_of(generator, requests - new, **both))
        if worse := comparison.look():
            return worse
    return comparison.look(last=True)


def test_for_one_interval_the_p_value_is_that_of_fishers_exact_test():
    for new_events, new, old_events, old in [(5, 100, 0, 100), (3, 40, 2, 90), (0, 10, 3, 10), (7, 7, 1, 20)]:
        table = [[new_events, new - new_events], [old_events, old - old_events]]
        expected = fisher_exact(table, alternative="greater").pvalue
        assert stratified_p_value([(new_events, new, old_events, old)]) == pytest.approx(expected)


def test_over_several_intervals_the_p_value_agrees_with_a_simulation():
    strata = [(3, 10, 1, 30), (2, 20, 1, 20), (4, 30, 0, 10)]
    generator = np.random.default_rng(0)
    drawn = sum(generator.hypergeometric(a + c, b + d - a - c, b, size=100_000) for a, b, c, d in strata)
    assert stratified_p_value(strata) == pytest.approx((drawn >= 9).mean(), abs=0.005)


def test_the_normal_approximation_agrees_with_the_exact_test():
    few = [(130, 400, 100, 400)]
    assert stratified_p_value(few * 2) == pytest.approx(stratified_p_value([(260, 800, 200, 800)]), rel=0.2)
    assert stratified_p_value([(1300, 4000, 1200, 4000)]) == pytest.approx(
        fisher_exact([[1300, 2700], [1200, 2800]], alternative="greater").pvalue, rel=0.02
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"errors": 0.05}, ", compared with 0.0 % ("),
        ({"slowdown": 3.0}, "mean latency "),
        ({"shares": (0.0,) * 4 + (1.0,) + (0.0,) * 5}, "class '4' predicted for 100 % of the requests, compared with "),
    ],
    ids=["errors", "slow", "one class"],
)
def test_a_bad_revision_is_found_while_traffic_moves(bad, message):
    assert all(message in roll_out(seed, rate=40, **bad) for seed in range(20))


@pytest.mark.parametrize("changing", [False, True])
def test_an_equally_good_revision_is_rarely_called_worse(changing):
    false_alarms = [reason for seed in range(150) if (reason := roll_out(seed, rate=40, changing=changing))]
    # At a rate of 1 in 100, four of 150 are rare.
    assert len(false_alarms) <= 150 * FALSE_ALARM_RATE + 2, false_alarms


def test_a_slightly_worse_revision_is_accepted():
    assert roll_out(1, rate=400, slowdown=1.3) == ""
    assert roll_out(1, rate=400, shares=(0.2,) + (0.8 / 9,) * 9) == ""


def test_with_too_few_responses_there_is_no_result():
    comparison = RevisionComparison("version 6")
    comparison.add(ResponseCounts(9, errors=9), ResponseCounts(9))
    assert comparison.look(last=True) == ""
    assert comparison.summary() == (
        "not enough traffic to compare: 9 responses, and 9 from version 6 at the same time; "
        "at least 50 of each are needed"
    )


def test_few_responses_suffice_if_all_are_errors():
    comparison = RevisionComparison("version 6")
    comparison.add(ResponseCounts(12, errors=12), ResponseCounts(12))
    assert comparison.look() == ""
    assert comparison.look(last=True) == (
        "error rate 100.0 % (12 of 12 responses), compared with 0.0 % (0 of 12) for version 6"
    )


def test_intervals_in_which_only_one_revision_responded_are_ignored():
    comparison = RevisionComparison("version 6")
    comparison.add(ResponseCounts(500, errors=500), ResponseCounts())
    comparison.add(ResponseCounts(), ResponseCounts(500))
    assert comparison.responses == (0, 0)
    assert comparison.look(last=True) == ""


def test_the_summary_compares_error_rates_and_latencies():
    comparison = RevisionComparison("version 6")
    comparison.add(ResponseCounts(100, 1, 0.3), ResponseCounts(200, 2, 0.4))
    assert comparison.summary() == (
        "not significantly worse than version 6: error rate 1.0 % and 1.0 %, mean latency 3.0 ms and 2.0 ms "
        "(100 and 200 responses)"
    )
