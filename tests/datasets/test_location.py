import pytest

from image_classifier.errors import DataError
from tests.datasets.samples import files, prepared, write


def test_a_file_url_is_a_local_path(tmp_path):
    folder = write(tmp_path / "my pets", files())
    assert prepared(folder.as_uri(), tmp_path).digest == prepared(folder, tmp_path).digest


def test_the_error_for_an_unknown_name_lists_the_possible_values(tmp_path):
    with pytest.raises(DataError, match="there is no data set, file or folder 'cats'; use digits, cifar10"):
        prepared("cats", tmp_path)


def test_an_unknown_scheme_is_named_without_the_credentials_of_the_address(tmp_path):
    with pytest.raises(DataError, match="there is no data set, file or folder 'ftp://host/photos.zip'") as caught:
        prepared("ftp://me:secret@host/photos.zip?sig=secret", tmp_path)
    assert "secret" not in str(caught.value)
