"""Back to what served before, by the registry alone, in a real sqlite store."""

from datetime import timedelta

import pytest

from image_classifier.errors import RegistryError
from image_classifier.registry.lineage import entries
from image_classifier.registry.rollback_targets import roll_back_champion, side_by_side
from tests.registry.mlflow_helpers import record_training


def champions(registry, folder, count):
    """So many versions, accepted and promoted one after the other."""
    for number in range(count):
        version = record_training(registry, folder / str(number), f"fingerprint-{number}")()
        registry.set_tags(version, {"verdict": "accepted", "data_digest": f"{number}" * 64})
        registry.promote(version, actor="chain", reason="accepted", image=f"server@sha256:{number}")


def back(registry, to="", reason="worse on cats"):
    before, after = roll_back_champion(registry, to, actor="ada", reason=reason)
    return before.number, after.number


def test_the_version_before_serves_again_and_the_one_before_that_after_a_second_time(
    registry, tmp_path, monkeypatch
):
    monkeypatch.setattr("image_classifier.registry.rollback_targets._JUST_NOW", timedelta(0))
    champions(registry, tmp_path, 3)
    assert back(registry) == (3, 2)
    assert (registry.champion().number, registry.get("previous").number) == (2, 1)
    assert back(registry) == (2, 1)
    assert registry.champion().number == 1
    with pytest.raises(RegistryError, match="no version of .* is the previous"):
        registry.get("previous")
    with pytest.raises(RegistryError, match="version 1 is the first champion .* name another with --to"):
        back(registry)


def test_who_and_why_are_in_the_history(registry, tmp_path):
    champions(registry, tmp_path, 2)
    back(registry)
    event = registry.history()[0]
    assert (event.action, event.version, event.from_version) == ("rolled-back", 1, 2)
    assert (event.actor, event.reason) == ("ada", "worse on cats")


def test_a_version_can_be_named(registry, tmp_path):
    champions(registry, tmp_path, 3)
    assert back(registry, "1") == (3, 1)
    assert back(registry, f"models:/{registry.name}/3") == (1, 3)
    assert [event.version for event in registry.history()] == [3, 1, 3, 2, 1]


def test_a_second_roll_back_at_the_same_time_does_not_go_one_further(registry, tmp_path):
    champions(registry, tmp_path, 3)
    back(registry)
    with pytest.raises(RegistryError, match=r"ada rolled back to version 2 at .*worse on cats.*--to"):
        back(registry)
    assert registry.champion().number == 2


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("9", "has no version 9"),
        ("2", "version 2 is the champion already"),
        ("3", "version 3 is refused by the gate and never served"),
        ("4", "version 4 is not judged by the gate"),
        ("nobody", "no version of .* is the nobody"),
        ("models:/others/1", "others has no version 1"),
    ],
)
def test_a_version_that_cannot_serve_is_named(registry, tmp_path, to, said):
    champions(registry, tmp_path, 2)
    refused = record_training(registry, tmp_path / "refused", "refused")()
    registry.set_tags(refused, {"verdict": "refused"})
    record_training(registry, tmp_path / "new", "new")()
    with pytest.raises(RegistryError, match=said):
        back(registry, to)
    assert registry.champion().number == 2


def test_without_a_champion_there_is_nothing_to_roll_back_from(registry, tmp_path):
    record_training(registry, tmp_path / "one", "one")()
    with pytest.raises(RegistryError, match="no version of .* is the champion"):
        back(registry)


def test_a_version_whose_files_are_gone_is_not_gone_back_to(registry, tmp_path, monkeypatch):
    champions(registry, tmp_path, 2)
    monkeypatch.setattr(registry, "_is_complete", lambda _: False)
    with pytest.raises(RegistryError, match="/1 lacks files in the registry and cannot be rolled back to"):
        back(registry)
    assert registry.champion().number == 2


def test_a_new_image_of_the_champion_is_an_event_of_its_own(registry, tmp_path):
    champions(registry, tmp_path, 1)
    for _ in range(2):
        registry.promote(registry.get("1"), actor="chain", reason="accepted", image="server@sha256:new")
    assert [(event.version, event.from_version, event.image) for event in registry.history()] == [
        (1, 1, "server@sha256:new"),
        (1, None, "server@sha256:0"),
    ]


def test_the_figures_of_both_versions_are_told_side_by_side(registry, tmp_path):
    champions(registry, tmp_path, 2)
    for number, accuracy in (("1", 0.75), ("2", 0.5)):
        with registry.resume_run(registry.get(number).run_id) as run:
            run.log_metrics({"test_accuracy": accuracy, "recall/cat": 1.0})
    table = side_by_side(registry, registry.get("2"), registry.get("1"))
    assert table[0].split() == ["version", "2", "version", "1"]
    assert ["test_accuracy", "0.5", "0.75"] in [line.split() for line in table]
    assert "recall/cat" not in "\n".join(table)


def test_the_history_tells_what_served_when_and_where_it_came_from(registry, tmp_path):
    champions(registry, tmp_path, 2)
    back(registry)
    rolled_back, promoted, first = entries(registry)
    assert promoted.served_until == rolled_back.event.time
    assert rolled_back.served_until is None
    told = rolled_back.to_dict()
    assert (told["version"], told["from_version"], told["source_revision"]) == (1, 2, "abc123")
    assert told["data_digest"] == "0" * 64
    assert told["run_id"] == registry.get("1").run_id
    assert told["metrics"]["validation_accuracy"] == 0.5
    assert told["served_until"] is None
    assert first.to_dict()["image"] == "server@sha256:0"
    text = "\n".join(rolled_back.lines())
    for part in (
        "rolled back to 1, in place of 2 by ada: worse on cats",
        "serves now",
        "commit abc123",
        "data 0000",
    ):
        assert part in text
    assert "served until 20" in "\n".join(promoted.lines())
