from dataclasses import replace

import pytest

from image_classifier.errors import SignatureError
from image_classifier.settings import Settings
from image_classifier.steps.model_access import fetch_model
from tests.attestation.test_model_signature import write_keys
from tests.steps.chain import Lines


@pytest.mark.slow
def test_the_champions_package_states_its_provenance(champion):
    package = fetch_model(champion, Lines())
    assert package.classes == ("blue", "green", "red", "white")
    expected = {"source_revision", "data_digest", "run_id", "fingerprint", "parameters"}
    assert expected <= set(package.provenance)
    assert package.folder == champion.home / "models" / "image-classifier" / "1"


@pytest.mark.slow
def test_a_version_that_was_signed_with_another_key_is_not_used(champion, tmp_path):
    _, other = write_keys(tmp_path)
    with pytest.raises(SignatureError, match="but public_key allows only"):
        fetch_model(replace(champion, public_key=str(other)), Lines())


def test_a_folder_needs_no_registry(package_folder, tmp_path):
    settings = replace(Settings(), home=tmp_path / "none", model=str(package_folder))
    assert fetch_model(settings, Lines()).folder == package_folder
    assert not (tmp_path / "none").exists()
