from dataclasses import replace

import pytest

from image_classifier.backbones import SHIPPED
from image_classifier.training.candidates import Candidate, fit_best
from tests.training.samples import clock, plan, stripes

SMALL, LARGE = stripes(8, images=200), stripes(32, images=200)
BACKBONE = replace(plan(budget=1e-3), backbone=SHIPPED["efficientnet-lite0"])
ON_BACKBONE, FROM_SCRATCH = Candidate(LARGE, BACKBONE), Candidate(SMALL, plan(budget=1e-3))
pytestmark = pytest.mark.slow


def test_a_single_candidate_is_trained_as_without_a_choice(tmp_path):
    best = fit_best([FROM_SCRATCH], checkpoint=tmp_path, clock=clock(1e-4))
    assert best.candidate is FROM_SCRATCH
    assert best.reason == ""
    assert best.trained.seconds == pytest.approx(1e-3, abs=3e-4)


def test_the_better_candidate_is_kept_with_the_history_of_both(tmp_path):
    points = []
    late = FROM_SCRATCH._replace(plan=replace(FROM_SCRATCH.plan, budget=2e-5))
    best = fit_best([late, ON_BACKBONE], checkpoint=tmp_path, on_report=points.append, clock=clock(1e-5))
    assert best.candidate is ON_BACKBONE
    assert best.reason.startswith("none ")
    assert ", efficientnet-lite0 " in best.reason
    assert [point.number for point in best.trained.history] == list(range(1, len(points) + 1))
    assert list(best.trained.history) == points
    assert points[-1].seconds > points[0].seconds
    assert best.trained.validation_accuracy == points[-1].validation_accuracy > points[0].validation_accuracy


def test_the_first_candidate_is_kept_if_the_others_are_no_better(tmp_path):
    untrained = FROM_SCRATCH._replace(plan=replace(FROM_SCRATCH.plan, budget=2e-5))
    assert fit_best([ON_BACKBONE, untrained], checkpoint=tmp_path, clock=clock(1e-5)).candidate is ON_BACKBONE


def test_after_an_interruption_the_candidates_before_are_not_trained_again(tmp_path):
    def interrupt(point):
        if point.number > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_best([ON_BACKBONE, FROM_SCRATCH], checkpoint=tmp_path, on_report=interrupt, clock=clock(1e-5))
    # Time for one batch only, which would lack most of the images.
    best = fit_best([ON_BACKBONE, FROM_SCRATCH], checkpoint=tmp_path, clock=clock(1e-4))
    assert best.candidate is ON_BACKBONE
    assert best.trained.parameters["images_used"] == 160
