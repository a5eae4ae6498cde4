"""What every peer does with the bytes of an image: our decoder and ONNX Runtime, as its tutorial would have it."""

import os
from pathlib import Path

import numpy as np
import onnxruntime

from image_classifier.images.decoder import decode
from image_classifier.package.model import INPUT, OUTPUT
from image_classifier.package.package import Package

MAX_PIXELS = 64_000_000


class PackageModel:
    """The package named by BENCH_PACKAGE, on one thread; every worker of a peer has one."""

    def __init__(self) -> None:
        self.package = Package.read(Path(os.environ["BENCH_PACKAGE"]))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self.package.model_file, options)

    def predict(self, data: bytes) -> dict[str, object]:
        image = decode(data, self.package.image_size, MAX_PIXELS)
        (row,) = self._session.run([OUTPUT], {INPUT: image[np.newaxis]})[0]
        best = int(row.argmax())
        return {"label": self.package.classes[best], "probability": float(row[best])}
