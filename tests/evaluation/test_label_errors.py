import numpy as np

from image_classifier.evaluation.label_errors import find_label_errors


def predictions_of(labels, classes=3, confidence=0.9):
    """Probabilities of a model that agrees with these labels."""
    probabilities = np.full((len(labels), classes), (1 - confidence) / (classes - 1), np.float32)
    probabilities[np.arange(len(labels)), labels] = confidence
    return probabilities


def test_flipped_labels_are_found_in_order_of_their_margin():
    true = np.arange(300) % 3
    probabilities = predictions_of(true)
    probabilities[5] = [0.01, 0.01, 0.98]
    labels = true.copy()
    labels[[4, 5, 100]] = [0, 1, 2]
    rows, suggested = find_label_errors(probabilities, labels)
    assert rows.tolist() == [5, 4, 100]
    assert suggested.tolist() == true[[5, 4, 100]].tolist()


def test_correct_labels_and_unconfident_predictions_are_not_suspect():
    labels = np.arange(300) % 3
    probabilities = predictions_of(labels)
    probabilities[0] = [0.3, 0.4, 0.3]  # another class, but with less confidence than that class usually has
    rows, _ = find_label_errors(probabilities, labels)
    assert len(rows) == 0


def test_a_class_without_images_is_never_suggested():
    labels = np.array([0, 0, 1, 1])
    probabilities = predictions_of(np.array([0, 2, 1, 2]))
    rows, _ = find_label_errors(probabilities, labels)
    assert len(rows) == 0


def test_no_images_give_no_suspects():
    rows, suggested = find_label_errors(np.empty((0, 3), np.float32), np.empty(0, np.int64))
    assert (len(rows), len(suggested)) == (0, 0)
