"""Requests and responses of the Open Inference Protocol."""

import contextlib
import json
import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

from image_classifier.serving.http.error_responses import RequestError
from image_classifier.serving.protocols.tensors import parse_pixels, parse_request, write_response

PIXELS = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)


def tensor(**changes):
    return {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": list(range(12)), **changes}


def body(*inputs, **members):
    return json.dumps({"inputs": list(inputs), **members}).encode()


@pytest.mark.parametrize("data", [list(range(12)), PIXELS.tolist(), [float(n) for n in range(12)]])
def test_numbers_may_be_flat_or_nested(data):
    (parsed,) = parse_request(body(tensor(data=data)), None).inputs
    assert np.array_equal(parsed.values, PIXELS)
    assert parsed.values.dtype == np.uint8


def test_bytes_in_json_are_base64():
    (parsed,) = parse_request(body(tensor(datatype="BYTES", shape=[2], data=["YWI=", ""])), None).inputs
    assert parsed.values == [b"ab", b""]


def test_binary_contents_follow_the_json_in_order():
    first = {"name": "a", "datatype": "UINT8", "shape": [3], "parameters": {"binary_data_size": 3}}
    second = {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}}
    head = body(first, second)
    parsed = parse_request(head + b"\x01\x02\x03" + b"\x02\0\0\0xy\0\0\0\0", str(len(head)))
    assert parsed.inputs[0].values.tolist() == [1, 2, 3]
    assert parsed.inputs[1].values == [b"xy", b""]


INVALID = [
    (b"", None, "the body is empty"),
    (b"[" * 100_000, None, "not valid JSON: lists and objects are nested too deeply"),
    (b"[]", None, "must be a JSON object, not []"),
    (b"{}", None, "inputs must be a list of objects, not null"),
    (body(7), None, "inputs must be a list of objects, not [7]"),
    (body(tensor(name=7)), None, "the name of an input must be a string, not 7"),
    (body(tensor(datatype="FP32")), None, "tensor image: datatype must be UINT8 (pixels from 0 to 255) or BYTES"),
    (body(tensor(shape=[1, 2, 2])), None, "shape [1, 2, 2] requires 4 numbers, but data has 12"),
    (body(tensor(shape=[-1, 12])), None, "non-negative integers, not [-1, 12]"),
    (body(tensor(shape=[True])), None, "non-negative integers, not [true]"),
    (body(tensor(shape=[2**40])), None, "non-negative integers, not [1099511627776]"),
    (body(tensor(shape=[2**30, 2**30])), None, "requires 1,152,921,504,606,846,976 numbers"),
    (body(tensor(shape=[])), None, "a list of 1 to 8 non-negative integers, not []"),
    (body(tensor(data=[[1, 2], [3]])), None, "unequal lengths"),
    (body(tensor(data=["a"] * 12)), None, "data must be numbers"),
    (body(tensor(data=[None] * 12)), None, "data must be numbers"),
    (body(tensor(data=[float("nan")] * 12)), None, "integers from 0 to 255"),
    (body(tensor(data=[float("inf")] * 12)), None, "integers from 0 to 255"),
    (body(tensor(data=[1.5] * 12)), None, "integers from 0 to 255"),
    (body(tensor(data=[256] * 12)), None, "integers from 0 to 255"),
    (body(tensor(data=[-1] * 12)), None, "integers from 0 to 255"),
    (body(tensor(data=[2**70] * 12)), None, "data must be numbers"),
    (body(tensor(data=[[0] * 6] * 2)), None, "data has shape [2, 6], but shape is [1, 2, 2, 3]"),
    (body(tensor(data="abc")), None, "data must be numbers"),
    (body(tensor(datatype="BYTES", shape=[1], data=["#"])), None, 'element 0 of tensor image is not valid base64: "#"'),
    (body(tensor(datatype="BYTES", shape=[1], data=[7])), None, "must be a base64 string, not 7"),
    (body(tensor(datatype="BYTES", shape=[2], data=["YQ=="])), None, "requires 2 elements, but it has 1"),
    (body(tensor(datatype="BYTES", shape=[1], data={})), None, "must be a list of base64 strings, not {}"),
    (body(tensor(parameters=[])), None, "parameters must be an object, not []"),
    (body(tensor(), id=7), None, "id must be a string, not 7"),
    (body(tensor(), outputs=[{"name": 1}]), None, "the name of an output must be a string, not 1"),
    (
        body(tensor(), outputs=[{"name": "a", "parameters": {"binary_data": 1}}]),
        None,
        "binary_data must be true or false, not 1",
    ),
    (body(tensor(), outputs=[{"name": "a", "parameters": {"classification": 2}}]), None, "request the output label"),
    (
        body(tensor(), parameters={"binary_data_output": "yes"}),
        None,
        'binary_data_output must be true or false, not "yes"',
    ),
    (body(tensor(parameters={"binary_data_size": 12})), None, "both data and binary_data_size"),
    (b"{}", "x", "must be a number of bytes"),
    (b"{}", "-1", "must be a number of bytes"),
    (b"{}", "9" * 13, "must be a number of bytes"),
    (b"{}", "3", "is 3, but the body has only 2 bytes"),
    (body(tensor()) + b"rest", str(len(body(tensor()))), "4 bytes after the last tensor"),
]


@pytest.mark.parametrize(("content", "length", "expected"), INVALID, ids=[row[2] for row in INVALID])
def test_the_error_names_what_is_invalid(content, length, expected):
    with pytest.raises(RequestError, match=re.escape(expected)) as error:
        parse_request(content, length)
    assert error.value.status == 400


@pytest.mark.parametrize(
    ("size", "content", "shape", "datatype", "expected"),
    [
        (13, b"x" * 12, [12], "UINT8", "binary_data_size is 13, but only 12 bytes are left"),
        (11, b"x" * 11, [12], "UINT8", "requires 12 bytes, but binary_data_size is 11"),
        (-1, b"", [0], "UINT8", "tensor image: binary_data_size must be a number of bytes, not -1"),
        (8, b"\x09\0\0\0abcd", [1], "BYTES", "tensor image: element 0 of 9 bytes exceeds the end"),
        (2, b"\x01\0", [1], "BYTES", "element 0 of 1 bytes exceeds the end of the tensor"),
        (8, b"\0" * 8, [1], "BYTES", "requires 1 elements, but it has 2"),
    ],
)
def test_the_error_names_a_wrong_length(size, content, shape, datatype, expected):
    entry = {"name": "image", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
    head = body(entry)
    with pytest.raises(RequestError, match=re.escape(expected)):
        parse_request(head + content, str(len(head)))


def test_binary_data_requires_the_length_of_the_json():
    entry = {"name": "image", "datatype": "UINT8", "shape": [0], "parameters": {"binary_data_size": 0}}
    with pytest.raises(RequestError, match="no header Inference-Header-Content-Length"):
        parse_request(body(entry), None)


@given(content=st.binary(max_size=200), length=st.none() | st.integers(0, 250).map(str))
def test_arbitrary_bytes_are_parsed_or_rejected(content, length):
    with contextlib.suppress(RequestError):
        parse_request(content, length)


def test_outputs_are_written_in_json_or_binary():
    probabilities = np.array([[0.25, 0.75]], dtype=np.float32)
    content, length = write_response(
        {"model_name": "m"}, [("p", probabilities, False), ("label", ["ä".encode()], False)]
    )
    assert length is None
    assert json.loads(content)["outputs"] == [
        {"name": "p", "datatype": "FP32", "shape": [1, 2], "data": [0.25, 0.75]},
        {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["ä"]},
    ]
    content, length = write_response({}, [("p", probabilities, True), ("label", [b"ab"], True)])
    sizes = [entry["parameters"]["binary_data_size"] for entry in json.loads(content[:length])["outputs"]]
    assert sizes == [8, 6]
    assert content[length:] == probabilities.tobytes() + b"\x02\0\0\0ab"


def test_an_error_of_pixels_names_the_instance():
    with pytest.raises(RequestError, match="instance 3: shape"):
        parse_pixels([1], (2, 2, 3), "instance 3")


def test_a_large_list_is_rejected():
    with pytest.raises(RequestError, match="has 1,000,000"):
        parse_request(body(tensor(data=[0] * 1_000_000)), None)
