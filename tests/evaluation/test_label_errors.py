import numpy as np

from image_classifier.evaluation.label_errors import suspects_of


def answers(labels, classes=3, confidence=0.9):
    """Probabilities of a model that is right about these labels."""
    probabilities = np.full((len(labels), classes), (1 - confidence) / (classes - 1), np.float32)
    probabilities[np.arange(len(labels)), labels] = confidence
    return probabilities


def test_flipped_labels_are_found_the_surest_first():
    true = np.arange(300) % 3
    probabilities = answers(true)
    probabilities[5] = [0.01, 0.01, 0.98]
    labels = true.copy()
    labels[[4, 5, 100]] = [0, 1, 2]
    rows, suggested = suspects_of(probabilities, labels)
    assert rows.tolist() == [5, 4, 100]
    assert suggested.tolist() == true[[5, 4, 100]].tolist()


def test_labels_that_fit_and_unsure_answers_are_not_suspect():
    labels = np.arange(300) % 3
    probabilities = answers(labels)
    probabilities[0] = [
        0.3,
        0.4,
        0.3,
    ]  # it says another class, but less surely than it says that class elsewhere
    rows, _ = suspects_of(probabilities, labels)
    assert len(rows) == 0


def test_a_class_without_an_image_is_suggested_of_none():
    labels = np.array([0, 0, 1, 1])
    probabilities = answers(np.array([0, 2, 1, 2]))
    rows, _ = suspects_of(probabilities, labels)
    assert len(rows) == 0


def test_no_image_has_no_suspect():
    rows, suggested = suspects_of(np.empty((0, 3), np.float32), np.empty(0, np.int64))
    assert (len(rows), len(suggested)) == (0, 0)
