import pytest

from image_classifier.gate.formatting import (
    between,
    error_difference,
    milliseconds,
    percent,
    percent_limit,
    points,
    points_limit,
    ratio,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.775), "77.5 %"),
        (percent(0.95, 2), "95.00 %"),
        (percent(None), "–"),
        (percent_limit(0.07), "7 %"),
        (percent_limit(0.9999), "99.99 %"),
        (points(-0.0195), "-1.95 points"),
        (points(0), "0 points"),
        (points_limit(0.05), "5 points"),
        (points_limit(0.01), "1 point"),
        (milliseconds(0.00047), "0.47 ms"),
        (milliseconds(0.25), "250 ms"),
        (milliseconds(1.25), "1,250 ms"),
        (between((0.885, 0.922)), "88.5 to 92.2 %"),
        (between((-0.0651, 0.0352), points), "-6.51 to +3.52 points"),
        (between((0.0, 0.0352), points), "0 to +3.52 points"),
        (between((-0.006, 0.017), error_difference), "-0.006 to +0.017"),
        (between((0.98, 1.5), ratio), "0.98 to 1.50 ×"),
    ],
)
def test_numbers_have_a_unit_after_a_space(text, expected):
    assert text == expected
