"""Compressed request bodies: decoded as a stream, limited by their decoded size, refused in plain words."""

import gzip
import io
import random
import re
import tracemalloc
import zlib

import pytest

from image_classifier.serving.http.error_responses import RequestError
from image_classifier.serving.http.request_body import decode_body, read_body

LIMIT = 300_000
GENERATOR = random.Random(1)
CONTENTS = {
    "one byte": b"a",
    "random": GENERATOR.randbytes(200_000),
    "letters": bytes(GENERATOR.choices(b"abc", k=LIMIT)),
    "zeros": bytes(LIMIT),
}


def raw_deflate(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


def two_members(content: bytes) -> bytes:
    return gzip.compress(content[:1000]) + gzip.compress(content[1000:])


FORMATS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": two_members,
    "deflate": zlib.compress,
    " Deflate , identity": raw_deflate,
    "deflate, gzip": lambda content: gzip.compress(zlib.compress(content)),
    "gzip,deflate,,gzip": lambda content: gzip.compress(raw_deflate(gzip.compress(content))),
    "identity": bytes,
    "": bytes,
}


def environ(body: bytes, encoding: str, *, chunked: bool = False) -> dict[str, object]:
    length = {} if chunked else {"CONTENT_LENGTH": str(len(body))}
    return {"wsgi.input": io.BytesIO(body), "HTTP_CONTENT_ENCODING": encoding, **length}


def decoded(body: bytes, encoding: str, *, chunked: bool = False, limit: int = LIMIT) -> bytes:
    request = environ(body, encoding, chunked=chunked)
    request["wsgi.input"] = decode_body(request, limit)
    return read_body(request, limit)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("encoding", FORMATS)
def test_a_body_is_decoded_whatever_its_encoding_and_size(encoding, content, chunked):
    assert decoded(FORMATS[encoding](content), encoding, chunked=chunked) == content


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", " Deflate , identity", "deflate, gzip"])
def test_a_decoded_body_can_be_read_in_pieces_of_any_size(encoding, content):
    stream = decode_body(environ(FORMATS[encoding](content), encoding), LIMIT)
    pieces, sizes = [], random.Random(2)
    while piece := stream.read(size := sizes.choice((1, 257, 258, 259, 5000, 100_000))):
        assert len(piece) <= size
        pieces.append(piece)
    assert b"".join(pieces) == content
    assert stream.read() == stream.read(0) == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate", " Deflate , identity", "deflate, gzip"])
def test_every_prefix_of_a_compressed_body_is_incomplete(encoding):
    body = FORMATS[encoding](b"some content, some content")
    for length in range(1, len(body)):
        with pytest.raises(RequestError, match="the request body ended before the end of its") as error:
            decoded(body[:length], encoding)
        assert (error.value.status, error.value.code) == (400, "incomplete_body")


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"\x89PNG\r\n\x1a\n and so on"),
        ("deflate", b"not compressed"),
        ("deflate", gzip.compress(b"a", mtime=0)),
        ("gzip", zlib.compress(b"a")),
        ("gzip", gzip.compress(b"a", mtime=0)[:-8] + b"12345678"),
        ("deflate", zlib.compress(b"a")[:-4] + b"1234"),
        ("gzip", gzip.compress(b"a", mtime=0) + b"more than a member"),
        ("deflate", zlib.compress(b"a") + b"more"),
        ("deflate, gzip", gzip.compress(b"no zlib data", mtime=0)),
    ],
)
def test_damaged_bytes_are_the_clients_error_in_plain_words(encoding, body):
    with pytest.raises(
        RequestError, match=r"cannot be decoded as (gzip|deflate), .* damaged or not compressed"
    ) as error:
        decoded(body, encoding)
    assert (error.value.status, error.value.code) == (400, "invalid_encoding")


@pytest.mark.parametrize(
    "encoding", ["br", "zstd", "compress", "gzip, br", "gzip;q=1", "aes128gcm", "gzip," * 4, "*", "ä"]
)
def test_an_unsupported_encoding_is_refused_when_the_body_is_read(encoding):
    request = environ(b"abc", encoding)
    request["wsgi.input"] = decode_body(request, LIMIT)
    with pytest.raises(RequestError, match=re.escape(repr(encoding))) as error:
        read_body(request, LIMIT)
    assert (error.value.status, error.value.code) == (415, "unsupported_encoding")
    assert "one of gzip, deflate" in str(error.value)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(bytes(10**8))),
        ("deflate", raw_deflate(bytes(10**8))),
        ("gzip, gzip", gzip.compress(gzip.compress(bytes(10**8)))),
        # Blocks without content.
        ("deflate", b"\0\0\0\xff\xff" * (LIMIT // 5 + 1)),
        ("gzip", gzip.compress(b"") * (LIMIT // 20)),
        ("gzip", gzip.compress(random.Random(3).randbytes(LIMIT + 1))),
    ],
    ids=["gzip", "deflate", "twice", "empty blocks", "empty members", "incompressible"],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_limit_is_refused_before_it_is_in_memory(encoding, body, chunked):
    tracemalloc.start()
    try:
        with pytest.raises(RequestError) as error:
            decoded(body, encoding, chunked=chunked)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (error.value.status, error.value.code) == (413, "body_too_large")
    assert peak < 5 * LIMIT


def test_a_body_that_names_an_encoding_may_be_empty():
    assert decoded(b"", "gzip") == decoded(b"", "deflate", chunked=True) == b""
