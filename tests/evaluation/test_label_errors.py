from dataclasses import replace

import numpy as np
import pytest

from image_classifier.evaluation.label_errors import find_label_errors

CLASSES = 10
# Spreads of the logits. The predictions are calibrated, because the true classes are drawn from them.
SPREAD_OF_60_PERCENT, SPREAD_OF_75_PERCENT, SPREAD_OF_97_PERCENT = 2.5, 4.5, 40.0


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def draw(seed, images, spread, flipped, overconfidence=1.0):
    """Predictions of a model, float32 [N, K], the labels, and whether each was flipped to any other class."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, (images, CLASSES))
    cumulative = softmax(logits).cumsum(axis=1)
    true = np.minimum((cumulative < random.random((images, 1))).sum(axis=1), CLASSES - 1)
    wrong = random.random(images) < flipped
    labels = np.where(wrong, (true + random.integers(1, CLASSES, images)) % CLASSES, true)
    return softmax(overconfidence * logits).astype(np.float32), labels, wrong


def accuracy(probabilities, labels):
    return (probabilities.argmax(axis=1) == labels).mean()


def test_flipped_labels_are_found_in_order_of_their_margin():
    probabilities, labels, wrong = draw(0, 500, SPREAD_OF_97_PERCENT, 0.05)
    rows, suggested, wrong_probabilities = find_label_errors(probabilities, labels)
    assert wrong[rows].all()
    assert len(rows) >= 0.8 * wrong.sum()
    assert suggested.tolist() == probabilities[rows].argmax(axis=1).tolist()
    margins = probabilities[rows, suggested] - probabilities[rows, labels[rows]]
    assert (np.diff(margins) <= 0).all()
    assert ((wrong_probabilities >= 0.7) & (wrong_probabilities <= 1)).all()


def test_an_unconfident_prediction_is_no_evidence_against_a_label():
    probabilities, labels, _ = draw(0, 500, SPREAD_OF_97_PERCENT, 0.05)
    probabilities[:5] = [0.5, 0.5] + 8 * [0]
    probabilities[5:10] = [0.34, 0.66] + 8 * [0]
    labels[:10] = 2
    rows, _, _ = find_label_errors(probabilities, labels)
    assert len(rows) > 0
    assert rows.min() >= 10


def test_a_class_without_images_is_never_suggested():
    probabilities, labels, _ = draw(0, 500, SPREAD_OF_97_PERCENT, 0.05)
    suggested = set(find_label_errors(probabilities, labels)[1].tolist())
    without_9 = labels != 9
    assert 9 in suggested
    assert set(find_label_errors(probabilities[without_9], labels[without_9])[1].tolist()) == suggested - {9}


def test_no_images_have_no_suspects():
    rows, suggested, wrong = find_label_errors(np.empty((0, 3), np.float32), np.empty(0, np.int64))
    assert (len(rows), len(suggested), len(wrong)) == (0, 0, 0)


def test_one_contradiction_among_ten_images_proves_nothing():
    probabilities = np.full((10, 3), 0.01, np.float32)
    labels = np.arange(10) % 3
    probabilities[np.arange(10), labels] = 0.98
    labels[0] = 1
    assert len(find_label_errors(probabilities, labels)[0]) == 0


@pytest.mark.parametrize(
    ("spread", "images", "flipped", "least_found"),
    [
        (SPREAD_OF_97_PERCENT, 500, 0.05, 0.8),
        (SPREAD_OF_97_PERCENT, 500, 0.02, 0.6),
        (SPREAD_OF_75_PERCENT, 600, 0.05, 0.3),
        (SPREAD_OF_75_PERCENT, 600, 0.1, 0.3),
        (SPREAD_OF_60_PERCENT, 600, 0.05, 0.0),
    ],
)
@pytest.mark.parametrize("overconfidence", [0.9, 1.0, 2.0])
def test_at_least_70_percent_of_the_suspects_were_flipped(spread, images, flipped, least_found, overconfidence):
    """As in the digits (97 %) and in photos of clothes (60 to 75 %), with models that are over- and underconfident."""
    right = listed = planted = 0
    for seed in range(10):
        probabilities, labels, wrong = draw(seed, images, spread, flipped, overconfidence)
        rows, _, _ = find_label_errors(probabilities, labels)
        right, listed, planted = right + wrong[rows].sum(), listed + len(rows), planted + wrong.sum()
    assert right >= 0.7 * listed
    assert right >= least_found * planted


@pytest.mark.parametrize("spread", [SPREAD_OF_60_PERCENT, SPREAD_OF_75_PERCENT, SPREAD_OF_97_PERCENT])
@pytest.mark.parametrize("overconfidence", [1.0, 2.0])
def test_mistakes_of_a_model_are_not_label_errors(spread, overconfidence):
    """Of 112 images, the size of a small photo collection, and of 600."""
    suspects = [
        len(find_label_errors(*draw(seed, images, spread, 0.0, overconfidence)[:2])[0])
        for images in (112, 600)
        for seed in range(10)
    ]
    assert sum(suspects) <= 2


def test_the_expected_precision_is_that_of_the_list():
    expected, actual = [], []
    for seed in range(20):
        probabilities, labels, wrong = draw(seed, 600, SPREAD_OF_75_PERCENT, 0.05)
        rows, _, wrong_probabilities = find_label_errors(probabilities, labels)
        expected += wrong_probabilities.tolist()
        actual += wrong[rows].tolist()
    assert len(expected) > 100
    assert np.mean(expected) == pytest.approx(np.mean(actual), abs=0.06)


def test_the_drawn_models_have_the_accuracies_of_their_names():
    named = {0.6: SPREAD_OF_60_PERCENT, 0.75: SPREAD_OF_75_PERCENT, 0.97: SPREAD_OF_97_PERCENT}
    for expected, spread in named.items():
        assert accuracy(*draw(0, 5_000, spread, 0.0)[:2]) == pytest.approx(expected, abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("flipped", [0.0, 0.05])
def test_label_errors_in_the_digits_are_found(tmp_path, flipped):
    """The labels are flipped everywhere, as a user's are: the model is trained and calibrated on wrong ones, too."""
    import torch

    from image_classifier.datasets.preparation import DataRequest, prepare
    from image_classifier.settings import Settings, pick
    from tests.training.samples import plan, train

    digits = prepare(pick(Settings(home=tmp_path), DataRequest))
    random = np.random.default_rng(0)

    def flip(part):
        wrong = random.random(len(part.labels)) < flipped
        labels = np.where(wrong, (part.labels + random.integers(1, CLASSES, len(wrong))) % CLASSES, part.labels)
        return replace(part, labels=labels), wrong

    (train_part, train_wrong), (test_part, test_wrong) = flip(digits.train), flip(digits.test)
    trained = train(replace(digits, train=train_part, test=test_part), plan(), steps=200)
    held_out = trained.validation
    images = np.concatenate([test_part.images, train_part.images[held_out]])
    with torch.inference_mode():
        probabilities = trained.classifier(torch.from_numpy(images)).numpy()
    wrong = np.concatenate([test_wrong, train_wrong[held_out]])
    rows, _, _ = find_label_errors(probabilities, np.concatenate([test_part.labels, train_part.labels[held_out]]))
    assert wrong[rows].sum() >= 0.7 * len(rows)
    assert wrong[rows].sum() >= 0.4 * wrong.sum()
