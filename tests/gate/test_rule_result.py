import pytest

from image_classifier.gate.rule_result import AT_LEAST, AT_MOST, RuleOutcome, by_interval, by_measured

PASS, FAIL, UNDECIDED = RuleOutcome.PASS, RuleOutcome.FAIL, RuleOutcome.UNDECIDED


@pytest.mark.parametrize(
    ("measured", "interval", "bound", "outcome"),
    [
        (0.9, (0.8, 0.95), AT_LEAST, PASS),
        (0.6, (0.4, 0.8), AT_LEAST, UNDECIDED),
        (0.4, (0.3, 0.6), AT_LEAST, FAIL),  # the figure itself misses it
        (0.5, None, AT_LEAST, PASS),
        (0.1, (0.05, 0.2), AT_MOST, PASS),
        (0.4, (0.3, 0.6), AT_MOST, UNDECIDED),
        (0.6, (0.4, 0.8), AT_MOST, FAIL),
        (0.5, None, AT_MOST, PASS),
    ],
)
def test_a_floor_goes_by_the_figure(measured, interval, bound, outcome):
    assert by_measured(measured, interval, 0.5, bound) is outcome


@pytest.mark.parametrize(
    ("low", "high", "bound", "outcome"),
    [
        (0.5, 0.9, AT_LEAST, PASS),
        (0.4, 0.9, AT_LEAST, UNDECIDED),
        (0.4, 0.5, AT_LEAST, UNDECIDED),
        (0.1, 0.4, AT_LEAST, FAIL),
        (0.1, 0.5, AT_MOST, PASS),
        (0.1, 0.6, AT_MOST, UNDECIDED),
        (0.6, 0.9, AT_MOST, FAIL),
    ],
)
def test_a_comparison_goes_by_the_interval(low, high, bound, outcome):
    assert by_interval(low, high, 0.5, bound) is outcome
