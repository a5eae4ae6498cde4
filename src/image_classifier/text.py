"""Texts for people: reported line by line, clipped, listed, counted."""

from collections.abc import Callable, Sequence

Report = Callable[[str], None]
"""Takes a line that tells the user what was done."""


def clip(text: str, most: int) -> str:
    """Cut `text` to `most` characters, with an ellipsis if it was longer."""
    return text if len(text) <= most else f"{text[: most - 2]} …"


def one_line(error: BaseException | str, most: int = 200) -> str:
    """The text of an error in one line of at most `most` characters; the name of its class if it has no text."""
    text = clip(" ".join(str(error).split()), most)
    return text or (type(error).__name__ if isinstance(error, BaseException) else "")


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names and how many more there are: "a, b and 5 more"."""
    text = ", ".join(str(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most:,} more"


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 image", "2,000 images", "2 classes"."""
    if count != 1:
        noun += "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}"
