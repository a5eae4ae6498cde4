"""Features that PyTorch computes on a device, such as a GPU."""

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from image_classifier.backbones import EfficientNetLite, FeatureGraph, FeatureMap
from image_classifier.package import Images
from image_classifier.training.transfer.features import Extracted, Extractor

_BATCH_PIXELS = 128 * 224**2


class DeviceExtractor(Extractor):
    """A network on a device, which computes what its graph does."""

    def __init__(
        self,
        network: EfficientNetLite,
        graph: FeatureGraph,
        device: torch.device,
        activations: FeatureMap | None = None,
    ) -> None:
        super().__init__(graph, activations)
        self._network = copy.deepcopy(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device, self._maps = device, graph.maps

    @torch.inference_mode()
    def __call__(self, images: Images, *, mirrored: bool = False) -> Extracted:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self._device).permute(0, 3, 1, 2)
        normalized = self._network.normalize(pixels.flip(3) if mirrored else pixels)
        maps = self._network.maps_from(0, self._network.stem(normalized))[-len(self._maps) :]
        features = torch.cat([each.mean((2, 3)) for each in maps], dim=1)
        if self.activations is None:
            return Extracted(_array(features), None)
        return Extracted(_array(features), _array(maps[self._maps.index(self.activations)]))

    def batch_images(self, image_size: int) -> int:
        return max(1, _BATCH_PIXELS // image_size**2)


def _array(values: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = values.contiguous().cpu().numpy()
    return array
