"""Tensors of the Open Inference Protocol, as JSON and in its binary extension, to NumPy and back.

https://github.com/kserve/open-inference-protocol: a body is a JSON object; with the header
Inference-Header-Content-Length it is that many bytes of JSON, followed by the contents of the tensors, in the order
of the object, each as long as its parameter `binary_data_size` says.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_classifier.serving.http.error_responses import invalid_request, too_many

LENGTH_HEADER = "Inference-Header-Content-Length"
_MOST_DIMENSIONS = 8
_LENGTH_BYTES = 4
_MOST = {
    b",": (2**21, "values"),
    b"[": (2**19, "lists"),
    b"{": (2**16, "objects"),
    b'"': (2**18, "quotation marks"),
}
"""What is parsed may take 30 times the memory of its text, and no other thread runs meanwhile."""


@dataclass(frozen=True)
class Tensor:
    """A named tensor: `values` is uint8 of `shape`, or the elements of a BYTES tensor in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[np.uint8] | list[bytes]


@dataclass(frozen=True)
class InferenceRequest:
    """What a client asks: its inputs, and which outputs it wants in which form."""

    id: str | None
    inputs: tuple[Tensor, ...]
    outputs: Mapping[str, bool]
    """Names of wanted outputs, and whether each is wanted in binary; empty: all."""
    binary_outputs: bool
    """Whether outputs that are not named are wanted in binary."""


def parse_request(body: bytes, header_length: str | None) -> InferenceRequest:
    """Read a request; raises RequestError (400), which names the tensor that is wrong."""
    content, rest = _split(body, header_length)
    asked = parse_json(content)
    request_id = asked.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise invalid_request(f"id is {_shown(request_id)}, but must be a text")
    inputs = []
    for entry in _objects(asked, "inputs", least=1):
        tensor, rest = _parse_tensor(entry, rest)
        inputs.append(tensor)
    if rest:
        raise invalid_request(
            f"{len(rest):,} bytes follow the last tensor, which no tensor's binary_data_size accounts for"
        )
    binary = _flag(_parameters(asked, "the request"), "binary_data_output", False)
    outputs = {}
    for entry in _objects(asked, "outputs", least=0):
        name = _name(entry, "an output")
        parameters = _parameters(entry, f"output {name}")
        if "classification" in parameters:
            raise invalid_request(
                f"output {name} asks for classification, which this server does not have; ask for label"
            )
        outputs[name] = _flag(parameters, "binary_data", binary)
    return InferenceRequest(request_id, tuple(inputs), outputs, binary)


def write_response(
    header: Mapping[str, Any], outputs: Sequence[tuple[str, NDArray[Any] | list[bytes], bool]]
) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON part where binary contents follow it.

    An output is its name, a float32 array or a list of bytes (UTF-8 where it is wanted in JSON), and whether it is
    wanted in binary.
    """
    entries, contents = [], []
    for name, values, binary in outputs:
        is_bytes = isinstance(values, list)
        entry: dict[str, Any] = {
            "name": name,
            "datatype": "BYTES" if is_bytes else "FP32",
            "shape": [len(values)] if is_bytes else list(values.shape),  # type: ignore[union-attr]
        }
        if binary:
            content = _joined(values) if isinstance(values, list) else values.astype("<f4").tobytes()
            entry["parameters"] = {"binary_data_size": len(content)}
            contents.append(content)
        else:
            entry["data"] = (
                [value.decode() for value in values] if isinstance(values, list) else values.ravel().tolist()
            )
        entries.append(entry)
    text = json.dumps({**header, "outputs": entries}, ensure_ascii=False).encode()
    return b"".join([text, *contents]), len(text) if contents else None


def parse_json(content: bytes) -> dict[str, Any]:
    """A JSON object; raises RequestError: 400, or 413 where it would take too much memory."""
    for mark, (most, what) in _MOST.items():
        if content.count(mark) > most:
            raise too_many(what, most)
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise invalid_request(f"the body is no JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise invalid_request(f"the body must be a JSON object, not {_shown(parsed)}")
    return parsed


def pixels(data: object, shape: tuple[int, ...], what: str) -> NDArray[np.uint8]:
    """Numbers from 0 to 255, flat or nested in lists, as uint8 of `shape`; raises RequestError (400)."""
    wanted = math.prod(shape)
    try:
        numbers = np.asarray(data)
    except (ValueError, OverflowError):
        raise invalid_request(f"the data of {what} are lists of unequal lengths") from None
    if numbers.dtype.kind not in "iuf":
        raise invalid_request(f"the data of {what} are not all numbers from 0 to 255")
    if numbers.size != wanted:
        raise invalid_request(
            f"{what} of shape {list(shape)} needs {wanted:,} numbers, but has {numbers.size:,}"
        )
    if numbers.ndim > 1 and numbers.shape != shape:
        raise invalid_request(
            f"the data of {what} are nested as {list(numbers.shape)}, but its shape is {list(shape)}"
        )
    if not ((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))).all():
        raise invalid_request(f"the data of {what} are not all whole numbers from 0 to 255")
    return numbers.astype(np.uint8).reshape(shape)


def from_base64(text: object, what: str) -> bytes:
    """Bytes that JSON carries as base64; raises RequestError (400)."""
    if not isinstance(text, str):
        raise invalid_request(f"{what} is {_shown(text)}, but must be a text in base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_request(f"{what} is no base64: {_shown(text)}") from None


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes | None]:
    """The JSON part and, where there is the header, what follows it."""
    if header_length is None:
        return body, None
    if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > 12:
        raise invalid_request(f"{LENGTH_HEADER} is {_shown(header_length)}, but must be a number of bytes")
    length = int(header_length)
    if length > len(body):
        raise invalid_request(f"{LENGTH_HEADER} is {length:,}, but the body has {len(body):,} bytes")
    return body[:length], body[length:]


def _parse_tensor(entry: dict[str, Any], rest: bytes | None) -> tuple[Tensor, bytes | None]:
    name = _name(entry, "an input")
    what = f"tensor {name}"
    datatype, shape = entry.get("datatype"), _shape(entry.get("shape"), what)
    if datatype not in ("UINT8", "BYTES"):
        raise invalid_request(
            f"{what} has datatype {_shown(datatype)}, but must be UINT8 (pixels) or BYTES (encoded images)"
        )
    size = _parameters(entry, what).get("binary_data_size")
    if size is not None:
        content, rest = _binary(size, rest, what, "data" in entry)
        values = _from_binary(content, datatype, shape, what)
    elif datatype == "UINT8":
        values = pixels(entry.get("data", []), shape, what)
    else:
        values = _elements(entry.get("data"), shape, what)
    return Tensor(name, datatype, shape, values), rest


def _shape(shape: object, what: str) -> tuple[int, ...]:
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) <= _MOST_DIMENSIONS
        or not all(type(length) is int and 0 <= length < 2**31 for length in shape)
    ):
        raise invalid_request(f"{what} has shape {_shown(shape)}, but must have a list of numbers from 0")
    return tuple(shape)


def _binary(size: object, rest: bytes | None, what: str, also_json: bool) -> tuple[bytes, bytes]:
    if type(size) is not int or size < 0:
        raise invalid_request(f"binary_data_size of {what} is {_shown(size)}, but must be a number of bytes")
    if also_json:
        raise invalid_request(f"{what} has both data and binary_data_size")
    if rest is None:
        raise invalid_request(f"{what} has binary_data_size, but the request has no header {LENGTH_HEADER}")
    if size > len(rest):
        raise invalid_request(
            f"{what} should have {size:,} bytes, but only {len(rest):,} are left in the body"
        )
    return rest[:size], rest[size:]


def _from_binary(
    content: bytes, datatype: str, shape: tuple[int, ...], what: str
) -> NDArray[np.uint8] | list[bytes]:
    wanted = math.prod(shape)
    if datatype == "UINT8":
        if len(content) != wanted:
            raise invalid_request(
                f"{what} of shape {list(shape)} needs {wanted:,} bytes, but has {len(content):,}"
            )
        return np.frombuffer(content, np.uint8).reshape(shape)
    elements: list[bytes] = []
    start = 0
    while start < len(content):
        end = start + _LENGTH_BYTES
        length = int.from_bytes(content[start:end], "little")
        if end + length > len(content):
            raise invalid_request(
                f"element {len(elements)} of {what} should have {length:,} bytes, but the tensor ends"
            )
        elements.append(content[end : end + length])
        start = end + length
    if len(elements) != wanted:
        raise invalid_request(
            f"{what} of shape {list(shape)} needs {wanted:,} elements, but has {len(elements):,}"
        )
    return elements


def _elements(data: object, shape: tuple[int, ...], what: str) -> list[bytes]:
    if not isinstance(data, list):
        raise invalid_request(f"the data of {what} are {_shown(data)}, but must be a list of texts in base64")
    if len(data) != math.prod(shape):
        raise invalid_request(
            f"{what} of shape {list(shape)} needs {math.prod(shape):,} elements, but has {len(data):,}"
        )
    return [from_base64(text, f"element {number} of {what}") for number, text in enumerate(data)]


def _joined(elements: list[bytes]) -> bytes:
    return b"".join(len(element).to_bytes(_LENGTH_BYTES, "little") + element for element in elements)


def _objects(holder: Mapping[str, Any], name: str, least: int) -> list[dict[str, Any]]:
    found = holder.get(name, [])
    if (
        not isinstance(found, list)
        or len(found) < least
        or not all(isinstance(entry, dict) for entry in found)
    ):
        raise invalid_request(f"{name} is {_shown(holder.get(name))}, but must be a list of objects")
    return found


def _parameters(holder: Mapping[str, Any], what: str) -> dict[str, Any]:
    found = holder.get("parameters", {})
    if not isinstance(found, dict):
        raise invalid_request(f"the parameters of {what} are {_shown(found)}, but must be an object")
    return found


def _name(entry: Mapping[str, Any], what: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise invalid_request(f"{what} has the name {_shown(name)}, but must have a text")
    return name


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise invalid_request(f"{name} is {_shown(value)}, but must be true or false")
    return value


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}…"
