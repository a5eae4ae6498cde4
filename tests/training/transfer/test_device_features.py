import numpy as np
import pytest
import torch

from image_classifier.backbones import SHIPPED, build_feature_graph
from image_classifier.training.transfer.device_features import DeviceExtractor
from image_classifier.training.transfer.features import FeatureExtractor, FeatureFile
from image_classifier.training.transfer.fine_tuning import Depth
from tests.training.samples import stripes

SIDE = 64
NETWORK = SHIPPED["efficientnet-lite0"].network()
GRAPH = build_feature_graph(NETWORK, SIDE)
IMAGES = stripes(SIDE, images=12).train.images


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("activations", [None, Depth(2, False).activations(GRAPH), Depth(3, False).activations(GRAPH)])
def test_a_device_computes_what_the_graph_does(activations, mirrored):
    """The device of the test is the CPU; the computation is the same on a GPU."""
    expected = FeatureExtractor(GRAPH, 1, activations)(IMAGES, mirrored=mirrored)
    found = DeviceExtractor(NETWORK, GRAPH, torch.device("cpu"), activations)(IMAGES, mirrored=mirrored)
    np.testing.assert_allclose(found.features, expected.features, atol=1e-4)
    assert (found.activations is None) == (activations is None)
    if activations is not None:
        np.testing.assert_allclose(found.activations, expected.activations, atol=1e-3)


def test_a_file_of_features_is_filled_in_the_batches_of_the_device():
    extractor = DeviceExtractor(NETWORK, GRAPH, torch.device("cpu"))
    assert extractor.batch_images(224) == 128
    file, sizes = FeatureFile(None, "", "", np.arange(12), extractor), []
    file.extract(stripes(SIDE, images=12), mirrored=False, is_over=lambda: False, on_progress=sizes.append)
    assert sizes == [12]
    np.testing.assert_array_equal(file.values, extractor(IMAGES).features)
