"""When a training is started again, and when not."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from image_classifier.monitoring.drift_record import JudgedWindow
from image_classifier.monitoring.retraining_policy import Rules, decide, refused_in_a_row
from image_classifier.registry.events import PROMOTED, REFUSED, RETRAINING, Event

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ON_DRIFT = Rules(if_drifted=True, every=timedelta(0), pause=DAY)
MONTHLY = Rules(if_drifted=False, every=30 * DAY, pause=DAY)


def event(action, ago, version=1):
    return Event(NOW - ago, action, version, "cron", "because", None)


def window(verdict="drift", ago=timedelta(hours=1)):
    return JudgedWindow(NOW - ago, 500, {"verdict": verdict, "reason": "brightness is lower", "features": []})


def decided(rules, *events, newest=None, age=2 * DAY):
    return decide(rules, events, newest, NOW - age, NOW)


def test_drift_starts_a_training_and_is_the_reason():
    decision = decided(ON_DRIFT, event(PROMOTED, 2 * DAY), newest=window())
    assert decision.start
    assert decision.reason == "drift: brightness is lower"


@pytest.mark.parametrize("newest", [None, window("no_drift"), window("too_few_images")])
def test_without_drift_nothing_is_started(newest):
    decision = decided(ON_DRIFT, newest=newest)
    assert not decision.start
    assert decision.reason == "neither drift nor the schedule asks for it"


def test_drift_is_passed_over_where_only_the_schedule_was_asked_for():
    assert not decided(MONTHLY, newest=window()).start


def test_the_schedule_counts_from_the_last_training_however_it_began():
    assert not decided(MONTHLY, age=29 * DAY).start
    decision = decided(MONTHLY, age=31 * DAY)
    assert decision.start
    assert decision.reason == "schedule: the last training was 31 days ago"
    assert not decided(MONTHLY, event(RETRAINING, 5 * DAY), age=60 * DAY).start


def test_within_the_pause_nothing_is_started_and_the_reason_says_so():
    decision = decided(ON_DRIFT, event(RETRAINING, timedelta(hours=5)), newest=window())
    assert not decision.start
    assert decision.reason == (
        "drift: brightness is lower; but the last retraining began 5 hours ago, and the next one may not before "
        "24 hours have passed"
    )
    assert decided(ON_DRIFT, event(RETRAINING, DAY), newest=window()).start


def test_the_pause_doubles_with_each_that_was_refused():
    refused = [event(REFUSED, 35 * timedelta(hours=1), 2), event(RETRAINING, 36 * timedelta(hours=1))]
    decision = decided(ON_DRIFT, *refused, newest=window())
    assert not decision.start
    assert "2 days have passed, doubled after 1 refused in a row" in decision.reason
    earlier = [event(REFUSED, 5 * DAY, 3), event(RETRAINING, 6 * DAY)]
    assert refused_in_a_row([*refused, *earlier]) == 2


def test_the_pause_has_an_end_however_many_were_refused():
    events = []
    for number in range(20):
        ago = (65 + 65 * number) * DAY
        events += [event(REFUSED, ago - timedelta(hours=1), number), event(RETRAINING, ago)]
    assert decided(ON_DRIFT, *events, newest=window()).start


def test_a_new_champion_ends_the_back_off():
    events = [event(PROMOTED, DAY, 4), event(REFUSED, 3 * DAY, 3), event(RETRAINING, 4 * DAY)]
    assert refused_in_a_row(events) == 0
    assert refused_in_a_row([event(REFUSED, timedelta(hours=1), 5), *events]) == 0


def test_drift_that_was_seen_before_the_last_retraining_does_not_start_another():
    old = window(ago=3 * DAY)
    assert not decided(ON_DRIFT, event(RETRAINING, 2 * DAY), newest=old).start
    assert decided(ON_DRIFT, event(RETRAINING, 4 * DAY), newest=old).start


def test_a_storm_of_drift_starts_one_training_a_pause():
    began, events, now = [], [], NOW
    for _ in range(7 * 24 * 6):
        now += timedelta(minutes=10)
        drift = JudgedWindow(now, 500, {"verdict": "drift", "reason": "all", "features": []})
        if decide(ON_DRIFT, events, drift, NOW, now).start:
            began.append(now)
            events.insert(0, Event(now, RETRAINING, 1, "cron", "all", None))
    assert len(began) == 7
    assert min(later - earlier for earlier, later in pairwise(began)) >= DAY
