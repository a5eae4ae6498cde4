"""A custom predictor on the KServe SDK: kserve_app.py --workers 2 --enable_grpc false --http_port 8080."""

import argparse
import base64
from typing import Any

import kserve
from package_model import PackageModel


class Predictor(kserve.Model):
    def __init__(self) -> None:
        super().__init__("peer")
        # A session cannot be sent to the SDK's worker processes: each loads its own.
        self.model: PackageModel | None = None
        self.ready = True

    def predict(self, payload: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        images = [base64.b64decode(instance["b64"]) for instance in payload["instances"]]
        self.model = self.model or PackageModel()
        return {"predictions": [self.model.predict(image) for image in images]}


if __name__ == "__main__":
    arguments, _ = argparse.ArgumentParser(parents=[kserve.model_server.parser]).parse_known_args()
    kserve.ModelServer(workers=arguments.workers).start([Predictor()])
