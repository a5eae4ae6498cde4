from pathlib import Path

import pytest

from image_classifier.errors import SettingError
from image_classifier.settings import SETTINGS, Bytes, Seconds
from image_classifier.settings.kinds import KINDS


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("budget", "90s", 90),
        ("budget", "1.5m", 90),
        ("budget", "1h", 3600),
        ("budget", "250ms", 0.25),
        ("budget", 45, 45),
        ("retrain_every", "30d", 30 * 86_400),
        ("max_upload", "2MiB", Bytes(2 * 2**20)),
        ("max_upload", "500 kB", Bytes(500_000)),
        ("max_pixels", "50_000_000", 50_000_000),
        ("home", "a/b", Path("a/b")),
        ("home", "~/b", Path.home() / "b"),
        ("min_accuracy", "0.9", 0.9),
    ],
)
def test_values_are_parsed(name, value, parsed):
    assert SETTINGS[name].parse(value, "--option") == parsed


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("budget", "abc", "budget is 'abc' (from --option), but must be a duration such as 90s, 3m or 1h"),
        ("budget", "-5s", "must be a duration"),
        ("budget", "5 parsecs", "must be a duration"),
        ("seed", "1.5", "must be a whole number"),
        ("seed", True, "must be a whole number"),
        ("seed", "-1", "must be between 0 and"),
        ("top", "0", "must be at least 1"),
        ("min_accuracy", "90", "must be between 0 and 1"),
        ("min_accuracy", "nan", "must be a number"),
        ("mirror", "maybe", "must be one of auto, yes, no"),
        ("max_upload", "many", "must be a size such as 20 MiB"),
        ("port", "70000", "must be between 0 and 65535"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_what_is_expected(name, value, expected):
    with pytest.raises(SettingError) as error:
        SETTINGS[name].parse(value, "--option")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        (Seconds, 0.0, "0s"),
        (Seconds, 0.25, "250ms"),
        (Seconds, 20.0, "20s"),
        (Seconds, 90.0, "90s"),
        (Seconds, 180.0, "3m"),
        (Seconds, 86_400.0, "1d"),
        (Bytes, 50 * 2**30, "50 GiB"),
        (Bytes, 1500, "1500 B"),
        (float, 3.0, "3"),
    ],
)
def test_values_are_shown_as_a_person_would_type_them(kind, value, shown):
    assert KINDS[kind].show(value) == shown
    assert KINDS[kind].parse(shown) == value
