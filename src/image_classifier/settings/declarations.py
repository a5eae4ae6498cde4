"""Every setting, declared once.

From the declaration follow its command line option and help, its environment variable, its workload param, its Tekton
params and how the templates pass it on, whether it is part of a training's fingerprint, and docs/settings.md.
`make generate` writes the files that are derived.
"""

import hashlib
import math
import os
import re
import unicodedata
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from image_classifier.errors import SettingError
from image_classifier.files import expand_home
from image_classifier.settings.kinds import AUTO, KINDS, AutoFraction, Bytes, Fraction, Kind, OptionalPath, Seconds, Uri
from image_classifier.settings.recipe import Recipe
from image_classifier.text import one_line, without_credentials

ENVIRONMENT_PREFIX = "IMAGE_CLASSIFIER_"
NO_BACKBONE = "none"
_FILE_SUFFIXES = re.compile(r"(\.(tar|tgz|tbz2?|txz|zip|gz|bz2|xz|zst|parquet))+$")
_MAX_NAME_CHARACTERS = 63  # of a label in Kubernetes
_DIGEST_CHARACTERS = 8


class Group(StrEnum):
    """Topics of settings, as the help and the documentation order them."""

    REGISTRY = "Registry"
    DATA = "Data"
    TRAINING = "Training"
    SEARCH = "Hyperparameter search"
    EVALUATION = "Evaluation"
    GATE = "Gate"
    MODEL = "Model"
    SERVING = "Serving"
    DRIFT = "Drift detection"
    RETRAINING = "Retraining"
    SCORING = "Batch scoring"
    SIGNING = "Signatures"
    CHAIN = "Supply chain"


def _setting(default: Any, help: str, **others: Any) -> Any:
    """Declare a setting; `others` are further fields of `Setting`."""
    return field(default=default, metadata={"help": help, **others})


_registry = partial(_setting, group=Group.REGISTRY)
_data = partial(_setting, group=Group.DATA, param=True)
_training = partial(_setting, group=Group.TRAINING, param=True, trains=True)
_search = partial(_setting, group=Group.SEARCH)
_gate = partial(_setting, group=Group.GATE, param=True)
_serving = partial(_setting, group=Group.SERVING, param=True)
_drift = partial(_setting, group=Group.DRIFT, param=True)
_retraining = partial(_setting, group=Group.RETRAINING)
_scoring = partial(_setting, group=Group.SCORING)
_signing = partial(_setting, group=Group.SIGNING)
_chain = partial(_setting, group=Group.CHAIN)


def model_name_of(data: str) -> str:
    """The name of the registered model for a data set: `photos` for ~/Photos, https://host/photos.tar.gz or photos/.

    Valid for MLflow, and as a label in Kubernetes. Accents are dropped; if other characters are lost, as of ФОТО, the
    start of a SHA-256 of the name is appended, so that different data sets have different models.
    """
    try:
        parts = urlsplit(data)
    except ValueError as error:
        raise SettingError(f"data is not a valid address: {without_credentials(data)} ({one_line(error)})") from None
    remote = bool(parts.netloc) and parts.scheme not in ("", "file")
    path = unquote(parts.path) if parts.scheme else data
    if not remote:
        path = os.path.abspath(expand_home(path))  # noqa: PTH100 (a link keeps its name)
    given = PurePosixPath(path).name or parts.netloc.rpartition("@")[2]
    text = unicodedata.normalize("NFKD", given).casefold()
    text = "".join(character for character in text if not unicodedata.combining(character))
    stem = _FILE_SUFFIXES.sub("", text) or text
    name = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")
    if not name or len(name) > _MAX_NAME_CHARACTERS or any(ord(each) > 127 and each.isalnum() for each in stem):
        digest = hashlib.sha256(stem.encode()).hexdigest()[:_DIGEST_CHARACTERS]
        name = f"{name[: _MAX_NAME_CHARACTERS - _DIGEST_CHARACTERS - 1].strip('-') or 'data'}-{digest}"
    return name


@dataclass(frozen=True)
class Settings:
    """The checked values of all settings."""

    home: Path = _registry(Path(".image-classifier"), "Folder for the data cache, the local registry and work files.")
    name: str = _registry(
        "",
        "Name of the registered model; empty: the name of the data set (its folder or file name without suffix, in "
        "lower case, with - for other characters).",
        param=True,
    )
    tracking_uri: Uri = _registry(
        Uri(""),
        "MLflow tracking server, e.g. http://mlflow:5000; empty: a SQLite file in the home folder.",
        environment=("MLFLOW_TRACKING_URI",),
        param=True,
    )
    registry_timeout: Seconds = _registry(Seconds(30.0), "Timeout for MLflow requests.", low=0.1, param=True)
    registry_wait: Seconds = _registry(
        Seconds(0.0),
        "How long a step waits for an unavailable MLflow server to come back.",
        low=0,
        param=True,
        task_default="3m",
    )

    data: str = _data(
        "digits",
        "Data set: digits, cifar10, fashion-mnist, or a folder, archive, parquet or IDX file, or an s3://, gs:// "
        "or https:// address.",
    )
    image_size: int = _data(
        0,
        "Side in pixels that images are resized to; 0: that of the backbone for photos, else the size of the data, at "
        "most 64.",
        low=0,
        high=384,
        trains=True,
    )
    framing: str = _data(
        "auto",
        "How images that are not square become square; crop: the center square is used; pad: the whole image, with "
        "gray beside or above and below it; auto: crop, or for photos on a backbone pad if it is better in a trial.",
        choices=("auto", "crop", "pad"),
        trains=True,
    )
    max_pixels: int = _data(
        64_000_000, "Maximum number of pixels of an image; a quarter of it for WebP, which needs more memory.", low=1
    )
    max_data: Bytes = _data(Bytes(50 * 2**30), "Maximum size of a data set after unpacking.", low=1)
    test_fraction: Fraction = _data(
        Fraction(0.2),
        "Fraction of the images held out for the test part if the data has none.",
        low=0.01,
        high=0.9,
        trains=True,
    )
    test_part: str = _data(
        "auto",
        "Images to test on; auto: the data's test part, or a fraction of the images if it has none; validation: the "
        "data's validation part.",
        choices=("auto", "validation"),
        trains=True,
    )
    validation_fraction: Fraction = _data(
        Fraction(0.1),
        "Fraction of the training part held out as validation split if the data has no validation part.",
        low=0.01,
        high=0.5,
        trains=True,
    )
    layout: str = _data(
        "auto",
        "Meaning of the folders; classes: each is a class; parts: train, test and the like contain the class folders; "
        "class-first: the class folders contain train, test and the like; auto: recognized by their names.",
        choices=("auto", "classes", "parts", "class-first"),
    )
    labels: OptionalPath = _data(
        OptionalPath(""),
        "Table with the labels (CSV, TSV, JSON lines, JSON, parquet), relative to the data set or elsewhere; empty: "
        "class folders, or a table that is found in the data set.",
    )
    label_column: str = _data(
        "", "Column of the table or of the parquet files that holds the labels; empty: found by its name."
    )
    fetch_timeout: Seconds = _data(Seconds(300.0), "Timeout for downloading a data set.", low=0.1)

    budget: Seconds = _training(Seconds(20.0), "Training time, e.g. 20s, 3m, 1h, counted from the first step.", low=0)
    backbone: str = _training(
        "auto",
        "Pretrained network that the model is built on: efficientnet-lite0, efficientnet-lite2, or the path or address "
        "of an .onnx or .safetensors file; none: a network is trained from scratch; auto: for photos, the most "
        "accurate one that the budget, max_latency and max_model_size allow.",
    )
    max_model_size: Bytes = _training(
        Bytes(0), "Maximum size of a backbone that auto chooses, as float32; 0: unlimited.", low=0
    )
    seed: int = _training(
        0, "Random seed for the validation split, the initial weights and the augmentation.", low=0, high=2**31 - 1
    )
    mirror: str = _training(
        "auto",
        "Horizontal-flip augmentation; auto: for color images, unless mirrored validation images lose their class.",
        choices=("auto", "yes", "no"),
    )
    precision: str = _training(
        "auto",
        "Numeric precision of the exported model; auto: int8 if it is faster and as accurate on the validation split.",
        choices=("auto", "float32", "int8"),
    )
    recipe: Recipe = _training(
        Recipe(), "Hyperparameters that differ from the defaults, as `tune` prints them, e.g. 'head_rate=0.4 width=2'."
    )
    device: str = _training("cpu", "Device to train on.", choices=("cpu", "cuda"))
    training_processes: int = _training(
        1, "Number of processes that train one model together; in a cluster each runs in its own pod.", low=1, high=64
    )
    retrain: str = _training(
        "", "Any new text forces a new training; text that ends with '(look again: …)' trains only if the data changed."
    )
    source_revision: str = _setting(
        "", "Revision of the source, recorded with the model; empty: taken from git.", group=Group.TRAINING
    )

    tune_budget: Seconds = _search(
        Seconds(1800.0), "Time for the whole search; its last third compares the best trials on fresh seeds.", low=0
    )
    tune_workers: int = _search(1, "Number of trials that run at the same time and share the CPUs.", low=1, high=64)
    tune_storage: Uri = _search(
        Uri(""),
        "Database of the search, e.g. postgresql://user@host/tuning, which several machines can share; empty: a SQLite "
        "file in the home folder.",
    )

    abstain_error: Fraction = _setting(
        Fraction(0.01),
        "Error rate for which the evaluation chooses a confidence threshold.",
        group=Group.EVALUATION,
        low=0,
        high=1,
        param=True,
    )

    min_accuracy: Fraction = _gate(Fraction(0.5), "Minimum test accuracy.", low=0, high=1)
    min_recall: AutoFraction = _gate(
        AutoFraction(AUTO),
        "Minimum test recall of every class; auto: half of what guessing among the classes gives, if enough images of "
        "the class were tested.",
        low=0,
        high=1,
    )
    min_robustness: Fraction = _gate(Fraction(0.0), "Minimum test accuracy under every corruption.", low=0, high=1)
    max_calibration_error: Fraction = _gate(Fraction(0.15), "Maximum expected calibration error.", low=0, high=1)
    max_latency: Seconds = _gate(
        Seconds(0.25), "Maximum p95 latency for one image; auto chooses no slower backbone.", low=0, trains=True
    )
    max_duplicates: Fraction = _gate(
        Fraction(0.05), "Maximum fraction of test images that duplicate training images.", low=0, high=1
    )
    gate_policy: str = _gate(
        "not-worse",
        "When a candidate replaces the champion: improve, if it is better with a probability of 95 %; not-worse, if it "
        "is more likely than not within max_accuracy_drop; refresh, unless it is worse than that with 80 %.",
        choices=("improve", "not-worse", "refresh"),
    )
    max_accuracy_drop: Fraction = _gate(
        Fraction(0.005),
        "Maximum drop in accuracy compared with the champion, and with the best version so far.",
        low=0,
        high=1,
    )
    max_recall_drop: Fraction = _gate(
        Fraction(0.05), "Maximum drop in any class's recall compared with the champion.", low=0, high=1
    )
    max_robustness_drop: Fraction = _gate(
        Fraction(0.05), "Maximum drop in accuracy under any corruption compared with the champion.", low=0, high=1
    )
    max_latency_ratio: float = _gate(3.0, "Maximum latency as a multiple of the champion's.", low=0.1)

    model: str = _setting(
        "",
        "Model to use: a package folder, models:/NAME/VERSION or models:/NAME@ALIAS; empty: the champion.",
        group=Group.MODEL,
    )

    host: str = _serving("127.0.0.1", "Address to listen on.", param=False)
    port: int = _serving(8080, "Port to listen on.", low=0, high=65535, environment=("PORT",), param=False)
    workers: int = _serving(1, "Number of server processes.", low=1, high=64)
    threads: int = _serving(
        0, "Number of requests that a server process handles at the same time; 0: one for each CPU.", low=0, high=256
    )
    queue: int = _serving(
        32, "Maximum number of queued requests; further ones get 503 with Retry-After.", low=0, high=1024
    )
    queue_timeout: Seconds = _serving(Seconds(5.0), "Maximum time a request waits in the queue.", low=0)
    max_upload: Bytes = _serving(Bytes(20 * 2**20), "Maximum size of a request body.", low=1)
    top: int = _serving(5, "Number of classes listed in an answer.", low=1)
    cors_origins: str = _serving(
        "", "Comma-separated web origins whose pages may call the API, e.g. https://shop.example.org; empty: none."
    )
    token: str = _serving(
        "",
        "Bearer token that requests must send; empty: no authentication. Set it in the environment, not as an option.",
        param=False,
    )
    drain_timeout: Seconds = _serving(
        Seconds(20.0), "Maximum time to finish requests in flight before stopping.", low=0
    )

    drift_window: int = _drift(
        500, "Number of images in a window that is compared with the reference statistics.", low=50
    )
    drift_false_alarms: Fraction = _drift(
        Fraction(0.01), "False-alarm rate: fraction of unchanged windows that are called drift.", low=0.002, high=0.2
    )

    retrain_every: Seconds = _retraining(
        Seconds(0.0), "Maximum time between two trainings without drift, e.g. 30d; 0: unlimited.", low=0
    )
    retrain_pause: Seconds = _retraining(
        Seconds(86_400.0),
        "Minimum time between two trainings that `retrain` starts; doubled after each refused or held model.",
        low=60,
    )

    to: str = _scoring("", "Destination of the scores as parquet files: a folder, or an s3:// or gs:// address of one.")
    score_top: int = _scoring(
        0, "Number of most probable classes kept for each image; 0: the probabilities of all classes.", low=0
    )
    score_processes: int = _scoring(
        0,
        "Number of scoring processes, each with a copy of the model; 0: one for each CPU, or one for little data.",
        low=0,
        high=256,
    )

    signing_key: OptionalPath = _signing(
        OptionalPath(""), "Path of the private key (PEM) that signs registered models; empty: models are not signed."
    )
    public_key: str = _signing(
        "",
        "Public keys (PEM), or the path of a file of them; a model must be signed by one of them to be accepted or "
        "served. Empty: no signature is required.",
        param=True,
    )

    namespace: str = _chain("", "Kubernetes namespace of the workload; empty: the namespace of the kubeconfig.")
    source_url: Uri = _chain(Uri(""), "Address of the source as a tarball; empty: the installed code is used.")
    sub_path: str = _chain("", "Folder of the project within the source; empty: its root.")
    source: Path = _chain(Path("source"), "Folder that the source is unpacked into.")
    steps_image: str = _chain(
        "", "Image of the steps with its digest, recorded with the model; empty: not in an image."
    )
    results: OptionalPath = _chain(
        OptionalPath(""),
        "Folder where a step writes its results, one file each, as Tekton reads them; empty: none are written.",
    )
    image: str = _chain("", "Server image with its digest.")
    url: Uri = _chain(Uri(""), "Address of the candidate that `accept` tries.")
    pinned: str = _chain(
        "no",
        "Whether the workload pins the version that `accept` tries, so that it replaces any champion.",
        choices=("yes", "no"),
    )
    accept_timeout: Seconds = _chain(
        Seconds(180.0), "Timeout for a candidate to answer with the expected model and image.", low=1, param=True
    )
    service: str = _chain("", "Name of the InferenceService that `watch` observes, which is the workload's name.")
    watch_duration: Seconds = _chain(
        Seconds(90.0),
        "Maximum time to watch a new revision next to the previous one; a little longer than rollout_duration.",
        low=1,
        high=3600,
        param=True,
    )

    def __post_init__(self) -> None:
        """Resolve an empty `name`, so that every reader of the settings gets the name that is used."""
        object.__setattr__(self, "name", self.name or model_name_of(self.data))


@dataclass(frozen=True)
class Setting:
    """The declaration of a setting."""

    name: str
    type: type
    default: Any
    help: str
    group: Group
    low: float = -math.inf
    """Lowest value, for numbers."""
    high: float = math.inf
    choices: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    """Environment variables of other programs that are read after our own."""
    trains: bool = False
    """Whether it affects the trained model, and so is part of the fingerprint of a training."""
    param: bool = False
    """Whether a workload may set it as a param, which the templates pass on to the steps or the server."""
    task_default: str = ""
    """Default in a Tekton task if it differs: in a cluster servers restart."""

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables that set it; the first that is not empty wins."""
        return (ENVIRONMENT_PREFIX + self.name.upper(), *self.environment)

    @property
    def metavar(self) -> str:
        """What stands for the value in help texts: DURATION, or auto|yes|no."""
        return "|".join(self.choices) or self._kind.metavar

    @property
    def shown_default(self) -> str:
        """The default as a person would type it; "" if there is none."""
        return self._kind.show(self.default)

    @property
    def _kind(self) -> Kind:
        return KINDS[self.type]

    def parse(self, value: object, origin: str) -> Any:
        """Turn text, or a JSON value of a workload param, into a checked value.

        Raises SettingError, which names the setting, the value, its origin and what was expected.
        """
        try:
            parsed = self._kind.parse(value)
        except (ValueError, TypeError, OverflowError):
            raise self._error(value, origin, self._kind.expected) from None
        if self.choices and parsed not in self.choices:
            raise self._error(value, origin, f"one of {', '.join(self.choices)}")
        if isinstance(parsed, int | float) and not self.low <= parsed <= self.high:
            bounds = f"between {self.low:g} and {self.high:g}" if math.isfinite(self.high) else f"at least {self.low:g}"
            raise self._error(value, origin, bounds)
        return parsed

    def _error(self, value: object, origin: str, expected: str) -> SettingError:
        return SettingError(f"{self.name} is {value!r} (from {origin}), but must be {expected}")


SETTINGS: dict[str, Setting] = {
    item.name: Setting(item.name, item.type, item.default, **item.metadata)  # type: ignore[arg-type]
    for item in fields(Settings)
}

CHAIN_PARAMS: dict[str, str] = {
    "trainer_image": "Image of the steps with its digest, instead of one that the chain builds.",
    "server_image": "Image of the server with its digest, instead of one that the chain builds.",
    "dockerfile": "Dockerfile from which the chain builds the images in the cluster, instead of using kpack.",
    "registry": "Where built images are pushed, as REGISTRY/FOLDER.",
    "builder_image": "Image with buildah for builds in the cluster.",
    "insecure_registry": "Whether the registries of source and images use plain HTTP: true or false.",
    "clusterBuilder": "kpack's builder.",
    "serviceAccount": "Service account for kpack's builds.",
    "source_credentials_secret": "Secret with the credentials for fetching the source.",
    "model_version": "Number of the version to serve, for pinning or rolling back; empty: the champion.",
    "training_timeout": "Timeout for the whole train step.",
    "training_resources": "CPU and memory of the train step: a map with requests and limits.",
    "min_scale": "Minimum number of servers; 0: scale to zero without requests.",
    "max_scale": "Maximum number of servers.",
    "scale_window": "Time without requests after which servers are removed.",
    "rollout_duration": "Time over which requests move to a new version; a rollback moves them at once.",
    "annotations": "Annotations of the InferenceService: a map.",
    "api_descriptor": "Description, system and owner of the API in the catalog: a map.",
}
"""Workload params that only the supply chain reads, with their help; every other param is a setting."""
