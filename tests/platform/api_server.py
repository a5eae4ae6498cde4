"""A fake Kubernetes API server for the real client: reads, lists, merge patches and deletes over HTTP."""

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import yaml

NAMESPACE = "team"
Server = TypeVar("Server", bound=HTTPServer)
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/(?P<version>[^/]+))/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?P<log>/log)?"
)


@dataclass
class ClusterState:
    """The objects of a cluster, and how its API server answers."""

    objects: list[dict[str, Any]] = field(default_factory=list)
    logs: Mapping[str, str] = field(default_factory=dict)
    """POD/CONTAINER to its log."""
    forbidden: Sequence[str] = ()
    """Plurals that this user may not read."""
    failure: int = 0
    """Status of every response; 0: none is forced."""
    patches: list[Any] = field(default_factory=list)
    """The patches that were received."""
    user: str = "dev"
    concurrent_change: Mapping[str, Any] = field(default_factory=dict)
    """Top-level fields of the object that someone else changes just before the first patch."""


class ApiServer(ThreadingHTTPServer):
    """Serves the state that a test assigns."""

    state = ClusterState()

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Answer requests in a thread during the block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def fake_cluster(state: ClusterState, kubeconfig: Path) -> Iterator[None]:
    """Serve a state, and write the kubeconfig for it."""
    with running(ApiServer()) as server:
        server.state = state
        write_kubeconfig(kubeconfig, server.address)
        yield


def write_kubeconfig(path: Path, address: str) -> None:
    context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": context}],
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {"token": "none"}}],
    }
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer

    def do_GET(self) -> None:
        self._send(*_response(self.server.state, self.path))

    def do_PATCH(self) -> None:
        assert self.headers["Content-Type"] == "application/merge-patch+json"
        state, change = self.server.state, self._body()
        state.patches.append(change)
        status, content = _response(state, self.path)
        if status == 200:
            status, content = _patched(state, content, change)
        self._send(status, content)

    def do_DELETE(self) -> None:
        uid = self._body()["preconditions"]["uid"]
        status, content = _response(self.server.state, self.path)
        if status == 200 and content["metadata"]["uid"] == uid:
            self.server.state.objects.remove(content)
        self._send(status, content)

    def do_POST(self) -> None:
        assert self.path == "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        self._body()
        self._send(201, {"status": {"userInfo": {"username": self.server.state.user}}})

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _send(self, status: int, content: Any) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def _response(state: ClusterState, address: str) -> tuple[int, Any]:
    path, query = urlsplit(address).path, parse_qs(urlsplit(address).query)
    if state.failure:
        return state.failure, _status(state.failure, "forced by the test")
    match = _PATH.fullmatch(path)
    assert match, path
    if match["plural"] in state.forbidden or (match["log"] and "pods/log" in state.forbidden):
        return 403, _status(403, f'{match["plural"]} is forbidden: User "dev" cannot do that')
    if match["log"]:
        log = state.logs.get(f"{match['name']}/{query['container'][0]}")
        if log is None:
            return 400, _status(400, "the container is waiting to start")
        return 200, "".join(log.splitlines(keepends=True)[-int(query["tailLines"][0]) :])
    found = [
        item for item in state.objects if _plural(item["kind"]) == match["plural"] and match["namespace"] == NAMESPACE
    ]
    if match["name"]:
        named = [item for item in found if item["metadata"]["name"] == match["name"]]
        return (200, named[0]) if named else (404, _status(404, f"{match['plural']} not found"))
    for selector in query.get("labelSelector", []):
        labels = dict(part.split("=", 1) for part in selector.split(","))
        found = [item for item in found if labels.items() <= item["metadata"].get("labels", {}).items()]
    for selector in query.get("fieldSelector", []):
        fields = dict(part.removeprefix("involvedObject.").split("=", 1) for part in selector.split(","))
        found = [item for item in found if fields.items() <= item["involvedObject"].items()]
    # Two or more pages if there are several objects.
    start = int(query.get("continue", ["0"])[0])
    page = found[start : start + max(1, len(found) // 2)]
    following = str(start + len(page)) if start + len(page) < len(found) else ""
    # The items of a list of core objects have no kind.
    items = [{key: value for key, value in item.items() if key != "kind" or match["group"]} for item in page]
    return 200, {"items": items, "metadata": {"continue": following}}


def _patched(state: ClusterState, item: dict[str, Any], change: Mapping[str, Any]) -> tuple[int, Any]:
    """Apply a merge patch, of one level, if it has no or the current resourceVersion."""
    for name, value in state.concurrent_change.items():
        item[name] = {**item[name], **value}
    state.concurrent_change = {}
    version = item["metadata"].get("resourceVersion")
    if change.get("metadata", {}).get("resourceVersion", "") not in ("", version):
        return 409, _status(409, "the object has been modified")
    if "spec" in change:
        item["spec"] = {**item.get("spec", {}), **change["spec"]}
    return 200, item


def _plural(kind: str) -> str:
    word = kind.lower()
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"


def _status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "code": code, "message": message}
