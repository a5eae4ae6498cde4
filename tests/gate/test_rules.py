import pytest

from image_classifier.gate.rules import AT_LEAST, AT_MOST, RuleOutcome, RuleResult, decide_by_interval, decide_by_value

PASS, FAIL, UNDECIDED = RuleOutcome.PASS, RuleOutcome.FAIL, RuleOutcome.UNDECIDED


@pytest.mark.parametrize(
    ("measured", "interval", "bound", "outcome"),
    [
        (0.9, (0.8, 0.95), AT_LEAST, PASS),
        (0.6, (0.4, 0.8), AT_LEAST, UNDECIDED),
        (0.4, (0.3, 0.6), AT_LEAST, FAIL),  # the interval includes the threshold, the value misses it
        (0.5, None, AT_LEAST, PASS),
        (0.1, (0.05, 0.2), AT_MOST, PASS),
        (0.4, (0.3, 0.6), AT_MOST, UNDECIDED),
        (0.6, (0.4, 0.8), AT_MOST, FAIL),
        (0.5, None, AT_MOST, PASS),
    ],
)
def test_the_measured_value_decides_an_absolute_check(measured, interval, bound, outcome):
    assert decide_by_value(measured, interval, 0.5, bound) is outcome


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
def test_the_interval_decides_a_comparison(low, high, bound, outcome):
    assert decide_by_interval(low, high, 0.5, bound) is outcome


def test_only_the_sentence_of_an_undecided_rule_has_a_note():
    assert RuleResult("rule", PASS, "fast").sentence == "fast"
    assert RuleResult("rule", UNDECIDED, "fast").sentence == "fast: not enough evidence"
