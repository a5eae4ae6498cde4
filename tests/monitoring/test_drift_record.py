import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from image_classifier.monitoring.drift_detection import DriftVerdict
from image_classifier.monitoring.drift_record import DriftRecord, ServerCounts
from image_classifier.monitoring.drift_reference import EmbeddingReference
from tests.monitoring.test_drift_reference import REFERENCE

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def server(name, thirds, classes):
    return ServerCounts(name, sum(classes), {"brightness": thirds, "class": classes})


def add(record, *servers, window=90, now=NOW):
    return record.with_counts(servers, REFERENCE, window=window, false_alarms=0.01, now=now)


def test_the_counts_of_a_server_are_added_only_once():
    record = add(DriftRecord(), server("a", [10, 10, 10], [15, 15]))
    record = add(record, server("a", [10, 10, 10], [15, 15]))
    record = add(record, server("a", [12, 11, 10], [16, 17]))
    assert (record.images, record.filling.images) == (33, 33)
    assert record.filling.features == {"brightness": [12, 11, 10], "class": [16, 17]}


def test_servers_that_come_and_go_are_summed_up():
    record = add(DriftRecord(), server("a", [10, 0, 0], [5, 5]), server("b", [0, 10, 0], [5, 5]))
    # c replaces b.
    record = add(record, server("a", [20, 0, 0], [10, 10]), server("c", [0, 0, 10], [0, 10]))
    assert record.images == 40
    assert record.filling.features == {"brightness": [20, 10, 10], "class": [15, 25]}
    # b was only unreachable.
    record = add(record, server("b", [0, 11, 0], [6, 5]))
    assert record.images == 41


def test_before_a_window_is_full_there_are_too_few_images():
    record = add(DriftRecord(), server("a", [10, 10, 10], [15, 15]))
    result = record.result(90)
    assert result.verdict is DriftVerdict.TOO_FEW_IMAGES
    assert result.reason == "30 of the 90 images needed were received"


def test_a_full_window_gets_a_result_and_the_next_one_starts_empty():
    record = add(DriftRecord(), server("a", [30, 30, 30], [45, 45]))
    assert record.result(90).verdict is DriftVerdict.NO_DRIFT
    later = NOW + timedelta(hours=1)
    record = add(record, server("a", [130, 30, 30], [145, 45]), now=later)
    assert [window.verdict for window in record.windows] == [DriftVerdict.NO_DRIFT, DriftVerdict.DRIFT]
    assert (record.windows[-1].ended, record.windows[-1].images) == (later, 100)
    assert record.result(90).reason == ("brightness is lower; cat is predicted for 100 % of the images instead of 50 %")
    assert (record.images, record.filling.images) == (190, 0)


def test_a_record_equals_itself_after_json():
    record = add(DriftRecord(), server("a", [30, 30, 40], [50, 50]))
    record = add(record, server("a", [31, 30, 40], [50, 51]))
    assert DriftRecord.from_json(record.to_json().encode()) == record
    stored = json.loads(record.to_json())
    assert list(stored) == ["images", "filling", "servers", "windows"]
    assert list(stored["windows"][0]) == ["ended", "images", "judgement"]
    assert list(stored["windows"][0]["judgement"]) == ["verdict", "reason", "features"]


def test_counts_that_do_not_fit_are_rejected():
    with pytest.raises(ValueError, match="brightness has 2 bins instead of 3"):
        add(DriftRecord(), server("a", [1, 1], [1, 1]))
    record = add(DriftRecord(), server("a", [5, 5, 5], [7, 8]))
    with pytest.raises(ValueError, match="the counts of server a have decreased"):
        add(record, server("a", [4, 6, 5], [7, 8]))
    with pytest.raises((ValueError, KeyError)):
        DriftRecord.from_json(b'{"images": 1}')


def test_only_the_newest_windows_and_servers_are_stored():
    record = DriftRecord()
    for number in range(600):
        record = add(record, server(f"s{number}", [1, 0, 0], [1, 0]), window=2)
    assert len(record.servers) == 500
    assert "s599" in record.servers
    assert len(record.windows) == 100
    assert record.images == 600


EMBEDDING = EmbeddingReference(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), np.zeros((40, 2), np.float32))
WITH_EMBEDDINGS = replace(REFERENCE, embedding=EMBEDDING)


def server_with_embeddings(name, images, first, last, embedded=None):
    """A server that sends the embeddings number `first` to `last`, (n, n) each."""
    rows = np.repeat(np.arange(first, last, dtype=np.float32), 2).reshape(-1, 2)
    counts = server(name, [images, 0, 0], [images, 0])
    return replace(counts, embedded=last if embedded is None else embedded, embeddings=EMBEDDING.encode(rows))


def add_with_embeddings(record, *servers, window=1000):
    return record.with_counts(servers, WITH_EMBEDDINGS, window=window, false_alarms=0.01, now=NOW)


def filling_embeddings(record):
    return EMBEDDING.decode(record.filling.embeddings)[:, 0].tolist()


def test_an_embedding_of_a_server_is_added_only_once():
    record = add_with_embeddings(DriftRecord(), server_with_embeddings("a", 3, 0, 3))
    record = add_with_embeddings(record, server_with_embeddings("a", 5, 0, 5))
    record = add_with_embeddings(record, server_with_embeddings("a", 5, 0, 5))
    assert filling_embeddings(record) == [0, 1, 2, 3, 4]
    record = add_with_embeddings(record, server_with_embeddings("b", 2, 10, 12, embedded=2))
    assert filling_embeddings(record) == [0, 1, 2, 3, 4, 10, 11]


def test_embeddings_that_a_server_dropped_before_they_were_read_are_missing():
    record = add_with_embeddings(DriftRecord(), server_with_embeddings("a", 3, 0, 3))
    record = add_with_embeddings(record, server_with_embeddings("a", 9, 5, 9))
    assert filling_embeddings(record) == [0, 1, 2, 5, 6, 7, 8]


def test_of_many_embeddings_a_random_sample_is_kept():
    servers = [server_with_embeddings(f"s{number}", 400, 0, 400) for number in range(3)]
    record = add_with_embeddings(DriftRecord(), *servers, window=10_000)
    embeddings = np.array(filling_embeddings(record))
    assert len(embeddings) == 500
    assert 150 < embeddings.mean() < 250
    assert len(record.to_json()) < 10_000


def test_the_embeddings_of_a_window_are_tested_and_the_next_window_starts_without():
    record = add_with_embeddings(DriftRecord(), server_with_embeddings("a", 60, 0, 60), window=60)
    [window] = record.windows
    assert [feature["name"] for feature in window.judgement["features"]] == ["brightness", "class", "embedding"]
    assert "the images look different (embeddings of 60, compared with 40)" in window.reason
    record = add_with_embeddings(record, server_with_embeddings("a", 62, 0, 62), window=60)
    assert filling_embeddings(record) == [60, 61]


def test_a_record_with_embeddings_equals_itself_after_json():
    record = add_with_embeddings(DriftRecord(), server_with_embeddings("a", 3, 0, 3))
    assert DriftRecord.from_json(record.to_json().encode()) == record
    stored = json.loads(record.to_json())
    assert stored["filling"]["embedded"] == stored["servers"]["a"]["embedded"] == 3
    assert stored["servers"]["a"]["embeddings"] == ""


def test_a_record_and_servers_without_embeddings_go_on_with_a_reference_that_has_them():
    record = add(DriftRecord(), server("a", [30, 0, 0], [15, 15]))
    record = add_with_embeddings(record, server("a", [40, 0, 0], [20, 20]), window=40)
    assert [feature["name"] for feature in record.windows[0].judgement["features"]] == ["brightness", "class"]


def test_embeddings_that_do_not_fit_are_rejected():
    record = add_with_embeddings(DriftRecord(), server_with_embeddings("a", 5, 0, 5))
    with pytest.raises(ValueError, match="the counts of server a have decreased"):
        add_with_embeddings(record, server_with_embeddings("a", 6, 0, 4))
    for embeddings in ("not base64", "AAAA"):
        with pytest.raises(ValueError):  # noqa: PT011 (NumPy's and base64's own messages)
            add_with_embeddings(record, replace(server_with_embeddings("b", 5, 0, 5), embeddings=embeddings))
