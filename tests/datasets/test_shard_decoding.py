import pytest

from image_classifier.datasets import shard_decoding
from tests.datasets.samples import encoded, files, prepared, write

ODD = encoded(77)


@pytest.mark.parametrize("function", ["decode_with_metadata", "read_dimensions"])
@pytest.mark.parametrize("error", [ValueError("not in\ntuple"), RecursionError(), MemoryError(), AssertionError("x")])
def test_an_exception_that_the_decoder_should_not_raise_skips_one_image(tmp_path, monkeypatch, function, error):
    original = getattr(shard_decoding, function)

    def fail_on_one(data, *arguments, **options):
        if data == ODD:
            raise error
        return original(data, *arguments, **options)

    monkeypatch.setattr(shard_decoding, function, fail_on_one)
    dataset = prepared(write(tmp_path / "pets", files() | {"cat/odd.png": ODD}), tmp_path)
    if function == "decode_with_metadata":
        reason = f"unexpected {type(error).__name__}: "
        assert dataset.warnings[0].startswith(f"skipped 1 image that cannot be read: cat/odd.png ({reason}")
        assert "\n" not in dataset.warnings[0]
    assert len(dataset.train.labels) + len(dataset.test.labels) >= 20


def test_an_image_of_a_format_without_a_name_in_the_data_set_is_skipped(tmp_path, monkeypatch):
    original = shard_decoding.decode_with_metadata

    def decode(data, *arguments, **options):
        pixels, dimensions, format = original(data, *arguments, **options)
        return pixels, dimensions, "XYZ" if data == ODD else format

    monkeypatch.setattr(shard_decoding, "decode_with_metadata", decode)
    dataset = prepared(write(tmp_path / "pets", files() | {"cat/odd.png": ODD}), tmp_path)
    assert dataset.warnings == ("skipped 1 image that cannot be read: cat/odd.png (the format XYZ is not accepted)",)
