"""LitServe, asked in JSON: litserve_app.py --workers 2 --port 8080."""

import argparse
import base64
from typing import Any

import litserve
from package_model import PackageModel


class Peer(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.model = PackageModel()

    def decode_request(self, request: dict[str, Any], **_: Any) -> bytes:
        return base64.b64decode(request["image"])

    def predict(self, x: bytes, **_: Any) -> dict[str, object]:
        return self.model.predict(x)

    def encode_response(self, output: dict[str, object], **_: Any) -> dict[str, object]:
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int)
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    server = litserve.LitServer(Peer(), accelerator="cpu", workers_per_device=arguments.workers)
    server.run(port=arguments.port, generate_client_file=False, log_level="warning")
