from image_classifier.registry.decision import Decision, RecordedVerdict
from image_classifier.registry.lineage import entries
from image_classifier.registry.rollback_targets import roll_back_champion
from tests.registry.mlflow_helpers import register_champions


def test_an_entry_says_when_a_version_served_and_where_it_came_from(registry, tmp_path):
    register_champions(registry, tmp_path, 2)
    roll_back_champion(registry, "", actor="ada", reason="worse on cats")
    rolled_back, promoted, first = entries(registry)
    assert promoted.served_until == rolled_back.event.time
    assert rolled_back.served_until is None
    content = rolled_back.to_dict()
    assert (content["version"], content["from_version"], content["source_revision"]) == (1, 2, "abc123")
    assert content["data_digest"] == "0" * 64
    assert content["run_id"] == registry.versions.get("1").run_id
    assert content["metrics"]["validation_accuracy"] == 0.5
    assert content["served_until"] is None
    assert first.to_dict()["image"] == "server@sha256:0"
    text = "\n".join(rolled_back.lines())
    for part in ("rolled back to 1, replacing 2 by ada: worse on cats", "serves now", "commit abc123", "data 0000"):
        assert part in text
    assert "served until 20" in "\n".join(promoted.lines())


def test_a_later_judgement_is_listed_with_its_verdict(registry, tmp_path):
    register_champions(registry, tmp_path, 2)
    verdict = RecordedVerdict(Decision.HELD, "too few images")
    registry.history.record_verdict(registry.versions.get("1"), verdict, actor="gate", against=2)
    judged, promoted, _ = entries(registry)
    assert "version 1 judged again, held, by gate: too few images" in judged.lines()[0]
    assert (judged.to_dict()["verdict"], judged.to_dict()["from_version"]) == ("held", 2)
    assert "served_until" not in judged.to_dict()
    assert "verdict" not in promoted.to_dict()
