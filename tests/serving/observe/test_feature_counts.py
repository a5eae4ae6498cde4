"""Counts that several processes and threads make together."""

import os
import signal
import threading
import time

from image_classifier.serving.observe.feature_counts import Observations


def test_a_window_is_full_with_its_images_and_the_next_begins_at_once():
    observations = Observations(3, window=4)
    for place in (0, 1, 2, 2, 0):
        observations.add(1, [place])
    seen = observations.seen()
    assert (seen.images, seen.windows, seen.in_window, seen.last_images) == (5, 1, 1, 4)
    assert seen.last.tolist() == [1, 1, 2]
    assert seen.counts.tolist() == [2, 1, 2]


def test_a_window_takes_the_whole_of_a_request():
    observations = Observations(1, window=4)
    observations.add(6, [0] * 6)
    assert observations.seen().last_images == 6
    assert observations.windows == 1


def test_no_count_of_several_processes_and_threads_is_lost():
    observations = Observations(2, window=100)

    def count():
        def add():
            for _ in range(250):
                observations.add(1, [0, 1])

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
    seen = observations.seen()
    assert seen.counts.tolist() == [1500, 1500]
    assert (seen.images, seen.windows, seen.last.tolist()) == (1500, 15, [100, 100])


def test_a_worker_that_is_killed_while_it_counts_does_not_stop_the_others():
    observations = Observations(1, window=10)
    child = os.fork()
    if child == 0:
        with observations._alone:
            time.sleep(60)
        os._exit(0)
    time.sleep(0.2)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    observations.add(1, [0])
    assert observations.seen().images == 1


def test_each_start_has_a_name_of_its_own():
    assert Observations(1, 10).instance != Observations(1, 10).instance
