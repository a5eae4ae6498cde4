"""What a backbone is: a pretrained network, where its weights come from, and its graph. Needs no PyTorch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from image_classifier.backbones.efficientnet_lite import EfficientNetLite
    from image_classifier.backbones.feature_graph import FeatureGraph


@dataclass(frozen=True, kw_only=True)
class Backbone(ABC):
    """A pretrained network that turns images into features."""

    name: str
    image_size: int
    """Side in pixels that it was trained for."""
    digest: str
    """SHA-256 of the file with the weights, in hexadecimal."""
    weight_bytes: int
    """Size of the weights in a package."""
    origin: str
    """Address or name of the file that the weights come from, without credentials."""
    license: str = ""
    """SPDX identifier; "" if unknown."""
    trained_on: str = ""
    """Name of the data that it was trained on; "" if unknown."""

    @property
    def provenance(self) -> dict[str, str]:
        """What the package of a model records about its backbone; without what is unknown."""
        values = {
            "name": self.name,
            "origin": self.origin,
            "license": self.license,
            "digest": self.digest,
            "trained_on": self.trained_on,
        }
        return {name: value for name, value in values.items() if value}

    def network(self) -> "EfficientNetLite | None":
        """The network in PyTorch, frozen, from which `feature_graph` is built; None if there is only the graph.

        Raises TrainingError if the weights cannot be read.
        """
        return None

    @abstractmethod
    def feature_graph(self, image_size: int) -> "FeatureGraph":
        """The graph from images of `image_size` pixels to features.

        Raises TrainingError if the weights cannot be read, or if the network takes no images of this size.
        """
