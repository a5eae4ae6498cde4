import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from image_classifier.backbones import SHIPPED
from image_classifier.errors import DataError, TrainingError
from image_classifier.package import Package
from image_classifier.settings import Seconds, Settings
from image_classifier.steps.backbone import data_request, named_backbone
from image_classifier.steps.train import TrainingIdentity, train
from tests.backbones.test_onnx_backbone import write
from tests.steps.chain import Lines, run_chain, write_photos
from tests.training.samples import stripes


def test_auto_and_none_name_no_backbone_and_the_others_do():
    settings = Settings()
    assert named_backbone(settings) is None
    assert named_backbone(replace(settings, backbone="none")) is None
    assert named_backbone(replace(settings, backbone="efficientnet-lite2")) is SHIPPED["efficientnet-lite2"]


@pytest.mark.parametrize("wrong", ["efficientnet-lite1", "resnet50", "Auto"])
def test_an_unknown_name_is_refused_with_those_that_exist(wrong):
    with pytest.raises(TrainingError, match=f"no backbone '{wrong}'; use auto, none, efficientnet-lite0, "):
        named_backbone(replace(Settings(), backbone=wrong))


def test_photos_have_the_size_of_the_backbone_unless_another_is_given(tmp_path):
    settings = Settings(backbone=str(write(tmp_path)))
    assert data_request(settings).photo_size == 32
    assert data_request(replace(settings, backbone="auto")).photo_size == 224
    assert data_request(replace(settings, backbone="none")).photo_size == 0
    assert (data_request(replace(settings, image_size=48)).photo_size, settings.image_size) == (0, 0)


def test_a_wrong_file_is_refused_before_the_data_is_read(tmp_path):
    path = write(tmp_path, shape=("N", 1, 32, 32), facts={"layout": "NCHW", "mean": 0, "scale": 1})
    settings = Settings(home=tmp_path / "home", data="nowhere", backbone=str(path))
    with pytest.raises(TrainingError, match="takes images of 1 channels in NCHW, but must take 3"):
        train(settings, Lines())
    assert not (tmp_path / "home").exists()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path) -> Iterator[str]:
    """The address of a server of the folder `site`."""
    (tmp_path / "site").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=tmp_path / "site")) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_backbone_is_fetched_from_an_address(tmp_path, site):
    write(tmp_path / "site", metadata=True)
    address = f"{site}/own.onnx"
    backbone = named_backbone(Settings(home=tmp_path / "home", backbone=address))
    assert (backbone.origin, backbone.image_size) == (address, 32)
    with pytest.raises(DataError, match="other.onnx"):
        named_backbone(Settings(home=tmp_path / "home", backbone=address.replace("own.onnx", "other.onnx")))


def test_the_fingerprint_has_the_content_of_the_file_and_not_its_path(tmp_path):
    def fingerprint(folder: str, **facts: object) -> str:
        (tmp_path / folder).mkdir()
        path = write(tmp_path / folder, facts={"mean": 0, "scale": 255, **facts})
        return TrainingIdentity.of(Settings(backbone=str(path)), stripes(8)).fingerprint

    first = fingerprint("first")
    assert first == fingerprint("second")
    assert first != fingerprint("other", mean=1)


@pytest.mark.slow
def test_a_model_is_trained_on_a_backbone_of_ones_own(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    settings = Settings(
        home=tmp_path,
        data=str(write_photos(tmp_path / "photos", 20)),
        backbone=str(write(tmp_path)),
        budget=Seconds(30.0),
        min_recall=0.0,
        max_calibration_error=1.0,
    )
    lines = run_chain(settings)
    assert "backbone own, pretrained on ours, at 32×32 pixels" in lines.text
    package = Package.read(tmp_path / "work/package")
    assert package.provenance["validation_accuracy"] == 1.0
    assert package.provenance["backbone"]["license"] == "MIT"
    assert package.provenance["parameters"]["backbone"] == "own"
    assert json.loads(Path(tmp_path / "work/package/package.json").read_text())["image_size"] == 32
