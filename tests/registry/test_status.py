"""How the newest version stands, in a real sqlite store; that of the command is in tests/test_cli.py."""

import json
import re
from pathlib import Path

from image_classifier.gate.rule_result import RuleOutcome, RuleResult
from image_classifier.gate.verdict import Verdict
from image_classifier.registry import artifact_paths as artifacts
from image_classifier.registry.registry import Registry, Version
from image_classifier.registry.status import Place, in_words, standing_of, to_json
from tests.registry.mlflow_helpers import record_training

FLOOR = RuleResult(
    "min-accuracy", RuleOutcome.FAIL, "accuracy 95.83% is below the floor of 99.9%", 0.9583, threshold=0.999
)
ENOUGH = RuleResult("max-latency", RuleOutcome.PASS, "it is fast enough")


def judged(registry: Registry, folder: Path, *findings: RuleResult) -> Version:
    """A new version that the gate has judged."""
    version = record_training(registry, folder, folder.name)()
    verdict = Verdict(findings)
    with registry.resume_run(version.run_id) as run:
        run.log_text(json.dumps(verdict.to_dict()), artifacts.VERDICT)
    registry.set_tags(version, {"verdict": verdict.word})
    if not verdict.accepted:
        registry.refuse(version, actor="ci", reason=verdict.reason)
    return registry.get(str(version.number))


def test_of_an_empty_registry_it_is_said_what_makes_a_version(registry):
    standing = standing_of(registry)
    assert standing.place is Place.NONE
    assert "`image-classifier run`" in "\n".join(in_words(standing))
    assert to_json(standing)["newest"] is None


def test_the_newest_version_serves_since_and_because_it_was_promoted(registry, tmp_path):
    registry.promote(judged(registry, tmp_path / "a", ENOUGH), actor="anna", reason="accuracy 97%")
    standing = standing_of(registry)
    assert standing.place is Place.SERVES
    words = "\n".join(in_words(standing))
    assert re.search(r"version 1 serves since \d{4}-\d\d-\d\d \d\d:\d\d UTC", words)
    assert "promoted by anna: accuracy 97%" in words
    assert "what to do" not in words


def test_an_older_one_serves_because_the_newest_was_refused_with_the_rules(registry, tmp_path):
    registry.promote(judged(registry, tmp_path / "a", ENOUGH), actor="anna", reason="good")
    judged(registry, tmp_path / "b", FLOOR, ENOUGH)
    standing = standing_of(registry)
    assert standing.place is Place.REFUSED
    words = "\n".join(in_words(standing))
    assert "version 1 serves" in words
    assert "version 2" in words
    assert "FAIL  min-accuracy: accuracy 95.83% is below the floor of 99.9%" in words
    assert "fast enough" not in words
    content = to_json(standing)
    assert (content["champion"], content["newest"], content["place"]) == (1, 2, "refused")
    assert [finding["rule"] for finding in content["failed"]] == ["min-accuracy"]
    assert json.loads(json.dumps(content)) == content


def test_an_older_one_serves_because_the_newest_was_not_judged(registry, tmp_path):
    registry.promote(judged(registry, tmp_path / "a", ENOUGH), actor="anna", reason="good")
    record_training(registry, tmp_path / "b", "b")()
    standing = standing_of(registry)
    assert standing.place is Place.NOT_JUDGED
    assert "image-classifier gate" in "\n".join(in_words(standing))


def test_nothing_serves_because_the_accepted_one_was_not_promoted(registry, tmp_path):
    judged(registry, tmp_path / "a", ENOUGH)
    standing = standing_of(registry)
    assert standing.place is Place.NOT_PROMOTED
    words = "\n".join(in_words(standing))
    assert "nothing serves" in words
    assert "image-classifier promote" in words


def test_an_older_one_serves_because_it_was_promoted_after_the_newest(registry, tmp_path):
    first = judged(registry, tmp_path / "a", ENOUGH)
    second = judged(registry, tmp_path / "b", ENOUGH)
    for version, reason in ((first, "good"), (second, "better"), (first, "the second confuses cats")):
        registry.promote(version, actor="ben", reason=reason)
    standing = standing_of(registry)
    assert standing.place is Place.REPLACED
    words = "\n".join(in_words(standing))
    assert "version 1 serves" in words
    assert "by ben: the second confuses cats" in words
    assert "promote --model 2" in words
