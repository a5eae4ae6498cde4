import pytest

from image_classifier.patience import patiently


class AwayError(Exception):
    pass


def test_what_comes_back_is_waited_for_and_that_is_told_once():
    errors, told = [AwayError("one"), AwayError("two")], []

    def attempt() -> str:
        if errors:
            raise errors.pop(0)
        return "here"

    assert patiently(attempt, AwayError, wait=5, pause=0, on_wait=told.append) == "here"
    assert [str(error) for error in told] == ["one"]


@pytest.mark.parametrize(("error", "wait"), [(AwayError("still"), 0), (ValueError("wrong"), 5)])
def test_an_error_is_raised_when_the_time_is_over_or_waiting_would_not_help(error, wait):
    told: list[Exception] = []

    def attempt() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        patiently(attempt, AwayError, wait=wait, pause=0, on_wait=told.append)
    assert told == []
