from dataclasses import replace

import pytest

from image_classifier.errors import TrainingError
from image_classifier.training.distributed import Group
from image_classifier.training.plan import TrainingInputs, require_device
from tests.training.samples import plan, stripes


def test_the_validation_split_is_disjoint_from_the_training_images():
    inputs = TrainingInputs.check(stripes(8), plan(validation_fraction=0.2))
    assert len(inputs.validation) == round(0.2 * 240)
    assert sorted([*inputs.train, *inputs.validation]) == list(range(240))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("only",)}, "stripes has only one class"),
        ({"train": stripes(8, images=1).train}, "no class with two training images"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused(changes, message):
    with pytest.raises(TrainingError, match=message):
        TrainingInputs.check(replace(stripes(8), **changes), plan())


def test_more_processes_than_images_in_a_batch_are_refused():
    group = Group(rank=0, size=500, local_size=1)
    with pytest.raises(TrainingError, match="500 processes cannot share a batch of 32 images"):
        TrainingInputs.check(stripes(8), plan(group=group))


@pytest.mark.parametrize(
    ("images", "recipe", "processes", "batch_size"),
    [(20, "", 1, 16), (240, "", 1, 32), (1_000, "", 1, 64), (20_000, "", 1, 256), (240, "batch_size=50", 3, 48)],
)
def test_the_batch_size_follows_the_number_of_images_and_processes(images, recipe, processes, batch_size):
    group = Group(rank=0, size=processes, local_size=1)
    inputs = TrainingInputs.check(stripes(2, images=images), plan(recipe=recipe, group=group))
    assert inputs.batch_size == batch_size


def test_only_large_images_are_halved_in_the_first_half_of_the_budget():
    sizes = {size: replace(stripes(2), image_size=size) for size in (64, 159, 160, 224)}
    seconds = {size: TrainingInputs.check(data, plan(budget=60.0)).half_size_seconds for size, data in sizes.items()}
    assert seconds == {64: 0.0, 159: 0.0, 160: 30.0, 224: 30.0}


def test_the_key_depends_on_data_and_parameters_but_not_on_threads(monkeypatch):
    data, of_plan = stripes(2), plan()
    key = TrainingInputs.check(data, of_plan).key
    assert TrainingInputs.check(data, replace(of_plan, threads=1)).key == key
    others = [
        (replace(data, digest="1" * 64), of_plan),
        (replace(data, mirror=True), of_plan),
        (data, replace(of_plan, seed=1)),
        (data, plan(budget=2.0)),
        (data, plan(validation_fraction=0.3)),
        (data, plan(recipe="shift=0.1")),
        (data, replace(of_plan, mirror="yes")),
        (data, plan(group=Group(rank=0, size=2, local_size=2))),
    ]
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    others.append((data, replace(of_plan, device="cuda")))
    assert len({key, *(TrainingInputs.check(*other).key for other in others)}) == 1 + len(others)


def test_a_missing_gpu_is_reported(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert require_device("cpu").type == "cpu"
    with pytest.raises(TrainingError, match="PyTorch finds no GPU on this machine; use --device cpu"):
        require_device("cuda")
