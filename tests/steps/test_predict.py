from dataclasses import replace

import pytest

from image_classifier.errors import ImageError
from image_classifier.package.package import Package
from image_classifier.settings import Settings
from image_classifier.steps.predict import predict
from tests.steps.chain import Lines


@pytest.fixture
def settings(package_folder):
    return replace(Settings(), model=str(package_folder), top=3)


def test_the_most_probable_classes_of_a_file_are_ranked(settings, package_folder, tmp_path):
    golden = Package.read(package_folder).golden[0]
    (tmp_path / "image.png").write_bytes(golden.png)
    ((path, ranking),) = predict(settings, [tmp_path / "image.png"], Lines())
    assert path.name == "image.png"
    assert len(ranking) == 3
    assert ranking[0][0] == golden.label
    assert ranking[0][1] == pytest.approx(max(golden.probabilities), abs=1e-4)
    assert [probability for _, probability in ranking] == sorted(
        (probability for _, probability in ranking), reverse=True
    )


def test_a_file_that_cannot_be_read_or_decoded_is_named(settings, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    for name in ("text.png", "missing.png"):
        with pytest.raises(ImageError, match=name):
            list(predict(settings, [tmp_path / name], Lines()))
