import shutil
from dataclasses import replace

import pytest

from image_classifier.errors import RegistryError
from image_classifier.registry.decision import Decision, RecordedVerdict
from image_classifier.settings import Settings
from image_classifier.steps.evaluate import evaluate
from image_classifier.steps.gate import gate
from image_classifier.steps.promote import promote
from image_classifier.steps.register import register
from tests.conftest import SIZE
from tests.registry.mlflow_helpers import record_training, register_champions
from tests.steps.chain import Lines, write_images
from tests.steps.test_gate import SKEWED, Workshop

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(home, registry):
    return Settings(home=home, name=registry.name)


def test_an_accepted_candidate_becomes_the_champion_with_the_gates_reason(registry, settings, tmp_path):
    version = record_training(registry, tmp_path / "one", "one")()
    verdict = RecordedVerdict(Decision.ACCEPTED, "accuracy 98.00 % meets the minimum of 50 %")
    registry.history.record_verdict(version, verdict, actor="gate", report="<p>why</p>")
    lines = Lines()
    assert promote(settings, lines).number == 1
    assert lines == ["version 1 is the champion"]
    assert registry.history.events()[0].reason == verdict.reason


@pytest.mark.parametrize("decision", [Decision.REFUSED, Decision.HELD])
def test_a_candidate_that_was_not_accepted_is_not_promoted(registry, settings, tmp_path, decision):
    register_champions(registry, tmp_path, 1)
    candidate = record_training(registry, tmp_path / "two", "two")()
    registry.history.record_verdict(candidate, RecordedVerdict(decision, "slow"), actor="gate", against=1)
    lines = Lines()
    assert promote(settings, lines).number == 1
    assert lines == [f"version 2 was {decision} and is not promoted; version 1 stays"]


def test_without_a_champion_a_refusal_leaves_none(registry, settings, tmp_path):
    refused = record_training(registry, tmp_path / "one", "one")()
    registry.history.record_verdict(refused, RecordedVerdict(Decision.REFUSED, "slow"), actor="gate")
    lines = Lines()
    assert promote(settings, lines) is None
    assert lines == ["version 1 was refused and is not promoted; there is still no champion"]


def test_a_missing_version_and_one_without_a_verdict_are_errors(registry, settings, tmp_path):
    with pytest.raises(RegistryError, match="has no candidate"):
        promote(settings, Lines())
    record_training(registry, tmp_path / "one", "one")()
    with pytest.raises(RegistryError, match="has not been judged; run `image-classifier gate` first"):
        promote(settings, Lines())


def test_the_verdict_of_a_version_that_was_replaced_does_not_make_it_the_champion_again(registry, settings, tmp_path):
    register_champions(registry, tmp_path, 2)
    message = "version 1 served before, and was not judged against version 2, the champion; .* rollback --to 1"
    with pytest.raises(RegistryError, match=message):
        promote(replace(settings, model="1"), Lines())
    assert registry.versions.champion().number == 2


def test_a_version_that_served_is_promoted_if_it_was_accepted_against_the_champion(registry, settings, tmp_path):
    register_champions(registry, tmp_path, 2)
    first = registry.versions.get("1")
    verdict = RecordedVerdict(Decision.ACCEPTED, "better on the new data")
    registry.history.record_verdict(first, verdict, actor="gate", against=2)
    assert promote(replace(settings, model="1"), Lines()).number == 1
    assert registry.history.events()[0].reason == verdict.reason


def workshop_with_champion(home, folder) -> Workshop:
    """A home whose champion is version 1."""
    images = write_images(folder / "images")
    workshop = Workshop(Settings(home=home, data=str(images), name=f"colors-{folder.name}", image_size=SIZE), 0)
    assert "version 1 is the champion" in workshop.make().text
    return workshop


@pytest.fixture
def workshop(home, tmp_path) -> Workshop:
    return workshop_with_champion(home, tmp_path)


def register_accepted(workshop: Workshop, colors):
    """Register a version that was accepted when there was no champion."""
    workshop.write(colors)
    for step in (evaluate, register):
        step(workshop.settings, Lines())
    version = workshop.registry.versions.newest()
    verdict = RecordedVerdict(Decision.ACCEPTED, "accuracy 75.00 %")
    workshop.registry.history.record_verdict(version, verdict, actor="gate", against=None)
    return version


def test_a_version_is_judged_again_if_another_one_became_the_champion(workshop):
    """Its verdict says that there was no champion, as when two runs trained the first version at the same time."""
    second = register_accepted(workshop, SKEWED)
    lines = Lines()
    assert promote(workshop.settings, lines).number == 1
    assert lines[0] == "version 2 was not judged against the present champion; judging it again"
    assert lines[-1] == "version 2 was refused and is not promoted; version 1 stays"
    judgement = workshop.registry.history.judgement(second)
    assert (judgement.decision, judgement.against) == (Decision.REFUSED, "1")


def test_each_of_two_homes_judges_and_promotes_the_version_that_it_registered(workshop, tmp_path):
    """Another run registers its version, and so moves the alias, before this one judges its own."""
    uri = f"sqlite:///{workshop.settings.home / 'mlflow.db'}"
    here = replace(workshop.settings, tracking_uri=uri)
    there = replace(here, home=tmp_path / "there")
    for settings in (here, there):
        other = Workshop(settings, 1 if settings is here else 2)
        other.write()
        for step in (evaluate, register):
            step(settings, Lines())
    assert workshop.registry.versions.get("candidate").number == 3
    lines = Lines()
    gate(here, lines)
    assert "version 2 is accepted" in lines
    assert workshop.registry.versions.get("3").decision is Decision.NOT_JUDGED
    assert promote(here, lines).number == 2
    gate(there, lines)
    assert promote(there, lines).number == 3
    against = [workshop.registry.versions.get(number).tags["judged_against"] for number in ("1", "2", "3")]
    assert against == ["none", "1", "2"]


def test_without_a_version_of_its_own_a_home_uses_the_candidate(workshop):
    shutil.rmtree(workshop.settings.home / "work")
    lines = Lines()
    gate(workshop.settings, lines)
    assert "version 1 is accepted" in lines
