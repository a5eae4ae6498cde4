"""A real model, measured; also on data that hardly is any."""

from dataclasses import replace

import numpy as np
import pytest

from image_classifier.datasets import prepare
from image_classifier.datasets.dataset import ORIGINAL_FORMATS, Dataset, DatasetPart
from image_classifier.datasets.split import split_validation
from image_classifier.errors import DataError
from image_classifier.evaluation.evaluation import Evaluation
from image_classifier.evaluation.example_images import Pictures, take_pictures
from image_classifier.evaluation.measurement import evaluate
from image_classifier.gate.rule_result import RuleOutcome
from image_classifier.gate.verdict import judge
from image_classifier.package.package import Model, write_package
from image_classifier.settings import Recipe, Settings
from tests.conftest import COLOURS, SIZE, colour_model

DIGEST = "d" * 64


def many_colours(count):
    colours = np.random.default_rng(1).integers(0, 256, (count, 3))
    return {f"colour {number:04}": tuple(map(int, colour)) for number, colour in enumerate(colours)}


def model_of(folder, colours, digest=DIGEST):
    plain = np.broadcast_to(np.array(list(colours.values()), np.uint8)[:2, None, None], (2, SIZE, SIZE, 3))
    package = write_package(
        folder,
        model=colour_model(colours_by_class=colours),
        classes=list(colours),
        image_size=SIZE,
        provenance={"data_digest": digest, "parameters": {"seed": 0, "validation_fraction": 0.2}},
        golden=(plain[:0], [], np.empty((0, len(colours)), np.float32)),
        reference={},
    )
    return Model.load(package, threads=1)


def part_of(colours, labels, seed, noise=40, originals=None):
    """Noisy images of the colours that are labelled."""
    random = np.random.default_rng(seed)
    plain = np.array(list(colours.values()))[labels][:, None, None, :]
    images = (
        plain + random.normal(0, noise, (len(labels), SIZE, SIZE, 3)) + random.normal(0, noise, plain.shape)
    )
    pixels = np.clip(images, 0, 255).astype(np.uint8)
    return DatasetPart(
        pixels, np.asarray(labels), [f"{seed}/{row}.png" for row in range(len(labels))], originals
    )


def dataset_of(colours, train, test, digest=DIGEST, **options):
    parts = part_of(colours, train, 1, **options), part_of(colours, test, 2, **options)
    return Dataset("colours", digest, tuple(colours), SIZE, False, True, *parts, ())


def measured(model, dataset):
    return evaluate(model, dataset, test_fraction=0.2, abstain_error=0.05)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_of(tmp_path_factory.mktemp("package") / "colours", COLOURS)


@pytest.fixture(scope="module")
def dataset():
    return dataset_of(COLOURS, np.arange(400) % 4, np.arange(120) % 4)


@pytest.fixture(scope="module")
def outcome(model, dataset):
    return measured(model, dataset)


def test_everything_is_measured_and_can_be_stored(outcome):
    evaluation, probabilities = outcome
    assert evaluation.images == 120
    assert evaluation.accuracy > 0.9
    assert probabilities.shape == (120, 4)
    assert len(evaluation.corruptions) >= 10
    assert all(len(evaluation.right_under(name)) == 120 for name in evaluation.corruptions)
    assert evaluation.model_bytes > 0
    assert evaluation.duplicates.rows == ()
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


def test_a_trouble_that_the_model_cannot_stand_is_seen(outcome):
    """It goes by the mean colour, which neither noise nor a shift changes, and darkness does."""
    evaluation, _ = outcome
    assert evaluation.right_under("noise 0.05").mean() > 0.9
    assert evaluation.right_under("shift 0.08").mean() > 0.9
    assert evaluation.right_under("darker 0.6").mean() < evaluation.accuracy


def test_the_threshold_is_chosen_on_the_validation_split_of_the_training(model, dataset, outcome):
    _, validation = split_validation(dataset.train.labels, 0.2, 0)
    assert outcome[0].abstention.images == len(validation)
    assert outcome[0].label_errors.images == 120 + len(validation)


def test_without_knowing_what_was_trained_on_no_threshold_is_chosen(model, dataset):
    other = measured(model, replace(dataset, digest="e" * 64))[0]
    assert (other.abstention, other.coverage) == (None, None)
    assert other.label_errors.images == 120


def test_what_is_measured_again_is_the_same_but_for_the_time(model, dataset, outcome):
    again = measured(model, dataset)[0]
    assert (again.predictions, again.robustness, again.label_errors) == (
        outcome[0].predictions,
        outcome[0].robustness,
        outcome[0].label_errors,
    )


def test_slices_are_by_stored_size_and_format(model):
    labels = np.arange(40) % 4
    originals = np.array([[8, 9, 1]] * 10 + [[16, 16, 2]] * 10 + [[100, 640, 1]] * 20, np.int32)
    evaluation, _ = measured(model, dataset_of(COLOURS, labels, labels, originals=originals))
    assert [(part.kind, part.name, part.images) for part in evaluation.slices] == [
        ("shorter side", "below 16 pixels", 10),
        ("shorter side", "16 pixels, as the model's", 10),
        ("shorter side", "64 to 127 pixels", 20),
        ("format", ORIGINAL_FORMATS[1], 30),
        ("format", ORIGINAL_FORMATS[2], 10),
    ]


def test_images_that_are_all_alike_or_of_unknown_origin_have_no_slices(model, outcome):
    labels = np.arange(40) % 4
    alike = np.full((40, 3), 16, np.int32)
    alike[:, 2] = 1
    assert measured(model, dataset_of(COLOURS, labels, labels, originals=alike))[0].slices == ()
    assert outcome[0].slices == ()


def test_data_of_other_classes_or_another_size_is_refused_in_words(model, dataset):
    with pytest.raises(DataError, match=r"knows the classes red, .* but the data has a, b"):
        measured(model, replace(dataset, classes=("a", "b")))
    with pytest.raises(DataError, match="give --image-size 16"):
        measured(model, replace(dataset, image_size=32))


@pytest.mark.parametrize(
    ("colours", "train", "test"),
    [
        (dict(list(COLOURS.items())[:2]), [0, 0, 1, 1], [0, 1]),
        (many_colours(1000), np.arange(1000), np.arange(1000)),
        (dict(list(COLOURS.items())[:2]), [0] * 1000 + [1] * 2, [0] * 500 + [1]),
        (dict(list(COLOURS.items())[:2]), [0, 1], [0]),
    ],
    ids=[
        "two classes of three images",
        "a thousand classes of two images",
        "1 to 500",
        "a single test image",
    ],
)
def test_data_that_hardly_is_any_is_measured_pictured_and_judged(tmp_path, colours, train, test):
    model = model_of(tmp_path / "package", colours)
    dataset = dataset_of(colours, np.array(train), np.array(test))
    evaluation, probabilities = measured(model, dataset)
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    pictures = take_pictures(dataset, evaluation, probabilities)
    assert Pictures.from_json(pictures.to_json()) == pictures
    verdict = judge(evaluation, evaluation, Settings())
    assert len({finding.rule for finding in verdict.findings}) == len(verdict.findings)


def test_a_constant_image_set_is_refused_as_leaked(tmp_path):
    colours = dict(list(COLOURS.items())[:2])
    dataset = dataset_of(colours, np.arange(20) % 2, np.arange(10) % 2, noise=0)
    plain = replace(
        dataset,
        train=replace(dataset.train, images=np.full((20, SIZE, SIZE, 3), 9, np.uint8)),
        test=replace(dataset.test, images=np.full((10, SIZE, SIZE, 3), 9, np.uint8)),
    )
    evaluation, _ = measured(model_of(tmp_path / "package", colours), plain)
    verdict = judge(evaluation, None, Settings())
    assert (
        "10 of 10 test images (100.00%) are duplicates of training images, 10 of them exact" in verdict.reason
    )


def test_pictures_are_of_the_mistakes_suspects_and_duplicates(model, dataset):
    labels = dataset.test.labels.copy()
    labels[:3] = (labels[:3] + 1) % 4
    images = dataset.test.images.copy()
    images[5] = dataset.train.images[9]
    changed = replace(dataset, test=DatasetPart(images, labels, dataset.test.names))
    pictures = take_pictures(changed, *measured(model, changed))
    suspects = {picture.name for picture in pictures.suspects}
    assert {"test: 2/0.png", "test: 2/1.png", "test: 2/2.png"} <= suspects
    assert any(picture.lines[0] == "green taken for red" for picture in pictures.mistakes)
    (duplicate,) = pictures.duplicates
    assert (duplicate.name, duplicate.lines) == ("2/5.png and 1/9.png", ("green", "exact"))
    assert pictures.corruptions[0].lines == ("as it is",)


def test_a_model_that_was_trained_on_shuffled_labels_is_refused(tmp_path):
    from image_classifier.training.export import export_package
    from image_classifier.training.fit import Plan, fit

    digits = prepare(Settings(home=tmp_path))
    random = np.random.default_rng(0)
    train, test = (
        replace(part, labels=random.permutation(part.labels)) for part in (digits.train, digits.test)
    )
    shuffled = replace(digits, train=train, test=test)
    trained = fit(shuffled, Plan(budget=1.0, seed=0, validation_fraction=0.1, recipe=Recipe(), threads=1))
    package = export_package(
        tmp_path / "package", trained.classifier, shuffled, trained.validation, {}, threads=1
    )
    evaluation, _ = measured(Model.load(package, threads=1), shuffled)
    verdict = judge(evaluation, None, Settings(min_accuracy=0.0, max_calibration_error=1.0))
    assert [finding.rule for finding in verdict.findings if finding.outcome is RuleOutcome.FAIL] == [
        "better-than-guessing"
    ]
