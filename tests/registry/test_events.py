"""What follows from the events of a registered model."""

from datetime import UTC, datetime, timedelta

import pytest

from image_classifier.registry.events import (
    HELD,
    PROMOTED,
    REFUSED,
    RELEASED,
    ROLLED_BACK,
    Event,
    events_of,
    has_served,
    last_change,
    last_replacement,
    line_of_champions,
    served_until,
    withdrawal,
)

START = datetime(2026, 11, 25, 12, tzinfo=UTC)


def history(*steps):
    """Events one minute apart, newest first, of (action, version, from_version, from_image)."""
    events = [
        Event(START + timedelta(minutes=minute), action, version, "ada", "worse", before, from_image=image)
        for minute, (action, version, before, image) in enumerate(steps)
    ]
    return events[::-1]


def test_an_event_is_read_back_from_its_tag():
    event = Event(START, ROLLED_BACK, 6, "ada", "cats “became” dogs", 7, "a@sha256:1", "a@sha256:2")
    assert events_of([(6, dict([event.to_tag(), ("verdict", "accepted")]))]) == [event]


def test_an_event_without_images_is_read():
    tag = {"event.20261125T120000000000Z.promoted": '{"actor": "ada", "reason": "worse", "from_version": null}'}
    assert events_of([(1, tag)]) == [Event(START, PROMOTED, 1, "ada", "worse", None)]


@pytest.mark.parametrize(
    ("steps", "line"),
    [
        ([], []),
        ([(PROMOTED, 1), (REFUSED, 2), (PROMOTED, 3)], [1, 3]),
        ([(PROMOTED, 1), (PROMOTED, 2), (PROMOTED, 1)], [2, 1]),
        ([(PROMOTED, 1), (PROMOTED, 2), (PROMOTED, 3), (ROLLED_BACK, 2)], [1, 2]),
        ([(PROMOTED, 1), (PROMOTED, 2), (PROMOTED, 3), (ROLLED_BACK, 2), (ROLLED_BACK, 1)], [1]),
        ([(PROMOTED, 1), (PROMOTED, 2), (ROLLED_BACK, 1), (PROMOTED, 3)], [1, 3]),
        ([(PROMOTED, 2), (ROLLED_BACK, 1)], [2, 1]),
    ],
)
def test_a_rollback_removes_later_versions_from_the_line(steps, line):
    assert line_of_champions(history(*[(action, version, None, "") for action, version in steps])) == line


def test_a_new_image_of_the_champion_replaces_no_version():
    image, rolled_back, *_ = events = history((PROMOTED, 2, 1, ""), (ROLLED_BACK, 1, 2, ""), (PROMOTED, 1, 1, ""))
    assert (last_change(events), last_replacement(events)) == (image, rolled_back)


def test_a_version_has_served_if_it_was_ever_the_champion():
    events = history((REFUSED, 1, None, ""), (PROMOTED, 2, None, ""), (ROLLED_BACK, 3, 2, ""), (HELD, 4, 3, ""))
    assert [has_served(events, number) for number in (1, 2, 3, 4)] == [False, True, True, False]


def test_a_version_serves_until_the_next_champion():
    last, refused, first = history((PROMOTED, 1, None, ""), (REFUSED, 2, 1, ""), (PROMOTED, 3, 1, ""))
    assert served_until([last, refused, first]) == {first: last.time, last: None}


@pytest.mark.parametrize(
    ("steps", "pair", "withdrawn"),
    [
        ([(ROLLED_BACK, 6, 7, "b")], (7, "b"), True),
        ([(ROLLED_BACK, 6, 7, "b")], (7, "c"), False),
        ([(ROLLED_BACK, 6, 7, "b")], (6, "b"), False),
        ([(ROLLED_BACK, 6, 7, "")], (7, ""), False),
        ([(ROLLED_BACK, 6, 7, "b"), (RELEASED, 7, 6, "b")], (7, "b"), False),
        ([(ROLLED_BACK, 6, 7, "b"), (ROLLED_BACK, 7, 6, "")], (7, "b"), False),
        ([(ROLLED_BACK, 6, 7, "b"), (RELEASED, 7, 6, "b"), (ROLLED_BACK, 6, 7, "b")], (7, "b"), True),
        # The model stayed, and its image was replaced.
        ([(ROLLED_BACK, 7, 7, "b")], (7, "b"), True),
        ([(ROLLED_BACK, 7, 7, "b")], (7, "a"), False),
    ],
)
def test_a_pair_that_was_rolled_back_from_is_withdrawn_until_its_release(steps, pair, withdrawn):
    assert (withdrawal(history((PROMOTED, 7, 6, ""), *steps), *pair) is not None) == withdrawn
