from dataclasses import replace

import pytest

from image_classifier.errors import RegistryError
from image_classifier.settings import Settings
from image_classifier.steps.accept import accept
from tests.registry.mlflow_helpers import record_training, register_champions
from tests.steps.chain import Lines


@pytest.fixture
def settings(home, registry):
    return Settings(home=home, name=registry.name)


def test_a_version_that_the_gate_did_not_accept_is_an_error(registry, settings, tmp_path):
    record_training(registry, tmp_path / "one", "one")()
    with pytest.raises(RegistryError, match="version 1 is not judged by the gate and cannot be served"):
        accept(settings, Lines())


def test_a_pair_that_was_rolled_back_from_is_refused_without_a_trial(registry, settings, tmp_path):
    register_champions(registry, tmp_path, 2)
    registry.history.roll_back(
        registry.versions.get("1"), replaced=2, actor="ada", reason="slow", from_image="server@sha256:b"
    )
    (results := tmp_path / "results").mkdir()
    settings = replace(settings, model="2", image="server@sha256:b", results=str(results))
    lines = Lines()
    accept(settings, lines)
    assert lines.text.startswith("version 2 was rolled back by ada at ")
    assert (results / "verdict").read_text() == "refused"
    assert (results / "reason").read_text() == lines.text
    assert (results / "model-version").read_text() == "2"
    assert registry.versions.champion().number == 1
