import numpy as np
import pytest
import torch

from image_classifier.backbones import SHIPPED, build_feature_graph
from image_classifier.settings import Recipe
from image_classifier.training.distributed import SINGLE_PROCESS
from image_classifier.training.transfer.features import FeatureExtractor, FeatureFile
from image_classifier.training.transfer.fine_tuning import Depth, FineTuner, Samples, choose_depth
from image_classifier.training.transfer.head import Head, Scale, fit_head
from tests.training.samples import stripes

DATA = stripes(64, images=96)
LABELS = DATA.train.labels
NETWORK = SHIPPED["efficientnet-lite0"].network()
GRAPH = build_feature_graph(NETWORK, 64)
CPU = torch.device("cpu")
DEPTH = Depth(2, bfloat16=False)
pytestmark = pytest.mark.slow


def features_of(rows: np.ndarray, *, mirrored: bool = False) -> FeatureFile:
    file = FeatureFile(None, "", "", rows, FeatureExtractor(GRAPH, 1, DEPTH.activations(GRAPH)))
    file.extract(DATA, mirrored=mirrored, is_over=lambda: False, on_progress=lambda _: None)
    return file


FILE = features_of(np.arange(96))
ROWS = slice(0, 8)
"""Few images, so that the fitted classifier is not perfect on the others."""


@pytest.fixture(scope="module")
def fitted() -> tuple[Head, Scale]:
    few = FILE.values[ROWS]
    head = fit_head(few, LABELS[ROWS], 4, validation=(few, LABELS[ROWS]), is_over=lambda: False)
    return head, Scale.of(few)


def tuner(fitted: tuple[Head, Scale], depth: Depth = DEPTH, *, recipe: str = "") -> FineTuner:
    samples = Samples([FILE, features_of(np.arange(10), mirrored=True)], LABELS)
    values = Recipe.parse(recipe)
    return FineTuner(NETWORK, depth, *fitted, samples, group=SINGLE_PROCESS, device=CPU, recipe=values, seed=0)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_fine_tuning_begins_with_the_predictions_of_the_fitted_classifier(fitted, stages):
    depth = Depth(stages, bfloat16=False)
    file = FeatureFile(None, "", "", np.arange(8), FeatureExtractor(GRAPH, 1, depth.activations(GRAPH)))
    file.extract(DATA, mirrored=False, is_over=lambda: False, on_progress=lambda _: None)
    samples = Samples([file], LABELS)
    untrained = FineTuner(NETWORK, depth, *fitted, samples, group=SINGLE_PROCESS, device=CPU, recipe=Recipe(), seed=0)
    # Activations are kept in float16.
    np.testing.assert_allclose(untrained.logits(file), fitted[0].logits(file.values), atol=0.05)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_fine_tuning_makes_a_weak_classifier_better(fitted, bfloat16):
    def loss(logits: np.ndarray) -> float:
        return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(LABELS)))

    tuned = tuner(fitted, Depth(2, bfloat16=bfloat16))
    before = loss(tuned.logits(FILE))
    for step in range(25):
        tuned.train_step(step / 25)
    assert loss(tuned.logits(FILE)) < 0.8 * before


def test_the_result_is_a_network_and_a_classifier_of_its_features(fitted):
    tuned = tuner(fitted)
    for step in range(3):
        tuned.train_step(step / 3)
    network, head = tuned.result()
    features = FeatureExtractor(build_feature_graph(network, 64), 1)(DATA.train.images[:16]).features
    np.testing.assert_allclose(head.logits(features), tuned.logits(FILE)[:16], atol=0.05)
    assert not np.allclose(features, FILE.values[:16], atol=0.01)


def test_a_restored_fine_tuning_continues_as_if_it_had_not_been_interrupted(fitted):
    whole, first, second = (tuner(fitted) for _ in range(3))
    for step in range(4):
        whole.train_step(step / 6)
        first.train_step(step / 6)
    state = {name: tensor.clone() for name, tensor in first.state.items()}
    second.restore((state, {"step": first.step}))
    for step in (4, 5):
        assert whole.train_step(step / 6) == pytest.approx(second.train_step(step / 6), rel=1e-5)
    np.testing.assert_allclose(whole.logits(FILE), second.logits(FILE), atol=1e-4)


def test_every_image_and_mirror_image_is_seen_in_an_epoch(fitted):
    samples = Samples([FILE, features_of(np.array([5, 3]), mirrored=True)], LABELS)
    assert len(samples) == 98
    activations, features, labels = samples.batch(np.array([2, 96, 97]))
    np.testing.assert_array_equal(labels, LABELS[[2, 5, 3]])
    np.testing.assert_array_equal(features[0], FILE.values[2])
    np.testing.assert_array_equal(activations[1], samples.files[1].activations[0])
    with pytest.raises(IndexError):
        samples.batch(np.array([98]))


def test_the_time_decides_how_much_of_the_network_is_fine_tuned():
    assert choose_depth(NETWORK, GRAPH, max_stages=3, images=100, seconds=1e-6, device=CPU) is None
    deepest = choose_depth(NETWORK, GRAPH, max_stages=3, images=100, seconds=1e6, device=CPU)
    assert deepest is not None
    assert deepest.stages == 3


@pytest.mark.parametrize("max_stages", [1, 2])
def test_a_recipe_limits_how_much_of_the_network_is_fine_tuned(max_stages):
    deepest = choose_depth(NETWORK, GRAPH, max_stages=max_stages, images=100, seconds=1e6, device=CPU)
    assert deepest is not None
    assert deepest.stages == max_stages


def test_the_rates_and_the_batch_size_of_a_recipe_are_trained_with(fitted):
    """Without a learning rate for the layers, only the classifier changes."""
    still = tuner(fitted, recipe="fine_tuning_rate=1e-6 fine_tuning_head_rate=0.1 batch_size=53")
    usual = tuner(fitted)
    assert (still.max_steps, usual.max_steps) == (12 * (106 // 53), 12 * (106 // 32))
    before = still.result()
    for step in range(3):
        still.train_step(step / 3)
        usual.train_step(step / 3)
    changes = [
        float((network.conv_head.weight - before[0].conv_head.weight).abs().max())
        for network, _ in (still.result(), usual.result())
    ]
    assert changes[0] < changes[1] / 100
    heads = [np.abs(head.weight - before[1].weight).max() for _, head in (still.result(), usual.result())]
    assert heads[0] > 5 * heads[1]


def test_the_label_smoothing_of_a_recipe_is_part_of_the_loss(fitted):
    smooth, sharp = (tuner(fitted, recipe=f"label_smoothing={value}") for value in (0.5, 0))
    assert smooth.train_step(0) > sharp.train_step(0) + 0.1
