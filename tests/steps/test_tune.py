import pickle
import shutil
from dataclasses import replace

import pytest
import yaml

import image_classifier.search as search_room
from image_classifier.backbones import SHIPPED
from image_classifier.datasets import prepare
from image_classifier.errors import SettingError, TuningError
from image_classifier.settings import Bytes, Recipe, Seconds, Settings
from image_classifier.steps.tune import tune
from tests.backbones.test_onnx_backbone import write
from tests.steps.chain import Lines, write_photos


@pytest.mark.parametrize("tune_budget", [10.0, 119.0])
def test_a_budget_too_short_for_a_search_is_refused_with_the_minimum(tune_budget):
    settings = replace(Settings(), budget=Seconds(20.0), tune_budget=Seconds(tune_budget))
    with pytest.raises(SettingError, match="together 120 s; use a larger --tune-budget or a smaller --budget"):
        tune(settings, print)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a search on a few photos."""
    folder = tmp_path_factory.mktemp("photos")
    return replace(Settings(), home=folder / "home", data=str(write_photos(folder / "photos", 4)), image_size=96)


class Searched:
    """Stands in for the search: remembers its options, and returns a recipe and how to use it."""

    recipe = Recipe(fine_tuning_rate=2e-3, max_stages=2)

    def __call__(self, options, dataset, registry, tags, usage, report):
        self.options, self.dataset, self.usage = options, dataset, usage(self.recipe)
        return self.recipe


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> Searched:
    searched = Searched()
    monkeypatch.setattr(search_room, "search", searched)
    return searched


def test_the_recipe_of_a_backbone_is_searched_for_photos(photos, searched):
    lines = Lines()
    tune(photos, lines)
    options = pickle.loads(pickle.dumps(searched.options))  # as its workers get them
    assert options.plan.backbone in SHIPPED.values()
    assert f"backbone {options.plan.backbone.name}" in lines.text
    assert (searched.dataset.image_size, prepare(options.request).image_size) == (96, 96)
    assert prepare(options.request).digest == searched.dataset.digest


@pytest.mark.parametrize("name", SHIPPED)
def test_photos_have_the_size_of_the_backbone_whose_recipe_is_searched(photos, searched, name):
    tune(replace(photos, backbone=name, image_size=0), Lines())
    assert searched.options.plan.backbone == SHIPPED[name]
    size = SHIPPED[name].image_size
    assert (searched.dataset.image_size, prepare(searched.options.request).image_size) == (size, size)


def test_photos_are_framed_for_the_trials_as_the_settings_say(photos, searched):
    tune(replace(photos, backbone="efficientnet-lite0", framing="pad"), Lines())
    assert searched.dataset.framing == prepare(searched.options.request).framing == "pad"
    assert searched.usage[-1].endswith("--backbone efficientnet-lite0 --framing pad")


def test_a_choice_of_another_image_size_is_followed_by_the_workers(photos, searched):
    tune(replace(photos, image_size=0, max_model_size=Bytes(1000)), Lines())
    assert searched.options.plan.backbone is None
    assert (searched.dataset.image_size, prepare(searched.options.request).image_size) == (64, 64)


def test_a_recipe_is_recommended_with_the_backbone_for_which_it_is(photos, searched):
    tune(photos, Lines())
    name, recipe = searched.options.plan.backbone.name, "fine_tuning_rate=0.002 max_stages=2"
    assert searched.usage[-1].endswith(f"--recipe '{recipe}' --backbone {name}")
    params = yaml.safe_load("\n".join(searched.usage[1:-1]))
    assert params == [{"name": "recipe", "value": recipe}, {"name": "backbone", "value": name}]


def test_a_recipe_for_photos_without_a_backbone_is_recommended_with_none(photos, searched):
    tune(replace(photos, backbone="none"), Lines())
    assert searched.options.plan.backbone is None
    assert searched.usage[-1].endswith("--backbone none")


def test_of_small_images_only_the_recipe_is_recommended(photos, searched):
    tune(replace(photos, data="digits", image_size=0), Lines())
    assert searched.options.plan.backbone is None
    assert not any("backbone" in line for line in searched.usage)


def test_a_backbone_that_is_only_a_graph_has_nothing_to_tune(photos, tmp_path):
    path = write(tmp_path)
    with pytest.raises(
        SettingError, match="nothing to tune: the backbone .* is an ONNX graph, which is not fine-tuned"
    ):
        tune(replace(photos, backbone=str(path), image_size=32), Lines())


@pytest.mark.slow
def test_a_budget_too_short_for_fine_tuning_ends_the_search(photos, tmp_path, empty_database):
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home" / "mlflow.db")
    settings = replace(photos, home=tmp_path / "home", budget=Seconds(0.01), backbone="efficientnet-lite0")
    with pytest.raises(TuningError, match=r"budget of 0.01 s is too short to fine-tune the backbone.* larger --budget"):
        tune(settings, Lines())
    assert not list((tmp_path / "home/cache").glob(".draft-*"))
