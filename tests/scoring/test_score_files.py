"""Scores in an S3 bucket."""

import pytest
from s3fs import S3FileSystem

from image_classifier.errors import DataError
from image_classifier.scoring.score_files import ScoreFiles
from tests.scoring.bucket import BUCKET, serve_bucket
from tests.scoring.samples import contents, cycled_colors, score_into, write_table


@pytest.fixture(autouse=True)
def new_clients():
    """s3fs caches clients with the environment variables of their creation."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def objects(monkeypatch):
    stored: dict[str, bytes] = {}
    with serve_bucket(stored) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield stored


@pytest.mark.slow
def test_scores_in_a_bucket_equal_those_in_a_folder_and_a_run_resumes(tmp_path, package_folder, objects):
    data = write_table(tmp_path / "images.parquet", cycled_colors(600))
    score_into(tmp_path, data, package_folder)
    expected = contents(tmp_path / "scores")
    to = f"s3://{BUCKET}/scores"
    score_into(tmp_path, data, package_folder, to=to, score_processes=2)
    assert {name.removeprefix(f"{BUCKET}/scores/"): content for name, content in objects.items()} == expected
    del objects[f"{BUCKET}/scores/part-000001.parquet"]
    _, lines = score_into(tmp_path, data, package_folder, to=to, score_processes=1)
    assert lines == ["resuming: 344 images already scored, 256 remaining"]
    assert objects[f"{BUCKET}/scores/part-000001.parquet"] == expected["part-000001.parquet"]
    with pytest.raises(DataError, match="contains the scores of another run: score_top was 0 and is now 1"):
        score_into(tmp_path, data, package_folder, to=to, score_top=1)


def test_a_missing_bucket_is_an_error(tmp_path, package_folder, objects):
    data = write_table(tmp_path / "images.parquet", ["red"])
    with pytest.raises(DataError, match="cannot access the scores in s3://nowhere/scores: .*NoSuchBucket"):
        score_into(tmp_path, data, package_folder, to="s3://nowhere/scores")


def test_an_unreachable_server_is_an_error(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DataError, match="cannot access the scores in s3://bucket/scores: .*connect"):
        ScoreFiles.at("s3://bucket/scores").check({})
