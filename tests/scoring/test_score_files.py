"""Scores in a bucket."""

import pytest
from s3fs import S3FileSystem

from image_classifier.errors import DataError
from image_classifier.scoring.score_files import ScoreFiles
from tests.scoring.bucket import BUCKET, serving
from tests.scoring.samples import colours, contents, scored, write_table


@pytest.fixture(autouse=True)
def new_clients():
    """A client is kept with the variables that it was made by."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def objects(monkeypatch):
    found: dict[str, bytes] = {}
    with serving(found) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        yield found


@pytest.mark.parametrize("processes", [1, 2])
def test_scores_in_a_bucket_are_those_in_a_folder_and_a_run_goes_on(
    tmp_path, package_folder, objects, processes
):
    data = write_table(tmp_path / "images.parquet", colours(600))
    scored(data, package_folder, tmp_path)
    expected = contents(tmp_path / "scores")
    to = f"s3://{BUCKET}/scores"
    scored(data, package_folder, tmp_path, to=to, score_processes=processes)
    assert {name.removeprefix(f"{BUCKET}/scores/"): content for name, content in objects.items()} == expected
    del objects[f"{BUCKET}/scores/part-000001.parquet"]
    _, lines = scored(data, package_folder, tmp_path, to=to)
    assert lines == ["344 images scored before, 256 left"]
    assert objects[f"{BUCKET}/scores/part-000001.parquet"] == expected["part-000001.parquet"]
    with pytest.raises(DataError, match="holds scores of another run: score_top was 0 and is 1"):
        scored(data, package_folder, tmp_path, to=to, score_top=1)


def test_a_bucket_that_is_not_there_is_named(tmp_path, package_folder, objects):
    data = write_table(tmp_path / "images.parquet", ["red"])
    with pytest.raises(DataError, match="the scores cannot be kept in s3://nowhere/scores: .*NoSuchBucket"):
        scored(data, package_folder, tmp_path, to="s3://nowhere/scores")


def test_a_server_that_does_not_answer_is_told_of(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DataError, match="the scores cannot be kept in s3://bucket/scores: .*connect"):
        ScoreFiles.at("s3://bucket/scores").check({})
