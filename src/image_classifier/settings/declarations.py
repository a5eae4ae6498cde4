"""Every setting once: its name, type, default and help.

A setting is the same word everywhere: `--max-accuracy-drop` on the command line,
`IMAGE_CLASSIFIER_MAX_ACCURACY_DROP` in the environment, `max_accuracy_drop` among a workload's params.
The first of these that is given wins, in that order; an empty value counts as not given, because an
unset Tekton param arrives as an empty string.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NewType

from image_classifier.errors import SettingError
from image_classifier.settings.recipe import EXPECTED as EXPECTED_RECIPE
from image_classifier.settings.recipe import Recipe

ENVIRONMENT_PREFIX = "IMAGE_CLASSIFIER_"

Seconds = NewType("Seconds", float)
Bytes = NewType("Bytes", int)

_SECONDS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def _setting(
    default: Any,
    help: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
    environment: tuple[str, ...] = (),
) -> Any:
    """Declare a setting. `environment` names further variables that are read after our own."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "environment": environment}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Settings:
    """The values of all settings, checked."""

    # Where things are
    home: Path = _setting(
        Path(".image-classifier"), "Folder of the cache, the local registry and work files."
    )
    name: str = _setting("image-classifier", "Name of the registered model.")
    tracking_uri: str = _setting(
        "",
        "MLflow tracking server, e.g. http://mlflow:5000; empty: a sqlite file in the home folder.",
        environment=("MLFLOW_TRACKING_URI",),
    )
    registry_timeout: Seconds = _setting(
        Seconds(30.0), "Longest wait for an MLflow server that does not answer.", low=0.1
    )
    registry_wait: Seconds = _setting(
        Seconds(0.0), "How long a step waits for an MLflow server that is down to come back.", low=0
    )

    results: str = _setting(
        "", "Folder where a step leaves its results, a file each, as Tekton wants them; empty: none are left."
    )
    source_revision: str = _setting("", "Revision of the source, for the record; empty: asked of git.")

    # Data
    data: str = _setting(
        "digits",
        "Data set: digits, cifar10, fashion-mnist, or a folder, archive, parquet, IDX or s3://, gs://, "
        "https:// address.",
    )
    image_size: int = _setting(
        0, "Side in pixels that images are resized to; 0: what the data has, at most 64.", low=0, high=224
    )
    max_pixels: int = _setting(
        50_000_000,
        "Largest image that is decoded, in pixels; of WebP, which takes more memory, a quarter.",
        low=1,
    )
    max_data: Bytes = _setting(
        Bytes(50 * 2**30), "Most bytes that are fetched or unpacked for a data set.", low=1
    )
    test_fraction: float = _setting(
        0.2, "Share kept for the test where the data has no test part.", low=0.01, high=0.9
    )
    validation_fraction: float = _setting(
        0.1, "Share of the training part used for every choice.", low=0.01, high=0.5
    )
    fetch_timeout: Seconds = _setting(Seconds(300.0), "Longest time to fetch a data set.", low=0.1)

    # Training
    budget: Seconds = _setting(Seconds(20.0), "Time to train, e.g. 20s, 3m, 1h; counted from the first step.")
    seed: int = _setting(0, "Seed of the split, the weights and the augmentation.", low=0, high=2**31 - 1)
    mirror: str = _setting(
        "auto",
        "Whether a mirrored image keeps its class; auto: not for glyphs and other grey images.",
        choices=("auto", "yes", "no"),
    )
    precision: str = _setting(
        "auto",
        "What the model calculates with; auto: int8 where it is faster and as accurate on the validation split.",
        choices=("auto", "float32", "int8"),
    )
    recipe: Recipe = _setting(
        Recipe(),
        "Hyperparameters that differ from the default, as `tune` prints them, e.g. 'head_rate=0.4 width=2'.",
    )
    device: str = _setting("cpu", "What trains: the CPUs, or a GPU by CUDA.", choices=("cpu", "cuda"))
    training_processes: int = _setting(
        1, "Processes that train one model together; in a cluster each has a pod of its own.", low=1, high=64
    )
    retrain: str = _setting(
        "",
        "Any new text forces a new training run; one that ends with '(look again: …)' only where the data changed.",
    )

    # Search for hyperparameters
    tune_budget: Seconds = _setting(
        Seconds(1800.0),
        "Time of the whole search for a recipe, of which a third tries the best again on fresh seeds.",
    )
    tune_workers: int = _setting(
        1,
        "Trainings at a time in a search, which share the CPUs; `train` gives all of them to one.",
        low=1,
        high=64,
    )
    tune_storage: str = _setting(
        "",
        "Database of the search, e.g. postgresql://user@host/tuning, which several machines may share; "
        "empty: a sqlite file in the home folder.",
    )

    # Evaluation
    abstain_error: float = _setting(
        0.01,
        "Share of wrong answers for which the evaluation finds a threshold of confidence.",
        low=0,
        high=1,
    )

    # Gate
    min_accuracy: float = _setting(0.5, "Lowest test accuracy that is released.", low=0, high=1)
    min_recall: float = _setting(0.0, "Lowest test recall of any class that is released.", low=0, high=1)
    min_robustness: float = _setting(
        0.0, "Lowest test accuracy under any of the tried corruptions that is released.", low=0, high=1
    )
    max_calibration_error: float = _setting(0.15, "Highest expected calibration error.", low=0, high=1)
    max_latency: Seconds = _setting(
        Seconds(0.25), "Highest 95th percentile of the time for one image.", low=0
    )
    max_duplicates: float = _setting(
        0.05,
        "Highest share of test images that are duplicates, or nearly, of training images.",
        low=0,
        high=1,
    )
    max_accuracy_drop: float = _setting(
        0.005, "How far below the champion's accuracy a candidate may be.", low=0, high=1
    )
    max_recall_drop: float = _setting(
        0.05, "How far below the champion's recall a candidate's may be in any class.", low=0, high=1
    )
    max_robustness_drop: float = _setting(
        0.05,
        "How far below the champion's accuracy a candidate's may be under any corruption.",
        low=0,
        high=1,
    )
    max_latency_ratio: float = _setting(
        3.0, "How many times as long as the champion a candidate may take for one image.", low=0.1
    )

    # Serving
    model: str = _setting(
        "", "Model to use: a package folder, models:/NAME/VERSION or models:/NAME@ALIAS; empty: the champion."
    )
    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8080, "Port to listen on.", low=0, high=65535, environment=("PORT",))
    workers: int = _setting(1, "Server processes.", low=1, high=64)
    threads: int = _setting(
        0, "Requests that a server process works on at a time; 0: as many as it has CPUs.", low=0, high=256
    )
    queue: int = _setting(
        32,
        "Requests that wait for their turn; who comes then is told at once to come back later.",
        low=0,
        high=1024,
    )
    queue_timeout: Seconds = _setting(Seconds(5.0), "Longest wait of a request for its turn.", low=0)
    max_upload: Bytes = _setting(Bytes(20 * 2**20), "Largest request body.", low=1)
    top: int = _setting(5, "Classes listed in an answer.", low=1)
    cors_origins: str = _setting(
        "",
        "Web origins whose pages may ask, e.g. https://shop.example.org, with commas between; empty: none.",
    )
    token: str = _setting(
        "",
        "Bearer token that a request must carry to ask the model; empty: none. Better given by the environment.",
    )
    drain_timeout: Seconds = _setting(
        Seconds(20.0), "Longest wait for requests in flight when stopping.", low=0
    )

    # Drift
    drift_window: int = _setting(
        500, "Images that are compared with those the model was made with, each time.", low=50
    )
    drift_false_alarms: float = _setting(
        0.01,
        "Share of windows that are called drift though nothing has changed.",
        low=0.002,
        high=0.2,
    )

    # Retraining
    retrain_every: Seconds = _setting(
        Seconds(0.0), "Longest time until `retrain` trains again without drift, e.g. 30d; 0: never.", low=0
    )
    retrain_pause: Seconds = _setting(
        Seconds(86_400.0),
        "Shortest time between two trainings that `retrain` starts; doubled after each that was refused.",
        low=60,
    )

    # Scoring
    to: str = _setting(
        "", "Where `score` writes its parquet files: a folder, or an s3:// or gs:// address of one."
    )
    score_top: int = _setting(
        0,
        "Likeliest classes that `score` keeps of an image; 0: the probabilities of all, in the order of the classes.",
        low=0,
    )
    score_processes: int = _setting(
        0,
        "Processes that score, each with a model of its own; 0: as many as CPUs, and one for little data.",
        low=0,
        high=256,
    )

    # Signatures
    signing_key: str = _setting(
        "",
        "File with the private key, in PEM, that a registered model is signed with; empty: it is not signed.",
    )
    public_key: str = _setting(
        "",
        "Public keys in PEM, or a file of them, of which one must have signed a model that is accepted or served; "
        "empty: no signature is asked for.",
    )

    # Supply chain
    namespace: str = _setting("", "Kubernetes namespace of the workload; empty: that of the kubeconfig.")
    source_url: str = _setting(
        "", "Address of the source as a tarball, which is tested and trains; empty: the installed code."
    )
    sub_path: str = _setting("", "Folder in the source that the project is in; empty: its root.")
    source: Path = _setting(Path("source"), "Folder that the source is unpacked into.")
    steps_image: str = _setting(
        "", "Image that the steps run in, by its digest, for the record; empty: they run in none."
    )
    image: str = _setting("", "Server image by its digest: what a server says it is, and accept asks for.")
    url: str = _setting("", "Address of the candidate that accept tries.")
    accept_timeout: Seconds = _setting(
        Seconds(180.0),
        "Longest wait for a candidate to answer with the model and image it should have.",
        low=1,
    )
    service: str = _setting("", "Inference service that watch looks at: the workload's name.")
    watch_duration: Seconds = _setting(
        Seconds(90.0),
        "Longest watch of a new revision beside the one before; best a little longer than rollout_duration.",
        low=1,
        high=3600,
    )


@dataclass(frozen=True)
class Setting:
    """What is known of a setting beside its value."""

    name: str
    type: type
    default: Any
    help: str
    low: float
    high: float
    choices: tuple[str, ...]
    environment: tuple[str, ...]

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables that set it, the first that is not empty wins."""
        return (ENVIRONMENT_PREFIX + self.name.upper(), *self.environment)

    def parse(self, value: object, origin: str) -> Any:
        """Turn text (or a JSON value of a workload param) into a checked value.

        Raises SettingError, which names the setting, the value, its origin and what was expected.
        """
        try:
            parsed = _PARSERS[self.type](value)
        except (ValueError, TypeError, OverflowError):
            raise SettingError(
                f"{self.name} is {value!r} (from {origin}), but must be {_EXPECTED[self.type]}"
            ) from None
        if self.choices and parsed not in self.choices:
            raise SettingError(
                f"{self.name} is {value!r} (from {origin}), but must be one of {', '.join(self.choices)}"
            )
        if self.type not in (str, Path, Recipe) and not self.low <= parsed <= self.high:
            bounds = (
                f"from {self.low:g} to {self.high:g}"
                if math.isfinite(self.high)
                else f"at least {self.low:g}"
            )
            raise SettingError(f"{self.name} is {value!r} (from {origin}), but must be {bounds}")
        return parsed


def _parse_quantity(value: object, units: Mapping[str, float]) -> float:
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", str(value).lower())
    if match is None or match[2] not in units:
        raise ValueError(value)
    return float(match[1]) * units[match[2]]


def _parse_int(value: object) -> int:
    if isinstance(value, bool):
        raise TypeError(value)
    return int(str(value).replace("_", ""))


def _parse_float(value: object) -> float:
    number = float(str(value))
    if not math.isfinite(number):
        raise ValueError(value)
    return number


_PARSERS: dict[Any, Callable[[object], Any]] = {
    str: str,
    Path: lambda value: Path(str(value)).expanduser(),
    int: _parse_int,
    float: _parse_float,
    Recipe: Recipe.parse,
    Seconds: lambda value: Seconds(_parse_quantity(value, _SECONDS)),
    Bytes: lambda value: Bytes(int(_parse_quantity(value, _BYTES))),
}
_EXPECTED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    Recipe: EXPECTED_RECIPE,
    Seconds: "a time such as 90s, 3m or 1h",
    Bytes: "a size such as 20MiB",
}

SETTINGS: dict[str, Setting] = {
    item.name: Setting(item.name, item.type, item.default, **item.metadata)  # type: ignore[arg-type]
    for item in fields(Settings)
}


CHAIN_PARAMS: dict[str, str] = {
    "trainer_image": "Image of the steps, by its digest; in place of one that the chain builds.",
    "server_image": "Image of the server, by its digest; in place of one that the chain builds.",
    "dockerfile": "Dockerfile that the chain builds the images from, in the cluster; in place of kpack.",
    "registry": "Where built images go, as REGISTRY/FOLDER.",
    "builder_image": "Image with buildah, for builds in the cluster.",
    "insecure_registry": "Whether the registries of source and images speak plain HTTP, true or false.",
    "clusterBuilder": "kpack's builder.",
    "serviceAccount": "Service account of kpack's builds.",
    "source_credentials_secret": "Secret with which the source is fetched.",
    "model_version": "Number of the version to serve, to pin it or to roll back; without it, the champion.",
    "training_timeout": "Longest time of the whole train step.",
    "training_resources": "CPU and memory of the train step: a map with requests and limits.",
    "min_scale": "Fewest servers; 0: none when nothing is asked.",
    "max_scale": "Most servers.",
    "scale_window": "Time without requests before servers are taken away.",
    "rollout_duration": "Time over which requests move to a new version; back to an older one they move at once.",
    "annotations": "Annotations of the inference service: a map.",
    "api_descriptor": "Description, system and owner of the API in the catalog: a map.",
}
"""The workload params that only the supply chain reads, with their help; every other one is a setting."""


def load_settings(
    options: Mapping[str, object],
    environment: Mapping[str, str],
    params: Mapping[str, object] | None = None,
) -> Settings:
    """The settings from command line options, environment and workload params, in that order.

    Raises SettingError for a value that cannot be used and for an option or param that is no setting.
    """
    params = {name: value for name, value in (params or {}).items() if name not in CHAIN_PARAMS}
    _refuse_unknown(options, "option")
    _refuse_unknown(params, "workload param")
    values = {}
    for setting in SETTINGS.values():
        for value, origin in _given(setting, options, environment, params):
            if value is not None and value != "":
                values[setting.name] = setting.parse(value, origin)
                break
    return Settings(**values)


def as_environment(settings: Settings, names: Iterable[str]) -> dict[str, str]:
    """The variables that give those settings to another process; as options everyone on the machine may read them."""
    return {SETTINGS[name].variables[0]: str(getattr(settings, name)) for name in names}


def _given(
    setting: Setting,
    options: Mapping[str, object],
    environment: Mapping[str, str],
    params: Mapping[str, object],
) -> Iterable[tuple[object, str]]:
    yield options.get(setting.name), setting.option
    for variable in setting.variables:
        yield environment.get(variable), f"environment variable {variable}"
    yield params.get(setting.name), "a workload param"


def _refuse_unknown(names: Iterable[str], what: str) -> None:
    unknown = sorted(set(names) - set(SETTINGS))
    if unknown:
        raise SettingError(f"there is no {what} {unknown[0]!r}; there are: {', '.join(sorted(SETTINGS))}")
