import json
from dataclasses import replace

import pytest

from image_classifier.errors import PackageError
from image_classifier.registry import artifact_paths
from image_classifier.settings import Settings
from image_classifier.steps.evaluate import evaluate
from image_classifier.steps.model_access import open_registry
from tests.steps.chain import Lines


def test_a_missing_package_names_the_step_that_makes_it(tmp_path):
    with pytest.raises(PackageError, match="run `image-classifier train` first"):
        evaluate(replace(Settings(), home=tmp_path), Lines())


@pytest.mark.slow
def test_a_recorded_evaluation_is_reused_unless_its_settings_changed(champion):
    lines = Lines()
    recorded = evaluate(champion, lines)
    assert [line.split()[0] for line in lines] == ["evaluated"]  # the test part was not read
    other = evaluate(replace(champion, abstain_error=0.1), lines)
    assert [line.split()[0] for line in lines] == ["evaluated", "data", "evaluated"]
    assert (recorded.abstention.error, other.abstention.error) == (0.01, 0.1)
    registry = open_registry(champion, Lines())
    run = registry.versions.get("1").run_id
    stored = json.loads(registry.runs.read_artifact(run, artifact_paths.EVALUATION))
    assert stored["abstention"]["error"] == 0.1
