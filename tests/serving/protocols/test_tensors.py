"""Requests of the Open Inference Protocol, read and written."""

import base64
import contextlib
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_classifier.serving.http.error_responses import RequestError
from image_classifier.serving.protocols.tensors import parse_request, pixels, write_response

PIXELS = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)


def tensor(**changes):
    return {"name": "image", "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": list(range(12)), **changes}


def body(*inputs, **members):
    return json.dumps({"inputs": list(inputs), **members}).encode()


@pytest.mark.parametrize("data", [list(range(12)), PIXELS.tolist(), [float(n) for n in range(12)]])
def test_numbers_may_be_flat_or_nested(data):
    (found,) = parse_request(body(tensor(data=data)), None).inputs
    assert np.array_equal(found.values, PIXELS)
    assert found.values.dtype == np.uint8


def test_bytes_in_json_are_base64():
    (found,) = parse_request(body(tensor(datatype="BYTES", shape=[2], data=["YWI=", ""])), None).inputs
    assert found.values == [b"ab", b""]


def test_binary_contents_follow_the_json_in_order():
    first = {"name": "a", "datatype": "UINT8", "shape": [3], "parameters": {"binary_data_size": 3}}
    second = {"name": "b", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}}
    head = body(first, second)
    found = parse_request(head + b"\x01\x02\x03" + b"\x02\0\0\0xy\0\0\0\0", str(len(head)))
    assert found.inputs[0].values.tolist() == [1, 2, 3]
    assert found.inputs[1].values == [b"xy", b""]


REFUSED = [
    (b"", None, "no JSON"),
    (b"[" * 100_000, None, "no JSON"),
    (b"[]", None, "must be a JSON object"),
    (b"{}", None, "inputs is null"),
    (body(7), None, "must be a list of objects"),
    (body(tensor(name=7)), None, "has the name 7"),
    (body(tensor(datatype="FP32")), None, 'tensor image has datatype "FP32"'),
    (body(tensor(shape=[1, 2, 2])), None, "needs 4 numbers, but has 12"),
    (body(tensor(shape=[-1, 12])), None, "tensor image has shape [-1, 12]"),
    (body(tensor(shape=[True])), None, "has shape [true]"),
    (body(tensor(shape=[2**40])), None, "has shape"),
    (body(tensor(shape=[2**30, 2**30])), None, "needs 1,152,921,504,606,846,976 numbers"),
    (body(tensor(shape=[])), None, "has shape []"),
    (body(tensor(data=[[1, 2], [3]])), None, "unequal lengths"),
    (body(tensor(data=["a"] * 12)), None, "not all numbers"),
    (body(tensor(data=[None] * 12)), None, "not all numbers"),
    (body(tensor(data=[float("nan")] * 12)), None, "whole numbers from 0 to 255"),
    (body(tensor(data=[float("inf")] * 12)), None, "whole numbers from 0 to 255"),
    (body(tensor(data=[1.5] * 12)), None, "whole numbers from 0 to 255"),
    (body(tensor(data=[256] * 12)), None, "whole numbers from 0 to 255"),
    (body(tensor(data=[-1] * 12)), None, "whole numbers from 0 to 255"),
    (body(tensor(data=[2**70] * 12)), None, "not all numbers"),
    (body(tensor(data=[[0] * 6] * 2)), None, "nested as [2, 6]"),
    (body(tensor(data="abc")), None, "not all numbers"),
    (body(tensor(datatype="BYTES", shape=[1], data=["#"])), None, "element 0 of tensor image is no base64"),
    (body(tensor(datatype="BYTES", shape=[1], data=[7])), None, "must be a text in base64"),
    (body(tensor(datatype="BYTES", shape=[2], data=["YQ=="])), None, "needs 2 elements, but has 1"),
    (body(tensor(datatype="BYTES", shape=[1], data={})), None, "must be a list"),
    (body(tensor(parameters=[])), None, "must be an object"),
    (body(tensor(), id=7), None, "id is 7"),
    (body(tensor(), outputs=[{"name": 1}]), None, "an output has the name 1"),
    (body(tensor(), outputs=[{"name": "a", "parameters": {"binary_data": 1}}]), None, "binary_data is 1"),
    (body(tensor(), outputs=[{"name": "a", "parameters": {"classification": 2}}]), None, "ask for label"),
    (body(tensor(), parameters={"binary_data_output": "yes"}), None, 'binary_data_output is "yes"'),
    (body(tensor(parameters={"binary_data_size": 12})), None, "both data and binary_data_size"),
    (b"{}", "x", "must be a number of bytes"),
    (b"{}", "-1", "must be a number of bytes"),
    (b"{}", "9" * 13, "must be a number of bytes"),
    (b"{}", "3", "is 3, but the body has 2 bytes"),
    (body(tensor()) + b"rest", str(len(body(tensor()))), "4 bytes follow the last tensor"),
]


@pytest.mark.parametrize(("content", "length", "words"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_is_wrong_is_named(content, length, words):
    with pytest.raises(RequestError, match=re.escape(words)) as refused:
        parse_request(content, length)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("size", "content", "shape", "datatype", "words"),
    [
        (13, b"x" * 12, [12], "UINT8", "should have 13 bytes, but only 12 are left"),
        (11, b"x" * 11, [12], "UINT8", "needs 12 bytes, but has 11"),
        (-1, b"", [0], "UINT8", "binary_data_size of tensor image is -1"),
        (8, b"\x09\0\0\0abcd", [1], "BYTES", "element 0 of tensor image should have 9 bytes"),
        (2, b"\x01\0", [1], "BYTES", "should have 1 bytes, but the tensor ends"),
        (8, b"\0" * 8, [1], "BYTES", "needs 1 elements, but has 2"),
    ],
)
def test_lengths_that_lie_are_named(size, content, shape, datatype, words):
    entry = {"name": "image", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
    head = body(entry)
    with pytest.raises(RequestError, match=re.escape(words)):
        parse_request(head + content, str(len(head)))


def test_binary_data_need_the_length_of_the_json():
    entry = {"name": "image", "datatype": "UINT8", "shape": [0], "parameters": {"binary_data_size": 0}}
    with pytest.raises(RequestError, match="no header Inference-Header-Content-Length"):
        parse_request(body(entry), None)


@given(content=st.binary(max_size=200), length=st.none() | st.integers(0, 250).map(str))
def test_any_bytes_are_read_or_refused(content, length):
    with contextlib.suppress(RequestError):
        parse_request(content, length)


def test_outputs_are_written_as_they_are_wanted():
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


def test_pixels_name_what_they_are_of():
    with pytest.raises(RequestError, match="instance 3 of shape"):
        pixels([1], (2, 2, 3), "instance 3")


def test_a_large_list_is_refused_without_a_crash():
    with pytest.raises(RequestError, match="has 1,000,000"):
        parse_request(body(tensor(data=[0] * 1_000_000)), None)


def test_base64_stands_for_the_same_image_as_its_bytes():
    encoded = base64.b64encode(PIXELS.tobytes()).decode()
    (found,) = parse_request(body(tensor(datatype="BYTES", shape=[1], data=[encoded])), None).inputs
    assert found.values == [PIXELS.tobytes()]
