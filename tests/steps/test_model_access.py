import shutil
from dataclasses import replace

import pytest

from image_classifier.errors import SignatureError
from image_classifier.package import Package
from image_classifier.settings import Settings
from image_classifier.steps.model_access import fetch_model, fetch_version
from tests.attestation.test_model_signature import write_keys
from tests.registry.mlflow_helpers import record_training, registry_at
from tests.steps.chain import Lines


@pytest.mark.slow
def test_the_champions_package_states_its_provenance(champion):
    package = fetch_model(champion, Lines())
    assert package.classes == ("blue", "green", "red", "white")
    expected = {"source_revision", "data_digest", "run_id", "fingerprint", "parameters"}
    assert expected <= set(package.provenance)
    assert package.folder == champion.home / "models" / champion.name / "1"


@pytest.mark.slow
def test_a_version_that_was_signed_with_another_key_is_not_used(champion, tmp_path):
    _, other = write_keys(tmp_path)
    with pytest.raises(SignatureError, match="but public_key allows only"):
        fetch_model(replace(champion, public_key=str(other)), Lines())


@pytest.mark.slow
@pytest.mark.parametrize("tagged", [True, False], ids=["with its digest", "as version 0.1 registered the first ones"])
def test_a_version_of_another_registry_with_the_same_name_and_number_is_not_taken_from_the_cache(
    home, empty_database, tmp_path, tagged
):
    registries = {}
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        shutil.copy(empty_database, tmp_path / place)
        registry = registry_at(tmp_path / place)
        version = record_training(registry, tmp_path / f"package-{place}", "same")()
        if tagged:
            digest = Package.read(tmp_path / f"package-{place}").digest
            registry.versions.set_tags(version, {"package_digest": digest})
        registries[place] = registry
    settings = Settings(home=home, name="colors")
    for place, registry in [*registries.items(), *registries.items()]:
        version = registry.versions.get("1")
        package = fetch_version(settings, registry, version)
        assert package.digest == Package.read(tmp_path / f"package-{place}").digest
    (package.folder / "note").touch()
    fetch_version(settings, registry, version)
    assert (package.folder / "note").exists()  # it was not downloaded again


def test_a_folder_needs_no_registry(package_folder, tmp_path):
    settings = replace(Settings(), home=tmp_path / "none", model=str(package_folder))
    assert fetch_model(settings, Lines()).folder == package_folder
    assert not (tmp_path / "none").exists()
