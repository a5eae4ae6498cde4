"""Each planted fault, as a real cluster told it, is known by its cause. `record.py` records them anew."""

import re

import pytest

from image_classifier.errors import AcceptanceError, RegistryError
from image_classifier.package.package import Package
from image_classifier.platform.acceptance import Expected, try_candidate
from image_classifier.platform.diagnosis.causes import CAUSES, recognise
from image_classifier.platform.diagnosis.diagnosis import in_words
from image_classifier.platform.diagnosis.evidence import RESULT, Sign
from image_classifier.steps.local_server import free_port
from tests.platform.faults import FAULTS, Fault
from tests.platform.record import FOLDER
from tests.registry.mlflow_helpers import registry_at

RECORDED_ONLY = {
    "no-source": Fault("no-source", "source", "--git-repo ADDRESS"),
    "no-address": Fault("data-not-fetched", "train", "no-such-host"),
    "other-server": Fault("tracking-address-wrong", "train", "is no MLflow server"),
    "private": Fault("source-refused", "source", "authentication required"),
    "no-push": Fault("source-image-missing", "source", "MANIFEST_UNKNOWN"),
    "no-time": Fault("step-timeout", "train", "training_timeout"),
    "refused-pin": Fault("version-refused", "accept", "version 1 is refused by the gate"),
}
"""What takes more to plant than it is worth at each run."""
RECORDED = {**FAULTS, **RECORDED_ONLY}
WITHOUT_FAULT = {"healthy", "pinned", "waiting"}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_fault_has_its_cause_its_place_and_words_that_help(recorded, name):
    fault, diagnosis = RECORDED[name], recorded(name)
    assert diagnosis.cause
    named = (diagnosis.cause.name, diagnosis.resource.name if diagnosis.resource else "")
    assert named == (fault.cause, fault.resource)
    assert fault.said in "\n".join(in_words(diagnosis))


def test_every_recording_is_of_a_fault():
    assert {path.stem for path in FOLDER.glob("*.json")} == {*RECORDED, *WITHOUT_FAULT}


def test_what_the_trial_of_a_candidate_says_is_known(package_folder):
    package = Package.read(package_folder)
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(AcceptanceError) as raised:
        try_candidate(address, package, Expected("7", ""), max_latency=1, timeout=0, report=print)
    sign = Sign(RESULT, "TaskRun flowers-accept-1", "failed", str(raised.value))
    found = recognise([sign], workload="flowers", namespace="team", resource="accept")
    assert found
    assert found.name == "candidate-late"
    assert f"the candidate at {address} did not answer as version 7" in found.means


def test_a_registry_that_runs_and_answers_with_errors_is_not_said_to_be_down(elsewhere, tmp_path):
    with pytest.raises(RegistryError) as raised:
        registry_at(tmp_path, f"{elsewhere}/503", timeout=1).find("one")
    sign = Sign(RESULT, "TaskRun flowers-train-1", "failed", str(raised.value))
    found = recognise([sign], workload="flowers", namespace="team", resource="train")
    assert found
    assert found.name == "mlflow-unwell"
    assert found.means == f"the MLflow server {elsewhere}/503 runs, but answers 503"


def test_what_a_cause_says_can_be_filled_in():
    given = {"workload", "namespace", "resource", "parameter"}
    for cause in CAUSES:
        used = set(re.findall(r"\{(\w+)\}", cause.means + cause.do))
        assert used <= given | set(re.compile(cause.pattern).groupindex), cause.name
