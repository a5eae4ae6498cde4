"""Status of a registered model in a SQLite store."""

import json
import re
from pathlib import Path

import pytest

from image_classifier.errors import RegistryError
from image_classifier.gate.rules import RuleOutcome, RuleResult
from image_classifier.gate.verdict import Verdict
from image_classifier.registry.decision import Decision, RecordedVerdict
from image_classifier.registry.registry import Registry
from image_classifier.registry.status import Stage, describe_status, status_of, status_to_json
from image_classifier.registry.versions import Version
from tests.registry.mlflow_helpers import record_training, registry_at

pytestmark = pytest.mark.slow

TOO_LOW = RuleResult(
    "min-accuracy", RuleOutcome.FAIL, "accuracy 95.83 % is below the minimum of 99.9 %", 0.9583, threshold=0.999
)
FAST_ENOUGH = RuleResult("max-latency", RuleOutcome.PASS, "p95 latency 0.47 ms")


def judged(registry: Registry, folder: Path, *results: RuleResult) -> Version:
    """A new version with a verdict of the gate."""
    version = record_training(registry, folder, folder.name)()
    registry.history.record_verdict(version, Verdict(results).to_record(), actor="ci", report="<p>why</p>")
    return registry.versions.get(str(version.number))


def test_an_empty_registry_says_how_to_make_a_version(registry):
    status = status_of(registry)
    assert status.stage is Stage.NONE
    assert "`image-classifier run`" in "\n".join(describe_status(status))
    assert status_to_json(status)["newest"] is None


def test_the_newest_version_is_live_since_its_promotion(registry, tmp_path):
    registry.history.promote(judged(registry, tmp_path / "a", FAST_ENOUGH), actor="anna", reason="accuracy 97 %")
    status = status_of(registry)
    assert status.stage is Stage.SERVES
    words = "\n".join(describe_status(status))
    assert re.search(r"version 1 is live since \d{4}-\d\d-\d\d \d\d:\d\d UTC", words)
    assert "promoted by anna: accuracy 97 %" in words
    assert "what to do" not in words


def test_a_refused_newest_version_lists_the_failed_rules(registry, tmp_path):
    registry.history.promote(judged(registry, tmp_path / "a", FAST_ENOUGH), actor="anna", reason="good")
    judged(registry, tmp_path / "b", TOO_LOW, FAST_ENOUGH)
    status = status_of(registry)
    assert status.stage is Stage.REFUSED
    words = "\n".join(describe_status(status))
    assert "version 1 is live" in words
    assert "version 2" in words
    assert "FAIL  min-accuracy: accuracy 95.83 % is below the minimum of 99.9 %" in words
    assert "p95 latency" not in words
    content = status_to_json(status)
    assert (content["champion"], content["newest"], content["place"]) == (1, 2, "refused")
    assert [finding["rule"] for finding in content["failed"]] == ["min-accuracy"]
    assert json.loads(json.dumps(content)) == content


def test_a_newest_version_that_was_not_judged_names_the_command(registry, tmp_path):
    registry.history.promote(judged(registry, tmp_path / "a", FAST_ENOUGH), actor="anna", reason="good")
    record_training(registry, tmp_path / "b", "b")()
    status = status_of(registry)
    assert status.stage is Stage.NOT_JUDGED
    assert "image-classifier gate" in "\n".join(describe_status(status))


def test_an_accepted_version_that_was_not_promoted_names_the_command(registry, tmp_path):
    judged(registry, tmp_path / "a", FAST_ENOUGH)
    status = status_of(registry)
    assert status.stage is Stage.NOT_PROMOTED
    words = "\n".join(describe_status(status))
    assert "no version is live" in words
    assert "image-classifier promote" in words


def test_an_older_version_that_was_promoted_again_replaces_the_newest(registry, tmp_path):
    first = judged(registry, tmp_path / "a", FAST_ENOUGH)
    second = judged(registry, tmp_path / "b", FAST_ENOUGH)
    for version, reason in ((first, "good"), (second, "better"), (first, "the second confuses cats")):
        registry.history.promote(version, actor="ben", reason=reason)
    status = status_of(registry)
    assert status.stage is Stage.REPLACED
    words = "\n".join(describe_status(status))
    assert "version 1 is live" in words
    assert "by ben: the second confuses cats" in words
    assert "rollback --to 2" in words


def test_a_held_newest_version_says_so_and_why(registry, tmp_path):
    registry.history.promote(judged(registry, tmp_path / "a", FAST_ENOUGH), actor="anna", reason="good")
    version = record_training(registry, tmp_path / "b", "b")()
    held = RecordedVerdict(Decision.HELD, "80 images cannot tell the two apart")
    registry.history.record_verdict(version, held, actor="ci", against=1, report="<p>why</p>")
    status = status_of(registry)
    assert status.stage is Stage.HELD
    words = "\n".join(describe_status(status))
    assert "version 2 of" in words
    assert "it was held, as there was not enough evidence" in words
    assert "by ci: 80 images cannot tell the two apart" in words
    assert status_to_json(status)["place"] == "held"


def test_a_name_without_a_model_lists_the_names_that_have_one(registry, tmp_path, home):
    judged(registry, tmp_path / "a", FAST_ENOUGH)
    with pytest.raises(RegistryError, match="digits has no version in the registry at .*; it has .*choose one with"):
        status_of(registry_at(home, name="digits"))
