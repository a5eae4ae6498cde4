"""Backstage itself takes catalog-info.yaml: its validators, and a real backend with its catalog (make portal)."""

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


def validated(*given: Any) -> list[dict[str, str]]:
    """What two versions of Backstage's model say of each entity: "" or what is wrong."""
    done = subprocess.run(
        ["node", HERE / "validate.mjs"], input=json.dumps(given), capture_output=True, text=True, check=True
    )
    answers: list[dict[str, str]] = json.loads(done.stdout)
    return answers


def component(**metadata: Any) -> Any:
    found = copy.deepcopy(next(entity for entity in entities() if entity["kind"] == "Component"))
    found["metadata"].update(metadata)
    return found


def without(entity: Any, field: str) -> Any:
    del entity["spec"][field]
    return entity


def test_both_the_newest_model_and_that_of_tap_take_every_entity():
    given = entities()
    for entity in given:
        if entity["kind"] == "API":
            entity["spec"]["definition"] = (ROOT / entity["spec"]["definition"]["$text"]).read_text(
                encoding="utf-8"
            )
    assert validated(*given) == [{"current": "", "TAP 1.9": ""}] * len(given)


@pytest.mark.parametrize(
    ("entity", "said"),
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
def test_what_backstage_refuses_is_said_in_words(entity, said):
    (answer,) = validated(entity)
    assert all(said in words for words in answer.values()), answer


def test_a_workload_name_of_63_characters_is_a_name_for_the_catalog():
    """The chain refuses it, for its addresses would be too long: tests/manifests/test_golden.py."""
    assert validated(component(name="a" * 63)) == [{"current": "", "TAP 1.9": ""}]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """A portal that has read this repository's entities, the owner's, and a file with faults."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("catalog-info.yaml", "docs/openapi.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(HERE / "organization.yaml", folder)
    nobodys = component(name="ownerless")
    nobodys["spec"] = {"type": "service", "lifecycle": "experimental", "owner": "group:default/nobody"}
    (folder / "bad").mkdir()
    faulty = yaml.safe_dump_all([{**BAD_NAME, "spec": {"owner": OWNER}}, nobodys])
    (folder / "bad/catalog-info.yaml").write_text(faulty, encoding="utf-8")
    with portal(folder, tmp_path_factory.mktemp("portal")) as started:
        yield started


@pytest.mark.parametrize("name", RELATIONS)
def test_the_portal_answers_with_the_entity_and_its_relations(running: Portal, name: str):
    found = running.stitched(name, len(RELATIONS[name]))
    print(json.dumps(shown(found), indent=1))
    assert {(item["type"], item["targetRef"]) for item in found["relations"]} == RELATIONS[name]
    assert "status" not in found, "a processing error"


def shown(entity: Any) -> Any:
    """The answer, with the API's description cut short."""
    answer = copy.deepcopy(entity)
    if "definition" in answer["spec"]:
        answer["spec"]["definition"] = answer["spec"]["definition"][:60] + " …"
    return answer


def test_every_relation_leads_to_an_entity_that_the_portal_has(running: Portal):
    for name in RELATIONS:
        for _, target in RELATIONS[name]:
            assert running.entity(target) is not None, f"{name} refers to {target}"


def test_the_portal_has_the_apis_text(running: Portal):
    found = running.stitched("api:default/image-classifier", 3)
    assert found["spec"]["definition"] == (ROOT / "docs/openapi.json").read_text(encoding="utf-8")


def test_nothing_of_the_file_failed(running: Portal):
    for entity in entities():
        running.stitched(reference(entity), 1)
    running.failure(BAD_REFERENCE)
    assert set(running.failures()) == {BAD_REFERENCE}


def test_a_name_that_backstage_refuses_makes_no_entity_and_the_reason_is_kept(running: Portal):
    assert "is not valid" in running.failure(BAD_REFERENCE)
    assert running.entity("system:default/my%20photos") is None


def test_an_owner_that_does_not_exist_is_taken_and_leads_nowhere(running: Portal):
    found = running.stitched(OWNERLESS, 1)
    assert ("ownedBy", "group:default/nobody") in {
        (item["type"], item["targetRef"]) for item in found["relations"]
    }
    assert running.entity("group:default/nobody") is None
