"""Data sets: one module a format, prepared into memory-mapped arrays by `prepare`."""

from image_classifier.datasets.dataset import Dataset
from image_classifier.settings import Settings


def prepare(settings: Settings) -> Dataset:
    """The data set that `settings.data` names, decoded, checked, and split into train and test.

    The first time, it is fetched where it is remote, decoded on all cores, and kept under the home folder;
    from then on it is found there in milliseconds, for as long as its files stay as they are.
    Raises DataError, which says what is wrong with the data or the place it is to be kept in.
    """
    # Imported here, so that worker processes and the users of the types start without it.
    from image_classifier.datasets.preparation import prepare_known

    return prepare_known(settings)
