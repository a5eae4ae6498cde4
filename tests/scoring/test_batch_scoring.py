"""Many images at once, as a user scores them."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_classifier.errors import DataError
from image_classifier.images.decoder import decode
from image_classifier.package.package import Model, Package
from image_classifier.settings import Settings
from image_classifier.steps import usage_tmp as usage
from tests.conftest import COLOURS, SIZE, write_colour_package
from tests.scoring.samples import colours, contents, encoded, rows, scored, write_table

SLOW_SIDE = 200
"""Pixels of an image that takes half a millisecond to decode."""
MANY = 1024
"""Images in four parts."""
SECONDS = 60


def command(data: Path, package: Path, tmp_path: Path, *more: str) -> list[str]:
    options = ("--to", str(tmp_path / "scores"), "--model", str(package), *more)
    return [sys.executable, "-m", "image_classifier.cli", "score", str(data), *options]


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    return {**os.environ, "IMAGE_CLASSIFIER_HOME": str(tmp_path / "home"), **variables}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images for several processes, with one that cannot be read."""
    folder = tmp_path_factory.mktemp("many")
    path = write_table(folder / "many.parquet", colours(MANY), labels=colours(MANY), side=SLOW_SIDE)
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    images[300] = b"no image"
    pq.write_table(table.set_column(0, "image", pa.array(images, pa.binary())), path, row_group_size=64)
    return path


@pytest.fixture(scope="module")
def uninterrupted(
    many: Path, package_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """What one process alone writes of them."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    scored(many, package_folder, folder, score_processes=1)
    return contents(folder / "scores")


def test_a_flat_folder_without_labels_is_scored_as_the_model_answers(tmp_path, package_folder):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("b.png", "red"), ("a.png", "blue"), ("c.png", "white")):
        (folder / name).write_bytes(encoded(colour))
    (folder / "notes.txt").write_text("no image")
    summary, lines = scored(folder, package_folder, tmp_path)
    assert lines == ["warning: 1 file ignored, being no images: notes.txt"]
    found = rows(tmp_path / "scores")
    assert [(row["source"], row["row"], row["label"], row["given_label"]) for row in found] == [
        ("a.png", 0, "blue", None),
        ("b.png", 1, "red", None),
        ("c.png", 2, "white", None),
    ]
    model = Model.load(Package.read(package_folder), threads=1)
    images = np.stack([decode((folder / row["source"]).read_bytes(), SIZE, 10**6) for row in found])
    expected = model.probabilities(images)
    np.testing.assert_array_equal(np.float32([row["probabilities"] for row in found]), expected)
    np.testing.assert_array_equal(np.float32([row["probability"] for row in found]), expected.max(axis=1))
    assert {row["error"] for row in found} == {None}
    assert {(row["model_version"], row["model_digest"]) for row in found} == {
        ("unregistered", model.package.digest)
    }
    assert summary.in_words == "scored 3 images"


def test_the_files_say_what_model_they_are_of_and_the_order_of_its_classes(tmp_path, package_folder):
    scored(write_table(tmp_path / "images.parquet", ["red"]), package_folder, tmp_path)
    metadata = pq.read_schema(tmp_path / "scores" / "part-000000.parquet").metadata
    about = json.loads(metadata[b"image_classifier"])
    assert about["classes"] == list(COLOURS)
    assert about["model"]["data_digest"] == "d" * 64


def test_labels_that_images_have_stand_beside_the_answers(tmp_path, package_folder):
    for folder, colour in (("red", "red"), ("green", "green"), ("blue", "white"), ("purple", "blue")):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        (tmp_path / "photos" / folder / "1.png").write_bytes(encoded(colour))
    (tmp_path / "photos" / "2.png").write_bytes(encoded("red"))
    summary, _ = scored(tmp_path / "photos", package_folder, tmp_path)
    assert {row["source"]: (row["given_label"], row["label"]) for row in rows(tmp_path / "scores")} == {
        "2.png": (None, "red"),
        "blue/1.png": ("blue", "white"),
        "green/1.png": ("green", "green"),
        "purple/1.png": ("purple", "blue"),
        "red/1.png": ("red", "red"),
    }
    assert summary.in_words == "scored 5 images; 50.00% of 4 given labels agree"


def test_folders_that_are_no_classes_of_the_model_are_no_labels(tmp_path, package_folder):
    for folder in ("2024", "2025"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        (tmp_path / "photos" / folder / "1.png").write_bytes(encoded("red"))
    summary, lines = scored(tmp_path / "photos", package_folder, tmp_path)
    assert lines == ["the labels of the source (2024, 2025) are no classes of the model and are left out"]
    assert [row["given_label"] for row in rows(tmp_path / "scores")] == [None, None]
    assert summary.given_labels == 0


@pytest.mark.parametrize("labels", [None, ["red", "green", "red", None]])
def test_a_parquet_file_may_have_labels_or_none(tmp_path, package_folder, labels):
    data = write_table(tmp_path / "images.parquet", ["red", "green", "blue", "white"], labels=labels)
    scored(data, package_folder, tmp_path)
    found = rows(tmp_path / "scores")
    assert [row["label"] for row in found] == ["red", "green", "blue", "white"]
    assert [row["given_label"] for row in found] == (labels or [None] * 4)
    assert [row["source"] for row in found] == [f"images.parquet row {row}" for row in range(4)]


def test_parts_of_a_data_set_are_all_scored_and_need_no_classes(tmp_path, package_folder):
    for name in ("train/1.png", "test/2.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes(encoded("blue"))
    scored(tmp_path / "photos", package_folder, tmp_path)
    assert [row["source"] for row in rows(tmp_path / "scores")] == ["test/2.png", "train/1.png"]


def test_a_flat_archive_is_scored(tmp_path, package_folder):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name in ("red", "white"):
            archive.writestr(f"{name}.png", encoded(name))
    scored(tmp_path / "images.zip", package_folder, tmp_path)
    assert [row["label"] for row in rows(tmp_path / "scores")] == ["red", "white"]


def test_the_likeliest_classes_alone_can_be_kept(tmp_path, package_folder):
    data = write_table(tmp_path / "images.parquet", ["red", "green"])
    scored(data, package_folder, tmp_path, score_top=2)
    found = rows(tmp_path / "scores")
    assert [row["top"][0]["label"] for row in found] == ["red", "green"]
    for row in found:
        assert "probabilities" not in row
        first, second = (answer["probability"] for answer in row["top"])
        assert row["probability"] == first > second


def test_an_image_that_cannot_be_read_has_an_error_in_its_row(tmp_path, package_folder):
    folder = tmp_path / "photos"
    folder.mkdir()
    contents = {"1.png": b"", "2.png": b"text", "3.png": encoded("red")[:60], "4.png": encoded("green")}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "5.png").symlink_to("nowhere")
    (folder / os.fsdecode(b"6\xff.png")).write_bytes(encoded("blue"))
    summary, _ = scored(folder, package_folder, tmp_path, max_pixels=24 * 24)
    found = {row["source"]: row for row in rows(tmp_path / "scores")}
    assert found["4.png"]["label"] == "green"
    assert found["6\ufffd.png"]["label"] == "blue"
    for name in ("1.png", "2.png", "3.png", "5.png"):
        assert found[name]["error"]
        answers = ("label", "probability", "probabilities")
        assert [found[name][column] for column in answers] == [None] * 3
    assert summary.in_words.startswith(
        "scored 6 images, but 4 cannot be read: 1.png (the image is empty: 0 bytes)"
    )


def test_what_a_damaged_parquet_file_cannot_give_has_errors_and_the_rest_is_scored(tmp_path, package_folder):
    data = write_table(tmp_path / "images.parquet", colours(30), group=10)
    column = pq.ParquetFile(data).metadata.row_group(1).column(0)
    content = bytearray(data.read_bytes())
    start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    data.write_bytes(content)
    summary, _ = scored(data, package_folder, tmp_path)
    assert [row["label"] is None for row in rows(tmp_path / "scores")] == [False] * 10 + [True] * 10 + [
        False
    ] * 10
    assert summary.unread == 10


def test_no_image_that_can_be_read_is_an_error(tmp_path, package_folder):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(b"text")
    with pytest.raises(DataError, match="none of the 1 image can be read: 1.png: this is no image"):
        scored(tmp_path / "photos", package_folder, tmp_path)


def test_several_processes_write_the_same_as_one(many, package_folder, uninterrupted, tmp_path):
    summary, _ = scored(many, package_folder, tmp_path, score_processes=2)
    assert contents(tmp_path / "scores") == uninterrupted
    assert len(uninterrupted) == 4 + 2
    assert summary.in_words == (
        "scored 1,024 images, but 1 cannot be read: many.parquet row 300 (this is no image of the accepted formats: "
        "JPEG, PNG, WEBP, BMP, GIF, TIFF); 100.00% of 1,023 given labels agree"
    )


def wait_for_a_part(folder: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + SECONDS
    while not list(folder.glob("part-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_killed_run_goes_on_where_it_was_with_the_same_outcome(
    many, package_folder, uninterrupted, tmp_path
):
    start = command(many, package_folder, tmp_path, "--score-processes", "2")
    killed = subprocess.Popen(start, env=environment(tmp_path), text=True, stderr=subprocess.PIPE)
    wait_for_a_part(tmp_path / "scores", killed)
    workers = psutil.Process(killed.pid).children(recursive=True)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=SECONDS)
    _, alive = psutil.wait_procs(workers, timeout=SECONDS)
    assert not alive
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "scores").glob("part-*")}
    assert 1 <= len(before) < 4
    (tmp_path / "scores" / ".part-000003.parquet.draft").write_bytes(b"of a process that was killed")
    again = subprocess.run(start, env=environment(tmp_path), text=True, capture_output=True, timeout=SECONDS)
    assert again.returncode == 0, again.stderr
    assert f"{256 * len(before)} images scored before, {MANY - 256 * len(before)} left" in again.stdout
    assert contents(tmp_path / "scores") == uninterrupted
    for name, modified in before.items():
        assert (tmp_path / "scores" / name).stat().st_mtime_ns == modified


def test_a_process_that_is_killed_is_replaced_and_nothing_is_lost(
    many, package_folder, uninterrupted, tmp_path
):
    start = command(many, package_folder, tmp_path, "--score-processes", "2")
    running = subprocess.Popen(
        start, env=environment(tmp_path), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for_a_part(tmp_path / "scores", running)
    workers = [
        child
        for child in psutil.Process(running.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    workers[0].kill()
    output, errors = running.communicate(timeout=SECONDS)
    assert running.returncode == 0, errors
    assert "scored 1,024 images" in output
    assert contents(tmp_path / "scores") == uninterrupted


def test_a_run_that_is_done_scores_nothing_again(tmp_path, package_folder):
    data = write_table(tmp_path / "images.parquet", ["red"] * 3)
    first, _ = scored(data, package_folder, tmp_path)
    part = tmp_path / "scores" / "part-000000.parquet"
    modified = part.stat().st_mtime_ns
    again, lines = scored(data, package_folder, tmp_path)
    assert again == first
    assert lines == ["3 images scored before, 0 left"]
    assert part.stat().st_mtime_ns == modified


def test_scores_of_another_model_are_not_mixed_in(tmp_path, package_folder):
    data = write_table(tmp_path / "images.parquet", ["red"])
    scored(data, package_folder, tmp_path)
    write_colour_package(tmp_path / "other", source_revision="other")
    with pytest.raises(
        DataError, match="the model's digest was .* and is .*; go on with what it was begun with"
    ):
        scored(data, tmp_path / "other", tmp_path)


def test_scores_of_other_images_or_settings_are_not_mixed_in(tmp_path, package_folder):
    data = write_table(tmp_path / "images.parquet", ["red"])
    scored(data, package_folder, tmp_path)
    with pytest.raises(DataError, match="score_top was 0 and is 2"):
        scored(data, package_folder, tmp_path, score_top=2)
    other = write_table(tmp_path / "other.parquet", ["blue"] * 2)
    with pytest.raises(DataError, match="source was .*images.parquet and is .*other.parquet"):
        scored(other, package_folder, tmp_path)
    write_table(data, ["blue"] * 2)
    with pytest.raises(DataError, match="the files of .*images.parquet have changed since"):
        scored(data, package_folder, tmp_path)


def test_a_folder_that_moved_with_its_scores_is_the_same(tmp_path, package_folder):
    data = write_table(tmp_path / "old" / "images.parquet", ["red"])
    first, _ = scored(tmp_path / "old", package_folder, tmp_path)
    data.parent.rename(tmp_path / "new")
    assert scored(tmp_path / "new", package_folder, tmp_path)[0] == first


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("", "it is not said where the scores go; give --to"),
        ("https://example.org/scores", "scores cannot be written to https://example.org/scores"),
        ("{folder}/images.parquet", "images.parquet cannot be used .*; set --to to a folder"),
        ("{folder}/images.parquet/scores", "cannot be used .*; set --to to a folder that can be written"),
        ("{folder}/mine", "mine has other files in it, such as diary.txt; set --to to a folder of its own"),
        ("{folder}/photos/scores", "scores lies in .*photos, which is to be scored; set --to"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_before_anything_is_scored(
    tmp_path, package_folder, to, expected
):
    data = write_table(tmp_path / "images.parquet", ["red"])
    for name in ("mine/diary.txt", "photos/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encoded("red"))
    data = tmp_path / "photos" if "photos" in to else data
    with pytest.raises(DataError, match=expected):
        scored(data, package_folder, tmp_path, to=to.format(folder=tmp_path))


def test_a_source_that_is_not_there_leaves_no_folder(tmp_path, package_folder):
    with pytest.raises(DataError, match="there is no data set, file or folder"):
        scored(tmp_path / "nowhere", package_folder, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images: it is empty; needed is JPEG"):
        scored(tmp_path / "empty", package_folder, tmp_path)
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_no_room_for_the_scores_is_said_and_the_run_can_go_on(tmp_path, package_folder, processes):
    data = write_table(tmp_path / "images.parquet", colours(600))
    done = subprocess.run(
        command(data, package_folder, tmp_path, "--score-processes", processes),
        env=environment(tmp_path),
        text=True,
        capture_output=True,
        timeout=SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)),
    )
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"there is no room for the scores in {tmp_path / 'scores'} (File too large)" in error
    assert scored(data, package_folder, tmp_path)[0].images == 600


def test_a_step_leaves_what_came_of_it(tmp_path, package_folder):
    (tmp_path / "results").mkdir()
    data = write_table(tmp_path / "images.parquet", ["red"])
    lines: list[str] = []
    settings = Settings(
        data=str(data),
        to=str(tmp_path / "scores"),
        home=tmp_path / "home",
        model=str(package_folder),
        results=str(tmp_path / "results"),
    )
    usage.score(settings, lines.append)
    assert lines == [f"scored 1 image; the scores are in {tmp_path / 'scores'}"]
    assert {path.name: path.read_text() for path in (tmp_path / "results").iterdir()} == {
        "verdict": "scored",
        "reason": "scored 1 image",
        "images": "1",
        "unread": "0",
    }
