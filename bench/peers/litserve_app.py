"""LitServe: litserve_app.py PORT."""

import sys
from typing import Any

import litserve
from fastapi import Request
from package_model import PackageModel


class Predictor(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002
        self.model = PackageModel()

    async def decode_request(self, request: Request) -> bytes:
        return await request.body()

    def predict(self, data: bytes) -> dict[str, object]:
        return self.model.predict(data)

    def encode_response(self, answer: dict[str, object]) -> dict[str, Any]:
        return dict(answer)


if __name__ == "__main__":
    server = litserve.LitServer(Predictor(), accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False)
