import gc

import pytest

from image_classifier.collector import lasting


def test_what_is_made_in_the_block_is_not_looked_at_again():
    before = gc.get_freeze_count()
    try:
        with lasting():
            assert not gc.isenabled()
            kept = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(kept)
    finally:
        gc.unfreeze()


def test_the_collector_goes_on_after_a_failure():
    with pytest.raises(ZeroDivisionError), lasting():
        _ = 1 / 0
    assert gc.isenabled()
    gc.unfreeze()
