"""The text and JSON of recorded diagnoses."""

import json

from image_classifier.platform.diagnosis.presentation import describe_diagnosis, diagnosis_to_json


def text_of(diagnosis):
    return "\n".join(describe_diagnosis(diagnosis))


def edit(state):
    [workload] = [item for item in state.objects if item["kind"] == "Workload"]
    workload["metadata"]["generation"] += 1


def test_progress_is_reported_without_a_problem(diagnose_recording):
    text = text_of(diagnose_recording("waiting"))
    assert "; no problem found" in text
    assert "live        no version yet" in text


def test_the_live_version_is_shown_with_its_start(diagnose_recording):
    diagnosis = diagnose_recording("healthy")
    [share] = diagnosis.evidence.live.shares
    text = text_of(diagnosis)
    assert text.startswith("flowers: healthy\n")
    assert f"live        models:/flowers/2 since {share.since:%Y-%m-%d}" in text
    assert "chain       source ready, " in text
    assert "pinned" not in text


def test_a_pin_names_its_param(diagnose_recording):
    assert "the param model_version pins version 2" in text_of(diagnose_recording("pinned"))


def test_a_refusal_is_shown_with_the_rules_and_the_version_that_stays_live(diagnose_recording):
    text = text_of(diagnose_recording("refused"))
    assert "the gate refused the new model: accuracy" in text
    assert "FAIL  min-accuracy" in text
    assert "live        models:/flowers/2 since" in text
    assert "it stays live until the problem is fixed" in text


def test_denied_requests_are_shown(diagnose_recording):
    def forbid(state):
        state.forbidden = ("inferenceservices",)

    text = text_of(diagnose_recording("failing", forbid))
    assert "not read    you are not allowed to list inferenceservices" in text


def test_an_unprocessed_change_is_mentioned(diagnose_recording):
    assert "has not processed the last change yet" in text_of(diagnose_recording("healthy", edit))
    assert "this is the state before the last change" in text_of(diagnose_recording("failing", edit))


def test_a_retry_is_mentioned(diagnose_recording):
    def retry(state):
        [workload] = [item for item in state.objects if item["kind"] == "Workload"]
        for resource in workload["status"]["resources"]:
            for condition in resource["conditions"] if resource["name"] == "train" else []:
                condition["status"] = "Unknown"

    text = text_of(diagnose_recording("no-number", retry))
    assert "the first attempt failed for this reason; a retry is running" in text


def test_the_json_has_the_same_content(diagnose_recording):
    content = diagnosis_to_json(diagnose_recording("failing"))
    assert json.loads(json.dumps(content)) == content
    assert content["outcome"] == "trouble"
    assert (content["resource"], content["cause"]["name"]) == ("test", "test-failed")
    assert list(content["cause"]["signs"][0]) == ["where", "of", "reason", "message"]
    assert content["cause"]["signs"][0]["where"] == "result"
    assert [resource["state"] for resource in content["resources"]][:2] == ["well", "well"]
    healthy = diagnosis_to_json(diagnose_recording("healthy"))
    assert (healthy["outcome"], healthy["cause"]) == ("well", None)
    assert list(healthy["serving"]["shares"][0]) == ["revision", "model", "percent", "since"]
