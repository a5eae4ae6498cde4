"""The cluster's objects as plain JSON: read, listed, patched, deleted, and the logs of pods.

Everything goes through the `kubernetes` client, and every failure of it is a ClusterError of one line. The cluster
is that of the kubeconfig, as kubectl takes it, or the one that this process runs in.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_classifier.errors import ClusterError, ConflictError, ForbiddenError, NoClusterError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds what it may talk to its cluster with."""
_USUAL = Path("~/.kube/config")
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 30.0
_PAGE = 500
_MERGE_PATCH = "application/merge-patch+json"
_LOOKING = ("read", "list")

Object = dict[str, Any]
"""An object of the cluster as its API gives it."""
Objects = list[Object]
_Missing = list[str]
"""What the cluster said of something that is not there; empty where it is."""


@dataclass(frozen=True)
class Kind:
    """A kind of object and where the API has it."""

    name: str
    plural: str
    version: str
    group: str = ""
    """"" for the core kinds."""

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


WORKLOAD = Kind("Workload", "workloads", "v1alpha1", "carto.run")
INFERENCE_SERVICE = Kind("InferenceService", "inferenceservices", "v1beta1", "serving.kserve.io")
TASK_RUN = Kind("TaskRun", "taskruns", "v1", "tekton.dev")
REVISION = Kind("Revision", "revisions", "v1", "serving.knative.dev")
POD = Kind("Pod", "pods", "v1")
EVENT = Kind("Event", "events", "v1")


def is_in_cluster() -> bool:
    """Whether this process is in a pod that may talk to its cluster."""
    return (ACCOUNT / "token").exists()


class Cluster:
    """A namespace of a cluster.

    Every method raises ClusterError where the cluster cannot be asked, and ForbiddenError, a kind of it, where it
    does not allow this user to ask.
    """

    def __init__(self, api_client: "ApiClient", namespace: str) -> None:
        from kubernetes import client

        self.namespace = namespace
        self.address = str(api_client.configuration.host)
        self._custom = client.CustomObjectsApi(api_client)
        self._core = client.CoreV1Api(api_client)

    @classmethod
    def connect(cls, namespace: str = "") -> "Cluster":
        """The cluster that kubectl would ask; without `namespace`, the one that kubectl would take.

        Raises NoClusterError where neither a kubeconfig nor a pod names one. Nothing is asked of it yet.
        """
        from kubernetes import client, config

        settings = client.Configuration()
        settings.retries = False  # urllib3 warns of each; who waits should be told
        # By its name: the client reads the environment once, when it is imported.
        file = _kubeconfig()
        try:
            if file is None and not is_in_cluster():
                raise NoClusterError(
                    "no cluster is named here: set KUBECONFIG, or log in so that `kubectl get pods` answers"
                )
            if file is None:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
                own = (ACCOUNT / "namespace").read_text(encoding="utf-8")
            else:
                config.load_kube_config(file, client_configuration=settings)  # type: ignore[no-untyped-call]
                current = config.list_kube_config_contexts(file)[1]  # type: ignore[no-untyped-call]
                own = current["context"].get("namespace", "")
        except config.ConfigException as error:
            raise ClusterError(f"{file or ACCOUNT} names no cluster that can be used: {error}") from error
        return cls(client.ApiClient(settings), namespace or own or "default")

    def get(self, kind: Kind, name: str) -> Object | None:
        """An object by its name; None where there is none, or no such kind."""
        with self._failures(f"read {kind} {name}") as failed:
            if kind.group:
                response = self._custom.get_namespaced_custom_object(
                    kind.group, kind.version, self.namespace, kind.plural, name, **_RAW
                )
            else:
                response = self._core_call("read", kind)(name, self.namespace, **_RAW)
        return None if failed else _read(response)

    def list(self, kind: Kind, *, labels: Mapping[str, str] | None = None, fields: str = "") -> Objects:
        """The objects of a kind, with these labels and a field selector if given; none where there is no such kind."""
        chosen = {
            "label_selector": ",".join(f"{key}={value}" for key, value in (labels or {}).items()),
            "field_selector": fields,
        }
        asked: dict[str, Any] = {key: value for key, value in chosen.items() if value}
        found: Objects = []
        while True:
            with self._failures(f"list {kind}") as failed:
                if kind.group:
                    response = self._custom.list_namespaced_custom_object(
                        kind.group, kind.version, self.namespace, kind.plural, limit=_PAGE, **asked, **_RAW
                    )
                else:
                    response = self._core_call("list", kind)(self.namespace, limit=_PAGE, **asked, **_RAW)
            if failed:
                return found
            page = _read(response)
            # A list of core objects does not repeat their kind.
            found += [{"kind": kind.name, **item} for item in page["items"]]
            asked["_continue"] = page["metadata"].get("continue", "")
            if not asked["_continue"]:
                return found

    def patch(self, kind: Kind, name: str, change: Mapping[str, Any]) -> Object:
        """Change an object by a JSON merge patch; gives what it then is.

        Raises ClusterError where it is not there or the cluster refuses the change, and ConflictError, a kind of it,
        where the change has a `metadata.resourceVersion` that the object no longer has. Custom kinds only.
        """
        with self._failures(f"change {kind} {name}") as failed:
            response = self._custom.patch_namespaced_custom_object(
                kind.group,
                kind.version,
                self.namespace,
                kind.plural,
                name,
                dict(change),
                _content_type=_MERGE_PATCH,
                **_RAW,
            )
        if failed:
            raise ClusterError(f"there is no {kind.name} {name} in namespace {self.namespace}")
        return _read(response)

    def delete(self, kind: Kind, name: str, uid: str) -> bool:
        """Delete the object of that name and uid; False where it is gone already. Custom kinds only."""
        from kubernetes import client

        with self._failures(f"delete {kind} {name}") as failed:
            self._custom.delete_namespaced_custom_object(
                kind.group,
                kind.version,
                self.namespace,
                kind.plural,
                name,
                body=client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=uid)),
                **_RAW,
            )
        return not failed

    def user(self) -> str:
        """The name by which the cluster knows whoever asks; "" where it does not say."""
        from kubernetes import client

        authentication = client.AuthenticationV1Api(self._core.api_client)
        try:
            with self._failures("ask who I am") as failed:
                response = authentication.create_self_subject_review(client.V1SelfSubjectReview(), **_RAW)
        except ForbiddenError:
            return ""
        return "" if failed else str(_read(response)["status"]["userInfo"].get("username", ""))

    def log(self, pod: str, container: str, *, lines: int) -> str:
        """The last lines that a container of a pod printed; "" where it never ran or its pod is gone."""
        from kubernetes.client.exceptions import BadRequestException

        try:
            with self._failures(f"read the log of pod {pod}") as failed:
                response: Any = self._core.read_namespaced_pod_log(
                    pod, self.namespace, container=container, tail_lines=lines, **_RAW
                )
        except BadRequestException:  # the container waits, or has another name
            return ""
        return "" if failed else response.data.decode(errors="replace")

    def _core_call(self, verb: str, kind: Kind) -> Callable[..., Any]:
        """The client's function for a core kind, such as `read_namespaced_config_map`."""
        words = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.name).lower()
        call: Callable[..., Any] = getattr(self._core, f"{verb}_namespaced_{words}")
        return call

    @contextmanager
    def _failures(self, what: str) -> Iterator[_Missing]:
        """Turn the client's failures into ours; gives what is then said of something that is not there."""
        from kubernetes.client.exceptions import ApiException, BadRequestException
        from urllib3.exceptions import HTTPError

        not_found: _Missing = []
        try:
            yield not_found
        except BadRequestException:
            raise
        except ApiException as error:
            said = message_of(error)
            if error.status == 404:
                not_found.append(said)
            elif error.status == 409:
                raise ConflictError(f"the cluster refuses to {what}: {said}") from error
            elif error.status == 401:
                raise ClusterError(
                    f"the cluster at {self.address} does not know you ({said}): log in again"
                ) from error
            elif error.status == 403:
                role = "view" if what.startswith(_LOOKING) else "edit"
                raise ForbiddenError(
                    f"you may not {what} in namespace {self.namespace}: {said}; an operator binds the ClusterRole "
                    f"`{role}` for that"
                ) from error
            else:
                raise ClusterError(f"the cluster refuses to {what}: {said}") from error
        except (HTTPError, OSError) as error:
            raise ClusterError(
                f"the cluster at {self.address} does not answer ({_reason(error)}): is it running, and is "
                "KUBECONFIG the one you mean?"
            ) from error


_RAW: dict[str, Any] = {
    "_preload_content": False,
    "_request_timeout": (_CONNECT_SECONDS, _READ_SECONDS),
}
"""The response as it came: the client's own models know neither the custom kinds nor newer fields."""


def message_of(error: Any) -> str:
    """What the cluster said, which the client's own text buries in headers."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"


def _read(response: Any) -> Object:
    content: Object = json.loads(response.data)
    return content


def _kubeconfig() -> str | None:
    """The kubeconfig that is used, or None where there is none."""
    return os.environ.get("KUBECONFIG") or (
        str(_USUAL.expanduser()) if _USUAL.expanduser().exists() else None
    )


def _reason(error: BaseException) -> str:
    """The innermost words of a failed connection."""
    text = str(getattr(error, "reason", None) or error)
    return " ".join(text.rpartition(": ")[2].split()) or type(error).__name__
