import pytest
import torch
from safetensors import safe_open

from image_classifier.settings import Recipe
from image_classifier.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from image_classifier.training.learning_curve import ReportPoint
from image_classifier.training.network import Network
from image_classifier.training.optimizer import Optimizer
from image_classifier.training.sizing import Sizing


def state(seed: int) -> TrainingState:
    torch.manual_seed(seed)
    network = Network(channels=1, classes=2, image_size=8, width=0.5)
    network.to(memory_format=torch.channels_last)
    optimizer = Optimizer(network, Recipe(), bfloat16=False)
    for momentum in optimizer.state.values():
        torch.nn.init.normal_(momentum)
    return TrainingState(network, optimizer, Sizing(bfloat16=False, width=0.5))


@pytest.fixture
def saved(tmp_path):
    """A state whose checkpoint is in `tmp_path`, with the key "key"."""
    saved = state(0)
    saved.step, saved.elapsed, saved.best_loss = 3, 1.5, 0.25
    saved.best_weights = {name: tensor + 1 for name, tensor in saved.network.state_dict().items()}
    saved.flip = True
    saved.history = [ReportPoint(1, 1.5, 0.9, 0.8, 0.7, 0.6)]
    save_checkpoint(tmp_path, "key", saved)
    return saved


def test_a_restored_state_equals_the_saved_one(saved, tmp_path):
    restored = state(1)
    restored.restore(load_checkpoint(tmp_path, "key"))
    for tensors, expected in (
        (restored.network.state_dict(), saved.network.state_dict()),
        (restored.optimizer.state, saved.optimizer.state),
        (restored.best_weights, saved.best_weights),
    ):
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    assert (restored.step, restored.elapsed, restored.best_loss) == (3, 1.5, 0.25)
    assert restored.history == saved.history
    assert restored.flip is True


def test_the_names_in_the_file_are_those_of_earlier_versions(saved, tmp_path):
    with safe_open(tmp_path / "state.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert {"network.stem.weight", "network.norms.1.bias", "best.head.weight", "optimizer.momentum.0"} < names
    _, values = load_checkpoint(tmp_path, "key")
    assert list(values) == ["key", "bfloat16", "width", "step", "elapsed", "best_loss", "history", "flip"]


def test_a_checkpoint_with_another_key_is_ignored(saved, tmp_path):
    assert load_checkpoint(tmp_path, "other") is None


@pytest.mark.parametrize("damage", [lambda c: c[:40], lambda c: b"", lambda c: c[:-8], lambda c: b"x" + c])
def test_a_damaged_or_missing_checkpoint_is_ignored(saved, tmp_path, damage):
    assert load_checkpoint(tmp_path / "missing", "key") is None
    file = tmp_path / "state.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    assert load_checkpoint(tmp_path, "key") is None
