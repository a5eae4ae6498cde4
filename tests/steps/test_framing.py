"""Photos that are not square: the same pixels in every command, and the choice between crop and padding."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classifier.errors import DataError
from image_classifier.evaluation import measure
from image_classifier.images import decode
from image_classifier.package import Model, Package
from image_classifier.settings import Fraction, Seconds, Settings
from image_classifier.steps.data import data
from image_classifier.steps.predict import predict
from image_classifier.steps.score import score
from tests.conftest import COLORS, SIZE, write_color_package
from tests.scoring.samples import rows
from tests.serving.apps import BROWSER, make_client
from tests.steps.chain import Lines, run_chain

LIMIT = Settings().max_pixels


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Three images of each color that have another color on both sides of the center square."""
    folder = tmp_path / "pictures"
    for place, (name, color) in enumerate(COLORS.items()):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((40, 300 + number, 3), [*COLORS.values()][place - 1], np.uint8)
            pixels[:, 130:170] = color
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def package_with(framing, folder) -> Package:
    write_color_package(folder, framing=framing, colors_by_class=dict(sorted(COLORS.items())))
    return Package.read(folder)


@pytest.mark.parametrize("framing", ["crop", "pad"])
def test_data_predict_score_and_the_server_see_the_same_pixels(tmp_path, pictures, framing):
    package = package_with(framing, tmp_path / "package")
    model = Model.load(package, threads=1)
    paths = sorted(pictures.rglob("*.png"))
    images = np.stack([decode(path.read_bytes(), SIZE, LIMIT, framing) for path in paths])
    assert bool((images[:, 0] == 127).all()) == (framing == "pad")
    expected = model.probabilities(images)
    settings = replace(
        Settings(), home=tmp_path / "home", model=str(package.folder), data=str(pictures), to=str(tmp_path / "scores")
    )

    dataset = data(settings, Lines(), image_size=package.image_size, framing=package.framing)
    by_name = {
        name: image
        for part in (dataset.train, dataset.test)
        for name, image in zip(part.names, part.images, strict=True)
    }
    for path, image in zip(paths, images, strict=True):
        assert np.array_equal(by_name[path.relative_to(pictures).as_posix()], image)

    for (_, ranking), row in zip(predict(settings, paths, Lines()), expected, strict=True):
        assert ranking[0] == (model.classes[row.argmax()], pytest.approx(float(row.max()), abs=1e-6))

    score(settings, None, Lines())
    scored = {row["source"]: row["probabilities"] for row in rows(tmp_path / "scores")}
    for path, row in zip(paths, expected, strict=True):
        assert scored[path.relative_to(pictures).as_posix()] == pytest.approx(row.tolist(), abs=1e-6)

    client = make_client(model)
    for path, row in zip(paths, expected, strict=True):
        answer = client.post("/predict", data=path.read_bytes(), content_type="image/png").json["predictions"][0]
        assert answer["probability"] == pytest.approx(float(row.max()), abs=2e-6)
        assert answer["label"] == model.classes[row.argmax()]


@pytest.mark.parametrize(("framing", "used"), [("crop", "only the center square"), ("pad", "the whole image")])
def test_the_page_says_which_part_is_used_and_lays_the_heat_map_on_it(tmp_path, framing, used):
    client = make_client(Model.load(package_with(framing, tmp_path / "package"), threads=1))
    page = client.get("/", headers=BROWSER).text
    assert f"It uses {used}" in page
    assert ('<body class="padded"' in page) == (framing == "pad")
    # The class keeps the photo whole below the heat map, in the middle of a square as the model sees it.
    style = client.get("/static/page.css").text
    assert "body:not(.padded) .explained .photo { object-fit: cover; }" in style
    assert ".photo { width: 100%; aspect-ratio: 1; object-fit: contain;" in style


def test_data_of_another_framing_than_the_models_is_not_evaluated(tmp_path, pictures):
    model = Model.load(package_with("pad", tmp_path / "package"), threads=1)
    dataset = data(replace(Settings(), home=tmp_path, data=str(pictures), image_size=SIZE), Lines())
    with pytest.raises(DataError, match="takes images with the framing pad, but .* with crop; set --framing pad"):
        measure(model, dataset, test_fraction=0.2, abstain_error=0.01)


def panoramas(folder, images):
    """Photos of 4:1 with stripes across or along in their left quarter; the class is the direction."""
    random = np.random.default_rng(0)
    down, right = np.mgrid[:128, :128]
    for name, along in (("across", right), ("along", down)):
        (folder / name).mkdir(parents=True)
        for number in range(images):
            blocks = Image.fromarray(random.integers(0, 256, (8, 32, 3), dtype=np.uint8))
            pixels = np.array(blocks.resize((512, 128)))
            waves = 128 + 100 * np.sin(along / 6 + random.uniform(0, 6))
            pixels[:, :128] = waves[..., np.newaxis].astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")
    return folder


@pytest.mark.slow
def test_padding_is_chosen_for_panoramas_whose_class_is_at_the_edge_in_all_processes_and_steps(
    empty_database, tmp_path
):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    photos = panoramas(tmp_path / "photos", 36)
    settings = Settings(
        home=tmp_path,
        data=str(photos),
        image_size=96,
        budget=Seconds(20.0),
        training_processes=2,
        min_recall=Fraction(0.0),
        max_calibration_error=Fraction(1.0),
        max_latency=Seconds(10.0),
    )
    lines = run_chain(settings)
    (chosen,) = (line for line in lines if line.startswith("framing "))
    assert chosen.startswith("framing pad: with padding, ")
    content = json.loads((tmp_path / "work/package/package.json").read_text())
    assert content["framing"] == content["provenance"]["parameters"]["framing"] == "pad"
    assert content["provenance"]["validation_accuracy"] == 1.0
    assert "accuracy 100.00 %" in next(line for line in lines if line.startswith("evaluated on"))
    assert "version 1 is accepted" in lines.text
    image = io.BytesIO()
    Image.open(photos / "along/0.jpg").save(image, "PNG")
    (tmp_path / "photo.png").write_bytes(image.getvalue())
    ((_, ranking),) = predict(settings, [tmp_path / "photo.png"], Lines())
    assert ranking[0][0] == "along"


@pytest.mark.slow
def test_a_model_of_square_images_crops_and_its_package_has_no_framing(champion):
    package = Package.read(champion.home / "work/package")
    assert package.framing == "crop"
    assert "framing" not in (package.folder / "package.json").read_text()
