import json
import urllib.request

import pytest
from click.testing import CliRunner

from image_classifier.cli import main
from image_classifier.monitoring.drift_detection import DriftVerdict
from image_classifier.package.package import encode_png
from image_classifier.settings import Settings
from image_classifier.steps.drift import drift
from tests.conftest import write_color_package
from tests.embedding_model import reflected, shaded_images, write_embedding_package
from tests.registry.mlflow_helpers import registry_at, small_dataset
from tests.serving.observe.noisy_images import noisy_images
from tests.serving.server_process import running
from tests.steps.chain import Lines
from tests.steps.drift_samples import WINDOW, registry_with_champion, store_drift


def drift_of(settings, *servers):
    lines = Lines()
    [judged] = drift(settings, "", [server.address for server in servers], lines)
    return judged, lines


def send(server, images):
    for image in images:
        request = urllib.request.Request(f"{server.address}/predict", encode_png(image), {"Content-Type": "image/png"})
        urllib.request.urlopen(request, timeout=30).close()


@pytest.mark.slow
def test_the_counts_of_all_servers_are_summed_and_each_image_counts_once(home, tmp_path):
    settings = registry_with_champion(home)
    registry = registry_at(home)
    folder = registry.versions.download(registry.versions.champion(), tmp_path / "served")
    with running(folder, tmp_path / "a") as first, running(folder, tmp_path / "b") as second:
        send(first, noisy_images(10, seed=1))
        send(second, noisy_images(10, seed=2))
        judged, lines = drift_of(settings, first, second)
        assert (judged.record.images, lines) == (20, [])
        assert judged.result.verdict is DriftVerdict.TOO_FEW_IMAGES
        send(second, noisy_images(5, seed=3))
        judged, _ = drift_of(settings, first, second)
        assert judged.record.images == 25
        first.process.terminate()
        first.process.wait(30)
        send(second, noisy_images(WINDOW - 25, seed=4) // 2)
        judged, lines = drift_of(settings, second, first)
    assert judged.record.images == WINDOW
    assert len(lines) == 1
    assert "skipped: " in lines[0]
    assert "does not answer" in lines[0]
    assert judged.result.verdict is DriftVerdict.DRIFT
    tags = registry.versions.get("1").tags
    assert tags["drift"] == "drift"
    assert "brightness is lower" in tags["drift_reason"]


@pytest.mark.slow
def test_the_embeddings_of_all_servers_are_compared_with_the_reference(home, tmp_path):
    registry = registry_at(home, name="photos")
    with registry.runs.start(parameters={}, tags={"fingerprint": "f"}, dataset=small_dataset()) as run:
        pass
    write_embedding_package(tmp_path / "package", run_id=run.id, fingerprint="f")
    version = registry.versions.register(run.id, tmp_path / "package", tags={"fingerprint": "f"})
    registry.history.promote(version, actor="test", reason="the first")
    settings = Settings(home=home, name="photos", drift_window=WINDOW)
    folder = registry.versions.download(version, tmp_path / "served")
    with running(folder, tmp_path / "a") as first, running(folder, tmp_path / "b") as second:
        send(first, reflected(shaded_images(20, seed=1)))
        judged, _ = drift_of(settings, first, second)
        assert (judged.record.images, judged.record.filling.embedded) == (20, 20)
        send(first, reflected(shaded_images(10, seed=2)))
        send(second, reflected(shaded_images(WINDOW - 30, seed=3)))
        judged, _ = drift_of(settings, first, second)
    assert judged.result.verdict is DriftVerdict.DRIFT
    assert judged.sentence == (
        f"version 1: drift: the images look different (embeddings of {WINDOW}, compared with 200) "
        f"({WINDOW} images in total)"
    )


@pytest.mark.slow
def test_a_server_of_another_model_is_skipped(home, tmp_path):
    settings = registry_with_champion(home, "photos")
    store_drift(registry_at(home, name="photos"))
    write_color_package(tmp_path / "other")
    with running(tmp_path / "other", tmp_path / "log") as server:
        judged, lines = drift_of(settings, server)
    assert "which is not a version of photos" in lines[0]
    assert judged.record.images == WINDOW


def test_without_a_server_the_stored_verdict_is_printed(home):
    settings = registry_with_champion(home, "cats")
    store_drift(registry_at(home, name="cats"))
    command = ["drift", "--home", str(home), "--name", "cats", "--drift-window", str(WINDOW)]
    result = CliRunner().invoke(main, [*command, "--server", "http://127.0.0.1:9", "--json"])
    assert result.exit_code == 0, result.output
    [judged] = json.loads(result.stdout)
    assert (judged["version"], judged["verdict"], judged["images"]) == (1, "drift", WINDOW)
    assert "no server of cats answered; the record is unchanged" in result.stderr
    assert settings.name == "cats"


def test_a_workload_or_a_server_is_required(home):
    result = CliRunner().invoke(main, ["drift", "--home", str(home)])
    assert result.exit_code == 1
    assert "error: missing a workload, or a server such as --server http://127.0.0.1:8080" in result.output
