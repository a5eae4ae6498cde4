"""The errors that a user can do something about; each message says what, with what, and what to do."""


class ImageClassifierError(Exception):
    """A step cannot go on. Its text is the one line that the user sees; the exit status is 1."""


class SettingError(ImageClassifierError):
    """A setting has a value that cannot be used, or a name that no setting has."""


class DataError(ImageClassifierError):
    """A data set cannot be found, fetched, read or used."""


class ImageError(ImageClassifierError):
    """Encoded bytes are not an image that is accepted. The server answers 400."""


class ImageTooLargeError(ImageError):
    """An image has more bytes or pixels than the limit. The server answers 413."""


class TrainingError(ImageClassifierError):
    """Training cannot start or came to no usable model."""


class TuningError(ImageClassifierError):
    """A search for hyperparameters cannot start or go on, or its storage cannot be used."""


class PackageError(ImageClassifierError):
    """A model package is missing, incomplete, altered, or answers otherwise than it must."""


class RegistryError(ImageClassifierError):
    """The tracking server or registry cannot be reached, refused a write, or lacks what was asked for."""


class RegistryAwayError(RegistryError):
    """The tracking server was found and does not answer, or is not well: it may come back."""


class LostError(RegistryError):
    """The registry says itself that it has no longer what it had: a run, or the files of a version."""


class SourceError(ImageClassifierError):
    """The source cannot be fetched, is not this project, or fails its tests."""


class AcceptanceError(ImageClassifierError):
    """A candidate does not answer, or answers otherwise than it was evaluated."""


class ClusterError(ImageClassifierError):
    """The cluster cannot be asked, refuses, or lacks what was asked for."""


class NoClusterError(ClusterError):
    """Nothing names a cluster here, as on a laptop."""


class ForbiddenError(ClusterError):
    """The cluster does not allow this user to ask that."""


class ConflictError(ClusterError):
    """An object changed between the look at it and its change."""
