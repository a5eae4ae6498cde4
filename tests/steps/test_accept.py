from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from image_classifier.errors import RegistryError
from image_classifier.settings import Settings
from image_classifier.steps.accept import accept
from image_classifier.steps.model_access import fetch_version
from tests.registry.mlflow_helpers import record_training, register_champions
from tests.serving.server_process import running
from tests.steps.chain import Lines
from tests.steps.test_gate import SKEWED, Workshop
from tests.steps.test_promote import register_accepted, workshop_with_champion


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


@contextmanager
def served(workshop: Workshop, number: int, folder: Path) -> Iterator[str]:
    """The address of a server of a version."""
    version = workshop.registry.versions.get(str(number))
    package = fetch_version(workshop.settings, workshop.registry, version)
    with running(package.folder, folder / f"log-{number}") as server:
        yield server.address


@pytest.mark.slow
def test_a_version_is_judged_again_if_another_one_became_the_champion(home, tmp_path):
    """As after two pushes a few seconds apart, of which the other one was promoted first."""
    workshop = workshop_with_champion(home, tmp_path)
    register_accepted(workshop, SKEWED)
    (results := tmp_path / "results").mkdir()
    with served(workshop, 2, tmp_path) as url:
        accept(replace(workshop.settings, model="2", url=url, results=str(results), max_latency=60), Lines())
    assert (results / "verdict").read_text() == "refused"
    assert "recall of class 'red'" in (results / "reason").read_text()
    assert (results / "model-version").read_text() == "2"
    assert workshop.registry.versions.champion().number == 1


@pytest.mark.slow
def test_a_pinned_version_replaces_any_champion_and_afterwards_the_newer_one_returns(home, tmp_path):
    workshop = workshop_with_champion(home, tmp_path)
    second = register_accepted(workshop, SKEWED)
    workshop.registry.history.promote(second, actor="chain", reason="accepted", image="")
    (results := tmp_path / "results").mkdir()
    for number, pinned in (("1", "yes"), ("2", "no")):
        with served(workshop, int(number), tmp_path) as url:
            settings = replace(workshop.settings, model=number, url=url, results=str(results), max_latency=60)
            accept(replace(settings, pinned=pinned), Lines())
        assert (results / "verdict").read_text() == "accepted"
        assert workshop.registry.versions.champion().number == int(number)
    actions = [(event.action, event.version) for event in workshop.registry.history.events()]
    assert actions == [("promoted", 2), ("rolled-back", 1), ("promoted", 2), ("promoted", 1)]
