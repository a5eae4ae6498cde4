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
from image_classifier.package.model import Model
from image_classifier.package.package import Package
from image_classifier.scoring.score_files import ScoreFiles
from image_classifier.settings import Settings
from image_classifier.steps.score import score
from tests.conftest import COLORS, SIZE, write_color_package
from tests.scoring.samples import contents, cycled_colors, encoded, rows, score_into, write_table

SLOW_SIDE = 200
"""Pixels; such an image takes half a millisecond to decode."""
MANY = 1024
"""Images in four partitions."""
TIMEOUT_SECONDS = 60


def command(data: Path, package: Path, tmp_path: Path, processes: int) -> list[str]:
    options = ("--to", str(tmp_path / "scores"), "--model", str(package), "--score-processes", str(processes))
    return [sys.executable, "-m", "image_classifier.cli", "score", str(data), *options]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "IMAGE_CLASSIFIER_HOME": str(tmp_path / "home")}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images for several processes, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("many")
    path = write_table(folder / "many.parquet", cycled_colors(MANY), labels=cycled_colors(MANY), side=SLOW_SIDE)
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    images[300] = b"no image"
    pq.write_table(table.set_column(0, "image", pa.array(images, pa.binary())), path, row_group_size=64)
    return path


@pytest.fixture(scope="module")
def uninterrupted(many: Path, package_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that a single process writes for them."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    score_into(folder, many, package_folder, score_processes=1)
    return contents(folder / "scores")


def test_a_flat_folder_without_labels_gets_the_models_predictions(tmp_path, package_folder):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, color in (("b.png", "red"), ("a.png", "blue"), ("c.png", "white")):
        (folder / name).write_bytes(encoded(color))
    (folder / "notes.txt").write_text("no image")
    summary, lines = score_into(tmp_path, folder, package_folder)
    [warning] = lines
    assert warning.startswith("warning: ")
    assert "notes.txt" in warning
    table = rows(tmp_path / "scores")
    assert [(row["source"], row["row"], row["label"], row["given_label"]) for row in table] == [
        ("a.png", 0, "blue", None),
        ("b.png", 1, "red", None),
        ("c.png", 2, "white", None),
    ]
    model = Model.load(Package.read(package_folder), threads=1)
    images = np.stack([decode((folder / row["source"]).read_bytes(), SIZE, 10**6) for row in table])
    expected = model.probabilities(images)
    np.testing.assert_array_equal(np.float32([row["probabilities"] for row in table]), expected)
    np.testing.assert_array_equal(np.float32([row["probability"] for row in table]), expected.max(axis=1))
    assert {row["error"] for row in table} == {None}
    assert {(row["model_version"], row["model_digest"]) for row in table} == {("unregistered", model.package.digest)}
    assert summary.sentence == "scored 3 images"


def test_columns_metadata_and_json_files_do_not_change(tmp_path, package_folder):
    score_into(tmp_path, write_table(tmp_path / "images.parquet", ["red"]), package_folder)
    schema = pq.read_schema(tmp_path / "scores" / "part-000000.parquet")
    assert schema.names == [
        *("source", "row", "given_label", "label", "probability", "probabilities", "error"),
        *("model_version", "model_digest"),
    ]
    about = json.loads(schema.metadata[b"image_classifier"])
    assert about["classes"] == list(COLORS)
    assert about["model"]["data_digest"] == "d" * 64
    assert list(json.loads((tmp_path / "scores" / "_run.json").read_text())) == [
        *("format", "model", "model_digest", "source", "source_signature", "max_pixels", "score_top")
    ]
    assert list(json.loads((tmp_path / "scores" / "_summary.json").read_text())) == [
        *("images", "unread", "examples", "labels", "given_labels", "agreeing")
    ]


def test_the_labels_of_the_source_are_in_a_column_and_give_an_accuracy(tmp_path, package_folder):
    for folder, color in (("red", "red"), ("green", "green"), ("blue", "white"), ("purple", "blue")):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        (tmp_path / "photos" / folder / "1.png").write_bytes(encoded(color))
    (tmp_path / "photos" / "2.png").write_bytes(encoded("red"))
    summary, _ = score_into(tmp_path, tmp_path / "photos", package_folder)
    assert {row["source"]: (row["given_label"], row["label"]) for row in rows(tmp_path / "scores")} == {
        "2.png": (None, "red"),
        "blue/1.png": ("blue", "white"),
        "green/1.png": ("green", "green"),
        "purple/1.png": ("purple", "blue"),
        "red/1.png": ("red", "red"),
    }
    assert summary.sentence == "scored 5 images; accuracy 50.00 % on 4 labeled images"


def test_folders_that_are_not_classes_of_the_model_are_not_labels(tmp_path, package_folder):
    for folder in ("2024", "2025"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        (tmp_path / "photos" / folder / "1.png").write_bytes(encoded("red"))
    summary, lines = score_into(tmp_path, tmp_path / "photos", package_folder)
    assert lines == ["ignored the labels of the source (2024, 2025): none is a class of the model"]
    assert [row["given_label"] for row in rows(tmp_path / "scores")] == [None, None]
    assert summary.given_labels == 0


@pytest.mark.parametrize("labels", [None, ["red", "green", "red", None]])
def test_a_parquet_file_may_have_labels_or_none(tmp_path, package_folder, labels):
    data = write_table(tmp_path / "images.parquet", ["red", "green", "blue", "white"], labels=labels)
    score_into(tmp_path, data, package_folder)
    table = rows(tmp_path / "scores")
    assert [row["label"] for row in table] == ["red", "green", "blue", "white"]
    assert [row["given_label"] for row in table] == (labels or [None] * 4)
    assert [row["source"] for row in table] == [f"images.parquet row {row}" for row in range(4)]


def test_training_and_test_part_are_both_scored(tmp_path, package_folder):
    for name in ("train/1.png", "test/2.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes(encoded("blue"))
    score_into(tmp_path, tmp_path / "photos", package_folder)
    assert [row["source"] for row in rows(tmp_path / "scores")] == ["test/2.png", "train/1.png"]


def test_a_flat_archive_is_scored(tmp_path, package_folder):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name in ("red", "white"):
            archive.writestr(f"{name}.png", encoded(name))
    score_into(tmp_path, tmp_path / "images.zip", package_folder)
    assert [row["label"] for row in rows(tmp_path / "scores")] == ["red", "white"]


def test_score_top_writes_the_most_probable_classes_only(tmp_path, package_folder):
    data = write_table(tmp_path / "images.parquet", ["red", "green"])
    score_into(tmp_path, data, package_folder, score_top=2)
    table = rows(tmp_path / "scores")
    assert [row["top"][0]["label"] for row in table] == ["red", "green"]
    for row in table:
        assert "probabilities" not in row
        first, second = (entry["probability"] for entry in row["top"])
        assert row["probability"] == first > second


def test_an_unreadable_image_has_an_error_in_its_row(tmp_path, package_folder):
    folder = tmp_path / "photos"
    folder.mkdir()
    files = {"1.png": b"", "2.png": b"text", "3.png": encoded("red")[:60], "4.png": encoded("green")}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "5.png").symlink_to("nowhere")
    (folder / os.fsdecode(b"6\xff.png")).write_bytes(encoded("blue"))
    summary, _ = score_into(tmp_path, folder, package_folder, max_pixels=24 * 24)
    table = {row["source"]: row for row in rows(tmp_path / "scores")}
    assert table["4.png"]["label"] == "green"
    assert table["6ÿ.png"]["label"] == "blue"
    for name in ("1.png", "2.png", "3.png", "5.png"):
        assert table[name]["error"]
        assert [table[name][column] for column in ("label", "probability", "probabilities")] == [None] * 3
    assert summary.sentence.startswith(f"scored 2 of 6 images; cannot read 1.png ({table['1.png']['error']}), 2.png (")


def test_a_damaged_row_group_of_a_parquet_file_has_errors_in_its_rows(tmp_path, package_folder):
    data = write_table(tmp_path / "images.parquet", cycled_colors(30), group=10)
    column = pq.ParquetFile(data).metadata.row_group(1).column(0)
    content = bytearray(data.read_bytes())
    start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
    content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    data.write_bytes(content)
    summary, _ = score_into(tmp_path, data, package_folder)
    unlabeled = [row["label"] is None for row in rows(tmp_path / "scores")]
    assert unlabeled == [False] * 10 + [True] * 10 + [False] * 10
    assert summary.unread == 10


def test_a_source_without_readable_images_is_an_error(tmp_path, package_folder):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"none of the images can be read \(1 in total\): 1.png: "):
        score_into(tmp_path, tmp_path / "photos", package_folder)


def wait_for_a_part(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not list(folder.glob("part-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_a_killed_run_leaves_no_workers_and_resumes_with_the_same_result(many, package_folder, uninterrupted, tmp_path):
    killed = subprocess.Popen(
        command(many, package_folder, tmp_path, 2), env=environment(tmp_path), text=True, stderr=subprocess.PIPE
    )
    wait_for_a_part(tmp_path / "scores", killed)
    workers = psutil.Process(killed.pid).children(recursive=True)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=TIMEOUT_SECONDS)
    _, alive = psutil.wait_procs(workers, timeout=TIMEOUT_SECONDS)
    assert not alive
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "scores").glob("part-*")}
    assert 1 <= len(before) < 4
    (tmp_path / "scores" / ".part-000003.parquet.draft").write_bytes(b"of a process that was killed")
    _, lines = score_into(tmp_path, many, package_folder, score_processes=1)
    scored = 256 * len(before)
    assert lines == [f"resuming: {scored} images already scored, {MANY - scored} remaining"]
    assert contents(tmp_path / "scores") == uninterrupted
    for name, modified in before.items():
        assert (tmp_path / "scores" / name).stat().st_mtime_ns == modified


@pytest.mark.slow
def test_several_processes_write_the_same_as_one_even_if_a_worker_is_killed(
    many, package_folder, uninterrupted, tmp_path
):
    running = subprocess.Popen(
        command(many, package_folder, tmp_path, 2),
        env=environment(tmp_path),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for_a_part(tmp_path / "scores", running)
    workers = [
        child
        for child in psutil.Process(running.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    workers[0].kill()
    output, errors = running.communicate(timeout=TIMEOUT_SECONDS)
    assert running.returncode == 0, errors
    assert "scored 1,023 of 1,024 images; cannot read many.parquet row 300 (" in output
    assert "; accuracy 100.00 % on 1,023 labeled images" in output
    assert contents(tmp_path / "scores") == uninterrupted
    assert len(uninterrupted) == 4 + 2


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_is_an_error_in_one_line_and_the_run_can_be_resumed(tmp_path, package_folder, processes):
    data = write_table(tmp_path / "images.parquet", cycled_colors(600))
    failed = subprocess.run(
        command(data, package_folder, tmp_path, processes),
        env=environment(tmp_path),
        text=True,
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)),
    )
    assert failed.returncode == 1
    (error,) = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert f"{tmp_path / 'scores'} (File too large)" in error
    assert score_into(tmp_path, data, package_folder)[0].images == 600


def test_a_finished_run_scores_nothing_again(tmp_path, package_folder):
    data = write_table(tmp_path / "images.parquet", ["red"] * 3)
    first, _ = score_into(tmp_path, data, package_folder)
    part = tmp_path / "scores" / "part-000000.parquet"
    modified = part.stat().st_mtime_ns
    second, lines = score_into(tmp_path, data, package_folder)
    assert second == first
    assert lines == ["resuming: 3 images already scored, 0 remaining"]
    assert part.stat().st_mtime_ns == modified


def test_scores_of_another_model_are_rejected(tmp_path, package_folder):
    data = write_table(tmp_path / "images.parquet", ["red"])
    score_into(tmp_path, data, package_folder)
    write_color_package(tmp_path / "other", source_revision="other")
    message = "the model's digest was .* and is now .*; resume with the same model, source and settings"
    with pytest.raises(DataError, match=message):
        score_into(tmp_path, data, tmp_path / "other")


def test_scores_of_another_source_or_with_other_settings_are_rejected(tmp_path, package_folder):
    data = write_table(tmp_path / "images.parquet", ["red"])
    score_into(tmp_path, data, package_folder)
    with pytest.raises(DataError, match="score_top was 0 and is now 2"):
        score_into(tmp_path, data, package_folder, score_top=2)
    other = write_table(tmp_path / "other.parquet", ["blue"] * 2)
    with pytest.raises(DataError, match="source was .*images.parquet and is now .*other.parquet"):
        score_into(tmp_path, other, package_folder)
    write_table(data, ["blue"] * 2)
    with pytest.raises(DataError, match="the files of .*images.parquet have changed since then"):
        score_into(tmp_path, data, package_folder)


def test_a_moved_source_is_the_same(tmp_path, package_folder):
    data = write_table(tmp_path / "old" / "images.parquet", ["red"])
    first, _ = score_into(tmp_path, tmp_path / "old", package_folder)
    data.parent.rename(tmp_path / "new")
    assert score_into(tmp_path, tmp_path / "new", package_folder)[0] == first


def test_a_missing_destination_is_an_error():
    with pytest.raises(DataError, match="missing --to: a folder, or an s3:// or gs:// address"):
        ScoreFiles.at("")


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("https://example.org/scores", "cannot write scores to https://example.org/scores; set --to"),
        ("{folder}/images.parquet", "images.parquet .*; set --to to a writable folder"),
        ("{folder}/images.parquet/scores", "images.parquet.*; set --to to a writable folder"),
        ("{folder}/mine", "mine contains other files, such as diary.txt; set --to to an empty folder"),
        ("{folder}/photos/scores", "scores is inside .*photos, the data to score; set --to"),
    ],
)
def test_an_unusable_destination_is_an_error_before_anything_is_scored(tmp_path, package_folder, to, expected):
    data = write_table(tmp_path / "images.parquet", ["red"])
    for name in ("mine/diary.txt", "photos/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encoded("red"))
    data = tmp_path / "photos" if "photos" in to else data
    with pytest.raises(DataError, match=expected):
        score_into(tmp_path, data, package_folder, to=to.format(folder=tmp_path))


def test_a_missing_or_empty_source_leaves_no_folder(tmp_path, package_folder):
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty"):
        with pytest.raises(DataError, match=name):
            score_into(tmp_path, tmp_path / name, package_folder)
    assert not (tmp_path / "scores").exists()


def test_the_step_writes_its_results(tmp_path, package_folder):
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
    score(settings, None, lines.append)
    assert lines == [f"scored 1 image; the scores are in {tmp_path / 'scores'}"]
    assert {path.name: path.read_text() for path in (tmp_path / "results").iterdir()} == {
        "verdict": "scored",
        "reason": "scored 1 image",
        "images": "1",
        "unread": "0",
    }
