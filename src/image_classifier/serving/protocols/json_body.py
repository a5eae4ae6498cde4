"""JSON bodies of KServe's protocols and the base64 in them; plain words for a body that is something else."""

import base64
import json
from contextlib import suppress
from typing import Any

from image_classifier.serving.http.error_responses import RequestError, invalid_request, too_many

_MAX_OCCURRENCES = {
    b",": (2**21, "values"),
    b"[": (2**19, "lists"),
    b"{": (2**16, "objects"),
    b'"': (2**18, "quotation marks"),
}
"""Limits on JSON, because parsed values can take 30 times the memory of their text, and parsing blocks all threads."""
_IMAGE_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_GZIP_SIGNATURE = b"\x1f\x8b"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_CLIPPED_CHARACTERS = 60


def parse_json(content: bytes, advice: str) -> dict[str, Any]:
    """Parse a JSON object without its members that are null, which mean the same as absent ones.

    Raises RequestError: 400, with `advice` on what to send, or 413 if it would take too much memory.
    """
    for mark, (limit, what) in _MAX_OCCURRENCES.items():
        if content.count(mark) > limit:
            raise too_many(what, limit)
    try:
        parsed = json.loads(content, object_hook=_without_nulls)
    except (ValueError, RecursionError) as error:
        raise _not_json(content, error, advice) from None
    if not isinstance(parsed, dict):
        raise invalid_request(f"the body must be a JSON object, not {clip(parsed)}; {advice}")
    return parsed


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _not_json(content: bytes, error: Exception, advice: str) -> RequestError:
    elsewhere = f"send images to POST /predict, or here {advice.removeprefix('send ')}"
    if not content.strip():
        return invalid_request(f"the body is empty; {advice}")
    if content.startswith(_IMAGE_SIGNATURES):
        return invalid_request(f"the body is an image, not JSON; {elsewhere}")
    if content[:9].lstrip().startswith(b"--") and b"form-data" in content[:1000]:
        return invalid_request(f"the body is a form, not JSON; {elsewhere}")
    if content.startswith(_GZIP_SIGNATURE):
        return invalid_request("the body is compressed with gzip; send it with the header Content-Encoding: gzip")
    if isinstance(error, json.JSONDecodeError):
        if error.msg == "Extra data":
            return invalid_request(f"the body continues after the end of its JSON; {advice}")
        rest = error.doc[error.pos :]
        place = f"unexpected {clip(rest)} at line {error.lineno}, column {error.colno}" if rest else "it is incomplete"
        return invalid_request(f"the body is not valid JSON: {place}; {advice}")
    if isinstance(error, UnicodeDecodeError):
        return invalid_request(f"the body is not valid JSON: byte {error.start:,} is not UTF-8 text; {advice}")
    reason = "lists and objects are nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
    return invalid_request(f"the body is not valid JSON: {reason}; {advice}")


def decode_base64(text: object, what: str) -> bytes:
    """Bytes from base64 in JSON; raises RequestError (400).

    As in Google's JSON for Protocol Buffers, either alphabet of RFC 4648 with or without padding. Line breaks, as the
    command `base64` writes them, and a data URL, as browsers make it, are accepted too.
    """
    if not isinstance(text, str):
        raise invalid_request(f"{what} must be a base64 string, not {clip(text)}")
    with suppress(ValueError):
        return base64.b64decode(text, validate=True)
    encoded = text
    if text[:5].lower() == "data:":
        kind, _, encoded = text.partition(",")
        if not kind.lower().endswith(";base64"):
            raise invalid_request(f"{what} is a data URL without base64: {clip(text)}")
    try:
        plain = encoded.encode("ascii").translate(_URL_SAFE, b" \t\r\n").rstrip(b"=")
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except ValueError:
        raise invalid_request(f"{what} is not valid base64: {clip(text)}") from None


def clip(value: object) -> str:
    """A value as JSON, shortened, for a message."""
    if isinstance(value, str):
        value = value[: _CLIPPED_CHARACTERS + 1]
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _CLIPPED_CHARACTERS else f"{text[: _CLIPPED_CHARACTERS - 3]}..."
