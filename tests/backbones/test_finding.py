import json
import os

import pytest

from image_classifier.backbones import finding, onnx_backbone
from image_classifier.backbones.finding import read_backbone
from tests.backbones.test_onnx_backbone import FACTS, write


@pytest.fixture
def hashed(monkeypatch):
    """The files whose digest was computed, in turn."""
    finding._read.cache_clear()
    files = []
    digest = onnx_backbone.sha256_of
    monkeypatch.setattr(onnx_backbone, "sha256_of", lambda path: files.append(path.name) or digest(path))
    return files


def test_a_backbone_that_is_needed_again_is_read_and_hashed_once(tmp_path, hashed):
    path = write(tmp_path)
    assert read_backbone(path, "own.onnx") == read_backbone(path, "own.onnx")
    assert hashed == ["own.onnx", "own.json"]


def test_a_backbone_is_read_again_if_its_file_or_its_description_changed(tmp_path, hashed):
    path = write(tmp_path)
    first = read_backbone(path, "own.onnx")
    (tmp_path / "own.json").write_text(json.dumps({**FACTS, "license": "ISC"}))
    second = read_backbone(path, "own.onnx")
    assert (first.license, second.license) == ("MIT", "ISC")
    os.utime(path, ns=(0, 0))
    assert read_backbone(path, "own.onnx") == second
    assert hashed == 3 * ["own.onnx", "own.json"]
