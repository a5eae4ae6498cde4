"""Client for the objects of one namespace, as plain JSON: read, list, patch, delete, and logs of pods.

Wraps the `kubernetes` client and turns each of its failures into a ClusterError of one line. The cluster is the one of
the kubeconfig, as for kubectl, or the one that this process runs in.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_classifier.errors import ClusterError, ConflictError, ForbiddenError, NoClusterError
from image_classifier.text import one_line

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # a pod's credentials for its cluster
_DEFAULT_KUBECONFIG = Path("~/.kube/config")
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 30.0
_PAGE_OBJECTS = 500
_MERGE_PATCH = "application/merge-patch+json"
_NOT_FOUND, _BAD_REQUEST = 404, 400
_RAW: dict[str, Any] = {
    "_preload_content": False,  # the client's models know neither custom resources nor newer fields
    "_request_timeout": (_CONNECT_SECONDS, _READ_SECONDS),
}

Object = dict[str, Any]  # an object of the cluster as its API returns it
Objects = list[Object]


@dataclass(frozen=True)
class Kind:
    """A kind of object, and its place in the API."""

    name: str
    plural: str
    version: str
    group: str = ""  # "" for the core API

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


WORKLOAD = Kind("Workload", "workloads", "v1alpha1", "carto.run")
INFERENCE_SERVICE = Kind("InferenceService", "inferenceservices", "v1beta1", "serving.kserve.io")
TASK_RUN = Kind("TaskRun", "taskruns", "v1", "tekton.dev")
REVISION = Kind("Revision", "revisions", "v1", "serving.knative.dev")
POD = Kind("Pod", "pods", "v1")
EVENT = Kind("Event", "events", "v1")


def is_in_cluster() -> bool:
    """Whether this process runs in a pod with credentials for its cluster."""
    return (SERVICE_ACCOUNT / "token").exists()


class Cluster:
    """A namespace of a cluster.

    Every method raises ClusterError if the cluster cannot be reached or rejects the request, and its subclass
    ForbiddenError if the cluster denies this user the request.
    """

    def __init__(self, api_client: "ApiClient", namespace: str) -> None:
        from kubernetes import client

        self.namespace = namespace
        self.address = str(api_client.configuration.host)
        self._custom = client.CustomObjectsApi(api_client)
        self._core = client.CoreV1Api(api_client)

    @classmethod
    def connect(cls, namespace: str = "") -> "Cluster":
        """The cluster, and by default the namespace, that kubectl would use. Sends no request yet.

        Raises NoClusterError if there is neither a kubeconfig nor a pod's service account.
        """
        from kubernetes import client, config

        settings = client.Configuration()
        settings.retries = False  # urllib3 would retry silently, which looks like a hang
        # Passed on explicitly, as the client reads the environment only once, when it is imported.
        file = _kubeconfig()
        try:
            if file is None and not is_in_cluster():
                raise NoClusterError(
                    "no cluster is configured: set KUBECONFIG, or log in so that `kubectl get pods` works"
                )
            if file is None:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
                settings.proxy = None  # which would have to reach an address inside the cluster
                default = (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8")
            else:
                config.load_kube_config(file, client_configuration=settings)  # type: ignore[no-untyped-call]
                current = config.list_kube_config_contexts(file)[1]  # type: ignore[no-untyped-call]
                default = current["context"].get("namespace", "")
        except config.ConfigException as error:
            raise ClusterError(f"{file or SERVICE_ACCOUNT} configures no usable cluster: {error}") from error
        return cls(client.ApiClient(settings), namespace or default or "default")

    def get(self, kind: Kind, name: str) -> Object | None:
        """An object by its name; None if it, or its kind, does not exist."""
        return self._read(kind, name, f"read {kind} {name}")

    def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None, fields: str = "") -> Objects:
        """The objects of a kind that have these labels and match a field selector; none if there is no such kind."""
        selectors = {
            "label_selector": ",".join(f"{key}={value}" for key, value in (labels or {}).items()),
            "field_selector": fields,
        }
        options: dict[str, Any] = {key: value for key, value in selectors.items() if value}
        found: Objects = []
        while True:
            page = self._read(kind, None, f"list {kind}", limit=_PAGE_OBJECTS, **options)
            if page is None:
                return found
            # The items of a list of core objects do not repeat their kind.
            found += [{"kind": kind.name, **item} for item in page["items"]]
            options["_continue"] = page["metadata"].get("continue", "")
            if not options["_continue"]:
                return found

    def patch(self, kind: Kind, name: str, change: Mapping[str, Any]) -> Object:
        """Change an object by a JSON merge patch; returns the changed object. Custom resources only.

        Raises ClusterError if it does not exist, and its subclass ConflictError if the patch has a
        `metadata.resourceVersion` that is no longer the object's.
        """
        content = self._request(
            f"change {kind} {name}",
            self._custom.patch_namespaced_custom_object,
            *self._place(kind),
            name,
            dict(change),
            _content_type=_MERGE_PATCH,
        )
        if content is None:
            raise ClusterError(f"there is no {kind.name} {name} in namespace {self.namespace}")
        return _parsed(content)

    def delete(self, kind: Kind, name: str, uid: str) -> bool:
        """Delete the object with that name and uid; False if it does not exist. Custom resources only."""
        from kubernetes import client

        content = self._request(
            f"delete {kind} {name}",
            self._custom.delete_namespaced_custom_object,
            *self._place(kind),
            name,
            body=client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=uid)),
        )
        return content is not None

    def user(self) -> str:
        """This user's name in the cluster; "" if it is unknown."""
        from kubernetes import client

        review = client.AuthenticationV1Api(self._core.api_client).create_self_subject_review
        try:
            content = self._request("read your user name", review, client.V1SelfSubjectReview())
        except ForbiddenError:
            return ""
        return "" if content is None else str(_parsed(content)["status"]["userInfo"].get("username", ""))

    def pod_log(self, pod: str, container: str, *, lines: int) -> str:
        """The last lines of a container's log; "" if it never ran or its pod does not exist."""
        content = self._request(
            f"read the log of pod {pod}",
            self._core.read_namespaced_pod_log,
            pod,
            self.namespace,
            container=container,
            tail_lines=lines,
            # The status for a container that is waiting to start, or does not exist.
            absent=(_NOT_FOUND, _BAD_REQUEST),
        )
        return "" if content is None else content.decode(errors="replace")

    def _read(self, kind: Kind, name: str | None, action: str, **options: Any) -> Object | None:
        """An object or, without a name, a page of a list; None if there is none."""
        names = [] if name is None else [name]
        if kind.group:
            verb = "list" if name is None else "get"
            function = getattr(self._custom, f"{verb}_namespaced_custom_object")
            arguments = [*self._place(kind), *names]
        else:
            verb = "list" if name is None else "read"
            words = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.name).lower()
            function = getattr(self._core, f"{verb}_namespaced_{words}")  # such as read_namespaced_config_map
            arguments = [*names, self.namespace]
        content = self._request(action, function, *arguments, **options)
        return None if content is None else _parsed(content)

    def _place(self, kind: Kind) -> tuple[str, str, str, str]:
        """The arguments with which the client finds custom resources."""
        return kind.group, kind.version, self.namespace, kind.plural

    def _request(
        self,
        action: str,
        function: Callable[..., Any],
        *arguments: Any,
        absent: tuple[int, ...] = (_NOT_FOUND,),
        **options: Any,
    ) -> bytes | None:
        """Call a function of the client; returns the body of the response, None for the statuses `absent`."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return bytes(function(*arguments, **options, **_RAW).data)
        except ApiException as error:
            if error.status in absent:
                return None
            raise self._rejection(action, error) from error
        except (HTTPError, OSError) as error:
            raise ClusterError(
                f"the cluster at {self.address} does not answer ({_connection_failure(error)}): check that it is "
                "running, and that KUBECONFIG is the right one"
            ) from error

    def _rejection(self, action: str, error: Any) -> ClusterError:
        message = api_error_message(error)
        if error.status == 401:
            return ClusterError(
                f"the cluster at {self.address} does not accept your credentials ({message}): log in again"
            )
        if error.status == 403:
            role = "view" if action.startswith(("read", "list")) else "edit"
            return ForbiddenError(
                f"you are not allowed to {action} in namespace {self.namespace}: {message}; ask an operator to bind "
                f"the ClusterRole `{role}` to you"
            )
        kind = ConflictError if error.status == 409 else ClusterError
        return kind(f"the cluster rejected the request to {action}: {message}")


def api_error_message(error: Any) -> str:
    """The API server's own message, without the headers that the text of the client's ApiException has."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"


def _parsed(content: bytes) -> Object:
    parsed: Object = json.loads(content)
    return parsed


def _kubeconfig() -> str | None:
    """The path of the kubeconfig, None if there is none."""
    if chosen := os.environ.get("KUBECONFIG"):
        return chosen
    try:
        default = _DEFAULT_KUBECONFIG.expanduser()
    except RuntimeError:  # a user without a home folder
        return None
    return str(default) if default.exists() else None


def _connection_failure(error: BaseException) -> str:
    """The innermost reason of a failed connection."""
    text = str(getattr(error, "reason", None) or error)
    return one_line(text.rpartition(": ")[2]) or type(error).__name__
