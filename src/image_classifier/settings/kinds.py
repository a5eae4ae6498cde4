"""Kinds of values that a setting can have: how each is read from text, checked, and shown."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NewType

from image_classifier.files import expand_home
from image_classifier.settings.recipe import EXPECTED as EXPECTED_RECIPE, Recipe

Seconds = NewType("Seconds", float)
Bytes = NewType("Bytes", int)
Fraction = NewType("Fraction", float)
"""From 0 to 1."""
AutoFraction = NewType("AutoFraction", object)
"""A fraction, or the text AUTO."""
Uri = NewType("Uri", str)
AUTO = "auto"
OptionalPath = NewType("OptionalPath", str)
"""A path, or "" for none."""

_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Kind:
    """A kind of value."""

    metavar: str
    """What stands for the value in `--help`."""
    parse: Callable[[object], Any]
    """Reads text or a JSON value; raises ValueError, TypeError or OverflowError for what it cannot read."""
    expected: str
    """What a value must be, for the error message."""
    show: Callable[[Any], str] = str
    """Writes a value as a person would type it."""


def _parse_quantity(units: Mapping[str, float], value: object) -> float:
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", str(value).lower())
    if match is None or match[2] not in units:
        raise ValueError(value)
    return float(match[1]) * units[match[2]]


def _parse_int(value: object) -> int:
    if isinstance(value, bool):
        raise TypeError(value)
    return int(str(value).replace("_", ""))


def _parse_float(value: object) -> float:
    number = float(str(value))
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _parse_auto_fraction(value: object) -> float | str:
    return AUTO if value == AUTO else _parse_float(value)


def _show_seconds(value: float) -> str:
    """In the largest unit that gives a whole number: 20s, 3m, 250ms."""
    unit = next((u for u in ("d", "h", "m", "s") if value and value % _SECONDS[u] == 0), "ms" if value else "s")
    return f"{value / _SECONDS[unit]:g}{unit}"


def _show_bytes(value: int) -> str:
    """In the largest binary unit that gives a whole number: 50 GiB, 1500 B."""
    unit = next((u for u in ("GiB", "MiB", "KiB") if value and value % _BYTES[u.lower()] == 0), "B")
    return f"{value // _BYTES[unit.lower()]} {unit}"


KINDS: Mapping[Any, Kind] = {
    str: Kind("TEXT", str, "text"),
    Uri: Kind("URI", str, "an address"),
    Path: Kind("PATH", lambda value: expand_home(str(value)), "a path"),
    OptionalPath: Kind("PATH", str, "a path"),
    int: Kind("INTEGER", _parse_int, "a whole number", lambda value: f"{value}"),
    float: Kind("NUMBER", _parse_float, "a number", lambda value: f"{value:g}"),
    Fraction: Kind("FRACTION", _parse_float, "a number", lambda value: f"{value:g}"),
    AutoFraction: Kind(
        "FRACTION", _parse_auto_fraction, "a number or auto", lambda value: value if value == AUTO else f"{value:g}"
    ),
    Seconds: Kind("DURATION", partial(_parse_quantity, _SECONDS), "a duration such as 90s, 3m or 1h", _show_seconds),
    Bytes: Kind("SIZE", lambda value: int(_parse_quantity(_BYTES, value)), "a size such as 20 MiB", _show_bytes),
    Recipe: Kind("RECIPE", Recipe.parse, EXPECTED_RECIPE),
}
