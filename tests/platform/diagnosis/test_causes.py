"""Every planted fault, as recorded on a real cluster, is recognized. `record.py` records them again."""

import re

import pytest

from image_classifier.platform.diagnosis.causes import CAUSES
from image_classifier.platform.diagnosis.presentation import describe_diagnosis
from tests.platform.faults import FAULTS, Fault
from tests.platform.record import FOLDER

RECORDED_ONLY = {
    "no-source": Fault("no-source", "source", "--git-repo ADDRESS"),
    "no-address": Fault("data-not-fetched", "train", "no-such-host"),
    "other-server": Fault("tracking-address-wrong", "train", "is not an MLflow server"),
    "private": Fault("source-refused", "source", "authentication required"),
    "no-push": Fault("source-image-missing", "source", "MANIFEST_UNKNOWN"),
    "no-time": Fault("step-timeout", "train", "training_timeout"),
    "refused-pin": Fault("version-refused", "accept", "version 1 is refused by the gate"),
}
"""Faults that are too slow to plant in every end-to-end test."""
RECORDED = {**FAULTS, **RECORDED_ONLY}
WITHOUT_FAULT = {"healthy", "pinned", "waiting"}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_fault_is_recognized_and_located(diagnose_recording, name):
    fault, diagnosis = RECORDED[name], diagnose_recording(name)
    assert diagnosis.cause
    resource = diagnosis.resource.name if diagnosis.resource else ""
    assert (diagnosis.cause.name, resource) == (fault.cause, fault.resource)
    assert fault.text in "\n".join(describe_diagnosis(diagnosis))


def test_every_recording_is_tested():
    assert {path.stem for path in FOLDER.glob("*.json")} == {*RECORDED, *WITHOUT_FAULT}


def test_every_placeholder_of_a_cause_has_a_value():
    always = {"workload", "namespace", "resource", "image_param"}
    for cause in CAUSES:
        used = set(re.findall(r"\{(\w+)\}", cause.meaning + cause.advice))
        assert used <= always | set(re.compile(cause.pattern).groupindex), cause.name
