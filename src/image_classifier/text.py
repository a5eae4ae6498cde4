"""Text for places that hold only so much."""

from collections.abc import Sequence


def clip(text: str, most: int) -> str:
    """`text`, cut to `most` characters with a mark where it was longer."""
    return text if len(text) <= most else f"{text[: most - 2]} …"


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many there are where they are more."""
    return ", ".join(names[:most]) + (f" … ({len(names)})" if len(names) > most else "")
