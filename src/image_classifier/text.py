"""Text for places that hold only so much."""


def clip(text: str, most: int) -> str:
    """`text`, cut to `most` characters with a mark where it was longer."""
    return text if len(text) <= most else f"{text[: most - 2]} …"
