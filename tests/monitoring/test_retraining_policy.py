from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from image_classifier.monitoring.drift_record import DriftWindow
from image_classifier.monitoring.retraining_policy import RetrainingPolicy, consecutive_refusals, decide_retraining
from image_classifier.registry.events import HELD, PROMOTED, REFUSED, RETRAINING, Event

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
ON_DRIFT = RetrainingPolicy(if_drifted=True, every=timedelta(0), pause=DAY)
MONTHLY = RetrainingPolicy(if_drifted=False, every=30 * DAY, pause=DAY)


def event(action, ago, version=1):
    return Event(NOW - ago, action, version, "cron", "because", None)


def window(verdict="drift", ago=HOUR):
    return DriftWindow(NOW - ago, 500, {"verdict": verdict, "reason": "brightness is lower", "features": []})


def decide(policy, *events, newest=None, age=2 * DAY):
    return decide_retraining(policy, events, newest, NOW - age, NOW)


def test_drift_starts_a_retraining_and_is_its_reason():
    decision = decide(ON_DRIFT, event(PROMOTED, 2 * DAY), newest=window())
    assert decision.start
    assert decision.reason == "drift: brightness is lower"


@pytest.mark.parametrize("newest", [None, window("no_drift"), window("too_few_images")])
def test_without_drift_nothing_starts(newest):
    decision = decide(ON_DRIFT, newest=newest)
    assert not decision.start
    assert decision.reason == "neither drift nor the schedule requires a retraining"


def test_a_policy_without_drift_ignores_it():
    assert not decide(MONTHLY, newest=window()).start


def test_the_schedule_counts_from_the_last_training_or_retraining():
    assert not decide(MONTHLY, age=29 * DAY).start
    decision = decide(MONTHLY, age=31 * DAY)
    assert decision.start
    assert decision.reason == "schedule: the last training was 31 days ago"
    assert not decide(MONTHLY, event(RETRAINING, 5 * DAY), age=60 * DAY).start


def test_nothing_starts_within_the_pause():
    decision = decide(ON_DRIFT, event(RETRAINING, 5 * HOUR), newest=window())
    assert not decision.start
    assert decision.reason == (
        "drift: brightness is lower; but the last retraining started 5 hours ago, within the pause of 24 hours"
    )
    assert decide(ON_DRIFT, event(RETRAINING, DAY), newest=window()).start


def test_the_pause_doubles_with_every_refused_candidate():
    refused = [event(REFUSED, 35 * HOUR, 2), event(RETRAINING, 36 * HOUR)]
    decision = decide(ON_DRIFT, *refused, newest=window())
    assert not decision.start
    assert "within the pause of 2 days (backoff after 1 rejected candidate)" in decision.reason
    held = [event(HELD, 35 * HOUR, 2), event(RETRAINING, 36 * HOUR)]
    assert decide(ON_DRIFT, *held, newest=window()) == decision
    before = [event(REFUSED, 5 * DAY, 3), event(RETRAINING, 6 * DAY)]
    assert consecutive_refusals([*refused, *before]) == 2


def test_the_backoff_has_a_maximum():
    events = []
    for number in range(20):
        ago = (65 + 65 * number) * DAY
        events += [event(REFUSED, ago - HOUR, number), event(RETRAINING, ago)]
    assert decide(ON_DRIFT, *events, newest=window()).start


def test_a_promotion_ends_the_backoff():
    events = [event(PROMOTED, DAY, 4), event(REFUSED, 3 * DAY, 3), event(RETRAINING, 4 * DAY)]
    assert consecutive_refusals(events) == 0
    assert consecutive_refusals([event(REFUSED, HOUR, 5), *events]) == 0


def test_drift_from_before_the_last_retraining_does_not_start_another():
    old = window(ago=3 * DAY)
    assert not decide(ON_DRIFT, event(RETRAINING, 2 * DAY), newest=old).start
    assert decide(ON_DRIFT, event(RETRAINING, 4 * DAY), newest=old).start


def test_permanent_drift_starts_one_retraining_per_pause():
    starts, events, now = [], [], NOW
    for _ in range(7 * 24 * 6):
        now += timedelta(minutes=10)
        drift = DriftWindow(now, 500, {"verdict": "drift", "reason": "all", "features": []})
        if decide_retraining(ON_DRIFT, events, drift, NOW, now).start:
            starts.append(now)
            events.insert(0, Event(now, RETRAINING, 1, "cron", "all", None))
    assert len(starts) == 7
    assert min(later - earlier for earlier, later in pairwise(starts)) >= DAY
