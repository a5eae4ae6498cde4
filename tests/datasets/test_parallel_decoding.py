import multiprocessing
import signal

import numpy as np
import pytest

from image_classifier.datasets import parallel_decoding
from image_classifier.datasets.parallel_decoding import MAX_IN_PROCESS_BYTES, _deferred_interrupt, worker_pool
from tests.datasets.samples import encoded, files, prepared, write


@pytest.mark.slow
def test_worker_processes_decode_the_same_as_one_process(tmp_path, monkeypatch):
    content = {f"{'cat' if number % 2 else 'dog'}/{number}.png": encoded(number, side=64) for number in range(400)}
    content["cat/broken.png"] = b"broken"
    folder = write(tmp_path / "pets", content)
    assert sum(map(len, content.values())) > MAX_IN_PROCESS_BYTES
    monkeypatch.setattr("image_classifier.datasets.preparation.available_cpus", lambda: 2)
    pooled = prepared(folder, tmp_path)
    assert pooled.warnings[0].startswith("skipped 1 image that cannot be read: cat/broken.png")
    monkeypatch.setattr(parallel_decoding, "MAX_IN_PROCESS_BYTES", 10**9)
    single = prepared(folder, tmp_path / "single")
    assert (pooled.digest, pooled.warnings) == (single.digest, single.warnings)
    assert np.array_equal(pooled.train.images, single.train.images)


@pytest.mark.slow
def test_worker_processes_do_not_get_the_interrupt_of_a_terminal():
    """They would print where they were; their parent ends them."""
    with pytest.raises(KeyboardInterrupt), worker_pool(MAX_IN_PROCESS_BYTES + 1, 2) as pool:
        with _deferred_interrupt():  # as the decoding does: the pool may start a process for each task
            tasks = [pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()) for _ in range(2)]
        assert all(signal.SIGINT in task.result() for task in tasks)
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        (process, *_) = multiprocessing.active_children()
        raise KeyboardInterrupt
    assert not process.is_alive()


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt, also if the tests were started in the background, which ignores it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_while_processes_start_comes_when_they_have_started():
    started = False
    with pytest.raises(KeyboardInterrupt), _deferred_interrupt():
        signal.raise_signal(signal.SIGINT)
        started = True
    assert started


@pytest.mark.parametrize(
    ("sides", "size"), [((12, 12), 12), ((4, 4), 8), ((100, 100), 64), ((20, 30), 25), ((64, 64), 64)]
)
def test_the_image_size_is_that_of_the_images_within_bounds(tmp_path, sides, size):
    contents = files("cat", side=sides[0]) | files("dog", seed=50, side=sides[1])
    assert prepared(write(tmp_path / "pets", contents), tmp_path).image_size == size


@pytest.mark.parametrize(
    ("sides", "photo_size", "size"),
    [((128, 140), 224, 224), ((128, 140), 0, 64), ((100, 140), 224, 64), ((20, 30), 260, 25)],
)
def test_photos_have_the_size_of_the_backbone(tmp_path, sides, photo_size, size):
    contents = files("cat", 4, side=sides[0]) | files("dog", 4, seed=50, side=sides[1])
    if sides == (100, 140):
        contents |= files("mouse", 4, seed=80, side=90)
    pets = write(tmp_path / "pets", contents)
    assert prepared(pets, tmp_path, photo_size=photo_size).image_size == size
    assert prepared(pets, tmp_path, photo_size=photo_size, image_size=32).image_size == 32
