"""catalog-info.yaml is whole: every reference leads somewhere, and what it says is what the chain and the server do.

That Backstage takes it is shown with Backstage itself, in tests/portal (make portal).
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.manifests.write_golden import GOLDEN
from tests.test_docs import SERVED_AT

ROOT = Path(__file__).parent.parent
OWNER = "group:default/image-classifier"
"""The only entity that an installation must have of its own."""
REFERENCES = ("owner", "system", "providesApis", "dependsOn")
SELECTOR = "backstage.io/kubernetes-label-selector"


def entities(root: Path = ROOT) -> list[Any]:
    return list(yaml.safe_load_all((root / "catalog-info.yaml").read_text(encoding="utf-8")))


def reference(entity: Any) -> str:
    return f"{entity['kind'].lower()}:default/{entity['metadata']['name']}"


def references(root: Path = ROOT) -> list[str]:
    """What the entities of a catalog file refer to."""
    found = []
    for entity in entities(root):
        for field in REFERENCES:
            value = entity["spec"].get(field, [])
            found += [value] if isinstance(value, str) else value
    return found


def dangling(root: Path = ROOT) -> set[str]:
    """The references of a catalog file that lead to no entity of it."""
    return set(references(root)) - {reference(entity) for entity in entities(root)}


def links() -> list[str]:
    return [link["url"] for entity in entities() for link in entity["metadata"].get("links", [])]


def test_the_system_its_service_its_api_its_model_and_where_that_is_kept_are_there():
    assert [reference(entity) for entity in entities()] == [
        "system:default/image-classifier",
        "component:default/image-classifier",
        "api:default/image-classifier",
        "resource:default/image-classifier-model",
        "resource:default/mlflow",
    ]


def test_every_reference_but_the_owner_leads_to_an_entity_of_the_file():
    assert dangling() == {OWNER}


def test_a_reference_is_written_in_full():
    for item in references():
        assert re.fullmatch(r"[a-z]+:default/[a-z-]+", item), item


def test_a_misspelt_field_is_none_of_backstage():
    """Backstage takes every field of a spec in silence."""
    known = {"type", "lifecycle", "definition", *REFERENCES}
    for entity in entities():
        assert set(entity["spec"]) <= known
        assert all(isinstance(value, str) for value in entity["metadata"].get("annotations", {}).values())


def test_the_api_is_the_text_of_a_file_beside_it():
    (api,) = (entity for entity in entities() if entity["kind"] == "API")
    assert (ROOT / api["spec"]["definition"]["$text"]).is_file()
    assert api["spec"]["type"] == "openapi"


def test_links_lead_to_pages_that_the_server_has_and_to_mlflow():
    hosts = {urlsplit(url).hostname for url in links()}
    assert hosts == {SERVED_AT, "mlflow.example.org"}
    paths = {urlsplit(url).path for url in links() if urlsplit(url).hostname == SERVED_AT}
    assert paths == {"/", "/docs", "/openapi.json"}


@pytest.mark.parametrize("case", sorted(path.name for path in GOLDEN.iterdir()))
def test_the_label_that_the_portal_selects_by_is_on_everything_that_is_stamped(case):
    (component,) = (entity for entity in entities() if entity["kind"] == "Component")
    key, value = component["metadata"]["annotations"][SELECTOR].split("=")
    workload = yaml.safe_load((ROOT / "workload.yaml").read_text(encoding="utf-8"))
    assert workload["metadata"]["labels"][key] == value
    # The cases are of a workload of another application, whose name is passed on in the same way.
    labels = yaml.safe_load((GOLDEN / case / "workload.yaml").read_text(encoding="utf-8"))["metadata"][
        "labels"
    ]
    stamped = yaml.safe_load((GOLDEN / case / "expected.yaml").read_text(encoding="utf-8"))
    assert stamped["metadata"]["labels"][key] == labels[key]
