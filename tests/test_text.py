import pytest

from image_classifier.text import clip, counted, listed, one_line


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
