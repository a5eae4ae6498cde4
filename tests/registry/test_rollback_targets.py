"""Rollback by the registry alone, in a SQLite store."""

from datetime import timedelta

import pytest

from image_classifier.errors import RegistryError
from image_classifier.registry.rollback_targets import compare_metrics, roll_back_champion
from image_classifier.registry.versions import Versions
from tests.registry.mlflow_helpers import record_training, register_champions

pytestmark = pytest.mark.slow


def roll_back(registry, to="", reason="worse on cats"):
    before, after = roll_back_champion(registry, to, actor="ada", reason=reason)
    return before.number, after.number


def test_two_rollbacks_return_two_versions(registry, tmp_path, monkeypatch):
    monkeypatch.setattr("image_classifier.registry.rollback_targets._JUST_NOW", timedelta(0))
    register_champions(registry, tmp_path, 3)
    assert roll_back(registry) == (3, 2)
    assert (registry.versions.champion().number, registry.versions.get("previous").number) == (2, 1)
    assert roll_back(registry) == (2, 1)
    assert registry.versions.champion().number == 1
    with pytest.raises(RegistryError, match="has no previous in the registry"):
        registry.versions.get("previous")
    with pytest.raises(RegistryError, match="version 1 is the first champion .* choose another version with --to"):
        roll_back(registry)


def test_actor_and_reason_are_in_the_history(registry, tmp_path):
    register_champions(registry, tmp_path, 2)
    roll_back(registry)
    event = registry.history.events()[0]
    assert (event.action, event.version, event.from_version) == ("rolled-back", 1, 2)
    assert (event.actor, event.reason) == ("ada", "worse on cats")


def test_a_version_can_be_chosen(registry, tmp_path):
    register_champions(registry, tmp_path, 3)
    assert roll_back(registry, "1") == (3, 1)
    assert roll_back(registry, f"models:/{registry.name}/3") == (1, 3)
    assert [event.version for event in registry.history.events()] == [3, 1, 3, 2, 1]


def test_a_second_rollback_within_minutes_must_choose_a_version(registry, tmp_path):
    register_champions(registry, tmp_path, 3)
    roll_back(registry)
    with pytest.raises(RegistryError, match=r"ada rolled back to version 2 at .*worse on cats.*--to"):
        roll_back(registry)
    assert registry.versions.champion().number == 2


def test_a_version_that_may_not_serve_is_an_error(registry, tmp_path):
    register_champions(registry, tmp_path, 2)
    refused = record_training(registry, tmp_path / "refused", "refused")()
    registry.versions.set_tags(refused, {"verdict": "refused"})
    record_training(registry, tmp_path / "new", "new")()
    for to, message in (
        ("9", "has no version 9"),
        ("2", "version 2 is already the champion"),
        ("3", "version 3 is refused by the gate and was never live"),
        ("4", "version 4 is not judged by the gate"),
        ("nobody", "has no nobody in the registry"),
        ("models:/others/1", "others has no version 1"),
    ):
        with pytest.raises(RegistryError, match=message):
            roll_back(registry, to)
    assert registry.versions.champion().number == 2


def test_a_version_that_served_stays_a_target_whatever_a_later_judgement_says(registry, tmp_path):
    register_champions(registry, tmp_path, 2)
    registry.versions.set_tags(registry.versions.get("1"), {"verdict": "refused"})  # as version 0.1 overwrote it
    assert roll_back(registry) == (2, 1)
    assert registry.versions.champion().number == 1


def test_a_version_that_never_served_is_promoted_instead(registry, tmp_path):
    register_champions(registry, tmp_path, 1)
    version = record_training(registry, tmp_path / "new", "new")()
    registry.versions.set_tags(version, {"verdict": "accepted"})
    with pytest.raises(RegistryError, match="version 2 has never served; promote it instead: .* promote --model 2"):
        roll_back(registry, "2")


def test_without_a_champion_there_is_no_rollback(registry, tmp_path):
    record_training(registry, tmp_path / "one", "one")()
    with pytest.raises(RegistryError, match="has no champion to roll back from"):
        roll_back(registry)


def test_a_version_without_files_is_not_a_target(registry, tmp_path, monkeypatch):
    register_champions(registry, tmp_path, 2)
    monkeypatch.setattr(Versions, "_is_complete", lambda *_: False)
    with pytest.raises(RegistryError, match="/1 lacks files in the registry and cannot be rolled back to"):
        roll_back(registry)
    assert registry.versions.champion().number == 2


def test_the_metrics_of_both_versions_are_compared(registry, tmp_path):
    register_champions(registry, tmp_path, 2)
    for number, accuracy in (("1", 0.75), ("2", 0.5)):
        with registry.runs.resume(registry.versions.get(number).run_id) as run:
            run.log_metrics({"test_accuracy": accuracy, "recall/cat": 1.0})
    table = compare_metrics(registry, registry.versions.get("2"), registry.versions.get("1"))
    assert table[0].split() == ["version", "2", "version", "1"]
    assert ["test_accuracy", "0.5", "0.75"] in [line.split() for line in table]
    assert "recall/cat" not in "\n".join(table)
