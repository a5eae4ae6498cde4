"""Counts of servers that come and go, added up."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from image_classifier.monitoring.drift_detection import DriftReference, DriftVerdict, Feature
from image_classifier.monitoring.drift_record import DriftRecord, ServerCounts

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REFERENCE = DriftReference(
    (
        Feature("brightness", (0.3, 0.6), 0, np.array([300, 300, 300])),
        Feature("class", None, 3, np.array([450, 450])),
    ),
    ("cat", "dog"),
)


def server(name, thirds, classes):
    return ServerCounts(name, sum(classes), {"brightness": thirds, "class": classes})


def collected(record, *servers, window=90, now=NOW):
    return record.with_counts(servers, REFERENCE, window=window, false_alarms=0.01, now=now)


def test_what_was_counted_before_is_not_counted_twice():
    record = collected(DriftRecord(), server("a", [10, 10, 10], [15, 15]))
    record = collected(record, server("a", [10, 10, 10], [15, 15]))
    record = collected(record, server("a", [12, 11, 10], [16, 17]))
    assert (record.images, record.filling.images) == (33, 33)
    assert record.filling.features == {"brightness": [12, 11, 10], "class": [16, 17]}


def test_replicas_add_up_and_one_that_was_restarted_goes_on():
    record = collected(DriftRecord(), server("a", [10, 0, 0], [5, 5]), server("b", [0, 10, 0], [5, 5]))
    # b is gone, and in its place is c; a went on.
    record = collected(record, server("a", [20, 0, 0], [10, 10]), server("c", [0, 0, 10], [0, 10]))
    assert record.images == 40
    assert record.filling.features == {"brightness": [20, 10, 10], "class": [15, 25]}
    # b was only not to be reached.
    record = collected(record, server("b", [0, 11, 0], [6, 5]))
    assert record.images == 41


def test_before_a_window_is_full_nothing_is_said():
    record = collected(DriftRecord(), server("a", [10, 10, 10], [15, 15]))
    judgement = record.judgement(90)
    assert judgement.verdict is DriftVerdict.TOO_FEW_IMAGES
    assert judgement.reason == "30 images were seen, and 90 are needed to tell"


def test_a_full_window_is_judged_with_all_that_it_holds_and_the_next_begins_empty():
    record = collected(DriftRecord(), server("a", [30, 30, 30], [45, 45]))
    assert record.judgement(90).verdict is DriftVerdict.NO_DRIFT
    later = NOW + timedelta(hours=1)
    record = collected(record, server("a", [130, 30, 30], [145, 45]), now=later)
    assert [window.verdict for window in record.windows] == [DriftVerdict.NO_DRIFT, DriftVerdict.DRIFT]
    assert (record.windows[-1].ended, record.windows[-1].images) == (later, 100)
    assert "brightness is lower" in record.judgement(90).reason
    assert "cat is 100% of the answers instead of 50%" in record.judgement(90).reason
    assert (record.images, record.filling.images) == (190, 0)


def test_a_record_is_read_as_it_was_written():
    record = collected(DriftRecord(), server("a", [30, 30, 40], [50, 50]))
    record = collected(record, server("a", [31, 30, 40], [50, 51]))
    assert DriftRecord.from_json(record.to_json().encode()) == record


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="brightness has 2 bins, not 3"):
        collected(DriftRecord(), server("a", [1, 1], [1, 1]))
    record = collected(DriftRecord(), server("a", [5, 5, 5], [7, 8]))
    with pytest.raises(ValueError, match="has counted less than it had before"):
        collected(record, server("a", [4, 6, 5], [7, 8]))
    with pytest.raises((ValueError, KeyError)):
        DriftRecord.from_json(b'{"images": 1}')


def test_of_the_windows_and_servers_the_newest_are_kept():
    record = DriftRecord()
    for number in range(600):
        record = collected(record, server(f"s{number}", [1, 0, 0], [1, 0]), window=2)
    assert len(record.servers) == 500
    assert "s599" in record.servers
    assert len(record.windows) == 100
    assert record.images == 600
