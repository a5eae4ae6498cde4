"""Backstage accepts catalog-info.yaml: its validators, and a real backend with a catalog (make portal)."""

import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.portal.portal import HERE, Portal, portal
from tests.test_catalog import OWNER, ROOT, entities, reference

pytestmark = [pytest.mark.portal, pytest.mark.timeout(300)]
RELATIONS = {
    "system:default/image-classifier": {
        ("ownedBy", OWNER),
        ("hasPart", "component:default/image-classifier"),
        ("hasPart", "api:default/image-classifier"),
        ("hasPart", "resource:default/image-classifier-model"),
        ("hasPart", "resource:default/mlflow"),
    },
    "component:default/image-classifier": {
        ("ownedBy", OWNER),
        ("partOf", "system:default/image-classifier"),
        ("providesApi", "api:default/image-classifier"),
        ("dependsOn", "resource:default/image-classifier-model"),
    },
    "api:default/image-classifier": {
        ("ownedBy", OWNER),
        ("partOf", "system:default/image-classifier"),
        ("apiProvidedBy", "component:default/image-classifier"),
    },
    "resource:default/image-classifier-model": {
        ("ownedBy", OWNER),
        ("partOf", "system:default/image-classifier"),
        ("dependencyOf", "component:default/image-classifier"),
        ("dependsOn", "resource:default/mlflow"),
    },
    "resource:default/mlflow": {
        ("ownedBy", OWNER),
        ("partOf", "system:default/image-classifier"),
        ("dependencyOf", "resource:default/image-classifier-model"),
    },
}
BAD_NAME = {"apiVersion": "backstage.io/v1alpha1", "kind": "System", "metadata": {"name": "my photos"}}
BAD_REFERENCE = "system:default/my photos"
OWNERLESS = "component:default/ownerless"


def validate(*entities: Any) -> list[dict[str, str]]:
    """For each entity the error message, or "", of two versions of Backstage's catalog model."""
    done = subprocess.run(
        ["node", HERE / "validate.mjs"], input=json.dumps(entities), capture_output=True, text=True, check=True
    )
    messages: list[dict[str, str]] = json.loads(done.stdout)
    return messages


def component(**metadata: Any) -> Any:
    entity = copy.deepcopy(next(entity for entity in entities() if entity["kind"] == "Component"))
    entity["metadata"].update(metadata)
    return entity


def without(entity: Any, field: str) -> Any:
    del entity["spec"][field]
    return entity


def test_the_newest_catalog_model_and_that_of_tap_accept_every_entity():
    resolved = entities()
    for entity in resolved:
        if entity["kind"] == "API":
            entity["spec"]["definition"] = (ROOT / entity["spec"]["definition"]["$text"]).read_text(encoding="utf-8")
    assert validate(*resolved) == [{"current": "", "TAP 1.9": ""}] * len(resolved)


@pytest.mark.parametrize(
    ("entity", "message"),
    [
        (component(name="my photos"), '"metadata.name" is not valid'),
        (component(name="photos-"), '"metadata.name" is not valid'),
        (component(name="a" * 64), "at most 63 characters"),
        (component(tags=["MLflow"]), '"tags.0" is not valid'),
        (component(annotations={"backstage.io/techdocs-ref": True}), "must be string"),
        (without(component(), "owner"), "must have required property 'owner'"),
        (without(component(), "lifecycle"), "must have required property 'lifecycle'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_invalid_entity_is_refused_with_a_message(entity, message):
    (messages,) = validate(entity)
    assert all(message in text for text in messages.values()), messages


def test_the_catalog_accepts_a_name_of_63_characters():
    """The limit of the chain is lower: tests/manifests/test_golden.py."""
    assert validate(component(name="a" * 63)) == [{"current": "", "TAP 1.9": ""}]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """A portal with the entities of this repository, the owner, and a file with errors."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("catalog-info.yaml", "docs/openapi.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(HERE / "organization.yaml", folder)
    ownerless = component(name="ownerless")
    ownerless["spec"] = {"type": "service", "lifecycle": "experimental", "owner": "group:default/nobody"}
    (folder / "bad").mkdir()
    invalid = yaml.safe_dump_all([{**BAD_NAME, "spec": {"owner": OWNER}}, ownerless])
    (folder / "bad/catalog-info.yaml").write_text(invalid, encoding="utf-8")
    with portal(folder, tmp_path_factory.mktemp("portal")) as started:
        yield started


@pytest.mark.parametrize("name", RELATIONS)
def test_the_portal_returns_an_entity_with_its_relations(running: Portal, name: str):
    entity = running.stitched(name, len(RELATIONS[name]))
    print(json.dumps(abbreviated(entity), indent=1))
    assert {(item["type"], item["targetRef"]) for item in entity["relations"]} == RELATIONS[name]
    assert "status" not in entity, "a processing error"


def abbreviated(entity: Any) -> Any:
    """A copy of the entity with a shortened API definition."""
    short = copy.deepcopy(entity)
    if "definition" in short["spec"]:
        short["spec"]["definition"] = short["spec"]["definition"][:60] + " …"
    return short


def test_every_relation_is_to_an_existing_entity(running: Portal):
    for name in RELATIONS:
        for _, target in RELATIONS[name]:
            assert running.entity(target) is not None, f"{name} refers to {target}"


def test_the_portal_has_the_definition_of_the_api(running: Portal):
    entity = running.stitched("api:default/image-classifier", 3)
    assert entity["spec"]["definition"] == (ROOT / "docs/openapi.json").read_text(encoding="utf-8")


def test_the_portal_has_no_error_for_an_entity_of_this_repository(running: Portal):
    for entity in entities():
        running.stitched(reference(entity), 1)
    running.failure(BAD_REFERENCE)
    assert set(running.failures()) == {BAD_REFERENCE}


def test_an_invalid_name_gives_no_entity_and_an_error(running: Portal):
    assert "is not valid" in running.failure(BAD_REFERENCE)
    assert running.entity("system:default/my%20photos") is None


def test_an_entity_may_have_an_owner_that_does_not_exist(running: Portal):
    entity = running.stitched(OWNERLESS, 1)
    assert ("ownedBy", "group:default/nobody") in {(item["type"], item["targetRef"]) for item in entity["relations"]}
    assert running.entity("group:default/nobody") is None
