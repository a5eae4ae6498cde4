"""Errors that a user can act on: each message says what happened, with what, and what to do."""


class ImageClassifierError(Exception):
    """A step cannot continue. Its text is the one line that the user sees; the exit status is 1."""


class SettingError(ImageClassifierError):
    """A setting has a value that cannot be used, or a name is not a setting."""


class DataError(ImageClassifierError):
    """A data set cannot be found, fetched, read or used."""


class ImageError(ImageClassifierError):
    """Encoded bytes are not an accepted image. The server answers 400."""


class ImageTooLargeError(ImageError):
    """An image exceeds the limit on bytes or pixels. The server answers 413."""


class TrainingError(ImageClassifierError):
    """Training cannot start, or produced no usable model."""


class TuningError(ImageClassifierError):
    """A hyperparameter search cannot start or continue, or its storage cannot be used."""


class PackageError(ImageClassifierError):
    """A model package is missing, incomplete or altered, or its predictions differ from the recorded ones."""


class SignatureError(PackageError):
    """A model is unsigned, was changed after signing, or was signed with another key."""


class RegistryError(ImageClassifierError):
    """The registry cannot be reached, refused a write, or lacks what was requested."""


class RegistryUnavailableError(RegistryError):
    """The MLflow server does not answer or is not well; it may come back."""


class ChampionChangedError(RegistryError):
    """The champion is another version than the one that a candidate was judged against."""


class LostError(RegistryError):
    """The registry no longer has a run, or the files of a version."""


class SourceError(ImageClassifierError):
    """The source cannot be fetched, is not this project, or fails its tests."""


class AcceptanceError(ImageClassifierError):
    """A candidate does not answer, or its predictions differ from those in its evaluation."""


class ClusterError(ImageClassifierError):
    """The cluster cannot be reached, refuses a request, or lacks what was requested."""


class NoClusterError(ClusterError):
    """No cluster is configured, as on a laptop."""


class ForbiddenError(ClusterError):
    """The cluster denies this user the request."""


class ConflictError(ClusterError):
    """An object changed between reading and changing it."""


class ServerError(ImageClassifierError):
    """An inference server does not answer, or its answer cannot be used."""
