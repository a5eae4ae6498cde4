"""Versions, aliases and history, in a real sqlite store."""

import json
import os
import re
import shutil
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

import image_classifier
from image_classifier.errors import PackageError, RegistryError
from image_classifier.package.package import Package
from image_classifier.registry.events import LONGEST_REASON
from tests.conftest import colour_images, colour_probabilities
from tests.registry.mlflow_helpers import record_training, registry_at

# So that it is up when the tests over HTTP, which come next, ask for it.
pytestmark = pytest.mark.usefixtures("tracking_server")


@pytest.fixture
def client(home):
    return MlflowClient(f"sqlite:///{home / 'mlflow.db'}")


def registered(registry, folder, *fingerprints):
    return [record_training(registry, folder / name, name)() for name in fingerprints]


def model_folder(client, version):
    return Path(client.get_logged_model(version.model_id).artifact_location.removeprefix("file://"))


def test_a_version_is_an_int_the_candidate_and_carries_its_tags(registry, tmp_path):
    first, second = registered(registry, tmp_path, "one", "two")
    assert (first.number, second.number) == (1, 2)
    assert second.uri == f"models:/{registry.name}/2"
    assert registry.get("1").aliases == ()
    assert registry.get("candidate") == second
    assert second.tags["fingerprint"] == "two"
    assert timedelta(0) < datetime.now(UTC) - second.created < timedelta(minutes=10)


def test_a_model_loads_with_mlflow_and_answers_as_the_package_does(registry, home, tmp_path, monkeypatch):
    import mlflow

    (version,) = registered(registry, tmp_path, "one")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    loaded = mlflow.pyfunc.load_model(version.uri)
    answer = loaded.predict({"image": colour_images()})["probabilities"]
    np.testing.assert_allclose(answer, colour_probabilities(), atol=1e-5)
    assert loaded.input_example is not None
    assert str(loaded.metadata.signature.inputs) == "['image': Tensor('uint8', (-1, 16, 16, 3))]"
    assert str(loaded.metadata.signature.outputs) == "['probabilities': Tensor('float32', (-1, 4))]"
    assert mlflow.onnx.load_model(version.uri).graph.input[0].name == "image"
    copy = mlflow.artifacts.download_artifacts(version.uri, dst_path=str(tmp_path / "copy"))
    assert Package.read(Path(copy)).digest == Package.read(tmp_path / "one").digest


def test_a_download_is_the_package_with_a_note_of_its_version(registry, tmp_path):
    (version,) = registered(registry, tmp_path, "one")
    target = tmp_path / "models/1"
    assert registry.download(version, target) == target
    assert Package.read(target).digest == Package.read(tmp_path / "one").digest
    about = {"name": registry.name, "version": 1, "uri": f"models:/{registry.name}/1"}
    assert json.loads((target / "version.json").read_text()) == about
    assert os.listdir(target.parent) == ["1"]


def test_what_is_registered_from_a_download_is_the_package_alone(registry, tmp_path):
    (version,) = registered(registry, tmp_path, "one")
    registry.download(version, tmp_path / "fetched")
    again = registry.register(version.run_id, tmp_path / "fetched", tags={"fingerprint": "other"})
    assert again.number == 2
    registry.download(again, tmp_path / "fetched again")
    assert sorted(os.listdir(tmp_path / "fetched again")) == sorted(os.listdir(tmp_path / "fetched"))


def test_a_fingerprint_has_one_version_however_often_it_is_registered(registry, tmp_path):
    register_one = record_training(registry, tmp_path / "one", "one")
    first = register_one()
    registered(registry, tmp_path, "two")
    assert register_one().number == first.number
    # Another run of the same code, data and parameters.
    assert registered(registry, tmp_path, "one")[0].number == first.number
    assert registry.get("candidate").number == first.number
    assert registry.find("one").number == first.number
    assert registry.find("three") is None


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_version_that_lacks_files_is_not_found_and_is_replaced(registry, tmp_path, client, damage):
    register_one = record_training(registry, tmp_path / "one", "one")
    version = register_one()
    file = model_folder(client, version) / "golden/002.png"
    file.unlink() if damage == "missing" else file.write_bytes(file.read_bytes()[:-1])
    assert registry.find("one") is None
    with pytest.raises(RegistryError, match="lacks files in the registry and cannot be promoted"):
        registry.promote(version, actor="me", reason="good")
    assert registry.champion() is None
    assert register_one().number == 2
    assert registry.find("one").number == 2


def test_an_altered_file_is_found_by_the_download_which_leaves_what_was_there(registry, tmp_path, client):
    (version,) = registered(registry, tmp_path, "one")
    registry.download(version, tmp_path / "fetched")
    file = model_folder(client, version) / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    before = Package.read(tmp_path / "fetched")
    with pytest.raises(RegistryError, match=r"damaged \(model\.onnx is not the file that was packed"):
        registry.download(version, tmp_path / "fetched")
    assert Package.read(tmp_path / "fetched") == before
    assert not list(tmp_path.glob(".fetched*"))


@pytest.mark.parametrize("damage", ["lost", "cut", "altered"])
def test_an_upload_that_does_not_arrive_as_sent_is_no_version(registry, tmp_path, monkeypatch, damage):
    register_one = record_training(registry, tmp_path / "one", "one")
    upload = MlflowClient.log_model_artifacts

    def upload_badly(client, model_id, folder):
        upload(client, model_id, folder)
        location = client.get_logged_model(model_id).artifact_location
        file = Path(location.removeprefix("file://")) / "model.onnx"
        content = file.read_bytes()
        file.write_bytes(content[:-1] + (b"?" if damage == "altered" else b""))
        if damage == "lost":
            file.unlink()

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_model_artifacts", upload_badly)
        with pytest.raises(RegistryError, match=r"not what was sent \(model\.onnx\)"):
            register_one()
    assert registry.find("one") is None
    assert register_one().number == 1


def test_a_folder_that_is_no_package_is_not_registered(registry, tmp_path):
    register_one = record_training(registry, tmp_path / "one", "one")
    (tmp_path / "one/golden/000.png").write_bytes(b"")
    with pytest.raises(PackageError):
        register_one()
    with pytest.raises(RegistryError, match="no version of .* is the candidate"):
        registry.get("candidate")


@pytest.mark.parametrize(
    "reference",
    ["1", "candidate", "models:/NAME/1", "models:/NAME@candidate", "models:/NAME@champion"],
)
def test_a_version_is_got_by_number_alias_or_uri(registry, tmp_path, reference):
    (version,) = registered(registry, tmp_path, "one")
    registry.promote(version, actor="me", reason="good")
    assert registry.get(reference.replace("NAME", registry.name)).number == 1


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("9", "has no version 9"),
        ("champion", "no version of .* is the champion"),
        ("models:/nobody/1", "nobody has no version 1"),
        ("models:/nobody@champion", "no version of nobody is the champion"),
        ("models:/m-0123", "names no version"),
        ("it's", "names no version"),
        ("", "names no version"),
    ],
)
def test_a_reference_to_nothing_is_named(registry, reference, expected):
    with pytest.raises(RegistryError, match=expected):
        registry.get(reference)


def test_a_model_name_that_mlflow_or_a_uri_could_not_hold_is_refused(home):
    for name in ("a/b", "a:b", "it's", "", " "):
        with pytest.raises(RegistryError, match="cannot name a registered model"):
            registry_at(home, name=name)


def test_a_promotion_moves_the_aliases_and_is_remembered(registry, tmp_path):
    first, second = registered(registry, tmp_path, "one", "two")
    registry.promote(first, actor="ada", reason="the first")
    registry.promote(second, actor="bob", reason="better")
    assert registry.champion().number == 2
    assert registry.get("previous").number == 1
    events = registry.history()
    assert [(event.action, event.version, event.from_version) for event in events] == [
        ("promoted", 2, 1),
        ("promoted", 1, None),
    ]
    assert (events[0].actor, events[0].reason) == ("bob", "better")
    assert timedelta(0) < datetime.now(UTC) - events[0].time < timedelta(minutes=10)


def test_promoting_the_champion_again_changes_nothing(registry, tmp_path):
    first, second = registered(registry, tmp_path, "one", "two")
    registry.promote(first, actor="ada", reason="the first")
    registry.promote(second, actor="bob", reason="better")
    history = registry.history()
    registry.promote(second, actor="eve", reason="again")
    assert registry.history() == history
    assert registry.get("previous").number == 1


def test_a_former_champion_can_be_promoted_again(registry, tmp_path):
    first, second = registered(registry, tmp_path, "one", "two")
    for version in (first, second, first):
        registry.promote(version, actor="ada", reason="as it is")
    assert (registry.champion().number, registry.get("previous").number) == (1, 2)
    assert [event.version for event in registry.history()] == [1, 2, 1]


def test_a_refusal_is_remembered_once_and_moves_no_alias(registry, tmp_path):
    first, second = registered(registry, tmp_path, "one", "two")
    registry.promote(first, actor="ada", reason="the first")
    reason = "accuracy “0.81” is below 0.9\n" + "and so on " * 1000
    for _ in range(2):
        registry.refuse(second, actor="gate", reason=reason)
    assert registry.champion().number == 1
    event = registry.history()[0]
    assert (event.action, event.version, event.from_version) == ("refused", 2, 1)
    assert len(event.reason) == LONGEST_REASON
    assert len(registry.history()) == 2
    registry.refuse(second, actor="gate", reason="another reason")
    assert len(registry.history()) == 3


def test_tags_of_a_version_are_set_and_events_are_not_among_them(registry, tmp_path):
    (version,) = registered(registry, tmp_path, "one")
    registry.set_tags(version, {"verdict": "accepted", "long": "x" * 9000})
    registry.promote(version, actor="me", reason="good")
    tags = registry.get("1").tags
    assert tags["verdict"] == "accepted"
    assert len(tags["long"]) == 5000
    assert not any(name.startswith("event") for name in tags)


REGISTER_POINTS = (
    "register-create_logged_model-after",
    "register-log_model_artifacts-halfway",
    "register-finalize_logged_model-before",
    "register-create_model_version-before",
    "register-create_model_version-after",
    "register-set_registered_model_alias-before",
)
PROMOTE_POINTS = (
    "promote-set_registered_model_alias-after",
    "promote-set_registered_model_alias-after second",
    "promote-set_model_version_tag-before",
    "promote-set_model_version_tag-after",
)


REGISTER_POINTS = (
    "log_model_artifacts halfway",
    "finalize_logged_model before",
    "create_model_version before",
    "create_model_version after",
)
PROMOTE_POINTS = (
    "set_registered_model_alias after",
    "set_registered_model_alias after the second",
)


def register_two(home, name):
    package = home / name
    run_id = Package.read(package).provenance["run_id"]
    return registry_at(home, name=name).register(run_id, package, tags={"fingerprint": "two"})


def promote_two(home, name):
    registry = registry_at(home, name=name)
    registry.promote(registry.get("2"), actor="ada", reason="better")


def model_name(step, point):
    return f"{step.__name__}-{point}".replace(" ", "-")


@pytest.fixture(scope="module")
def killed(tmp_path_factory, empty_database):
    """A home with a registered model for each point at which a process was killed with SIGKILL.

    Version 1 was the champion, and version 2 was to be registered or promoted.
    """
    points = [(register_two, point) for point in REGISTER_POINTS]
    points += [(promote_two, point) for point in PROMOTE_POINTS]
    prepared = tmp_path_factory.mktemp("prepared")
    shutil.copy(empty_database, prepared)
    for step, point in points:
        name = model_name(step, point)
        registry = registry_at(prepared, name=name)
        (first,) = registered(registry, tmp_path_factory.mktemp("packages"), "one")
        registry.promote(first, actor="ada", reason="the first")
        record_training(registry, prepared / name, "two")
        if step is promote_two:
            register_two(prepared, name)
    # A store that this process has open is not to be used by its children.
    home = Path(shutil.copytree(prepared, tmp_path_factory.mktemp("killed") / "home"))
    for step, point in points:
        child = os.fork()
        if child == 0:
            try:
                kill_at(*point.split(" ", 1))
                step(home, model_name(step, point))
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    return home


def kill_at(call, moment):
    original, calls = getattr(MlflowClient, call), []

    def wrapped(*arguments, **named):
        calls.append(call)
        if moment == "halfway":
            files = sorted(Path(arguments[2]).iterdir())
            for file in files[len(files) // 2 :]:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        if moment != "before":
            original(*arguments, **named)
        if moment != "after the second" or len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(MlflowClient, call, wrapped)


@pytest.mark.parametrize("point", REGISTER_POINTS)
def test_a_registration_killed_anywhere_leaves_no_alias_on_half_a_version_and_a_repeat_completes_it(
    killed, tmp_path, point
):
    name = model_name(register_two, point)
    registry = registry_at(killed, name=name)
    candidate = registry.get("candidate")
    assert registry.find(candidate.tags["fingerprint"]) == candidate
    again = register_two(killed, name)
    assert (again.number, registry.get("candidate").number, registry.champion().number) == (2, 2, 1)
    client = MlflowClient(f"sqlite:///{killed / 'mlflow.db'}")
    assert len(client.search_model_versions(f"name = '{name}'")) == 2
    registry.download(again, tmp_path / "fetched")


@pytest.mark.parametrize("point", PROMOTE_POINTS)
def test_a_promotion_killed_anywhere_leaves_a_champion_and_a_repeat_completes_it(killed, point):
    name = model_name(promote_two, point)
    registry = registry_at(killed, name=name)
    assert registry.champion() is not None
    promote_two(killed, name)
    assert (registry.champion().number, registry.get("previous").number) == (2, 1)
    assert [(event.version, event.from_version) for event in registry.history()] == [(2, 1), (1, None)]


def test_stages_which_mlflow_has_deprecated_are_not_used():
    deprecated = re.compile(
        r"transition_model_version_stage|get_latest_versions|current_stage|archive_existing"
    )
    sources = Path(image_classifier.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if deprecated.search(path.read_text())] == []
