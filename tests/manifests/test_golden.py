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
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_workload_is_refused_in_words(item, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        render(item)


@NEEDS
def test_a_refused_model_leaves_what_serves_as_it_was():
    before = CASES["serve"]
    after = {**before, "params": {**before["params"], "budget": "1s", "min_accuracy": FULL["min_accuracy"]}}
    assert render(before) == render(after)
