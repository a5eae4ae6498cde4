"""Texts for people: reported line by line, clipped, listed, counted."""

import re
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit, urlunsplit

_URL = re.compile(r"://(?:[^\s/?#'\"]*@)?([^\s?'\"]*)(?:\?[^\s'\"]*)?")  # with user and password, and query
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_NOT_UTF8 = re.compile("[\udc80-\udcff]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

Report = Callable[[str], None]
"""Takes a line that tells the user what was done."""


def clip(text: str, most: int) -> str:
    """Cut `text` to `most` characters, with an ellipsis if it was longer."""
    return text if len(text) <= most else f"{text[: most - 2]} …"


def one_line(error: BaseException | str, most: int = 200) -> str:
    """The text of an error in one line of at most `most` characters; the name of its class if it has no text.

    URLs in it lose what `without_credentials` removes: libraries write them as they were requested.
    """
    text = clip(_URL.sub(r"://\1", " ".join(str(error).split())), most)
    return text or (type(error).__name__ if isinstance(error, BaseException) else "")


def without_credentials(address: str) -> str:
    """Remove user, password and query, which may hold a signature, from a URL; other texts stay as they are."""
    scheme, separator, rest = address.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return address
    try:
        parts = urlsplit(address)
    except ValueError:  # as of a bracket that is not closed
        return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_utf8(text: str) -> bool:
    """Whether the text can be encoded as UTF-8: a file name with other bytes cannot."""
    return text.isascii() or not _NOT_UTF8.search(text)


def readable(text: str) -> str:
    """The text in one line that can be printed and stored.

    Bytes of a file name that Python could not decode become the characters that they are in UTF-8 or Windows-1252, the
    usual encoding of old Western European systems and, where both have characters, equal to Latin-1. Control characters
    and bytes without a character become escapes such as `\\n`.
    """
    if not is_utf8(text):
        text = _NOT_UTF8.sub(lambda match: _decode_escaped(match[0]), text)
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _decode_escaped(characters: str) -> str:
    raw = characters.encode("ascii", "surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1252", "backslashreplace")


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names and how many more there are: "a, b and 5 more"."""
    text = ", ".join(str(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most:,} more"


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 image", "2,000 images", "2 classes"."""
    if count != 1:
        noun += "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}"
