"""What every template stamps, compared with golden/ by Cartographer's own code; and the workloads that are refused."""

import re
import shutil
import subprocess

import pytest
import yaml

from tests.manifests.write_golden import (
    ALL_PARAMS,
    CASES,
    CHAIN,
    GOLDEN,
    IMAGES,
    TRAIN,
    case,
    info_of,
    render,
    workload_of,
)

needs_ytt = pytest.mark.skipif(
    shutil.which("cartotest") is None or shutil.which("ytt") is None, reason="needs cartotest and ytt on PATH"
)
SERVED = {"configs": {"address": "http://flowers-predictor.team.example.org"}}


def test_every_template_has_a_case():
    covered = {f"{item['template']}-template.yaml" for item in CASES.values()}
    assert covered == {path.name for path in CHAIN.glob("*-template.yaml")}
    assert {path.name for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_inputs_of_a_case_are_up_to_date(name):
    folder = GOLDEN / name
    assert yaml.safe_load((folder / "workload.yaml").read_text(encoding="utf-8")) == workload_of(CASES[name])
    assert yaml.safe_load((folder / "info.yaml").read_text(encoding="utf-8")) == info_of(name, CASES[name])


@needs_ytt
def test_cartographer_stamps_the_expected_objects():
    done = subprocess.run(["cartotest", GOLDEN, "-v"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_ytt
@pytest.mark.parametrize(
    ("item", "message"),
    [
        (case("test", {**IMAGES, "bugdet": "20s"}, **TRAIN), 'there is no workload param "bugdet"'),
        (
            case("image-given-server", {"server_image": "registry/server:latest"}),
            'the param server_image is "registry/server:latest", but must name an image by its digest',
        ),
        (
            case("model-pinned", {"model_version": "seven"}, **TRAIN),
            'the param model_version is "seven", but must be a number such as 6',
        ),
        (
            case("source-image", {}, {"source": {"image": "registry/src:latest"}}),
            "the source image registry/src:latest has no digest",
        ),
        (
            case("test", IMAGES, **TRAIN, name="a" * 63),
            f"name has 63 characters, but may have at most 43: the candidate's host name begins with {'a' * 63}-",
        ),
        (case("test", IMAGES, **TRAIN, name="2d-shapes"), "must begin with a letter and contain no dot"),
        (case("test", IMAGES, **TRAIN, name="shapes.v2"), "must begin with a letter and contain no dot"),
        (
            case("api", {"api_descriptor": {"ower": "default/botany"}}, **SERVED),
            'the param api_descriptor has an unknown field "ower"; known are: type, location, description, system',
        ),
        (
            case("api", {"api_descriptor": {"type": "grpc"}}, **SERVED),
            'api_descriptor.type is "grpc", but must be openapi',
        ),
        (
            case("api", {"api_descriptor": {"location": {"path": "/v3/api-docs"}}}, **SERVED),
            'api_descriptor.location has path "/v3/api-docs", but the document is always at /openapi.json',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_workload_is_refused_with_a_message(item, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        render(item)


@needs_ytt
def test_a_name_of_the_maximum_length_is_accepted():
    stamped = render(case("test", IMAGES, **TRAIN, name="a" * 43))
    assert stamped["metadata"]["generateName"] == "a" * 43 + "-test-"


@needs_ytt
def test_the_api_descriptor_may_have_the_form_of_taps_own_chains():
    descriptor = {"type": "openapi", "location": {"path": "/openapi.json"}, "owner": "default/botany"}
    spec = render(case("api", {"api_descriptor": descriptor}, **SERVED))["spec"]
    assert spec["owner"] == "default/botany"
    assert spec["location"] == {
        "apiSpec": {"path": "/openapi.json"},
        "server": {"url": "http://flowers-predictor.team.example.org"},
    }


@needs_ytt
def test_params_of_the_training_do_not_change_the_service():
    before = CASES["serve"]
    after = {**before, "params": {**before["params"], "budget": "1s", "min_accuracy": ALL_PARAMS["min_accuracy"]}}
    assert render(before) == render(after)
