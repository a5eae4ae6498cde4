"""A custom runtime on MLServer, asked by protocol V2: mlserver_app.py --workers 2 --port 8080."""

import argparse
import asyncio
from typing import Any

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from package_model import PackageModel


class Peer(MLModel):
    async def load(self) -> bool:
        self.model = PackageModel()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answers = [self.model.predict(image) for image in Base64Codec.decode_input(payload.inputs[0])]
        labels: list[Any] = [answer["label"] for answer in answers]
        probabilities: list[Any] = [answer["probability"] for answer in answers]
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                StringCodec.encode_output("label", labels),
                NumpyCodec.encode_output("probability", np.array(probabilities)),
            ],
        )


async def serve(workers: int, port: int) -> None:
    settings = Settings(
        parallel_workers=workers, host="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name="peer", implementation=Peer)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int)
    parser.add_argument("--port", type=int)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.workers, arguments.port))
