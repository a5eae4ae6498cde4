import numpy as np
import pytest

from tests.datasets.samples import encoded, files, prepared, write


def test_digest_and_order_depend_on_content_and_not_on_location_or_names(tmp_path, pets):
    moved = write(
        tmp_path / "elsewhere", {name.replace("/0", "/z9"): content for name, content in reversed(files().items())}
    )
    first, second = prepared(pets, tmp_path), prepared(moved, tmp_path / "other")
    assert first.digest == second.digest
    assert np.array_equal(first.train.images, second.train.images)
    assert np.array_equal(first.test.labels, second.test.labels)


@pytest.mark.parametrize(
    "change",
    [
        lambda contents: contents | {"cat/000.png": encoded(99)},
        lambda contents: contents | {"cat/new.png": encoded(99)},
        lambda contents: {name.replace("cat", "cow"): content for name, content in contents.items()},
        lambda contents: {name: contents[name] for name in list(contents)[1:]},
    ],
    ids=["changed image", "new image", "renamed class", "removed image"],
)
def test_the_digest_changes_with_the_content(tmp_path, pets, change):
    changed = write(tmp_path / "changed", change(files()))
    assert prepared(pets, tmp_path).digest != prepared(changed, tmp_path).digest


def test_a_folder_that_grows_and_shrinks_again_has_its_old_digest(tmp_path, pets):
    before = prepared(pets, tmp_path)
    new = {f"cat/new{number}.png": encoded(100 + number) for number in range(8)}
    write(pets, new)
    grown = prepared(pets, tmp_path)
    assert grown.digest != before.digest
    assert len(grown.train.labels) + len(grown.test.labels) == 28
    for name in new:
        (pets / name).unlink()
    assert prepared(pets, tmp_path).digest == before.digest


def test_few_training_images_move_to_the_test_part_when_a_folder_grows(tmp_path):
    folder = write(tmp_path / "many", files(count=60))
    before = prepared(folder, tmp_path)
    new = files(count=60, seed=5000)
    write(folder, {name.replace("/", "/new"): content for name, content in new.items()})
    grown = prepared(folder, tmp_path)
    moved = set(before.train.names) & set(grown.test.names)
    assert len(moved) <= 0.1 * len(before.train.names)
