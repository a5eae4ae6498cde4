"""Every setting once: name, type, default, group and help; and how values are found.

A setting is the same word everywhere: `--max-accuracy-drop` on the command line, `IMAGE_CLASSIFIER_MAX_ACCURACY_DROP`
in the environment, `max_accuracy_drop` among a workload's params.
"""

from image_classifier.settings.declarations import (
    CHAIN_PARAMS,
    ENVIRONMENT_PREFIX,
    SETTINGS,
    Bytes,
    Seconds,
    Setting,
    Settings,
    as_environment,
    load_settings,
)
from image_classifier.settings.recipe import DEFAULTS, RANGES, Recipe

__all__ = [
    "CHAIN_PARAMS",
    "DEFAULTS",
    "ENVIRONMENT_PREFIX",
    "RANGES",
    "SETTINGS",
    "Bytes",
    "Recipe",
    "Seconds",
    "Setting",
    "Settings",
    "as_environment",
    "load_settings",
]
