"""How the rules and the report write numbers."""

from collections.abc import Callable


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as "77.5 %"; "–" if there is none."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f} %"


def percent_limit(fraction: float) -> str:
    """A threshold as a person would type it: "50 %", "99.9 %"."""
    return f"{100 * fraction:g} %"


def points(difference: float) -> str:
    """A difference of two fractions as "-1.95 points"."""
    return f"{100 * difference:+.2f} points" if difference else "0 points"


def points_limit(difference: float) -> str:
    """The limit of a difference as a person would type it: "5 points", "0.5 points"."""
    return f"{100 * difference:g} point{'' if round(100 * difference, 9) == 1 else 's'}"


def milliseconds(seconds: float) -> str:
    """Seconds as "0.47 ms" or "1,250 ms"."""
    value = 1e3 * seconds
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def error(value: float) -> str:
    """A calibration error or log loss as "0.017"."""
    return f"{value:.3f}"


def error_difference(difference: float) -> str:
    """A difference of two calibration errors as "+0.017"."""
    return f"{difference:+.3f}"


def ratio(value: float) -> str:
    """A ratio as "1.50 ×"."""
    return f"{value:.2f} ×"


def between(interval: tuple[float, float], write: Callable[[float], str] = percent) -> str:
    """An interval as "88.5 to 92.2 %", with the unit once."""
    low, high = map(write, interval)
    unit = high.rpartition(" ")[2]
    return f"{low.removesuffix(unit).strip()} to {high}" if low.endswith(f" {unit}") else f"{low} to {high}"
