"""Every template, stamped by Cartographer's own code, gives the object that golden/ shows."""

import re
import shutil
import subprocess

import pytest
import yaml

from tests.manifests.write_golden import CASES, CHAIN, FULL, GIVEN, GOLDEN, case, info_of, render, workload_of

NEEDS = pytest.mark.skipif(
    shutil.which("cartotest") is None or shutil.which("ytt") is None,
    reason="needs cartotest and ytt on PATH",
)
PINNED = {"sources": {"source": {"url": "u", "revision": "r"}}}
SOURCES = {"sources": {"source": {"url": "u", "revision": "r"}}, "images": {"trainer": "t"}}
SERVED = {"configs": {"address": "http://flowers-predictor.team.example.org"}}
AS_TAP_HAS_IT = {"type": "openapi", "location": {"path": "/openapi.json"}, "owner": "default/botany"}


def test_every_template_has_a_case():
    shown = {item["template"] for item in CASES.values()}
    assert {f"{name}-template.yaml" for name in shown} == {
        path.name for path in CHAIN.glob("*-template.yaml")
    }
    assert {path.name for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_case_shows_what_it_is_made_from(name):
    folder = GOLDEN / name
    assert yaml.safe_load((folder / "workload.yaml").read_text(encoding="utf-8")) == workload_of(CASES[name])
    assert yaml.safe_load((folder / "info.yaml").read_text(encoding="utf-8")) == info_of(name, CASES[name])


@NEEDS
def test_cartographer_stamps_what_is_expected():
    done = subprocess.run(["cartotest", GOLDEN, "-v"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@NEEDS
@pytest.mark.parametrize(
    ("item", "said"),
    [
        (case("test", {**GIVEN, "bugdet": "20s"}, **SOURCES), 'there is no workload param "bugdet"'),
        (
            case("image-given-server", {"server_image": "registry/server:latest"}),
            'the param server_image is "registry/server:latest", but must name an image by its digest',
        ),
        (
            case("model-pinned", {"model_version": "seven"}, **PINNED),
            'the param model_version is "seven", but must be a number such as 6',
        ),
        (
            case("source-image", {}, {"source": {"image": "registry/src:latest"}}),
            "the source image registry/src:latest has no digest",
        ),
        (
            case("test", GIVEN, **SOURCES, name="a" * 63),
            f"the workload's name has 63 characters, but may have 43: its candidate is served at the host {'a' * 63}-",
        ),
        (case("test", GIVEN, **SOURCES, name="2d-shapes"), "must begin with a letter and have no dot"),
        (case("test", GIVEN, **SOURCES, name="shapes.v2"), "must begin with a letter and have no dot"),
        (
            case("api", {"api_descriptor": {"ower": "default/botany"}}, **SERVED),
            'the param api_descriptor has "ower"; it may have: type, location, description, system, owner',
        ),
        (
            case("api", {"api_descriptor": {"type": "grpc"}}, **SERVED),
            'api_descriptor.type is "grpc", but the server describes itself as openapi',
        ),
        (
            case("api", {"api_descriptor": {"location": {"path": "/v3/api-docs"}}}, **SERVED),
            'api_descriptor.location has path "/v3/api-docs", but the description is at /openapi.json',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_workload_is_refused_in_words(item, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        render(item)


@NEEDS
def test_the_longest_name_that_fits_is_taken():
    stamped = render(case("test", GIVEN, **SOURCES, name="a" * 43))
    assert stamped["metadata"]["generateName"] == "a" * 43 + "-test-"


@NEEDS
def test_the_api_descriptor_may_be_written_as_for_taps_own_chains():
    spec = render(case("api", {"api_descriptor": AS_TAP_HAS_IT}, **SERVED))["spec"]
    assert spec["owner"] == "default/botany"
    assert spec["location"] == {
        "apiSpec": {"path": "/openapi.json"},
        "server": {"url": "http://flowers-predictor.team.example.org"},
    }


@NEEDS
def test_a_refused_model_leaves_what_serves_as_it_was():
    before = CASES["serve"]
    after = {**before, "params": {**before["params"], "budget": "1s", "min_accuracy": FULL["min_accuracy"]}}
    assert render(before) == render(after)
