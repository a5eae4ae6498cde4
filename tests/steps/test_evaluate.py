import json
from dataclasses import replace

import pytest

from image_classifier.errors import DataError, PackageError, RegistryError
from image_classifier.registry import artifact_paths
from image_classifier.settings import Settings
from image_classifier.steps.evaluate import evaluate
from image_classifier.steps.model_access import evaluation_of, open_registry
from tests.conftest import SIZE
from tests.steps.chain import Lines, write_images
from tests.steps.test_gate import Workshop


def test_a_missing_package_names_the_step_that_makes_it(tmp_path):
    with pytest.raises(PackageError, match="run `image-classifier train` first"):
        evaluate(replace(Settings(), home=tmp_path), Lines())


@pytest.mark.slow
def test_a_recorded_evaluation_is_reused_unless_its_settings_changed(champion):
    lines = Lines()
    recorded = evaluate(champion, lines)
    assert [line.split()[0] for line in lines] == ["data", "evaluated"]
    other = evaluate(replace(champion, abstain_error=0.1), lines)
    assert (recorded.abstention.error, other.abstention.error) == (0.01, 0.1)
    registry = open_registry(champion, Lines())
    run = registry.versions.get("1").run_id
    stored = json.loads(registry.runs.read_artifact(run, artifact_paths.EVALUATION))
    assert stored["abstention"]["error"] == 0.1


@pytest.mark.slow
def test_only_the_data_of_the_training_is_evaluated(champion, tmp_path):
    """Before, the recorded figure was printed; and as the first evaluation, a wrong one was recorded."""
    other = replace(champion, data=str(write_images(tmp_path / "other", seed=1)))
    message = (
        r"trained on data with digest \w{12}, but --data \S+/other has \w{12}.*give the data of its training \(--data"
    )
    with pytest.raises(DataError, match=message):
        evaluate(other, Lines())
    forget_evaluation(champion)
    with pytest.raises(DataError, match=message):
        evaluate(other, Lines())
    registry = open_registry(champion, Lines())
    assert registry.runs.read_artifact(registry.versions.get("1").run_id, artifact_paths.EVALUATION) is None
    assert evaluate(champion, Lines()).data_digest == registry.versions.get("1").tags["data_digest"]


def forget_evaluation(settings):
    (file,) = (settings.home / "artifacts").rglob("evaluation.json")
    file.unlink()


@pytest.mark.slow
def test_an_evaluation_on_other_data_that_was_recorded_is_replaced(champion):
    registry = open_registry(champion, Lines())
    (file,) = (champion.home / "artifacts").rglob("evaluation.json")
    right = json.loads(file.read_text())
    file.write_text(json.dumps(right | {"data_digest": "0" * 64, "predictions": [0] * len(right["predictions"])}))
    with pytest.raises(
        RegistryError, match="was trained on data with digest .* but evaluated on data with digest 0000"
    ):
        evaluation_of(registry, registry.versions.get("1"))
    assert list(evaluate(champion, Lines()).predictions) == right["predictions"]
    assert evaluation_of(registry, registry.versions.get("1")).data_digest == right["data_digest"]


@pytest.mark.slow
def test_another_split_of_the_data_is_not_evaluated(home, tmp_path):
    """Its test part has images that the package was trained on."""
    images = write_images(tmp_path / "images") / "train"  # one folder per class, without a test part
    settings = Settings(home=home, data=str(images), name="split", image_size=SIZE)
    workshop = Workshop(settings, 0)
    workshop.write(data_source=str(images), parameters={"seed": 0, "validation_fraction": 0.2, "test_fraction": 0.2})
    with pytest.raises(DataError, match=r"give the data of its training \(--data \S+ --test-fraction 0.2\)"):
        evaluate(replace(settings, test_fraction=0.5), Lines())
    assert evaluate(settings, Lines()).test_fraction == 0.2
