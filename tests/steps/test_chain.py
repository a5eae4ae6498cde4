"""The steps one after the other, on real images, with a sqlite registry."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from image_classifier.errors import PackageError, RegistryError, SignatureError
from image_classifier.package.package import Package
from image_classifier.settings import Recipe, Seconds, Settings
from image_classifier.steps import chain_tmp as chain
from image_classifier.steps.local_server import free_port
from image_classifier.steps.registry_access import fetch_model
from image_classifier.steps.usage_tmp import predict
from tests.attestation.test_model_signature import model_signing, write_keys


class Lines(list[str]):
    """Collects what the steps report."""

    def __call__(self, line: str) -> None:
        self.append(line)

    @property
    def text(self) -> str:
        return "\n".join(self)


def up_to_promote(settings: Settings) -> Lines:
    lines = Lines()
    for step in (chain.train, chain.evaluate, chain.register, chain.gate, chain.promote):
        step(settings, lines)
    return lines


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Settings:
    """Settings of a home in which version 1 was trained, signed, accepted and promoted."""
    home = tmp_path_factory.mktemp("chain") / "home"
    home.mkdir()
    shutil.copy(empty_database, home / "mlflow.db")
    private, public = write_keys(home.parent)
    settings = replace(
        Settings(), home=home, budget=Seconds(6.0), signing_key=str(private), public_key=str(public)
    )
    lines = up_to_promote(settings)
    assert "version 1 is the champion" in lines.text
    return settings


def test_a_package_that_was_promoted_says_where_it_comes_from(champion):
    package = fetch_model(champion, Lines())
    assert package.classes == tuple("0123456789")
    assert {"source_revision", "data_digest", "run_id", "fingerprint", "parameters"} <= set(
        package.provenance
    )
    assert package.folder == champion.home / "models" / "image-classifier" / "1"


def test_a_registered_model_is_verified_by_model_signing_as_mlflow_hands_it_out(champion, tmp_path):
    uri = f"sqlite:///{champion.home / 'mlflow.db'}"
    client = MlflowClient(uri)
    location = client.get_logged_model(
        chain.open_registry(champion, Lines()).get("1").model_id
    ).artifact_location
    folder = download_artifacts(artifact_uri=location, dst_path=str(tmp_path), tracking_uri=uri)
    asked = ("--signature", f"{folder}/model.sig", "--public_key", champion.public_key)
    done = model_signing("verify", "key", folder, *asked)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_version_of_another_key_is_not_used(champion, tmp_path):
    _, other = write_keys(tmp_path)
    with pytest.raises(SignatureError, match="is by another key"):
        fetch_model(replace(champion, public_key=str(other)), Lines())


def test_a_version_that_was_registered_before_the_key_is_said_to_lack_its_signature(champion, tmp_path):
    private, _ = write_keys(tmp_path)
    lines = Lines()
    chain.register(replace(champion, signing_key=str(private)), lines)
    assert "warning: version 1 was registered before, and not signed with this key" in lines.text


def test_the_same_code_data_and_parameters_are_not_trained_again(champion):
    shutil.rmtree(champion.home / "work")
    started = time.monotonic()
    lines = up_to_promote(champion)
    assert "trained before" in lines.text
    assert "registered as models:/image-classifier/1" in lines.text
    assert time.monotonic() - started < champion.budget * 5
    assert [event.version for event in chain.open_registry(champion, Lines()).history()] == [1]


def test_a_worse_model_is_refused_in_words_and_the_champion_stays(champion):
    # So slow a rate that it learns hardly anything, however fast the machine.
    worse = replace(
        champion,
        budget=Seconds(0.3),
        recipe=Recipe(width=0.5, convolution_rate=0.01),
        max_calibration_error=1.0,
        min_accuracy=0.0,
    )
    lines = up_to_promote(worse)
    assert "FAIL" in lines.text
    assert "is refused" in lines.text
    assert "version 1 stays" in lines.text
    registry = chain.open_registry(champion, Lines())
    assert registry.get("champion").number == 1
    refused = registry.history()[0]
    assert refused.action == "refused"
    assert "accuracy" in refused.reason
    # Asked again, it answers the same, and its history does not grow.
    events = len(registry.history())
    chain.gate(replace(worse, model=str(refused.version)), Lines())
    assert len(registry.history()) == events


def test_predict_ranks_the_classes_of_image_files(champion, tmp_path):
    golden = Package.read(fetch_model(champion, Lines()).folder).golden[0]
    (tmp_path / "digit.png").write_bytes(golden.png)
    ((path, ranking),) = predict(replace(champion, top=3), [tmp_path / "digit.png"], Lines())
    assert path.name == "digit.png"
    assert len(ranking) == 3
    assert ranking[0][1] == pytest.approx(max(golden.probabilities), abs=1e-4)


def test_results_are_left_as_files_for_the_next_step(champion, tmp_path):
    chain.gate(replace(champion, model="champion", results=str(tmp_path)), Lines())
    assert (tmp_path / "verdict").read_text() == "accepted"
    assert (tmp_path / "model-uri").read_text() == "models:/image-classifier/1"
    assert (tmp_path / "model-version").read_text() == "1"


def test_steps_out_of_order_say_what_is_missing(champion, tmp_path):
    elsewhere = replace(champion, home=tmp_path)
    shutil.copy(champion.home / "mlflow.db", tmp_path / "mlflow.db")
    with pytest.raises(PackageError, match="run `image-classifier train` first"):
        chain.evaluate(elsewhere, Lines())
    with pytest.raises(RegistryError, match="999"):
        chain.promote(replace(champion, model="999"), Lines())


def test_a_registry_that_is_down_is_said_before_any_work(tmp_path):
    settings = replace(
        Settings(), home=tmp_path, tracking_uri="http://127.0.0.1:9", registry_timeout=Seconds(5)
    )
    started = time.monotonic()
    with pytest.raises(RegistryError, match="does not answer"):
        chain.train(settings, Lines())
    assert time.monotonic() - started < 15
    assert not (tmp_path / "cache").exists()


def test_a_killed_training_goes_on_in_the_same_run(champion, tmp_path):
    shutil.copy(champion.home / "mlflow.db", tmp_path / "mlflow.db")
    command = [
        sys.executable,
        "-m",
        "image_classifier.cli",
        "train",
        "--home",
        str(tmp_path),
        "--budget",
        "9s",
    ]
    command += ["--seed", "5"]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("work/checkpoint/*/state.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (started,) = tmp_path.glob("work/checkpoint/*/run_id")
    run_id = started.read_text()
    package = chain.train(replace(Settings(), home=tmp_path, budget=Seconds(9.0), seed=5), Lines())
    assert package.provenance["run_id"] == run_id


def test_run_serves_the_champion_and_asks_it(champion):
    command = [sys.executable, "-m", "image_classifier.cli", "run", "--once", "--home", str(champion.home)]
    command += ["--budget", "6s", "--port", str(free_port())]
    result = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert result.returncode == 0, result.stderr
    assert "it answers" in result.stdout
