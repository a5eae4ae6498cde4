"""Checks of training data with embeddings that are drawn, and with those of a real backbone."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from image_classifier.backbones import SHIPPED, add_classifier
from image_classifier.datasets.dataset import Dataset, DatasetPart
from image_classifier.datasets.split import split_validation
from image_classifier.evaluation import measurement
from image_classifier.evaluation.corruptions import CORRUPTIONS
from image_classifier.evaluation.evaluation import Evaluation
from image_classifier.evaluation.example_images import Pictures, choose_examples
from image_classifier.evaluation.measurement import measure
from image_classifier.evaluation.training_data import check_training_data, cross_validated_probabilities
from image_classifier.package.model import Model
from image_classifier.package.package import write_package

CLASSES = ("a", "b", "c", "d")
COUNT, SIDE = 400, 96
NONE = np.empty(0, np.int64)


def part_of(name, images, labels):
    names = [f"{name}/{row}.png" for row in range(len(images))]
    return DatasetPart(images, np.asarray(labels), names, np.arange(len(images), dtype=np.uint64))


def dataset_of(images, labels, test=None):
    test = part_of("test", *test) if test else part_of("test", images[:1], labels[:1])
    return Dataset(
        "scenes", "d" * 64, CLASSES, images.shape[1], False, True, part_of("train", images, labels), test, ()
    )


@pytest.fixture(scope="module")
def drawn():
    """Images without duplicates, their classes, and embeddings in which the classes are clusters."""
    random = np.random.default_rng(0)
    labels = np.arange(COUNT) % len(CLASSES)
    # Of uniform noise, as one of 400 normal ones is far from the others.
    embeddings = 1.5 * random.normal(size=(len(CLASSES), 32))[labels] + random.uniform(-2, 2, size=(COUNT, 32))
    images = np.random.default_rng(1).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    return images, labels, embeddings.astype(np.float32)


def check(images, labels, embeddings, validation=NONE):
    return check_training_data(dataset_of(images, labels), np.arange(len(labels)), embeddings, validation)


def flipped(labels, fraction, seed=0):
    random = np.random.default_rng(seed)
    wrong = random.random(len(labels)) < fraction
    return np.where(wrong, (labels + random.integers(1, len(CLASSES), len(labels))) % len(CLASSES), labels), wrong


def test_clean_data_has_no_problems(drawn):
    found = check(*drawn)
    assert (found.images, found.total, found.identical) == (COUNT, COUNT, 0)
    assert (found.duplicates, found.label_errors.count, found.outlier_count) == (0, 0, 0)


@pytest.mark.parametrize("fraction", [0.02, 0.05])
def test_flipped_labels_are_listed_with_the_true_class(drawn, fraction):
    images, labels, embeddings = drawn
    given, wrong = flipped(labels, fraction)
    found = check(images, given, embeddings).label_errors
    right = [wrong[suspect.row] and suspect.suggested == CLASSES[labels[suspect.row]] for suspect in found.suspects]
    assert found.images == COUNT
    assert np.mean(right) >= 0.9
    assert sum(right) >= 0.6 * min(wrong.sum(), 24)


def test_suspects_of_the_validation_split_are_left_to_the_model(drawn):
    images, labels, embeddings = drawn
    given, _ = flipped(labels, 0.05)
    validation = np.flatnonzero(np.arange(COUNT) % 2)
    found = check(images, given, embeddings, validation).label_errors
    assert found.images == COUNT // 2
    assert found.count > 0
    assert all(suspect.row % 2 == 0 for suspect in found.suspects)


def test_probabilities_are_those_of_a_classifier_that_did_not_see_the_image(drawn):
    """A classifier that had seen the random labels of these few images would predict most of them."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 40)
    probabilities = cross_validated_probabilities(random.normal(size=(40, 200)).astype(np.float32), labels, 4)
    assert probabilities.shape == (40, 4)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(40), abs=1e-5)
    assert (probabilities.argmax(axis=1) == labels).mean() < 0.5
    _, labels, embeddings = drawn
    assert (cross_validated_probabilities(embeddings, labels, 4).argmax(axis=1) == labels).mean() > 0.9


@pytest.mark.parametrize("count", [1, 2, 5])
def test_very_few_images_can_be_checked(drawn, count):
    images, labels, embeddings = (values[:count] for values in drawn)
    found = check(images, labels, embeddings)
    assert (found.images, found.label_errors.count, found.outlier_count) == (count, 0, 0)


def test_images_far_from_all_others_are_the_first_outliers(drawn):
    images, labels, embeddings = drawn
    far = embeddings.copy()
    far[[7, 30]] = 9 * np.random.default_rng(5).normal(size=(2, 32))
    found = check(images, labels, far)
    assert {outlier.row for outlier in found.outliers[:2]} == {7, 30}
    assert found.outlier_count <= 3
    assert not any(outlier.is_blank for outlier in found.outliers)
    assert (found.outliers[0].name, found.outliers[0].deviations > 3) == (f"train/{found.outliers[0].row}.png", True)


def test_a_blank_image_is_an_outlier_though_its_embedding_is_not(drawn):
    images, labels, embeddings = drawn
    blank = images.copy()
    blank[9], blank[11] = 0, np.random.default_rng(0).integers(120, 123, (16, 16, 3))
    found = check(blank, labels, embeddings)
    assert {(outlier.row, outlier.is_blank) for outlier in found.outliers} == {(9, True), (11, True)}


def test_duplicates_are_counted_and_those_of_another_class_shown_first(drawn):
    images, labels, embeddings = (values.copy() for values in drawn)
    half = COUNT // 2
    images[half:], embeddings[half:], labels[half:] = images[:half], embeddings[:half], labels[:half]
    labels[half + 3] = (labels[3] + 1) % len(CLASSES)
    found = check(images, labels, embeddings, np.arange(half, COUNT))
    assert (found.duplicates, found.contradictory, found.validation_duplicates) == (COUNT, 2, half)
    assert len(found.pairs) == 12
    first = found.pairs[0]
    assert ({first.row, first.other_row}, first.label != first.other_label) == ({3, half + 3}, True)
    assert all(pair.label == pair.other_label for pair in found.pairs[1:])


def test_identical_files_are_counted_in_the_whole_training_part(drawn):
    images, labels, embeddings = drawn
    dataset = dataset_of(images, labels)
    hashes = dataset.train.hashes.copy()
    hashes[COUNT // 2 :] = hashes[: COUNT // 2]
    same = replace(dataset, train=replace(dataset.train, hashes=hashes))
    rows = np.arange(100)
    found = check_training_data(same, rows, embeddings[rows], NONE)
    assert (found.images, found.total, found.identical) == (100, COUNT, COUNT)


@pytest.fixture(scope="module")
def backbone_model(tmp_path_factory):
    features = SHIPPED["efficientnet-lite0"].feature_graph(SIDE)
    weight = np.zeros((features.dimensions, len(CLASSES)), np.float32)
    package = write_package(
        tmp_path_factory.mktemp("package") / "backbone",
        model=add_classifier(features, weight, np.zeros(len(CLASSES), np.float32), 1.0).SerializeToString(),
        classes=CLASSES,
        image_size=SIDE,
        provenance={"data_digest": "d" * 64, "parameters": {"seed": 0, "validation_fraction": 0.2}},
        golden=(np.empty((0, SIDE, SIDE, 3), np.uint8), [], np.empty((0, len(CLASSES)), np.float32)),
        reference={},
    )
    return Model.load(package, threads=1)


def photos():
    """48 photos, uint8 [48, S, S, 3]: the tiles of two large ones."""
    return np.stack(
        [
            picture[top : top + SIDE, left : left + SIDE]
            for picture in load_sample_images().images
            for top in range(0, picture.shape[0] - SIDE, SIDE)
            for left in range(0, picture.shape[1] - SIDE, SIDE)
        ]
    )


@pytest.mark.slow
def test_a_model_on_a_backbone_finds_copies_in_training_and_leaks_into_test(backbone_model, monkeypatch):
    monkeypatch.setattr(measurement, "CORRUPTIONS", CORRUPTIONS[:1])
    images = photos()
    darker_mirror = (0.8 * images[12:13, :, ::-1]).astype(np.uint8)
    train, test = np.concatenate([images[:40], darker_mirror, np.zeros_like(images[:1])]), images[40:]
    test[3] = train[20][:, ::-1]
    dataset = dataset_of(train, np.arange(42) % 4, (test, np.arange(8) % 4))
    evaluation, probabilities = measure(backbone_model, dataset, test_fraction=0.2, abstain_error=0.05)
    found = evaluation.training_data
    assert (found.images, found.duplicates) == (42, 2)
    assert [{pair.row, pair.other_row} for pair in found.pairs] == [{12, 40}]
    assert [(outlier.row, outlier.is_blank) for outlier in found.outliers] == [(41, True)]
    assert (evaluation.duplicates.exact, evaluation.duplicates.near, evaluation.duplicates.originals) == (
        (),
        (3,),
        (20,),
    )
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    assert evaluation.metrics["training_duplicates"] == 2
    pictures = choose_examples(dataset, evaluation, probabilities)
    assert pictures.training_duplicates[0].name in ("train/12.png and train/40.png", "train/40.png and train/12.png")
    assert pictures.outliers[0].lines[1] == "blank"
    assert Pictures.from_json(pictures.to_json()) == pictures


@pytest.mark.slow
def test_a_sample_of_a_large_training_part_is_checked_with_all_of_validation(backbone_model, monkeypatch):
    monkeypatch.setattr(measurement, "CORRUPTIONS", CORRUPTIONS[:1])
    monkeypatch.setattr(measurement, "_EMBEDDED_PIXELS", 10 * SIDE**2)
    images = photos()
    dataset = dataset_of(images[:30], np.arange(30) % 4, (images[30:], np.arange(18) % 4))
    evaluation, probabilities = measure(backbone_model, dataset, test_fraction=0.2, abstain_error=0.05)
    validation = split_validation(dataset, 0.2, 0)[1]
    found = evaluation.training_data
    assert (found.images, found.total) == (10, 30)
    assert found.label_errors.images == 10 - len(validation)
    assert evaluation.label_errors.images == 18 + len(validation)
    assert probabilities == pytest.approx(np.full((18, 4), 0.25))
