from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from image_classifier.errors import RegistryError
from image_classifier.package.package import Package
from image_classifier.registry.model_upload import write_mlflow_model
from tests.conftest import SIZE, color_images
from tests.embedding_model import write_embedding_package
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


def test_the_signature_of_an_mlflow_model_has_every_output_of_the_graph(tmp_path):
    write_embedding_package(tmp_path / "package")
    write_mlflow_model(
        Package.read(tmp_path / "package"), tmp_path / "model", run_id="a" * 32, model_id="m-" + "b" * 32
    )
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    outputs = loaded.metadata.signature.outputs.to_dict()
    shapes = {output["name"]: list(output["tensor-spec"]["shape"]) for output in outputs}
    assert shapes == {"probabilities": [-1, 4], "embedding": [-1, 3 * SIZE**2]}
    predicted = loaded.predict({"image": color_images()})
    assert {name: [-1, *np.shape(values)[1:]] for name, values in predicted.items()} == shapes
