"""What goes wrong on the platform, and what to do: the one list to add a cause to.

A cause is known by a pattern that is searched in the signs of the first resource that is in trouble. The first
cause of the list that a sign shows wins, so that who says more stands before who says less. `means` and `do` may
use the named groups of the pattern, and `workload`, `namespace` and `resource`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from image_classifier.platform.diagnosis.evidence import CONDITION, CONTAINER, LOG, RESULT, Sign

_APPLY = "tanzu apps workload apply {workload} -n {namespace}"
_PREPARE = "an operator prepares the namespace: kubectl apply -k config/namespace -n {namespace}"
_CREDENTIALS = (
    "the secret registries-credentials in the namespace must hold a login that is valid: "
    "kubectl get secret registries-credentials -n {namespace}"
)
_NOT_PULLED = r"(?:ErrImagePull|ImagePullBackOff|TaskRunImagePullFailed|failed to pull)\b.*"
_TRACKING = (
    f"correct the param tracking_uri, or remove it for that of the chain: {_APPLY} --param tracking_uri-"
)
_OWN = (RESULT, CONTAINER, LOG)
"""Where the project's own errors stand: a step's result, the message that a container left, a log."""


@dataclass(frozen=True)
class Cause:
    """Something that may be wrong."""

    name: str
    """For machines; it does not change."""
    pattern: str
    """Searched in "REASON: MESSAGE" of a sign; a dot also stands for a new line."""
    means: str
    do: str
    where: tuple[str, ...] = ()
    """The kinds of signs that are searched; (): all."""
    passing: bool = False
    """Whether it mends itself, so that it is told only where nothing else is wrong."""


@dataclass(frozen=True)
class Found:
    """A cause that was found, in words, and the sign that shows it."""

    name: str
    means: str
    do: str
    sign: Sign
    passing: bool = False


CAUSES = (
    # The workload as a whole, and what Cartographer may and can make of it
    Cause(
        "no-supply-chain",
        r"^(?:SupplyChainNotFound|WorkloadLabelsMissing): ",
        "no supply chain takes a workload of its type",
        f"give it the type that the chain takes: {_APPLY} --type ml-image",
    ),
    Cause(
        "two-supply-chains",
        r"^MultipleSupplyChainMatches: ",
        "more than one supply chain takes it, so none does",
        "an operator makes their selectors differ; `kubectl get clustersupplychains` lists them",
    ),
    Cause(
        "chain-account-missing",
        r"^ServiceAccount(?:Token)?Error: ",
        "the service account that the chain is to act as is not there",
        f"leave the chain its own account: {_APPLY} --service-account ''",
    ),
    Cause(
        "no-permission",
        r"^TemplateRejectedByAPIServer: .* is forbidden: User \"system:serviceaccount:(?P<account>\S+)\" "
        r"cannot (?P<verb>\w+) resource \"(?P<kind>[\w.-]+)\"",
        "the chain, as {account}, may not {verb} {kind} in the namespace {namespace}",
        _PREPARE,
    ),
    Cause(
        "param-unknown",
        r"there is no workload param [\"'\\]*(?P<name>[^\"'\\]*)[\"'\\]*; there are: ",
        "there is no workload param {name}",
        f"correct its name, or remove it: {_APPLY} --param {{name}}-; docs/settings.md lists all params",
    ),
    Cause(
        "param-wrong",
        r"^TemplateStampFailure: .*fail: (?P<said>[^\n]+)",
        "{said}",
        f"change what it names, a param by: {_APPLY} --param NAME=VALUE",
    ),
    Cause(
        "no-source",
        r"expected exactly 1 option to match, found \[(?P<found>[^\]]*)\]",
        "the workload names nothing that {resource} could be made from",
        f"give it a source: {_APPLY} --git-repo ADDRESS --git-branch main",
    ),
    Cause(
        "template-missing",
        r"^TemplateObjectRetrievalFailure: (?P<said>[^\n]*)",
        "the supply chain is not wholly installed: {said}",
        "an operator installs it again: kubectl apply --server-side -k OVERLAY (docs/platform-operator.md)",
    ),
    # Sources
    Cause(
        "branch-missing",
        r"couldn't find remote ref \\?\"(?P<reference>[^\"\\]+)",
        "the repository has no {reference}",
        f"push it, or name another one: {_APPLY} --git-branch NAME",
    ),
    Cause(
        "repository-missing",
        r"repository not found",
        "there is no repository at the workload's address, or it is hidden from who has no login",
        f"correct the address: {_APPLY} --git-repo ADDRESS; for a private one name its secret in the param "
        "source_credentials_secret",
    ),
    Cause(
        "source-refused",
        r"^(?:GitOperationFailed|AuthenticationFailed|OCIArtifactPullFailed): .*"
        r"(?:authentication required|authorization failed|UNAUTHORIZED|DENIED|invalid credentials|invalid auth)",
        "the source is refused to the chain: the login is missing, wrong or expired",
        "renew the secret that the param source_credentials_secret names, in the namespace {namespace}",
    ),
    Cause(
        "source-image-missing",
        r"^OCIArtifactPullFailed: .*(?:MANIFEST_UNKNOWN|NAME_UNKNOWN|not found)",
        "the registry has no such source image",
        "push the folder again: tanzu apps workload apply {workload} -n {namespace} --local-path . "
        "--source-image REGISTRY/NAME",
    ),
    Cause(
        "source-unreachable",
        r"^(?:GitOperationFailed|OCIArtifactPullFailed): .*?(?P<said>(?:lookup|dial|connect|Get|context deadline|x509|"
        r"failed to verify|unable to (?:clone|list))[^\n]*)",
        "the source cannot be fetched: {said}",
        f"check the address, and that the cluster reaches it: {_APPLY} --git-repo ADDRESS",
    ),
    # Images
    Cause(
        "image-refused",
        _NOT_PULLED
        + r"(?:\b40[13]\b|[Uu]nauthorized|UNAUTHORIZED|authentication required|denied|no basic auth)",
        "the registry refuses an image: the login is missing, wrong or expired",
        _CREDENTIALS,
    ),
    Cause(
        "image-missing",
        _NOT_PULLED + r"image \\?\"(?P<image>[^\"\\]+).*(?:not found|manifest unknown)",
        "the registry has no image {image}",
        f"push it, or name one that is there: {_APPLY} --param {{parameter}}=NAME@sha256:DIGEST",
    ),
    Cause(
        "image-not-pulled",
        _NOT_PULLED + r"image \\?\"(?P<image>[^\"\\]+).*?(?P<said>(?:dial|lookup|connect|x509|EOF)[^\n\"]*)",
        "the image {image} cannot be pulled: {said}",
        f"check its registry's name and that the nodes reach it: {_APPLY} --param {{parameter}}=NAME@sha256:DIGEST",
    ),
    Cause(
        "image-name-wrong",
        r"InvalidImageName\b",
        "an image has a name that no registry takes",
        f"correct it: {_APPLY} --param {{parameter}}=NAME@sha256:DIGEST",
    ),
    Cause(
        "image-of-something-else",
        r"exec: \\?\"image-classifier\\?\": (?:executable file )?not found|"
        r"exec: \\?\"image-classifier\\?\": stat image-classifier: no such file",
        "the image has no command image-classifier: it is not one of this project",
        f"build the targets `server` and `trainer` of the Dockerfile: {_APPLY} --param "
        "{parameter}=NAME@sha256:DIGEST",
    ),
    # What the cluster does not let a pod be
    Cause(
        "pod-security",
        r"violates PodSecurity \\?\"(?P<level>[^\"\\]+)\\?\": (?P<said>[^(\n]+)",
        "the namespace's Pod Security, {level}, refuses a pod: {said}",
        "build elsewhere and give the images (params trainer_image and server_image), or use a namespace whose "
        "Pod Security allows it; builds in the cluster are privileged",
    ),
    Cause(
        "distributed-not-allowed",
        r"serviceaccounts? \\?\"image-classifier-distributed\\?\" not found|the pods that train along cannot be made",
        "the namespace does not allow training in several pods",
        "an operator allows it with config/distributed (docs/platform-operator.md), or train in one: "
        f"{_APPLY} --param training_processes-",
    ),
    Cause(
        "service-account-missing",
        r"serviceaccounts? \\?\"(?P<account>[^\"\\]+)\\?\" not found",
        "the service account {account} is not in the namespace {namespace}",
        _PREPARE,
    ),
    Cause(
        "quota-exceeded",
        r"exceeded quota: (?P<quota>[^,\n]+), (?P<said>requested: [^\n]*?limited: [^\s,]+(?:,[^\s,]+=[^\s,]+)*)",
        "the quota {quota} of the namespace is used up: {said}",
        "delete what is not needed, or an operator raises it: kubectl describe quota {quota} -n {namespace}",
    ),
    Cause(
        "secret-missing",
        r"secrets? \\?\"(?P<secret>[^\"\\]+)\\?\" not found",
        "the secret {secret} is not in the namespace {namespace}",
        "make it: kubectl create secret generic {secret} -n {namespace} …, or take its name out of the workload",
    ),
    Cause(
        "no-room",
        r"(?:Unschedulable|FailedScheduling|Pending)\b.*?(?P<said>\d+/\d+ nodes are available: [^\n]*?)\.?"
        r"(?: preemption:| no new claims| Preemption|$|\n)",
        "no node can take the pod: {said}",
        f"ask for less (param training_resources, or {_APPLY} --request-cpu 100m --request-memory 256Mi), or wait "
        "until other pods end",
    ),
    Cause(
        "out-of-memory",
        r"\bOOMKilled\b",
        "{resource} ran out of memory and was killed",
        "give it more: of training by the param training_resources (a map with limits), of the server by "
        f"{_APPLY} --limit-memory 1Gi; or use a smaller image_size or max_pixels",
    ),
    Cause(
        "evicted",
        r"^Evicted: (?P<said>[^\n]*)",
        "the node threw the pod out: {said}",
        "it is tried again; an operator looks at the node's disk and memory",
    ),
    Cause(
        "task-missing",
        r"tasks\.tekton\.dev \\?\"(?P<task>[^\"\\]+)\\?\" not found",
        "the Tekton task {task} is not in the namespace {namespace}",
        _PREPARE,
    ),
    # What the steps say themselves
    Cause(
        "test-failed",
        r"(?P<said>\d+ of \d+ tests failed: [^\n]*)",
        "{said}",
        "mend the test or the code and push; what served before goes on",
        (RESULT,),
    ),
    Cause(
        "not-the-project",
        r"(?P<said>the source has no (?:src/image_classifier|folder|tests)[^\n]*)",
        "{said}",
        f"name the repository and the folder that have the project: {_APPLY} --git-repo ADDRESS --sub-path FOLDER",
        _OWN,
    ),
    Cause(
        "param-not-usable",
        r"(?P<said>(?P<parameter_name>\w+) is '[^'\n]*' \(from [^)\n]*\), but must be [^\n]*)",
        "{said}",
        f"correct the param: {_APPLY} --param {{parameter_name}}=VALUE; docs/settings.md says what it takes",
        _OWN,
    ),
    Cause(
        "tracking-address-wrong",
        r"MLflow server at (?P<server>[^\s,;]+) does not answer "
        r"\((?:Name or service not known|Temporary failure in name resolution|No address associated)",
        "nothing in the cluster has the name of the tracking server {server}",
        _TRACKING,
        _OWN,
    ),
    Cause(
        "tracking-address-wrong",
        r"(?P<server>https?://\S+) answers, but not as an MLflow server",
        "what answers at {server} is no MLflow server",
        _TRACKING,
        _OWN,
    ),
    Cause(
        "mlflow-refuses",
        r"(?P<said>the MLflow server [^\n]*refuses (?:access|to be called)[^\n]*)",
        "{said}",
        "an operator lets the steps in (docs/platform-operator.md)",
        _OWN,
    ),
    Cause(
        "version-missing",
        r"models:/(?P<model>[^/\s]+)/(?P<version>\d+) cannot be fetched from \S+: it answers 404",
        "the registry has no version {version} of {model}",
        "pin one that is there, or none: tanzu apps workload apply {workload} -n {namespace} --param "
        "model_version-; `image-classifier history` lists those that were judged",
        _OWN,
    ),
    Cause(
        "mlflow-unwell",
        r"MLflow server at (?P<server>[^\s,;]+) answers (?P<status>5\d\d)",
        "the MLflow server {server} runs, but answers {status}",
        "an operator reads why: kubectl logs -n mlflow deploy/mlflow; a full disk or database is said there; then the "
        "step is tried again (delete its newest TaskRun, or give the param retrain a new text)",
        _OWN,
    ),
    Cause(
        "mlflow-down",
        r"(?:MLflow server at (?P<server>[^\s,;]+) (?:does not answer|did not answer)|"
        r"cannot be fetched from (?P<address>\S+): it does not answer)",
        "the MLflow server {server}{address} does not answer",
        "an operator looks at it: kubectl get pods -n mlflow; the chain goes on when it is back and the step is tried "
        "again (delete its newest TaskRun)",
        _OWN,
    ),
    Cause(
        "model-damaged",
        r"(?P<said>models:/(?P<model>[^/\s]+)/(?P<version>\d+)\S* (?:cannot be fetched: its files in the registry are "
        r"damaged|is damaged in the registry)[^\n]*)",
        "the files of version {version} of {model} in the registry are not those that were registered",
        f"serve another one: {_APPLY} --param model_version-; or train it again: {_APPLY} --param retrain=NEW-TEXT",
        _OWN,
    ),
    Cause(
        "version-refused",
        r"version (?P<version>\d+) is (?P<verdict>refused|not judged)[^\n]* by the gate and cannot be served",
        "version {version} is {verdict} by the gate, so the chain does not serve it",
        f"pin an accepted one, or none: {_APPLY} --param model_version-",
        _OWN,
    ),
    Cause(
        "data-missing",
        r"(?P<said>there is no data set, file or folder '(?P<data>[^'\n]*)')",
        "{said}",
        f"name one that the pod reaches: {_APPLY} --param data=s3://BUCKET/FILE.zip; docs/settings.md says what "
        "data may be",
        _OWN,
    ),
    Cause(
        "data-not-fetched",
        r"(?:^|\n|: )(?P<said>\S+ (?:cannot be fetched|is not there|was not fetched within)[^\n]*)",
        "the data cannot be fetched: {said}",
        f"check the address and that pods reach it: {_APPLY} --param data=ADDRESS",
        (RESULT,),
    ),
    Cause(
        "refused",
        r"^refused: (?P<said>.*)",
        "the gate refused the new model: {said}",
        "the rules are told in the guide for ML engineers; mend the data or train longer, or change the floor that "
        f"it names: {_APPLY} --param NAME=VALUE",
        (RESULT,),
    ),
    Cause(
        "candidate-late",
        r"(?P<said>the candidate at \S+ did not answer as [^\n]*)",
        "{said}",
        "look at the resource candidate, or give it longer by the param accept_timeout",
        _OWN,
    ),
    Cause(
        "candidate-slow",
        r"(?P<said>the candidate takes [^\n]*)",
        "{said}",
        f"raise the param max_latency, give the server more CPU ({_APPLY} --limit-cpu 4), or take a smaller "
        "image_size",
        _OWN,
    ),
    Cause(
        "candidate-differs",
        r"(?P<said>the candidate(?:'s)? (?:at \S+ refuses|answers?)[^\n]*)",
        "{said}",
        "the server image must hold the code that evaluated the model: build both images from one source",
        _OWN,
    ),
    Cause(
        "disk-full",
        r"No space left on device",
        "the disk of {resource} is full",
        "an operator gives the node, or MLflow's volume, more; smaller data also helps",
    ),
    Cause(
        "step-timeout",
        r"^TaskRunTimeout: (?P<said>[^\n]*)",
        "{resource} took too long: {said}",
        f"give it longer by the param training_timeout, or a smaller budget: {_APPLY} --param training_timeout=4h",
        (CONDITION,),
    ),
    Cause(
        "cancelled",
        r"^TaskRunCancelled: ",
        "the run was cancelled",
        "the chain starts it again when something of it changes, or when its newest TaskRun is deleted",
    ),
    # Servers
    Cause(
        "refused-by-knative",
        r"admission webhook \\?\"(?P<webhook>[^\"\\]+)\\?\" denied the request: (?P<said>[^\n]*)",
        "the cluster refuses the inference service: {said}",
        f"take that out of the workload (its env, annotations or params): {_APPLY} --env NAME-",
    ),
    # Whatever says something in words, after all that is known by name
    Cause("step-failed", r"^failed: (?P<said>.+)", "{said}", "the message says what to change", (RESULT,)),
    Cause(
        "program-failed",
        r"(?:^|\n)error: (?P<said>[^\n]+)",
        "{said}",
        "the message says what to change",
        (LOG, CONTAINER),
    ),
    Cause(
        "never-ready",
        r"NotReady: |ProgressDeadlineExceeded|Initial scale was never achieved",
        "the server runs, but is never ready",
        "look at its log; it must listen on the port 8080 and answer /readyz with 200",
    ),
    Cause(
        "rejected-by-the-cluster",
        r"^TemplateRejectedByAPIServer: (?P<said>[^\n]*)",
        "the cluster refuses what the chain makes for {resource}: {said}",
        f"change the param or field that it names: {_APPLY} --param NAME=VALUE",
    ),
    Cause(
        "chain-too-slow",
        r"^TemplateStampFailure: .*signal: killed",
        "the chain had no time to work out what {resource} needs: the cluster is busy",
        "wait: it is tried again within minutes; where it stays so, an operator gives Cartographer more CPU",
        passing=True,
    ),
)

_IMAGE_PARAMS = {"server-image": "server_image", "candidate": "server_image", "serve": "server_image"}


def recognise(signs: Iterable[Sign], *, workload: str, namespace: str, resource: str) -> Found | None:
    """The first cause of the list that one of a resource's signs shows, None where none does."""
    listed = list(signs)
    about: Mapping[str, str] = {
        "workload": workload,
        "namespace": namespace,
        "resource": resource or "the workload",
        "parameter": _IMAGE_PARAMS.get(resource, "trainer_image"),
    }
    for cause in CAUSES:
        for sign in listed:
            if cause.where and sign.where not in cause.where:
                continue
            match = re.search(cause.pattern, f"{sign.reason}: {sign.message}", flags=re.DOTALL)
            if match:
                groups = {name: (value or "").strip() for name, value in match.groupdict().items()}
                words = {**about, **groups}
                means, do = cause.means.format(**words), cause.do.format(**words)
                return Found(cause.name, means, do, sign, cause.passing)
    return None
