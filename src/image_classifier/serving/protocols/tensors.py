"""Tensors of the Open Inference Protocol, in JSON and its binary extension, to NumPy and back.

https://github.com/kserve/open-inference-protocol: a body is a JSON object. With the header
Inference-Header-Content-Length, it is that many bytes of JSON, followed by the contents of the tensors in the order of
the object, each as long as its parameter `binary_data_size`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_classifier.serving.http.error_responses import RequestError, invalid_request
from image_classifier.serving.protocols.json_body import clip, decode_base64, parse_json

LENGTH_HEADER = "Inference-Header-Content-Length"
_MAX_DIMENSIONS = 8
_LENGTH_BYTES = 4
_ADVICE = (
    'send {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["<base64 of an image>"]}]}; '
    f"tensors in binary need the header {LENGTH_HEADER}"
)


@dataclass(frozen=True)
class Tensor:
    """A named tensor: `values` is uint8 of `shape`, or the elements of a BYTES tensor in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[np.uint8] | list[bytes]


@dataclass(frozen=True)
class InferenceRequest:
    """A parsed request: its inputs, and the outputs that it requests."""

    id: str | None
    inputs: tuple[Tensor, ...]
    outputs: Mapping[str, bool]  # requested outputs by name, and whether each is requested in binary; empty: all
    binary_outputs: bool  # whether outputs that are not named are returned in binary


def parse_request(body: bytes, header_length: str | None) -> InferenceRequest:
    """Parse a request; raises RequestError (400), which names the tensor that is wrong."""
    content, rest = _split(body, header_length)
    parsed = parse_json(content, _ADVICE)
    request_id = parsed.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise invalid_request(f"id must be a string, not {clip(request_id)}")
    inputs = []
    for entry in _objects(parsed, "inputs", required=True):
        tensor, rest = _parse_tensor(entry, rest)
        inputs.append(tensor)
    if rest:
        raise invalid_request(
            f"{len(rest):,} bytes after the last tensor do not belong to any tensor; check binary_data_size"
        )
    binary = _flag(_parameters(parsed, "the request"), "binary_data_output", False)
    outputs = {}
    for entry in _objects(parsed, "outputs", required=False):
        name = _name(entry, "an output")
        parameters = _parameters(entry, f"output {name}")
        if "classification" in parameters:
            raise invalid_request(f"output {name}: classification is not supported; request the output label instead")
        outputs[name] = _flag(parameters, "binary_data", binary)
    return InferenceRequest(request_id, tuple(inputs), outputs, binary)


def write_response(
    header: Mapping[str, Any], outputs: Sequence[tuple[str, NDArray[Any] | list[bytes], bool]]
) -> tuple[bytes, int | None]:
    """The body of a response, and the length of its JSON part if binary contents follow it.

    An output is its name, a float32 array or a list of bytes (UTF-8 if it is returned in JSON), and whether it is
    returned in binary.
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
            content = _join(values) if isinstance(values, list) else values.astype("<f4").tobytes()
            entry["parameters"] = {"binary_data_size": len(content)}
            contents.append(content)
        else:
            entry["data"] = (
                [value.decode() for value in values] if isinstance(values, list) else values.ravel().tolist()
            )
        entries.append(entry)
    text = json.dumps({**header, "outputs": entries}).encode()
    return b"".join([text, *contents]), len(text) if contents else None


def parse_pixels(data: object, shape: tuple[int, ...], what: str) -> NDArray[np.uint8]:
    """Numbers from 0 to 255, flat or nested in lists, as uint8 of `shape`; raises RequestError (400)."""
    expected = math.prod(shape)
    try:
        numbers = np.asarray(data)
    except (ValueError, OverflowError):
        raise invalid_request(f"{what}: the lists of data have unequal lengths") from None
    if numbers.dtype.kind not in "iuf":
        raise invalid_request(f"{what}: data must be numbers from 0 to 255")
    if numbers.size != expected:
        raise invalid_request(
            f"{what}: shape {list(shape)} requires {expected:,} numbers, but data has {numbers.size:,}"
        )
    if numbers.ndim > 1 and numbers.shape != shape:
        raise invalid_request(f"{what}: data has shape {list(numbers.shape)}, but shape is {list(shape)}")
    if not ((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))).all():
        raise invalid_request(f"{what}: data must be integers from 0 to 255")
    return numbers.astype(np.uint8).reshape(shape)


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes | None]:
    if header_length is None:
        return body, None
    if not (header_length.isascii() and header_length.isdigit()) or len(header_length) > 12:
        raise invalid_request(f"{LENGTH_HEADER} must be a number of bytes, not {clip(header_length)}")
    length = int(header_length)
    if length > len(body):
        raise invalid_request(f"{LENGTH_HEADER} is {length:,}, but the body has only {len(body):,} bytes")
    return body[:length], body[length:]


def _parse_tensor(entry: dict[str, Any], rest: bytes | None) -> tuple[Tensor, bytes | None]:
    name = _name(entry, "an input")
    what = f"tensor {name}"
    datatype, shape = entry.get("datatype"), _shape(entry.get("shape"), what)
    if datatype not in ("UINT8", "BYTES"):
        raise invalid_request(
            f"{what}: datatype must be UINT8 (pixels from 0 to 255) or BYTES (encoded images), not {clip(datatype)}"
        )
    size = _parameters(entry, what).get("binary_data_size")
    if size is not None:
        content, rest = _binary(size, rest, what, "data" in entry)
        values = _from_binary(content, datatype, shape, what)
    elif datatype == "UINT8":
        values = parse_pixels(entry.get("data", []), shape, what)
    else:
        values = _elements(entry.get("data"), shape, what)
    return Tensor(name, datatype, shape, values), rest


def _shape(shape: object, what: str) -> tuple[int, ...]:
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) <= _MAX_DIMENSIONS
        or not all(type(length) is int and 0 <= length < 2**31 for length in shape)
    ):
        raise invalid_request(
            f"{what}: shape must be a list of 1 to {_MAX_DIMENSIONS} non-negative integers, not {clip(shape)}"
        )
    return tuple(shape)


def _binary(size: object, rest: bytes | None, what: str, has_data: bool) -> tuple[bytes, bytes]:
    if type(size) is not int or size < 0:
        raise invalid_request(f"{what}: binary_data_size must be a number of bytes, not {clip(size)}")
    if has_data:
        raise invalid_request(f"{what} has both data and binary_data_size")
    if rest is None:
        raise invalid_request(f"{what} has binary_data_size, but the request has no header {LENGTH_HEADER}")
    if size > len(rest):
        raise invalid_request(
            f"{what}: binary_data_size is {size:,}, but only {len(rest):,} bytes are left in the body"
        )
    return rest[:size], rest[size:]


def _from_binary(content: bytes, datatype: str, shape: tuple[int, ...], what: str) -> NDArray[np.uint8] | list[bytes]:
    expected = math.prod(shape)
    if datatype == "UINT8":
        if len(content) != expected:
            raise invalid_request(
                f"{what}: shape {list(shape)} requires {expected:,} bytes, but binary_data_size is {len(content):,}"
            )
        return np.frombuffer(content, np.uint8).reshape(shape)
    elements: list[bytes] = []
    start = 0
    while start < len(content):
        end = start + _LENGTH_BYTES
        length = int.from_bytes(content[start:end], "little")
        if end + length > len(content):
            raise invalid_request(f"{what}: element {len(elements)} of {length:,} bytes exceeds the end of the tensor")
        elements.append(content[end : end + length])
        start = end + length
    if len(elements) != expected:
        raise _wrong_element_count(len(elements), shape, what)
    return elements


def _elements(data: object, shape: tuple[int, ...], what: str) -> list[bytes]:
    if not isinstance(data, list):
        raise invalid_request(f"{what}: data must be a list of base64 strings, not {clip(data)}")
    if len(data) != math.prod(shape):
        raise _wrong_element_count(len(data), shape, what)
    return [decode_base64(text, f"element {number} of {what}") for number, text in enumerate(data)]


def _wrong_element_count(count: int, shape: tuple[int, ...], what: str) -> RequestError:
    return invalid_request(f"{what}: shape {list(shape)} requires {math.prod(shape):,} elements, but it has {count:,}")


def _join(elements: list[bytes]) -> bytes:
    return b"".join(len(element).to_bytes(_LENGTH_BYTES, "little") + element for element in elements)


def _objects(holder: Mapping[str, Any], name: str, *, required: bool) -> list[dict[str, Any]]:
    entries = holder.get(name, [])
    if (
        not isinstance(entries, list)
        or (required and not entries)
        or not all(isinstance(entry, dict) for entry in entries)
    ):
        raise invalid_request(f"{name} must be a list of objects, not {clip(holder.get(name))}")
    return entries


def _parameters(holder: Mapping[str, Any], what: str) -> dict[str, Any]:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        raise invalid_request(f"{what}: parameters must be an object, not {clip(parameters)}")
    return parameters


def _name(entry: Mapping[str, Any], what: str) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise invalid_request(f"the name of {what} must be a string, not {clip(name)}")
    return name


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise invalid_request(f"{name} must be true or false, not {clip(value)}")
    return value
