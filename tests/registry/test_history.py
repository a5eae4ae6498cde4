"""Verdicts, promotions and their events, in a SQLite store."""

import threading
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import image_classifier
from image_classifier.errors import ChampionChangedError
from image_classifier.registry import artifact_paths
from image_classifier.registry.decision import Decision, RecordedVerdict
from image_classifier.registry.events import LONGEST_REASON, last_change, line_of_champions
from image_classifier.registry.history import NO_CHAMPION, UNKNOWN, Judgement
from image_classifier.registry.store import Store
from tests.registry.mlflow_helpers import record_training, register_packages, registry_at

pytestmark = pytest.mark.slow

ACCEPTED = RecordedVerdict(Decision.ACCEPTED, "good", ({"rule": "min-accuracy", "outcome": "pass"},))
HELD = RecordedVerdict(Decision.HELD, "too few images")
REFUSED = RecordedVerdict(Decision.REFUSED, "bad", ({"rule": "min-accuracy", "outcome": "fail"},))


def test_a_promotion_moves_the_aliases_and_is_recorded(registry, tmp_path):
    first, second = register_packages(registry, tmp_path, "one", "two")
    registry.history.promote(first, actor="ada", reason="the first")
    registry.history.promote(second, actor="bob", reason="better")
    assert registry.versions.champion().number == 2
    assert registry.versions.get("previous").number == 1
    events = registry.history.events()
    assert [(event.action, event.version, event.from_version) for event in events] == [
        ("promoted", 2, 1),
        ("promoted", 1, None),
    ]
    assert (events[0].actor, events[0].reason) == ("bob", "better")
    assert timedelta(0) < datetime.now(UTC) - events[0].time < timedelta(minutes=10)


def test_promoting_the_champion_again_changes_nothing(registry, tmp_path):
    first, second = register_packages(registry, tmp_path, "one", "two")
    registry.history.promote(first, actor="ada", reason="the first")
    registry.history.promote(second, actor="bob", reason="better")
    events = registry.history.events()
    registry.history.promote(second, actor="eve", reason="again")
    assert registry.history.events() == events
    assert registry.versions.get("previous").number == 1


def test_a_former_champion_can_be_promoted_again(registry, tmp_path):
    first, second = register_packages(registry, tmp_path, "one", "two")
    for version in (first, second, first):
        registry.history.promote(version, actor="ada", reason="good")
    assert (registry.versions.champion().number, registry.versions.get("previous").number) == (1, 2)
    assert [event.version for event in registry.history.events()] == [1, 2, 1]


def test_a_new_server_image_of_the_champion_is_an_event(registry, tmp_path):
    (version,) = register_packages(registry, tmp_path, "one")
    for image in ("server@sha256:0", "server@sha256:new", "server@sha256:new"):
        registry.history.promote(version, actor="chain", reason="accepted", image=image)
    assert [(event.version, event.from_version, event.image) for event in registry.history.events()] == [
        (1, 1, "server@sha256:new"),
        (1, None, "server@sha256:0"),
    ]


def test_a_repeated_refusal_is_recorded_once_and_moves_no_alias(registry, tmp_path):
    first, second = register_packages(registry, tmp_path, "one", "two")
    registry.history.promote(first, actor="ada", reason="the first")
    reason = "accuracy “0.81” is below 0.9\n" + "and so on " * 1000
    for _ in range(2):
        registry.history.record_verdict(second, RecordedVerdict(Decision.REFUSED, reason), actor="gate", against=1)
    assert registry.versions.champion().number == 1
    event = registry.history.events()[0]
    assert (event.action, event.version, event.from_version) == ("refused", 2, 1)
    assert len(event.reason) == LONGEST_REASON
    assert len(registry.history.events()) == 2
    registry.history.record_verdict(second, RecordedVerdict(Decision.REFUSED, "another reason"), actor="gate")
    assert len(registry.history.events()) == 3


@pytest.mark.parametrize(("verdict", "actions"), [(ACCEPTED, []), (REFUSED, ["refused"]), (HELD, ["held"])])
def test_a_verdict_is_stored_as_tag_artifact_report_and_event(registry, tmp_path, verdict, actions):
    version = record_training(registry, tmp_path / "one", "one")()
    assert version.decision is Decision.NOT_JUDGED
    assert registry.history.read_verdict(version) is None
    registry.history.record_verdict(version, verdict, actor="gate", report="<p>why</p>")
    assert registry.versions.get("1").decision is verdict.decision
    assert registry.history.read_verdict(version) == verdict
    assert registry.runs.read_artifact(version.run_id, artifact_paths.REPORT) == b"<p>why</p>"
    assert [event.action for event in registry.history.events()] == actions


def test_the_last_verdict_counts(registry, tmp_path):
    version = record_training(registry, tmp_path / "one", "one")()
    for verdict in (REFUSED, ACCEPTED):
        registry.history.record_verdict(version, verdict, actor="gate", report="<p>why</p>")
        assert registry.versions.get("1").decision is verdict.decision
        assert registry.history.read_verdict(version) == verdict


def test_a_later_verdict_on_a_version_that_served_is_an_event_and_keeps_the_first(registry, tmp_path):
    first, second = register_packages(registry, tmp_path, "one", "two")
    history = registry.history
    history.record_verdict(first, ACCEPTED, actor="gate", report="<p>first</p>")
    assert history.judgement(first) == Judgement(Decision.ACCEPTED, "good", NO_CHAMPION)
    for version in (first, second):
        history.promote(version, actor="ada", reason="good")
    for _ in range(2):  # the same judgement again adds no event
        path = history.record_verdict(first, REFUSED, actor="gate", against=2, report="<p>later</p>")
    assert registry.versions.get("1").decision is Decision.ACCEPTED
    assert history.read_verdict(first) == ACCEPTED
    assert registry.runs.read_artifact(first.run_id, artifact_paths.REPORT) == b"<p>first</p>"
    assert registry.runs.read_artifact(first.run_id, path) == b"<p>later</p>"
    assert history.judgement(first) == Judgement(Decision.REFUSED, "bad", "2")
    newest, *before = history.events()
    assert (newest.action, newest.version, newest.from_version, newest.verdict) == ("judged", 1, 2, "refused")
    assert [event.action for event in before] == ["promoted", "promoted"]


def test_a_verdict_of_version_0_1_names_no_champion(registry, tmp_path):
    (version,) = register_packages(registry, tmp_path, "one")
    registry.versions.set_tags(version, {"verdict": "accepted"})
    assert registry.history.judgement(version).against == UNKNOWN
    with pytest.raises(ChampionChangedError, match="was judged against an unknown version, but no version is"):
        registry.history.promote(version, actor="ada", reason="good", judged_against=UNKNOWN)


def test_a_version_replaces_only_the_champion_that_it_was_judged_against(registry, tmp_path):
    first, second, third = register_packages(registry, tmp_path, "one", "two", "three")
    registry.history.promote(first, actor="ada", reason="good", judged_against=NO_CHAMPION)
    registry.history.promote(second, actor="ada", reason="good", judged_against="1")
    message = "version 3 was judged against version 1, but version 2 is the champion; judge it again: .* --model 3"
    with pytest.raises(ChampionChangedError, match=message):
        registry.history.promote(third, actor="ada", reason="good", judged_against="1")
    assert registry.versions.champion().number == 2
    assert registry.versions.get("previous").number == 1
    assert len(registry.history.events()) == 2


@pytest.fixture
def without_lock(monkeypatch):
    """As on an MLflow server, which has no lock."""
    monkeypatch.setattr(Store, "lock", lambda _: nullcontext())


@pytest.mark.usefixtures("without_lock")
def test_a_promotion_that_missed_another_one_is_taken_back(registry, tmp_path, home, monkeypatch):
    first, second, third = register_packages(registry, tmp_path, "one", "two", "three")
    registry.history.promote(first, actor="ada", reason="good")
    other = registry_at(home, name=registry.name)
    set_alias = registry.versions.set_alias

    def interrupted(*arguments):
        monkeypatch.setattr(registry.versions, "set_alias", set_alias)
        other.history.promote(second, actor="bob", reason="better", judged_against="1")
        set_alias(*arguments)

    monkeypatch.setattr(registry.versions, "set_alias", interrupted)
    with pytest.raises(ChampionChangedError, match="version 2 became the champion while 3 was promoted"):
        registry.history.promote(third, actor="ada", reason="best", judged_against="1")
    assert registry.versions.champion().number == 2
    assert line_of_champions(registry.history.events()) == [1, 2]


@pytest.mark.usefixtures("without_lock")
def test_of_two_promotions_that_both_wrote_the_alias_the_later_event_is_taken_back(
    registry, tmp_path, home, monkeypatch
):
    first, second, third = register_packages(registry, tmp_path, "one", "two", "three")
    registry.history.promote(first, actor="ada", reason="good")
    other = registry_at(home, name=registry.name)
    set_alias, set_tags = registry.versions.set_alias, other.versions.set_tags
    has_written, may_record, errors = threading.Event(), threading.Event(), []

    def promote_second():
        try:
            other.history.promote(second, actor="bob", reason="better", judged_against="1")
        except ChampionChangedError as error:
            errors.append(str(error))

    def delayed(*arguments):
        has_written.set()
        assert may_record.wait(60)
        set_tags(*arguments)

    def interrupted(*arguments):
        monkeypatch.setattr(registry.versions, "set_alias", set_alias)
        promotion.start()
        assert has_written.wait(60)
        set_alias(*arguments)

    promotion = threading.Thread(target=promote_second)
    monkeypatch.setattr(other.versions, "set_tags", delayed)
    monkeypatch.setattr(registry.versions, "set_alias", interrupted)
    registry.history.promote(third, actor="ada", reason="best", judged_against="1")
    monkeypatch.setattr(other.versions, "set_tags", set_tags)
    may_record.set()
    promotion.join()
    assert errors == ["version 3 became the champion while 2 was promoted"]
    assert registry.versions.champion().number == 3
    assert last_change(registry.history.events()).version == 3


def test_promotions_in_one_home_wait_for_each_other(registry, tmp_path, home):
    (version,) = register_packages(registry, tmp_path, "one")
    other = registry_at(home, name=registry.name)
    promotion = threading.Thread(target=other.history.promote, args=(version,), kwargs={"actor": "a", "reason": "b"})
    with registry._store.lock():
        promotion.start()
        promotion.join(timeout=1)
        assert promotion.is_alive()
        assert registry.versions.champion() is None
    promotion.join()
    assert registry.versions.champion().number == 1


def test_only_the_history_writes_verdicts():
    source = Path(image_classifier.__file__).parent
    naming = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if any(name in path.read_text() for name in ("VERDICT_TAG", "artifact_paths.VERDICT"))
    }
    # `versions` declares the tag and reads it.
    assert naming == {"registry/history.py", "registry/versions.py"}
    assert "{VERDICT_TAG" not in (source / "registry/versions.py").read_text()
