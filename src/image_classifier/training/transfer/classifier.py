"""The classifier on a backbone that is exported: the backbone's graph with the linear classifier on top."""

from functools import cached_property

import numpy as np
import onnx
from scipy.special import softmax

from image_classifier.backbones import FeatureGraph, add_classifier
from image_classifier.package import Images, Probabilities
from image_classifier.training.transfer.features import FeatureExtractor
from image_classifier.training.transfer.head import Head


class BackboneClassifier:
    """From pixels to probabilities."""

    def __init__(self, features: FeatureGraph, head: Head, temperature: float) -> None:
        """`temperature` divides the logits, to calibrate the probabilities."""
        self.temperature = temperature
        self._features, self._head = features, head

    @cached_property
    def _extractor(self) -> FeatureExtractor:
        return FeatureExtractor(self._features, threads=1)

    def probabilities(self, images: Images) -> Probabilities:
        """Probabilities, float32 [N, K], of images, uint8 [N, S, S, 3]: computed outside of the exported graph."""
        logits = self._head.logits(self._extractor(images).features).astype(np.float64) / self.temperature
        probabilities: Probabilities = softmax(logits, axis=1).astype(np.float32)
        return probabilities

    def to_onnx(self) -> onnx.ModelProto:
        """The graph from pixels to probabilities."""
        return add_classifier(self._features, self._head.weight, self._head.bias, self.temperature)
