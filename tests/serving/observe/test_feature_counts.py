"""Counts that processes and threads share."""

import os
import signal
import threading
import time

import numpy as np

from image_classifier.serving.observe.feature_counts import SharedCounts


def test_a_window_is_full_with_its_images_and_the_next_begins_at_once():
    shared = SharedCounts(3, window=4)
    for index in (0, 1, 2, 2, 0):
        shared.add(1, [index])
    counts = shared.snapshot()
    assert (counts.images, counts.windows, counts.in_window, counts.last_images) == (5, 1, 1, 4)
    assert counts.last.tolist() == [1, 1, 2]
    assert counts.counts.tolist() == [2, 1, 2]


def test_all_images_of_a_request_belong_to_one_window():
    shared = SharedCounts(1, window=4)
    shared.add(6, [0] * 6)
    assert shared.snapshot().last_images == 6
    assert shared.windows == 1


def test_no_count_of_several_processes_and_threads_is_lost():
    shared = SharedCounts(2, window=100)

    def count():
        def add():
            for _ in range(250):
                shared.add(1, [0, 1])

        threads = [threading.Thread(target=add) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    children = []
    for _ in range(3):
        if (child := os.fork()) == 0:
            count()
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    counts = shared.snapshot()
    assert counts.counts.tolist() == [1500, 1500]
    assert (counts.images, counts.windows, counts.last.tolist()) == (1500, 15, [100, 100])


def test_a_worker_that_is_killed_while_it_counts_does_not_block_the_others():
    shared = SharedCounts(1, window=10)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with shared._lock:
            os.write(writer, b"locked")
            time.sleep(60)
        os._exit(0)
    assert os.read(reader, 6) == b"locked"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    shared.add(1, [0])
    assert shared.snapshot().images == 1
    os.close(reader)
    os.close(writer)


def test_each_start_has_a_unique_instance():
    assert SharedCounts(1, 10).instance != SharedCounts(1, 10).instance


def add_embeddings(shared, count, first=0):
    for number in range(first, first + count):
        shared.add(1, [0], np.array([number, -number], np.float32))


def test_the_newest_embeddings_are_kept_and_memory_is_bounded():
    shared = SharedCounts(1, window=400, dimensions=2)
    add_embeddings(shared, 1234)
    counts = shared.snapshot()
    assert counts.embedded == 1234
    assert counts.embeddings.tolist() == [[number, -number] for number in range(734, 1234)]
    assert counts.last_embeddings[:, 0].tolist() == [*range(800, 1200)]


def test_in_a_large_window_every_nth_embedding_is_kept():
    shared = SharedCounts(1, window=1500, dimensions=2)
    add_embeddings(shared, 1500)
    counts = shared.snapshot()
    assert counts.embedded == 500
    assert counts.last_embeddings[:, 0].tolist() == [*range(0, 1500, 3)]


def test_counts_without_embeddings_have_none():
    shared = SharedCounts(1, window=2)
    for _ in range(3):
        shared.add(1, [0])
    counts = shared.snapshot()
    assert (counts.embedded, counts.embeddings.shape, counts.last_embeddings.shape) == (0, (0, 0), (0, 0))


def test_processes_keep_their_embeddings_together():
    shared = SharedCounts(1, window=100, dimensions=2)
    children = []
    for first in (0, 50):
        if (child := os.fork()) == 0:
            add_embeddings(shared, 50, first)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert sorted(shared.snapshot().last_embeddings[:, 0].tolist()) == [*range(100)]
