import pytest

from image_classifier.text import clip, counted, listed, one_line, readable, without_credentials


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (clip("short", 5), "short"),
        (clip("longer", 5), "lon …"),
        (listed(["a", "b"]), "a, b"),
        (listed(["a", "b", "c"], 2), "a, b and 1 more"),
        (one_line("two\n  lines"), "two lines"),
        (one_line("a longer line", 8), "a long …"),
        (one_line(OSError("disk\nfull")), "disk full"),
        (one_line(KeyError()), "KeyError"),
        (one_line(""), ""),
        (counted(1, "image"), "1 image"),
        (counted(2000, "image"), "2,000 images"),
        (counted(2, "class"), "2 classes"),
    ],
)
def test_texts_are_shortened_and_counted(text, expected):
    assert text == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("café 😀 👨‍👩‍👧", "café 😀 👨‍👩‍👧"),
        (b"caf\xe9 \x80".decode("utf-8", "surrogateescape"), "café €"),
        ("café".encode().decode("ascii", "surrogateescape"), "café"),
        ("é\udce9", "éé"),
        ("\udc81", "\\x81"),
        ("a\r\nb\0c\u2028d", "a\\r\\nb\\x00c\\u2028d"),
        ("\ud83d", "\\ud83d"),
    ],
)
def test_any_text_can_be_made_readable(text, expected):
    assert readable(text) == expected


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:secret@host:8443/a b.zip?X-Amz-Signature=secret&x=y z#f", "https://host:8443/a b.zip"),
        ("https://secret@host/x?sig=secret", "https://host/x"),
        ("s3://bucket/x?versionId=1", "s3://bucket/x"),
        ("https://me:secret@[bad/x?sig=secret", "https://[bad/x"),
        ("/a/path?with=question@mark", "/a/path?with=question@mark"),
        ("digits", "digits"),
    ],
)
def test_an_address_is_shown_without_its_credentials(address, shown):
    assert without_credentials(address) == shown


def test_the_text_of_an_error_loses_the_credentials_of_its_addresses():
    error = OSError(
        "cannot open 'https://me:secret@host/x?sig=secret' or \"ftp://secret@host\", see https://docs.org/x"
    )
    assert one_line(error) == "cannot open 'https://host/x' or \"ftp://host\", see https://docs.org/x"
