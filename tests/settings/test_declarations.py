from pathlib import Path

import pytest

from image_classifier.errors import SettingError
from image_classifier.settings import SETTINGS, Bytes, Settings, load_settings


def test_the_option_wins_over_environment_over_param_over_default():
    environment = {"IMAGE_CLASSIFIER_BUDGET": "2m"}
    params = {"budget": "3m", "seed": 7}
    assert load_settings({"budget": "1m"}, environment, params).budget == 60
    assert load_settings({"budget": None}, environment, params).budget == 120
    assert load_settings({}, {}, params).budget == 180
    assert load_settings({}, {}).budget == SETTINGS["budget"].default
    assert load_settings({}, environment, params).seed == 7


def test_an_empty_value_counts_as_not_given():
    assert load_settings({}, {"IMAGE_CLASSIFIER_BUDGET": ""}, {"budget": "3m"}).budget == 180


def test_well_known_variables_are_read_after_our_own():
    assert load_settings({}, {"PORT": "9000"}).port == 9000
    assert load_settings({}, {"PORT": "9000", "IMAGE_CLASSIFIER_PORT": "9001"}).port == 9001
    assert (
        load_settings({}, {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}).tracking_uri == "http://mlflow:5000"
    )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("budget", "90s", 90),
        ("budget", "1.5m", 90),
        ("budget", "1h", 3600),
        ("budget", "250ms", 0.25),
        ("budget", 45, 45),
        ("max_upload", "2MiB", Bytes(2 * 2**20)),
        ("max_upload", "500 kB", Bytes(500_000)),
        ("max_pixels", "50_000_000", 50_000_000),
        ("home", "a/b", Path("a/b")),
        ("min_accuracy", "0.9", 0.9),
    ],
)
def test_values_are_understood(name, text, value):
    assert getattr(load_settings({}, {}, {name: text}), name) == value


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "budget",
            "abc",
            "budget is 'abc' (from a workload param), but must be a time such as 90s, 3m or 1h",
        ),
        ("budget", "-5s", "must be a time"),
        ("budget", "5 parsecs", "must be a time"),
        ("seed", "1.5", "must be a whole number"),
        ("seed", True, "must be a whole number"),
        ("seed", "-1", "must be from 0 to"),
        ("min_accuracy", "90", "must be from 0 to 1"),
        ("min_accuracy", "nan", "must be a number"),
        ("mirror", "maybe", "must be one of auto, yes, no"),
        ("max_upload", "many", "must be a size such as 20MiB"),
        ("port", "70000", "must be from 0 to 65535"),
    ],
)
def test_an_unusable_value_is_named_with_what_was_expected(name, text, expected):
    with pytest.raises(SettingError) as error:
        load_settings({}, {}, {name: text})
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_param_is_refused_by_name():
    with pytest.raises(SettingError, match="no workload param 'buget'"):
        load_settings({}, {}, {"buget": "60s"})


def test_every_setting_has_help_and_a_default_of_its_own_type():
    for setting in SETTINGS.values():
        assert setting.help.endswith(".")
        assert getattr(Settings(), setting.name) == setting.default
        if setting.default != "":
            assert setting.parse(str(setting.default), "its default") == setting.default
