import json
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from image_classifier.errors import PackageError, RegistryError
from image_classifier.steps.model_access import open_registry
from image_classifier.steps.register import register
from tests.attestation.test_model_signature import model_signing, write_keys
from tests.steps.chain import Lines

pytestmark = pytest.mark.slow


def test_model_signing_verifies_a_registered_model_as_mlflow_downloads_it(champion, tmp_path):
    uri = f"sqlite:///{champion.home / 'mlflow.db'}"
    model_id = open_registry(champion, Lines()).versions.get("1").model_id
    location = MlflowClient(uri).get_logged_model(model_id).artifact_location
    folder = download_artifacts(artifact_uri=location, dst_path=str(tmp_path / "model"), tracking_uri=uri)
    options = ("--signature", f"{folder}/model.sig", "--public_key", champion.public_key)
    done = model_signing("verify", "key", folder, *options)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_version_that_was_registered_without_the_key_is_reported(champion, tmp_path):
    private, _ = write_keys(tmp_path)
    lines = Lines()
    register(replace(champion, signing_key=str(private)), lines)
    assert "warning: version 1 was registered earlier without this signature" in lines.text


def test_a_package_without_its_evaluation_is_not_registered(champion):
    (champion.home / "work/evaluation.json").unlink()
    with pytest.raises(PackageError, match="run `image-classifier evaluate` first"):
        register(champion, Lines())


def test_a_package_is_not_registered_under_the_name_of_other_data(champion):
    """`train --data photos` was followed by `register` without --data, which means another data set."""
    message = f"was trained as {champion.name}, not as elsewhere; give the --data of its training, or --name"
    with pytest.raises(RegistryError, match=message):
        register(replace(champion, name="elsewhere"), Lines())
    assert open_registry(champion, Lines()).versions.newest().number == 1


def test_an_evaluation_on_other_data_is_not_registered(champion):
    file = champion.home / "work/evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data_digest": "0" * 64}))
    with pytest.raises(PackageError, match="run `image-classifier evaluate` first"):
        register(champion, Lines())
