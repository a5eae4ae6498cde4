from pathlib import Path

import pytest
from mlflow import MlflowClient

from image_classifier.errors import RegistryError
from tests.registry.mlflow_helpers import record_training

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_an_upload_that_differs_from_the_package_makes_no_version(registry, tmp_path, monkeypatch, damage):
    register_one = record_training(registry, tmp_path / "one", "one")
    upload = MlflowClient.log_model_artifacts

    def upload_badly(client, model_id, folder):
        upload(client, model_id, folder)
        location = client.get_logged_model(model_id).artifact_location
        file = Path(location.removeprefix("file://")) / "model.onnx"
        content = file.read_bytes()
        file.write_bytes(content[:-1] + (b"?" if damage == "changed" else b""))
        if damage == "missing":
            file.unlink()

    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "log_model_artifacts", upload_badly)
        with pytest.raises(RegistryError, match=r"differs from the local one \(model\.onnx\); repeat the step"):
            register_one()
    assert registry.versions.find("one") is None
    assert register_one().number == 1
