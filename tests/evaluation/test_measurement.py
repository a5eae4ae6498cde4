"""Evaluations of a real model, also on extreme data sets."""

from dataclasses import replace

import numpy as np
import pytest

from image_classifier.datasets.dataset import ORIGINAL_FORMATS, Dataset, DatasetPart
from image_classifier.datasets.split import split_validation
from image_classifier.errors import DataError
from image_classifier.evaluation.evaluation import Evaluation
from image_classifier.evaluation.example_images import Pictures, choose_examples
from image_classifier.evaluation.measurement import measure
from image_classifier.gate.rules import RuleOutcome, Thresholds
from image_classifier.gate.verdict import Opponent, judge
from image_classifier.package.model import Model
from image_classifier.package.package import write_package
from image_classifier.settings import Settings, pick
from tests.conftest import COLORS, SIZE, color_model

DIGEST = "d" * 64
THRESHOLDS = pick(Settings(), Thresholds)
TWO_CLASSES = dict(list(COLORS.items())[:2])


def many_colors(count):
    colors = np.random.default_rng(1).integers(0, 256, (count, 3))
    return {f"color {number:04}": tuple(map(int, color)) for number, color in enumerate(colors)}


def model_of(folder, colors, digest=DIGEST):
    package = write_package(
        folder,
        model=color_model(colors_by_class=colors),
        classes=list(colors),
        image_size=SIZE,
        provenance={"data_digest": digest, "parameters": {"seed": 0, "validation_fraction": 0.2}},
        golden=(np.empty((0, SIZE, SIZE, 3), np.uint8), [], np.empty((0, len(colors)), np.float32)),
        reference={},
    )
    return Model.load(package, threads=1)


def part_of(colors, labels, seed, noise=40, originals=None):
    """Noisy images of the color that each label names."""
    random = np.random.default_rng(seed)
    clean = np.array(list(colors.values()))[labels][:, None, None, :]
    images = clean + random.normal(0, noise, (len(labels), SIZE, SIZE, 3))
    images += random.normal(0, noise, clean.shape)
    pixels = np.clip(images, 0, 255).astype(np.uint8)
    names = [f"{seed}/{row}.png" for row in range(len(labels))]
    hashes = random.integers(0, 2**64, len(labels), dtype=np.uint64)
    return DatasetPart(pixels, np.asarray(labels), names, hashes, originals)


def dataset_of(colors, train, test, digest=DIGEST, **options):
    parts = part_of(colors, train, 1, **options), part_of(colors, test, 2, **options)
    return Dataset("colors", digest, tuple(colors), SIZE, False, True, *parts, ())


def evaluate(model, dataset):
    return measure(model, dataset, test_fraction=0.2, abstain_error=0.05)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_of(tmp_path_factory.mktemp("package") / "colors", COLORS)


@pytest.fixture(scope="module")
def dataset():
    return dataset_of(COLORS, np.arange(400) % 4, np.arange(120) % 4)


@pytest.fixture(scope="module")
def measured(model, dataset):
    return evaluate(model, dataset)


def test_every_part_is_measured_and_stored(measured):
    evaluation, probabilities = measured
    assert evaluation.images == 120
    assert evaluation.accuracy > 0.9
    assert probabilities.shape == (120, 4)
    assert len(evaluation.corruptions) >= 10
    assert all(len(evaluation.correct_under(name)) == 120 for name in evaluation.corruptions)
    assert evaluation.model_bytes > 0
    assert evaluation.duplicates.rows == ()
    assert (evaluation.label_errors.count, evaluation.label_errors.expected_precision) == (0, None)
    assert Evaluation.from_json(evaluation.to_json()) == evaluation


def test_each_image_has_a_brier_score_and_the_hash_of_its_content(dataset, measured):
    evaluation, probabilities = measured
    truth = np.eye(len(dataset.classes))[dataset.test.labels]
    assert evaluation.brier_scores == pytest.approx(np.square(probabilities - truth).sum(axis=1).tolist(), abs=2e-6)
    assert [int(value, 16) for value in evaluation.hashes] == dataset.test.hashes.tolist()


def test_robustness_shows_what_the_model_is_sensitive_to(measured):
    """It predicts by the mean color, which darkening changes, but neither noise nor a shift."""
    evaluation, _ = measured
    assert evaluation.correct_under("noise 0.05").mean() > 0.9
    assert evaluation.correct_under("shift 0.08").mean() > 0.9
    assert evaluation.correct_under("darker 0.6").mean() < evaluation.accuracy


def test_the_threshold_is_chosen_on_the_validation_split_of_the_training(dataset, measured):
    _, validation = split_validation(dataset, 0.2, 0)
    assert measured[0].abstention.images == len(validation)
    assert measured[0].label_errors.images == 120 + len(validation)


def test_for_a_model_trained_on_other_data_no_threshold_is_chosen(model, dataset):
    other = evaluate(model, replace(dataset, digest="e" * 64))[0]
    assert (other.abstention, other.coverage) == (None, None)
    assert other.label_errors.images == 120


def test_a_second_measurement_differs_in_the_latency_alone(model, dataset, measured):
    def without_latency(evaluation):
        return replace(evaluation, latency_p50=0.0, latency_p95=0.0, latency_p95_interval=None)

    assert without_latency(evaluate(model, dataset)[0]) == without_latency(measured[0])


def test_slices_are_by_stored_size_and_format(model):
    labels = np.arange(40) % 4
    originals = np.array([[8, 9, 1]] * 10 + [[16, 16, 2]] * 10 + [[100, 640, 1]] * 20, np.int32)
    evaluation, _ = evaluate(model, dataset_of(COLORS, labels, labels, originals=originals))
    assert [(part.kind, part.name, part.images) for part in evaluation.slices] == [
        ("shorter side", "below 16 pixels", 10),
        ("shorter side", "16 pixels (the model's input size)", 10),
        ("shorter side", "64 to 127 pixels", 20),
        ("format", ORIGINAL_FORMATS[1], 30),
        ("format", ORIGINAL_FORMATS[2], 10),
    ]


def test_images_of_equal_or_unknown_size_and_format_have_no_slices(model, measured):
    labels = np.arange(40) % 4
    equal = np.full((40, 3), 16, np.int32)
    equal[:, 2] = 1
    assert evaluate(model, dataset_of(COLORS, labels, labels, originals=equal))[0].slices == ()
    assert measured[0].slices == ()


def test_data_with_other_classes_or_another_size_is_rejected(model, dataset):
    with pytest.raises(DataError, match=r"the model has the classes red, .* but the data set has a, b"):
        evaluate(model, replace(dataset, classes=("a", "b")))
    with pytest.raises(DataError, match="set --image-size 16"):
        evaluate(model, replace(dataset, image_size=32))


@pytest.mark.parametrize(
    ("colors", "train", "test"),
    [
        (TWO_CLASSES, [0, 0, 1, 1], [0, 1]),
        (many_colors(1000), np.arange(1000), np.arange(1000)),
        (TWO_CLASSES, [0] * 1000 + [1] * 2, [0] * 500 + [1]),
        (TWO_CLASSES, [0, 1], [0]),
    ],
    ids=["three images per class", "1000 classes", "1 to 500", "single test image"],
)
def test_extreme_data_sets_are_measured_illustrated_and_judged(tmp_path, colors, train, test):
    model = model_of(tmp_path / "package", colors)
    dataset = dataset_of(colors, np.array(train), np.array(test))
    evaluation, probabilities = evaluate(model, dataset)
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    pictures = choose_examples(dataset, evaluation, probabilities)
    assert Pictures.from_json(pictures.to_json()) == pictures
    verdict = judge(evaluation, Opponent("version 1, the champion", evaluation), THRESHOLDS)
    assert len({result.rule for result in verdict.results}) == len(verdict.results)


def test_a_data_set_of_identical_images_is_refused_for_its_duplicates(tmp_path):
    dataset = dataset_of(TWO_CLASSES, np.arange(20) % 2, np.arange(10) % 2, noise=0)
    identical = replace(
        dataset,
        train=replace(dataset.train, images=np.full((20, SIZE, SIZE, 3), 9, np.uint8)),
        test=replace(dataset.test, images=np.full((10, SIZE, SIZE, 3), 9, np.uint8)),
    )
    evaluation, _ = evaluate(model_of(tmp_path / "package", TWO_CLASSES), identical)
    assert len(evaluation.duplicates.exact) == 10
    results = {result.rule: result for result in judge(evaluation, None, THRESHOLDS).results}
    assert results["max-duplicates"].outcome is RuleOutcome.FAIL


def test_pictures_show_mistakes_suspects_duplicates_and_corruptions(model):
    dataset = dataset_of(COLORS, np.arange(400) % 4, np.arange(240) % 4)
    labels = dataset.test.labels.copy()
    labels[:12] = (labels[:12] + 1) % 4
    images = dataset.test.images.copy()
    images[17] = dataset.train.images[9]
    changed = replace(dataset, test=replace(dataset.test, images=images, labels=labels))
    evaluation, probabilities = evaluate(model, changed)
    pictures = choose_examples(changed, evaluation, probabilities)
    assert {picture.name for picture in pictures.suspects} == {f"test: 2/{row}.png" for row in range(12)}
    assert evaluation.label_errors.count == 12
    assert evaluation.label_errors.expected_precision > 0.9
    assert any(picture.lines[0] == "green predicted as red" for picture in pictures.mistakes)
    (duplicate,) = pictures.duplicates
    assert (duplicate.name, duplicate.lines) == ("2/17.png and 1/9.png", ("green", "exact duplicate"))
    assert pictures.corruptions[0].lines == ("original",)


@pytest.mark.slow
def test_a_model_trained_on_shuffled_labels_is_no_better_than_the_baseline(tmp_path):
    from image_classifier.datasets.preparation import DataRequest, prepare
    from image_classifier.training.export import export_package
    from tests.training.samples import plan, train as train_steps

    digits = prepare(pick(Settings(home=tmp_path), DataRequest))
    random = np.random.default_rng(1)
    train, test = (replace(part, labels=random.permutation(part.labels)) for part in (digits.train, digits.test))
    shuffled = replace(digits, train=train, test=test)
    trained = train_steps(shuffled, plan(), steps=100)
    package = export_package(tmp_path / "package", trained.classifier, shuffled, trained.validation, {}, threads=1)
    evaluation, _ = evaluate(Model.load(package, threads=1), shuffled)
    verdict = judge(evaluation, None, replace(THRESHOLDS, min_accuracy=0.0, max_calibration_error=1.0))
    failed = [result.rule for result in verdict.results if result.outcome is RuleOutcome.FAIL]
    assert "better-than-guessing" in failed
