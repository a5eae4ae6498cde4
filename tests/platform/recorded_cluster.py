"""An API server that has recorded objects, for the real client: reads, lists and merge patches, over HTTP."""

import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

NAMESPACE = "team"
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/(?P<version>[^/]+))/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?P<log>/log)?"
)


@dataclass
class Records:
    """What the API server has, and what it was asked."""

    objects: list[dict[str, Any]]
    logs: Mapping[str, str] = field(default_factory=dict)
    """POD/CONTAINER to what it printed."""
    forbidden: Sequence[str] = ()
    """Plurals that this user may not read."""
    answer: int = 0
    """A status that every request gets; 0: what is fitting."""
    patches: list[Any] = field(default_factory=list)
    user: str = "dev"
    """Whom the API server takes the asker for."""
    meanwhile: Mapping[str, Any] = field(default_factory=dict)
    """What somebody else has changed of an object's top level by the time of the first patch."""


@contextmanager
def recorded_cluster(records: Records, kubeconfig: Path) -> Iterator[None]:
    """Serve the records, and write the kubeconfig that leads there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(*_answer(records, self.path))

        def do_PATCH(self) -> None:
            assert self.headers["Content-Type"] == "application/merge-patch+json"
            change = self._body()
            records.patches.append(change)
            status, content = _answer(records, self.path)
            if status == 200:
                status, content = _patched(records, content, change)
            self._send(status, content)

        def do_DELETE(self) -> None:
            uid = self._body()["preconditions"]["uid"]
            status, content = _answer(records, self.path)
            if status == 200 and content["metadata"]["uid"] == uid:
                records.objects.remove(content)
            self._send(status, content)

        def do_POST(self) -> None:
            assert self.path == "/apis/authentication.k8s.io/v1/selfsubjectreviews"
            self._body()
            self._send(201, {"status": {"userInfo": {"username": records.user}}})

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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        write_kubeconfig(kubeconfig, f"http://127.0.0.1:{server.server_port}")
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


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


def _answer(records: Records, address: str) -> tuple[int, Any]:
    path, query = urlsplit(address).path, parse_qs(urlsplit(address).query)
    if records.answer:
        return records.answer, _status(records.answer, "as the test wants it")
    match = _PATH.fullmatch(path)
    assert match, path
    if match["plural"] in records.forbidden or (match["log"] and "pods/log" in records.forbidden):
        return 403, _status(403, f'{match["plural"]} is forbidden: User "dev" cannot do that')
    if match["log"]:
        printed = records.logs.get(f"{match['name']}/{query['container'][0]}")
        if printed is None:
            return 400, _status(400, "the container is waiting to start")
        return 200, "".join(printed.splitlines(keepends=True)[-int(query["tailLines"][0]) :])
    found = [
        item
        for item in records.objects
        if _plural(item["kind"]) == match["plural"] and match["namespace"] == NAMESPACE
    ]
    if match["name"]:
        named = [item for item in found if item["metadata"]["name"] == match["name"]]
        return (200, named[0]) if named else (404, _status(404, f"{match['plural']} not found"))
    for selector in query.get("labelSelector", []):
        wanted = dict(part.split("=", 1) for part in selector.split(","))
        found = [item for item in found if wanted.items() <= item["metadata"].get("labels", {}).items()]
    for selector in query.get("fieldSelector", []):
        asked = [part.removeprefix("involvedObject.").split("=", 1) for part in selector.split(",")]
        found = [item for item in found if all(item["involvedObject"][key] == value for key, value in asked)]
    # Two pages, where there is more than one object.
    begin = int(query.get("continue", ["0"])[0])
    page = found[begin : begin + max(1, len(found) // 2)]
    more = str(begin + len(page)) if begin + len(page) < len(found) else ""
    # Of core objects a list does not say the kind.
    items = [{key: value for key, value in item.items() if key != "kind" or match["group"]} for item in page]
    return 200, {"items": items, "metadata": {"continue": more}}


def _patched(records: Records, item: dict[str, Any], change: Mapping[str, Any]) -> tuple[int, Any]:
    """Apply a merge patch, of one level, where its resourceVersion is that of the object."""
    for name, value in records.meanwhile.items():
        item[name] = {**item[name], **value}
    records.meanwhile = {}
    metadata = item["metadata"]
    if change.get("metadata", {}).get("resourceVersion", "") not in ("", metadata.get("resourceVersion")):
        return 409, _status(409, "the object has been modified")
    if "spec" in change:
        item["spec"] = {**item.get("spec", {}), **change["spec"]}
    return 200, item


def _plural(kind: str) -> str:
    word = kind.lower()
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"


def _status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "code": code, "message": message}
