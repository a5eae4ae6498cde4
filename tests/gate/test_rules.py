import pytest

from image_classifier.gate.rules import (
    AT_LEAST,
    AT_MOST,
    Policy,
    RuleOutcome,
    RuleResult,
    decide_by_interval,
    decide_by_value,
)
from image_classifier.settings import SETTINGS

PASS, FAIL = RuleOutcome.PASS, RuleOutcome.FAIL


@pytest.mark.parametrize(
    ("measured", "bound", "outcome"),
    [
        (0.6, AT_LEAST, PASS),
        (0.5, AT_LEAST, PASS),
        (0.4, AT_LEAST, FAIL),
        (0.4, AT_MOST, PASS),
        (0.5, AT_MOST, PASS),
        (0.6, AT_MOST, FAIL),
    ],
)
def test_the_measured_value_decides_an_absolute_check(measured, bound, outcome):
    assert decide_by_value(measured, 0.5, bound) is outcome


@pytest.mark.parametrize(
    ("low", "high", "bound", "outcome"),
    [
        (0.5, 0.9, AT_LEAST, PASS),
        (0.4, 0.9, AT_LEAST, PASS),
        (0.4, 0.5, AT_LEAST, PASS),
        (0.1, 0.4, AT_LEAST, FAIL),
        (0.1, 0.5, AT_MOST, PASS),
        (0.1, 0.6, AT_MOST, PASS),
        (0.6, 0.9, AT_MOST, FAIL),
    ],
)
def test_a_guard_fails_if_the_whole_interval_misses_the_threshold(low, high, bound, outcome):
    assert decide_by_interval(low, high, 0.5, bound) is outcome


def test_only_the_sentence_of_an_open_rule_has_a_note():
    assert RuleResult("rule", PASS, "fast").sentence == "fast"
    assert RuleResult("rule", RuleOutcome.UNDECIDED, "fast").sentence == "fast: not enough evidence"
    assert RuleResult("rule", RuleOutcome.NOT_MEASURED, "speed").sentence == "speed: not measured"


def test_the_setting_offers_every_policy():
    assert SETTINGS["gate_policy"].choices == tuple(Policy)


def test_only_the_policy_improve_tolerates_no_drop():
    assert Policy.IMPROVE.tolerated_drop(0.01) == 0
    assert Policy.NOT_WORSE.tolerated_drop(0.01) == Policy.REFRESH.tolerated_drop(0.01) == 0.01
