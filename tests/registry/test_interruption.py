"""Registrations and promotions in processes that are killed between two writes, in a SQLite store."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from image_classifier.package.package import Package
from tests.registry.mlflow_helpers import record_training, register_packages, registry_at

pytestmark = pytest.mark.slow

REGISTER_POINTS = (
    "log_model_artifacts halfway",
    "finalize_logged_model before",
    "create_model_version before",
    "create_model_version after",
)
PROMOTE_POINTS = ("set_registered_model_alias after", "set_registered_model_alias after the second")


def register_two(home, name):
    package = home / name
    run_id = Package.read(package).provenance["run_id"]
    return registry_at(home, name=name).versions.register(run_id, package, tags={"fingerprint": "two"})


def promote_two(home, name):
    registry = registry_at(home, name=name)
    registry.history.promote(registry.versions.get("2"), actor="ada", reason="better")


def model_name(step, point):
    return f"{step.__name__}-{point}".replace(" ", "-")


@pytest.fixture(scope="module")
def killed(tmp_path_factory, empty_database):
    """A home with a registered model for each point at which a process was killed with SIGKILL.

    Version 1 was the champion, and version 2 was about to be registered or promoted.
    """
    points = [(register_two, point) for point in REGISTER_POINTS]
    points += [(promote_two, point) for point in PROMOTE_POINTS]
    prepared = tmp_path_factory.mktemp("prepared")
    shutil.copy(empty_database, prepared)
    for step, point in points:
        name = model_name(step, point)
        registry = registry_at(prepared, name=name)
        (first,) = register_packages(registry, tmp_path_factory.mktemp("packages"), "one")
        registry.history.promote(first, actor="ada", reason="the first")
        record_training(registry, prepared / name, "two")
        if step is promote_two:
            register_two(prepared, name)
    # Child processes must not use a store that this process has open.
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
    """Let a call of MLflow's client kill the process: before, after or halfway through its work."""
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
def test_an_interrupted_registration_leaves_only_complete_versions_and_a_repeat_completes_it(killed, tmp_path, point):
    name = model_name(register_two, point)
    registry = registry_at(killed, name=name)
    candidate = registry.versions.get("candidate")
    assert registry.versions.find(candidate.tags["fingerprint"]) == candidate
    again = register_two(killed, name)
    assert (again.number, registry.versions.get("candidate").number) == (2, 2)
    assert registry.versions.champion().number == 1
    client = MlflowClient(f"sqlite:///{killed / 'mlflow.db'}")
    assert len(client.search_model_versions(f"name = '{name}'")) == 2
    registry.versions.download(again, tmp_path / "fetched")


@pytest.mark.parametrize("point", PROMOTE_POINTS)
def test_an_interrupted_promotion_leaves_a_champion_and_a_repeat_completes_it(killed, point):
    name = model_name(promote_two, point)
    registry = registry_at(killed, name=name)
    assert registry.versions.champion() is not None
    promote_two(killed, name)
    assert (registry.versions.champion().number, registry.versions.get("previous").number) == (2, 1)
    assert [(event.version, event.from_version) for event in registry.history.events()] == [(2, 1), (1, None)]
