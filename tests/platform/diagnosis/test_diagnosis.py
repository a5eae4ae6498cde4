"""The outcome and the first real cause of recorded clusters."""

from image_classifier.platform.diagnosis.diagnosis import UNKNOWN, Outcome
from image_classifier.platform.diagnosis.evidence import ResourceState


def test_a_resource_that_waits_for_an_earlier_one_does_not_fail(diagnose_recording):
    diagnosis = diagnose_recording("waiting")
    states = {resource.name: resource.state for resource in diagnosis.evidence.resources}
    assert diagnosis.outcome is Outcome.IN_PROGRESS
    assert ResourceState.FAILED not in states.values()
    assert (states["source"], states["serve"]) == (ResourceState.READY, ResourceState.WAITING)


def test_a_healthy_workload_has_one_revision_with_all_traffic(diagnose_recording):
    diagnosis = diagnose_recording("healthy")
    assert diagnosis.outcome is Outcome.HEALTHY
    [share] = diagnosis.evidence.live.shares
    assert (share.percent, share.model) == (100, "models:/flowers/2")


def test_a_problem_without_a_known_cause_is_quoted(diagnose_recording):
    def rename(state):
        [source] = [item for item in state.objects if item["kind"] == "GitRepository"]
        [workload] = [item for item in state.objects if item["kind"] == "Workload"]
        for conditions in (source["status"]["conditions"], workload["status"]["resources"][0]["conditions"]):
            for condition in conditions:
                condition |= {"reason": "FluxCapacitorEmpty", "message": "1.21 gigawatts are needed"}

    diagnosis = diagnose_recording("no-branch", rename)
    assert diagnosis.cause.name == UNKNOWN
    assert "FluxCapacitorEmpty 1.21 gigawatts are needed" in diagnosis.cause.meaning


def test_an_unknown_error_of_a_step_is_quoted(diagnose_recording):
    def rename(state):
        for item in state.objects:
            for result in item["status"].get("results", []):
                if result["name"] == "reason":
                    result["value"] = "the images are upside down; turn them"

    cause = diagnose_recording("failing", rename).cause
    assert (cause.name, cause.meaning) == ("step-failed", "the images are upside down; turn them")


def test_a_temporary_cause_is_reported_only_if_there_is_no_other(diagnose_recording):
    def delay(state):
        [workload] = [item for item in state.objects if item["kind"] == "Workload"]
        late = {"reason": "TemplateStampFailure", "message": "unable to apply ytt template: signal: killed"}
        for resource in workload["status"]["resources"][:2]:
            for condition in resource["conditions"]:
                if condition["type"] in ("ResourceSubmitted", "Ready"):
                    condition |= {"status": "False", **late}

    assert diagnose_recording("failing", delay).cause.name == "test-failed"
    assert diagnose_recording("healthy", delay).cause.name == "chain-too-slow"


def test_without_permissions_the_rest_is_diagnosed_and_denied_requests_are_listed(diagnose_recording):
    def forbid(state):
        state.forbidden = ("pods", "pods/log", "events", "inferenceservices")

    diagnosis = diagnose_recording("failing", forbid)
    assert diagnosis.cause.name == "test-failed"
    assert any("not allowed to list inferenceservices" in line for line in diagnosis.evidence.denied)


def test_a_change_that_the_chain_has_not_processed_is_in_progress(diagnose_recording):
    def edit(state):
        [workload] = [item for item in state.objects if item["kind"] == "Workload"]
        workload["metadata"]["generation"] += 1

    assert diagnose_recording("healthy", edit).outcome is Outcome.IN_PROGRESS
    assert diagnose_recording("failing", edit).outcome is Outcome.FAILING
