import pytest

from image_classifier.settings import CHAIN_PARAMS, SETTINGS, Group, Settings, load_settings
from image_classifier.settings.kinds import KINDS


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.name)
def test_a_setting_is_declared_completely(setting):
    assert isinstance(setting.group, Group)
    assert setting.type in KINDS
    assert setting.help[0].isupper()
    assert setting.help.endswith(".")
    assert setting.low <= setting.high
    assert getattr(Settings(), setting.name) == (setting.default if setting.name != "name" else "digits")
    assert setting.option == f"--{setting.name.replace('_', '-')}"
    assert setting.variables[0] == f"IMAGE_CLASSIFIER_{setting.name.upper()}"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("digits", "digits"),
        ("fashion-mnist", "fashion-mnist"),
        ("/data/My Photos/", "my-photos"),
        ("photos.v2", "photos-v2"),
        ("/data/photos.tar.gz", "photos"),
        ("/data/here/../there", "there"),
        ("s3://bucket/images.zip", "images"),
        ("s3://bucket", "bucket"),
        ("https://user:password@host/a/Main.parquet?version=1", "main"),
        ("file:///data/My%20Photos", "my-photos"),
        ("données", "donnees"),
        ("фото", "data-5cea446a"),
        ("фото.zip", "data-5cea446a"),
        ("фото 2", "2-b1945913"),
        ("/", "data-e3b0c442"),
    ],
)
def test_a_model_is_named_like_its_data_unless_a_name_is_given(data, name):
    assert Settings(data=data).name == name
    assert Settings(data=data, name="other").name == "other"
    assert load_settings({"data": data}, {}).name == name


def test_a_long_name_of_data_is_shortened_and_stays_different():
    names = {Settings(data=f"{'x' * 80}{end}").name for end in ("a", "b")}
    assert [len(name) for name in names] == [63, 63]


@pytest.mark.parametrize(
    "setting", [setting for setting in SETTINGS.values() if setting.shown_default], ids=lambda setting: setting.name
)
def test_the_shown_default_of_a_setting_is_its_default(setting):
    assert setting.parse(setting.shown_default, "the help") == setting.default


def test_a_default_without_text_is_empty():
    for setting in SETTINGS.values():
        if not setting.shown_default:
            assert str(setting.default) == ""


def test_the_default_of_a_task_is_a_value_of_the_setting():
    given = {name: setting.task_default for name, setting in SETTINGS.items() if setting.task_default}
    assert given == {"registry_wait": "3m"}
    assert SETTINGS["registry_wait"].parse("3m", "the task") == 180


def test_no_setting_has_the_name_of_a_param_of_the_chain():
    assert not set(SETTINGS) & set(CHAIN_PARAMS)
    assert all(text.endswith(".") for text in CHAIN_PARAMS.values())


def test_the_choices_are_the_metavar():
    assert SETTINGS["mirror"].metavar == "auto|yes|no"
    assert SETTINGS["budget"].metavar == "DURATION"
