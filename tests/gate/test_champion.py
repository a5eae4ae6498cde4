import re
from dataclasses import replace

import pytest

from image_classifier.gate.champion import find_opponent
from image_classifier.gate.rule_result import RuleOutcome
from image_classifier.package.package import Model, Package
from tests.conftest import COLOURS
from tests.evaluation.test_evaluation import evaluation_of

CANDIDATE = evaluation_of([0, 1], [0, 1], classes=tuple(COLOURS))
KNOWN = replace(CANDIDATE, package_digest="champion")
AGAIN = replace(CANDIDATE, package_digest="evaluated again")


@pytest.fixture(scope="module")
def model(package_folder):
    return Model.load(Package.read(package_folder), threads=1)


def again(_):
    return AGAIN


def never(_):
    raise AssertionError("evaluated again for nothing")


def test_what_is_recorded_of_the_same_images_is_enough_with_or_without_files(model):
    for at_hand in (model, None):
        opponent = find_opponent(3, CANDIDATE, KNOWN, at_hand, never)
        assert opponent.evaluation == KNOWN
        assert opponent.model is at_hand


@pytest.mark.parametrize("changed", [{"data_digest": "new"}, {"test_fraction": 0.3}])
def test_on_other_test_images_it_is_evaluated_again(model, changed):
    assert find_opponent(3, replace(CANDIDATE, **changed), KNOWN, model, again).evaluation == AGAIN


def test_what_was_not_measured_then_is_measured_now_if_it_can_be(model):
    old = replace(KNOWN, robustness=None)
    assert find_opponent(3, CANDIDATE, old, model, again).evaluation == AGAIN
    assert find_opponent(3, CANDIDATE, old, None, never).evaluation == old


def test_a_lost_evaluation_is_made_again(model):
    assert find_opponent(3, CANDIDATE, None, model, again).evaluation == AGAIN


@pytest.mark.parametrize(
    ("candidate", "known", "reason"),
    [
        (
            replace(CANDIDATE, data_digest="new"),
            KNOWN,
            "version 3, the champion, was evaluated on other data, and its files are gone from the registry",
        ),
        (
            CANDIDATE,
            None,
            "version 3, the champion, has neither an evaluation nor files in the registry any more",
        ),
        (
            replace(CANDIDATE, classes=("cat", "dog")),
            KNOWN,
            r"version 3, the champion, knows other classes \(red, green, blue, white\) than the candidate "
            r"\(cat, dog\)",
        ),
    ],
)
def test_where_it_cannot_be_compared_the_floors_decide_and_the_reason_says_so(candidate, known, reason):
    opponent = find_opponent(3, candidate, known, None, never)
    assert opponent.evaluation is None
    assert opponent.why.outcome is RuleOutcome.UNDECIDED
    assert re.fullmatch(f"{reason}: the floors alone decide", opponent.why.reason)


def test_other_classes_are_told_from_the_files_where_the_evaluation_is_lost(model):
    opponent = find_opponent(3, replace(CANDIDATE, classes=("cat", "dog")), None, model, never)
    assert opponent.evaluation is None
    assert "knows other classes" in opponent.why.reason
