import pytest
import torch

from image_classifier.training.checkpoint import load_checkpoint, save_checkpoint


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    tensors = {"a": torch.randn(3, 4).to(memory_format=torch.contiguous_format), "b": torch.tensor(7)}
    save_checkpoint(tmp_path / "new", tensors, {"step": 3, "elapsed": 1.5})
    found, progress = load_checkpoint(tmp_path / "new")
    assert progress == {"step": 3, "elapsed": 1.5}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("damage", [lambda c: c[:40], lambda c: b"", lambda c: c[:-8], lambda c: b"x" + c])
def test_a_damaged_or_absent_checkpoint_counts_as_none(tmp_path, damage):
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, {"a": torch.zeros(100)}, {"step": 3})
    file = tmp_path / "state.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    assert load_checkpoint(tmp_path) is None
