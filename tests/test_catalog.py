"""catalog-info.yaml: its references resolve, and its links, label and API are those of the chain and the server.

tests/portal loads it into a real Backstage (make portal).
"""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.manifests.write_golden import GOLDEN

ROOT = Path(__file__).parent.parent
OWNER = "group:default/image-classifier"
"""The only entity that the portal must define itself."""
REFERENCES = ("owner", "system", "providesApis", "dependsOn")
SELECTOR = "backstage.io/kubernetes-label-selector"


def entities(root: Path = ROOT) -> list[Any]:
    return list(yaml.safe_load_all((root / "catalog-info.yaml").read_text(encoding="utf-8")))


def reference(entity: Any) -> str:
    return f"{entity['kind'].lower()}:default/{entity['metadata']['name']}"


def references(root: Path = ROOT) -> list[str]:
    """The references in the entities of a catalog file."""
    found = []
    for entity in entities(root):
        for field in REFERENCES:
            value = entity["spec"].get(field, [])
            found += [value] if isinstance(value, str) else value
    return found


def dangling(root: Path = ROOT) -> set[str]:
    """The references of a catalog file to entities that it does not define."""
    return set(references(root)) - {reference(entity) for entity in entities(root)}


def links() -> list[str]:
    return [link["url"] for entity in entities() for link in entity["metadata"].get("links", [])]


def test_the_entities_are_the_system_its_service_api_and_model_and_mlflow():
    assert [reference(entity) for entity in entities()] == [
        "system:default/image-classifier",
        "component:default/image-classifier",
        "api:default/image-classifier",
        "resource:default/image-classifier-model",
        "resource:default/mlflow",
    ]


def test_every_reference_except_the_owner_is_to_an_entity_of_the_file():
    assert dangling() == {OWNER}


def test_every_reference_has_a_kind_and_a_namespace():
    assert [item for item in references() if not re.fullmatch(r"[a-z]+:default/[a-z-]+", item)] == []


def test_every_field_of_a_spec_is_one_that_backstage_knows():
    """Backstage ignores an unknown field silently."""
    known = {"type", "lifecycle", "definition", *REFERENCES}
    for entity in entities():
        assert set(entity["spec"]) <= known
        assert all(isinstance(value, str) for value in entity["metadata"].get("annotations", {}).values())


def test_the_definition_of_the_api_is_a_file():
    (api,) = (entity for entity in entities() if entity["kind"] == "API")
    assert (ROOT / api["spec"]["definition"]["$text"]).is_file()
    assert api["spec"]["type"] == "openapi"


def test_links_are_to_pages_of_the_server_and_to_mlflow():
    document = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    server = urlsplit(document["servers"][0]["url"]).hostname
    hosts = {urlsplit(url).hostname for url in links()}
    assert hosts == {server, "mlflow.example.org"}
    paths = {urlsplit(url).path for url in links() if urlsplit(url).hostname == server}
    assert paths == {"/", "/docs", "/openapi.json"}


@pytest.mark.parametrize("case", sorted(path.name for path in GOLDEN.iterdir()))
def test_every_stamped_object_has_the_label_that_the_portal_selects_by(case):
    (component,) = (entity for entity in entities() if entity["kind"] == "Component")
    key, value = component["metadata"]["annotations"][SELECTOR].split("=")
    workload = yaml.safe_load((ROOT / "workload.yaml").read_text(encoding="utf-8"))
    assert workload["metadata"]["labels"][key] == value
    # A golden case is a workload of another application.
    workload, stamped = (
        yaml.safe_load((GOLDEN / case / name).read_text(encoding="utf-8"))
        for name in ("workload.yaml", "expected.yaml")
    )
    assert stamped["metadata"]["labels"][key] == workload["metadata"]["labels"][key]
