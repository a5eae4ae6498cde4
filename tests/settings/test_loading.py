from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from image_classifier.errors import SettingError
from image_classifier.settings import SETTINGS, Settings, as_environment, load_settings, pick, service_links


def test_an_option_wins_over_environment_over_param_over_default():
    environment = {"IMAGE_CLASSIFIER_BUDGET": "2m"}
    params = {"budget": "3m", "seed": 7}
    assert load_settings({"budget": "1m"}, environment, params).budget == 60
    assert load_settings({"budget": None}, environment, params).budget == 120
    assert load_settings({}, {}, params).budget == 180
    assert load_settings({}, {}).budget == SETTINGS["budget"].default
    assert load_settings({}, environment, params).seed == 7


def test_an_empty_value_counts_as_not_given():
    assert load_settings({}, {"IMAGE_CLASSIFIER_BUDGET": ""}, {"budget": "3m"}).budget == 180


def test_variables_of_other_programs_are_read_after_our_own():
    assert load_settings({}, {"PORT": "9000"}).port == 9000
    assert load_settings({}, {"PORT": "9000", "IMAGE_CLASSIFIER_PORT": "9001"}).port == 9001
    settings = load_settings({}, {"MLFLOW_TRACKING_URI": "http://mlflow:5000"})
    assert settings.tracking_uri == "http://mlflow:5000"


@pytest.mark.parametrize(
    ("options", "environment", "params", "origin"),
    [
        ({"seed": "x"}, {}, {}, "--seed"),
        ({}, {"IMAGE_CLASSIFIER_SEED": "x"}, {}, "environment variable IMAGE_CLASSIFIER_SEED"),
        ({}, {}, {"seed": "x"}, "workload param"),
    ],
)
def test_an_error_names_where_the_value_comes_from(options, environment, params, origin):
    with pytest.raises(SettingError) as error:
        load_settings(options, environment, params)
    assert str(error.value) == f"seed is 'x' (from {origin}), but must be a whole number"


def test_an_unknown_option_or_param_is_an_error():
    with pytest.raises(SettingError, match="unknown workload param 'buget'; known are: abstain_error, "):
        load_settings({}, {}, {"buget": "60s"})
    with pytest.raises(SettingError, match="unknown option 'buget'"):
        load_settings({"buget": "60s"}, {})


def test_params_of_the_chain_are_not_settings():
    assert load_settings({}, {}, {"min_scale": "0", "seed": "3"}).seed == 3


@dataclass(frozen=True)
class Room:
    seed: int
    home: Path
    folder: str = "default"
    computed: int = field(init=False, default=0)


def test_pick_takes_the_settings_that_a_dataclass_has_fields_for():
    settings = replace(Settings(), seed=3, home=Path("there"))
    assert pick(settings, Room) == Room(3, Path("there"))
    assert pick(settings, Room, folder="other") == Room(3, Path("there"), "other")
    assert pick(settings, Room, seed=4) == Room(4, Path("there"))


def test_pick_does_not_fill_a_field_without_a_setting():
    @dataclass(frozen=True)
    class Unknown:
        seed: int
        group: str

    with pytest.raises(TypeError, match="group"):
        pick(Settings(), Unknown)


def test_settings_reach_another_process_through_its_environment():
    settings = load_settings({"budget": "90s", "recipe": "width=2", "home": "a/b", "max_upload": "2MiB"}, {})
    assert load_settings({}, as_environment(settings, SETTINGS)) == settings


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:80", "udp://10.0.0.1:53", "tcp://[fd00::1]:80"])
def test_a_link_to_a_service_of_the_program_s_name_is_ignored(value):
    environment = {
        "IMAGE_CLASSIFIER_PORT": value,
        "IMAGE_CLASSIFIER_SERVICE_HOST": "10.0.0.1",
        "IMAGE_CLASSIFIER_SERVICE_PORT": "80",
        "IMAGE_CLASSIFIER_PORT_80_TCP": value,
        "IMAGE_CLASSIFIER_PORT_80_TCP_PROTO": "tcp",
    }
    assert service_links(environment) == {"IMAGE_CLASSIFIER_PORT": value}
    assert load_settings({}, environment).port == Settings().port
    assert load_settings({}, {**environment, "PORT": "9000"}).port == 9000


def test_another_value_that_is_no_port_is_still_an_error():
    assert service_links({"IMAGE_CLASSIFIER_PORT": "tcp", "IMAGE_CLASSIFIER_URL": "http://10.0.0.1:80"}) == {}
    with pytest.raises(SettingError, match="port is 'tcp'"):
        load_settings({}, {"IMAGE_CLASSIFIER_PORT": "tcp"})


@pytest.mark.parametrize("options", [{"home": "~nobody-here/x"}, {"data": "~nobody-here/x"}])
def test_a_path_of_a_user_without_a_home_folder_is_an_error(options):
    with pytest.raises(SettingError, match="cannot resolve ~ in '~nobody-here/x'"):
        load_settings(options, {})


def test_a_data_address_that_is_none_is_an_error_without_its_credentials():
    with pytest.raises(SettingError, match=r"data is not a valid address: https://\[bad/x.zip") as caught:
        load_settings({"data": "https://me:secret@[bad/x.zip?sig=secret"}, {})
    assert "secret" not in str(caught.value)
