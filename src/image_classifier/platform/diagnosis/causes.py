"""Known causes of problems on the platform, and what to do about each: add a cause to CAUSES.

A cause is recognized by a pattern in the symptoms of the first resource that has a problem. The first cause in the list
that matches wins, so more specific causes come first. `meaning` and `advice` are templates: they may use the named
groups of the pattern, and `workload`, `namespace`, `resource` and `image_param`. Patterns for messages of this program
also match those of version 0.1.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from image_classifier.platform.diagnosis.evidence import Origin, Symptom

_APPLY = "tanzu apps workload apply {workload} -n {namespace}"
_PREPARE = "ask an operator to prepare the namespace: kubectl apply -k config/namespace -n {namespace}"
_NOT_PULLED = r"(?:ErrImagePull|ImagePullBackOff|TaskRunImagePullFailed|failed to pull)\b.*"
_OTHER_IMAGE = f"{_APPLY} --param {{image_param}}=NAME@sha256:DIGEST"
_TRACKING = f"correct the param tracking_uri, or remove it to use the chain's server: {_APPLY} --param tracking_uri-"
_OWN = (Origin.RESULT, Origin.CONTAINER, Origin.LOG)
"""Where this program's error messages are: the results of a step, the state of a container, a log."""


@dataclass(frozen=True)
class Cause:
    """A known cause."""

    name: str  # for programs; stable
    pattern: str  # regular expression, searched in "REASON: MESSAGE" of a symptom; a dot also matches a newline
    meaning: str
    advice: str
    origins: tuple[Origin, ...] = ()  # search only symptoms of these origins; (): all
    is_temporary: bool = False  # whether it resolves itself; such a cause is reported only if there is no other


@dataclass(frozen=True)
class RecognizedCause:
    """A cause, with its templates filled in, and the symptom that matched."""

    name: str
    meaning: str
    advice: str
    symptom: Symptom
    is_temporary: bool = False


CAUSES = (
    # The workload, and what Cartographer creates for it
    Cause(
        "no-supply-chain",
        r"^(?:SupplyChainNotFound|WorkloadLabelsMissing): ",
        "no supply chain selects workloads of this type",
        f"set the type that the supply chain selects: {_APPLY} --type ml-image",
    ),
    Cause(
        "two-supply-chains",
        r"^MultipleSupplyChainMatches: ",
        "several supply chains select this workload, so none processes it",
        "ask an operator to make their selectors distinct; `kubectl get clustersupplychains` lists them",
    ),
    Cause(
        "chain-account-missing",
        r"^ServiceAccount(?:Token)?Error: ",
        "the service account for the supply chain does not exist",
        f"use the supply chain's own account: {_APPLY} --service-account ''",
    ),
    Cause(
        "no-permission",
        r"^TemplateRejectedByAPIServer: .* is forbidden: User \"system:serviceaccount:(?P<account>\S+)\" "
        r"cannot (?P<verb>\w+) resource \"(?P<kind>[\w.-]+)\"",
        "the supply chain's account {account} has no permission to {verb} {kind} in namespace {namespace}",
        _PREPARE,
    ),
    Cause(
        "param-unknown",
        r"(?:there is no|unknown) workload param [\"'\\]*(?P<name>[^\"'\\]*)[\"'\\]*; (?:there|known) are: ",
        "there is no workload param {name}",
        f"correct its name, or remove it: {_APPLY} --param {{name}}-; docs/settings.md lists all params",
    ),
    Cause(
        "param-wrong",
        r"^TemplateStampFailure: .*fail: (?P<message>[^\n]+)",
        "{message}",
        f"correct the value that the message names; a param with: {_APPLY} --param NAME=VALUE",
    ),
    Cause(
        "no-source",
        r"expected exactly 1 option to match, found \[(?P<found>[^\]]*)\]",
        "the workload has no source from which {resource} could be built",
        f"set a source: {_APPLY} --git-repo ADDRESS --git-branch main",
    ),
    Cause(
        "template-missing",
        r"^TemplateObjectRetrievalFailure: (?P<message>[^\n]*)",
        "the supply chain is not completely installed: {message}",
        "ask an operator to install it again: kubectl apply --server-side -k OVERLAY (docs/platform-operator.md)",
    ),
    # Sources
    Cause(
        "branch-missing",
        r"couldn't find remote ref \\?\"(?P<reference>[^\"\\]+)",
        "the repository has no {reference}",
        f"push it, or set another branch: {_APPLY} --git-branch NAME",
    ),
    Cause(
        "repository-missing",
        r"repository not found",
        "there is no repository at the workload's address, or it is private and needs a login",
        f"correct the address: {_APPLY} --git-repo ADDRESS; for a private repository set the param "
        "source_credentials_secret to the name of its secret",
    ),
    Cause(
        "source-refused",
        r"^(?:GitOperationFailed|AuthenticationFailed|OCIArtifactPullFailed): .*"
        r"(?:authentication required|authorization failed|UNAUTHORIZED|DENIED|invalid credentials|invalid auth)",
        "access to the source is denied: the login is missing, wrong or expired",
        "renew the secret that the param source_credentials_secret names, in namespace {namespace}",
    ),
    Cause(
        "source-image-missing",
        r"^OCIArtifactPullFailed: .*(?:MANIFEST_UNKNOWN|NAME_UNKNOWN|not found)",
        "the registry does not have the source image",
        f"push the folder again: {_APPLY} --local-path . --source-image REGISTRY/NAME",
    ),
    Cause(
        "source-unreachable",
        r"^(?:GitOperationFailed|OCIArtifactPullFailed): .*?(?P<message>(?:lookup|dial|connect|Get|context deadline|"
        r"x509|failed to verify|unable to (?:clone|list))[^\n]*)",
        "the source cannot be fetched: {message}",
        f"check the address, and that the cluster can reach it: {_APPLY} --git-repo ADDRESS",
    ),
    # Images
    Cause(
        "image-refused",
        _NOT_PULLED + r"(?:\b40[13]\b|[Uu]nauthorized|UNAUTHORIZED|authentication required|denied|no basic auth)",
        "the registry denies access to an image: the login is missing, wrong or expired",
        "put a valid login into the secret registries-credentials: kubectl get secret registries-credentials "
        "-n {namespace}",
    ),
    Cause(
        "image-missing",
        _NOT_PULLED + r"image \\?\"(?P<image>[^\"\\]+).*(?:not found|manifest unknown)",
        "the registry does not have the image {image}",
        f"push it, or set one that exists: {_OTHER_IMAGE}",
    ),
    Cause(
        "image-not-pulled",
        _NOT_PULLED + r"image \\?\"(?P<image>[^\"\\]+).*?(?P<message>(?:dial|lookup|connect|x509|EOF)[^\n\"]*)",
        "the image {image} cannot be pulled: {message}",
        f"check the name of its registry, and that the nodes can reach it: {_OTHER_IMAGE}",
    ),
    Cause(
        "image-name-wrong", r"InvalidImageName\b", "the name of an image is not valid", f"correct it: {_OTHER_IMAGE}"
    ),
    Cause(
        "image-of-something-else",
        r"exec: \\?\"image-classifier\\?\": (?:executable file )?not found|"
        r"exec: \\?\"image-classifier\\?\": stat image-classifier: no such file",
        "the image has no command image-classifier, so it is not an image of this project",
        f"build the targets `server` and `trainer` of the Dockerfile: {_OTHER_IMAGE}",
    ),
    # Pods that the cluster does not admit, start or keep
    Cause(
        "pod-security",
        r"violates PodSecurity \\?\"(?P<level>[^\"\\]+)\\?\": (?P<message>[^(\n]+)",
        "the namespace's Pod Security level, {level}, forbids a pod: {message}",
        "build the images elsewhere and set the params trainer_image and server_image, or use a namespace whose Pod "
        "Security level allows it; builds in the cluster are privileged",
    ),
    Cause(
        "distributed-not-allowed",
        r"serviceaccounts? \\?\"image-classifier-distributed\\?\" not found|cannot create the training pods|"
        r"the pods that train along cannot be made",
        "the namespace does not allow training in several pods",
        "ask an operator to apply config/distributed (docs/platform-operator.md), or train in one pod: "
        f"{_APPLY} --param training_processes-",
    ),
    Cause(
        "service-account-missing",
        r"serviceaccounts? \\?\"(?P<account>[^\"\\]+)\\?\" not found",
        "namespace {namespace} has no service account {account}",
        _PREPARE,
    ),
    Cause(
        "quota-exceeded",
        r"exceeded quota: (?P<quota>[^,\n]+), (?P<message>requested: [^\n]*?limited: [^\s,]+(?:,[^\s,]+=[^\s,]+)*)",
        "the resource quota {quota} of the namespace is exceeded: {message}",
        "delete what is not needed, or ask an operator to raise the quota: kubectl describe quota {quota} "
        "-n {namespace}",
    ),
    Cause(
        "secret-missing",
        r"secrets? \\?\"(?P<secret>[^\"\\]+)\\?\" not found",
        "namespace {namespace} has no secret {secret}",
        "create it: kubectl create secret generic {secret} -n {namespace} …, or remove its name from the workload",
    ),
    Cause(
        "no-room",
        r"(?:Unschedulable|FailedScheduling|Pending)\b.*?(?P<message>\d+/\d+ nodes are available: [^\n]*?)\.?"
        r"(?: preemption:| no new claims| Preemption|$|\n)",
        "no node can run the pod: {message}",
        f"request less (param training_resources, or {_APPLY} --request-cpu 100m --request-memory 256Mi), or wait "
        "until other pods end",
    ),
    Cause(
        "out-of-memory",
        r"\bOOMKilled\b",
        "{resource} ran out of memory and was killed",
        "raise its memory limit: for training with the param training_resources (a map with limits), for the server "
        f"with {_APPLY} --limit-memory 1Gi; or use a smaller image_size or max_pixels",
    ),
    Cause(
        "evicted",
        r"^Evicted: (?P<message>[^\n]*)",
        "the pod was evicted: {message}",
        "it is retried; ask an operator to check the node's disk and memory",
    ),
    Cause(
        "task-missing",
        r"tasks\.tekton\.dev \\?\"(?P<task>[^\"\\]+)\\?\" not found",
        "namespace {namespace} has no Tekton Task {task}",
        _PREPARE,
    ),
    # Error messages of the steps
    Cause(
        "test-failed",
        r"(?P<message>[\d,]+ of [\d,]+ tests failed: [^\n]*)",
        "{message}",
        "fix the test or the code, and push; the live version stays live",
        (Origin.RESULT,),
    ),
    Cause(
        "not-the-project",
        r"(?P<message>the source has no (?:src/image_classifier|folder|tests)[^\n]*)",
        "{message}",
        f"set the repository and the folder of the project: {_APPLY} --git-repo ADDRESS --sub-path FOLDER",
        _OWN,
    ),
    Cause(
        "param-not-usable",
        r"(?P<message>(?P<param>\w+) is (?:'[^'\n]*'|\"[^\"\n]*\"|[^\s(]+) \(from [^)\n]*\), but must be [^\n]*)",
        "{message}",
        f"correct the param: {_APPLY} --param {{param}}=VALUE; docs/settings.md describes its values",
        _OWN,
    ),
    Cause(
        "tracking-address-wrong",
        r"MLflow server at (?P<server>[^\s,;]+) does not answer "
        r"\((?:Name or service not known|Temporary failure in name resolution|No address associated)",
        "the host name of the tracking server {server} does not exist in the cluster",
        _TRACKING,
        _OWN,
    ),
    Cause(
        "tracking-address-wrong",
        r"(?P<server>https?://\S+) (?:is not an MLflow server|answers, but not as an MLflow server)",
        "{server} is not an MLflow server",
        _TRACKING,
        _OWN,
    ),
    Cause(
        "mlflow-refuses",
        r"(?P<message>the MLflow server [^\n]*(?:denies access|rejects the host name|refuses access|"
        r"refuses to be called)[^\n]*)",
        "{message}",
        "ask an operator to allow the steps to use it (docs/platform-operator.md)",
        _OWN,
    ),
    Cause(
        "version-missing",
        r"(?:cannot fetch )?models:/(?P<model>[^/\s]+)/(?P<version>\d+) (?:cannot be fetched )?from \S+: "
        r"it answers 404",
        "the registry has no version {version} of {model}",
        f"pin an existing version, or none: {_APPLY} --param model_version-; `image-classifier history` lists the "
        "versions",
        _OWN,
    ),
    Cause(
        "mlflow-unwell",
        r"MLflow server at (?P<server>[^\s,;]+) answers (?P<status>5\d\d)",
        "the MLflow server {server} is running, but answers {status}",
        "ask an operator to read its log, which reports for example a full disk or database: kubectl logs -n mlflow "
        "deploy/mlflow; then retry the step (delete its newest TaskRun, or set the param retrain to a new text)",
        _OWN,
    ),
    Cause(
        "mlflow-down",
        r"(?:MLflow server at (?P<server>[^\s,;]+) (?:does not answer|did not answer)|"
        r"(?:cannot be fetched from|cannot fetch \S+ from) (?P<address>\S+): (?:it|the server) does not answer)",
        "the MLflow server {server}{address} does not answer",
        "ask an operator to check it: kubectl get pods -n mlflow; when it is back, retry the step (delete its newest "
        "TaskRun)",
        _OWN,
    ),
    Cause(
        "model-damaged",
        r"models:/(?P<model>[^/\s]+)/(?P<version>\d+)\S* (?:is damaged in the registry|"
        r"(?:cannot be fetched: )?its files in the registry are damaged)",
        "the registered files of version {version} of {model} are damaged",
        f"serve another version: {_APPLY} --param model_version-; or train again: {_APPLY} --param retrain=NEW-TEXT",
        _OWN,
    ),
    Cause(
        "version-refused",
        r"version (?P<version>\d+) is (?P<verdict>refused|held|not judged)[^\n]* by the gate and cannot be served",
        "version {version} is {verdict} by the gate, so it is not served",
        f"pin an accepted version, or none: {_APPLY} --param model_version-",
        _OWN,
    ),
    Cause(
        "data-missing",
        r"(?P<message>there is no data set, file or folder '(?P<data>[^'\n]*)')",
        "{message}",
        f"set data that the pod can reach: {_APPLY} --param data=s3://BUCKET/FILE.zip; docs/settings.md describes "
        "its values",
        _OWN,
    ),
    Cause(
        "data-not-fetched",
        r"(?:^|\n|: )(?P<message>(?:cannot fetch (?!models:/)\S+:|\S+ (?:cannot be fetched|is not there|was not "
        r"fetched within))[^\n]*)",
        "the data cannot be fetched: {message}",
        f"check the address, and that pods can reach it: {_APPLY} --param data=ADDRESS",
        (Origin.RESULT,),
    ),
    Cause(
        "refused",
        r"^(?P<verdict>refused|held): (?P<message>.*)",
        "the gate {verdict} the new model: {message}",
        "improve the data, train longer, or change the threshold that the message names (docs/gate.md): "
        f"{_APPLY} --param NAME=VALUE",
        (Origin.RESULT,),
    ),
    Cause(
        "candidate-late",
        r"(?P<message>the candidate at \S+ did not answer as [^\n]*)",
        "{message}",
        "check the resource candidate, or raise the param accept_timeout",
        _OWN,
    ),
    Cause(
        "candidate-slow",
        r"(?P<message>the candidate (?:has a p95 latency of|takes) [^\n]*)",
        "{message}",
        f"raise the param max_latency, give the server more CPUs ({_APPLY} --limit-cpu 4), or reduce image_size",
        _OWN,
    ),
    Cause(
        "candidate-differs",
        r"(?P<message>the candidate(?:'s)? (?:at \S+ (?:rejects|refuses|answers)|answers?)[^\n]*)",
        "{message}",
        "build the server image and the trainer image from the same source, so that the server runs the code that "
        "evaluated the model",
        _OWN,
    ),
    Cause(
        "disk-full",
        r"No space left on device",
        "the disk of {resource} is full",
        "ask an operator to enlarge the node's disk or MLflow's volume, or use less data",
    ),
    Cause(
        "step-timeout",
        r"^TaskRunTimeout: (?P<message>[^\n]*)",
        "{resource} exceeded its timeout: {message}",
        f"raise the param training_timeout, or reduce the budget: {_APPLY} --param training_timeout=4h",
        (Origin.CONDITION,),
    ),
    Cause(
        "cancelled",
        r"^TaskRunCancelled: ",
        "the run was cancelled",
        "delete its newest TaskRun, or change one of its inputs: the supply chain then starts it again",
    ),
    # Servers
    Cause(
        "refused-by-knative",
        r"admission webhook \\?\"(?P<webhook>[^\"\\]+)\\?\" denied the request: (?P<message>[^\n]*)",
        "the cluster rejects the inference service: {message}",
        f"remove this from the workload (its env, annotations or params): {_APPLY} --env NAME-",
    ),
    # Any other message, after the specific causes
    Cause("step-failed", r"^failed: (?P<message>.+)", "{message}", "the message says what to change", (Origin.RESULT,)),
    Cause(
        "program-failed",
        r"(?:^|\n|: )error: (?P<message>[^\n]+)",
        "{message}",
        "the message says what to change",
        (Origin.LOG, Origin.CONTAINER),
    ),
    Cause(
        "never-ready",
        r"NotReady: |ProgressDeadlineExceeded|Initial scale was never achieved",
        "the server is running, but does not become ready",
        "read its log; it must listen on port 8080 and answer /readyz with 200",
    ),
    Cause(
        "rejected-by-the-cluster",
        r"^TemplateRejectedByAPIServer: (?P<message>[^\n]*)",
        "the cluster rejects the object that the supply chain creates for {resource}: {message}",
        f"change the param or field that the message names: {_APPLY} --param NAME=VALUE",
    ),
    Cause(
        "chain-too-slow",
        r"^TemplateStampFailure: .*signal: killed",
        "the supply chain ran out of time for {resource}, because the cluster is busy",
        "wait, it is retried within minutes; if it persists, ask an operator to give Cartographer more CPUs",
        is_temporary=True,
    ),
)

_IMAGE_PARAMS = {"server-image": "server_image", "candidate": "server_image", "serve": "server_image"}
"""Params that set the image of a resource; of the others it is the trainer image."""


def recognize_cause(
    symptoms: Iterable[Symptom], *, workload: str, namespace: str, resource: str
) -> RecognizedCause | None:
    """The first cause in the list that matches a symptom of a resource ("": the workload); None if none does."""
    symptoms = list(symptoms)
    about: Mapping[str, str] = {
        "workload": workload,
        "namespace": namespace,
        "resource": resource or "the workload",
        "image_param": _IMAGE_PARAMS.get(resource, "trainer_image"),
    }
    for cause in CAUSES:
        for symptom in symptoms:
            if cause.origins and symptom.origin not in cause.origins:
                continue
            match = re.search(cause.pattern, f"{symptom.reason}: {symptom.message}", flags=re.DOTALL)
            if match:
                groups = {name: (value or "").strip() for name, value in match.groupdict().items()}
                values = {**about, **groups}
                meaning, advice = cause.meaning.format(**values), cause.advice.format(**values)
                return RecognizedCause(cause.name, meaning, advice, symptom, cause.is_temporary)
    return None
