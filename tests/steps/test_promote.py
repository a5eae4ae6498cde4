import pytest

from image_classifier.errors import RegistryError
from image_classifier.registry.decision import Decision, RecordedVerdict
from image_classifier.settings import Settings
from image_classifier.steps.promote import promote
from tests.registry.mlflow_helpers import record_training, register_champions
from tests.steps.chain import Lines

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


def test_a_refused_candidate_is_not_promoted(registry, settings, tmp_path):
    register_champions(registry, tmp_path, 1)
    refused = record_training(registry, tmp_path / "two", "two")()
    registry.history.record_verdict(refused, RecordedVerdict(Decision.REFUSED, "slow"), actor="gate")
    lines = Lines()
    assert promote(settings, lines).number == 1
    assert lines == ["version 2 was refused and is not promoted; version 1 stays"]


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
