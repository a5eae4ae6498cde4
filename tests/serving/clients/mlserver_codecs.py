"""Sends one image with MLServer's codecs and types; prints a JSON object of the decoded responses by codec.

    python mlserver_codecs.py SERVER MODEL IMAGE PIXELS

PIXELS is a .npy file, uint8 [S, S, 3]. Needs requirements/mlserver.txt, which contradicts the clients of KServe.
"""

import base64
import json
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
from mlserver.codecs import Base64Codec, NumpyCodec, PandasCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, RequestOutput

server, model, image_path, pixels_path = sys.argv[1:]
image, pixels = Path(image_path).read_bytes(), np.load(pixels_path)
text = base64.b64encode(image).decode()


def infer(request: InferenceRequest, **options: bool) -> InferenceResponse:
    http_request = urllib.request.Request(
        f"{server}/v2/models/{model}/infer",
        request.model_dump_json(**options).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(http_request, timeout=30) as response:
        return InferenceResponse.model_validate_json(response.read())


outputs = [RequestOutput(name="probabilities"), RequestOutput(name="label")]
requests = {
    "Base64Codec": InferenceRequest(inputs=[Base64Codec.encode_input("image", [image])]),
    "Base64Codec, text": InferenceRequest(inputs=[Base64Codec.encode_input("image", [image], use_bytes=False)]),
    "StringCodec": InferenceRequest(inputs=[StringCodec.encode_input("image", [text])], outputs=outputs),
    "NumpyCodec": InferenceRequest(inputs=[NumpyCodec.encode_input("image", pixels[np.newaxis])], outputs=outputs),
    "PandasCodec": PandasCodec.encode_request(pd.DataFrame({"image": [text]}, dtype=object)),
}
answers = {}
for name, request in requests.items():
    # pydantic's default writes each optional field that is not set as null.
    for variant, options in (("without nulls", {"exclude_none": True}), ("with nulls", {"exclude_none": False})):
        response = infer(request, **options)
        probabilities, label = response.outputs
        answers[f"{name}, {variant}"] = {
            "label": StringCodec.decode_output(label),
            "probabilities": NumpyCodec.decode_output(probabilities).tolist(),
        }
json.dump(answers, sys.stdout)
