"""The first real cause of a recorded cluster, and how it is told."""

import json

from image_classifier.platform.diagnosis.diagnosis import UNKNOWN, Health, in_words, to_json
from image_classifier.platform.diagnosis.evidence import State


def words(diagnosis):
    return "\n".join(in_words(diagnosis))


def test_what_waits_for_an_earlier_resource_is_no_trouble(recorded):
    diagnosis = recorded("waiting")
    states = {resource.name: resource.state for resource in diagnosis.evidence.resources}
    assert diagnosis.outcome is Health.UNDER_WAY
    assert State.FAILED not in states.values()
    assert (states["source"], states["serve"]) == (State.WELL, State.WAITING)
    assert "nothing speaks against it" in words(diagnosis)
    assert "serves      nothing yet" in words(diagnosis)


def test_of_a_healthy_workload_the_version_that_serves_is_told_with_its_time_and_address(recorded):
    diagnosis = recorded("healthy")
    assert diagnosis.outcome is Health.WELL
    [share] = diagnosis.evidence.serving.shares
    assert share.percent == 100
    assert f"serves      models:/flowers/2 since {share.since:%Y-%m-%d}" in words(diagnosis)
    assert "pinned" not in words(diagnosis)


def test_of_a_pinned_workload_the_param_is_named(recorded):
    assert "the param model_version asks for version 2" in words(recorded("pinned"))


def test_the_older_version_that_goes_on_serving_is_told_with_the_refusal(recorded):
    told = words(recorded("refused"))
    assert "the gate refused the new model: accuracy" in told
    assert "FAIL  min-accuracy" in told
    assert "serves      models:/flowers/2 since" in told
    assert "goes on serving until the trouble is mended" in told


def test_trouble_that_no_entry_knows_is_told_in_the_clusters_own_words(recorded):
    def rename(records):
        [source] = [item for item in records.objects if item["kind"] == "GitRepository"]
        [workload] = [item for item in records.objects if item["kind"] == "Workload"]
        for conditions in (source["status"]["conditions"], workload["status"]["resources"][0]["conditions"]):
            for condition in conditions:
                condition |= {"reason": "FluxCapacitorEmpty", "message": "1.21 gigawatts are needed"}

    diagnosis = recorded("no-branch", rename)
    assert diagnosis.cause.name == UNKNOWN
    assert "FluxCapacitorEmpty 1.21 gigawatts are needed" in diagnosis.cause.means


def test_an_error_of_a_step_that_no_entry_knows_is_told_in_its_own_words(recorded):
    def rename(records):
        for item in records.objects:
            for result in item["status"].get("results", []):
                if result["name"] == "reason":
                    result["value"] = "the images are upside down; turn them"

    diagnosis = recorded("failing", rename)
    assert (diagnosis.cause.name, diagnosis.cause.means) == (
        "step-failed",
        "the images are upside down; turn them",
    )


def test_what_mends_itself_hides_no_other_trouble(recorded):
    def delay(records):
        [workload] = [item for item in records.objects if item["kind"] == "Workload"]
        late = {"reason": "TemplateStampFailure", "message": "unable to apply ytt template: signal: killed"}
        for resource in workload["status"]["resources"][:2]:
            for condition in resource["conditions"]:
                if condition["type"] in ("ResourceSubmitted", "Ready"):
                    condition |= {"status": "False", **late}

    assert recorded("failing", delay).cause.name == "test-failed"
    assert recorded("healthy", delay).cause.name == "chain-too-slow"


def test_what_may_not_be_read_is_named_and_the_rest_is_judged(recorded):
    def forbid(records):
        records.forbidden = ("pods", "pods/log", "events", "inferenceservices")

    diagnosis = recorded("failing", forbid)
    assert diagnosis.cause.name == "test-failed"
    assert "not read    you may not list inferenceservices" in words(diagnosis)


def test_a_change_that_the_chain_has_not_seen_is_under_way(recorded):
    def edit(records):
        [workload] = [item for item in records.objects if item["kind"] == "Workload"]
        workload["metadata"]["generation"] += 1

    diagnosis = recorded("healthy", edit)
    assert diagnosis.outcome is Health.UNDER_WAY
    assert "has not looked at its last change yet" in words(diagnosis)
    assert "so it was before the last change" in words(recorded("failing", edit))


def test_programs_get_the_same_as_json(recorded):
    content = to_json(recorded("failing"))
    assert json.loads(json.dumps(content)) == content
    assert content["outcome"] == "trouble"
    assert (content["resource"], content["cause"]["name"]) == ("test", "test-failed")
    assert content["cause"]["signs"][0]["where"] == "result"
    assert [resource["state"] for resource in content["resources"]][:2] == ["well", "well"]
    assert to_json(recorded("healthy"))["cause"] is None
