"""Base64 as clients write it."""

import base64
import json

import pytest

from image_classifier.serving.http.error_responses import RequestError
from image_classifier.serving.protocols.json_body import clip, decode_base64, parse_json

CONTENT = bytes(range(256)) + b"\xfb\xff\xbf"


def wrapped(end):
    """Base64 in lines, as the command `base64` and Java's and Python's MIME encoders write it."""
    return base64.encodebytes(CONTENT).decode().replace("\n", end)


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(CONTENT).decode(),
        base64.urlsafe_b64encode(CONTENT).decode(),
        base64.b64encode(CONTENT).decode().rstrip("="),
        base64.urlsafe_b64encode(CONTENT).decode().rstrip("="),
        wrapped("\n"),
        wrapped("\r\n"),
        f" {wrapped(' ')}\t",
        "data:image/png;base64," + base64.b64encode(CONTENT).decode(),
        "DATA:image/svg+xml;charset=utf-8;BASE64," + wrapped("\n"),
        "data:;base64," + base64.b64encode(CONTENT).decode(),
    ],
)
def test_both_alphabets_line_breaks_missing_padding_and_data_urls_are_accepted(text):
    assert decode_base64(text, "b64") == CONTENT


@pytest.mark.parametrize("length", range(8))
def test_padding_may_be_missing_at_any_length(length):
    text = base64.b64encode(CONTENT[:length]).decode()
    assert decode_base64(text.rstrip("="), "b64") == decode_base64(text, "b64") == CONTENT[:length]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("YQ=a", 'data of instance 3 is not valid base64: "YQ=a"'),
        ("YWJjZ", 'data of instance 3 is not valid base64: "YWJjZ"'),
        ("b'YQ=='", "data of instance 3 is not valid base64: \"b'YQ=='\""),
        ("ä" * 100, 'data of instance 3 is not valid base64: "ääää'),
        ("data:image/png,%89PNG", 'data of instance 3 is a data URL without base64: "data:image/png,%89PNG"'),
        (7, "data of instance 3 must be a base64 string, not 7"),
        (None, "data of instance 3 must be a base64 string, not null"),
    ],
)
def test_the_error_names_where_the_text_is_and_shows_its_beginning(text, expected):
    with pytest.raises(RequestError) as error:
        decode_base64(text, "data of instance 3")
    assert str(error.value).startswith(expected)
    assert len(str(error.value)) < 120


def test_members_that_are_null_are_absent_at_every_depth():
    text = json.dumps({"a": None, "b": {"c": None, "d": [{"e": None}, None, 0, ""]}})
    assert parse_json(text.encode(), "") == {"b": {"d": [{}, None, 0, ""]}}


def test_a_long_value_is_shortened():
    assert clip("x" * 10**6) == '"' + "x" * 56 + "..."
    assert clip(["a", 1]) == '["a", 1]'
