"""Settings: every one declared once, with its type, default, group and help; and how values are found.

A setting has the same name everywhere: `--max-accuracy-drop` on the command line, `IMAGE_CLASSIFIER_MAX_ACCURACY_DROP`
in the environment, `max_accuracy_drop` in a workload's params.
"""

from image_classifier.settings.declarations import (
    CHAIN_PARAMS,
    ENVIRONMENT_PREFIX,
    NO_BACKBONE,
    SETTINGS,
    Group,
    Setting,
    Settings,
)
from image_classifier.settings.kinds import AUTO, Bytes, Fraction, OptionalPath, Seconds, Uri
from image_classifier.settings.loading import as_environment, load_settings, pick, service_links
from image_classifier.settings.recipe import DEFAULTS, RANGES, Recipe

__all__ = [
    "AUTO",
    "CHAIN_PARAMS",
    "DEFAULTS",
    "ENVIRONMENT_PREFIX",
    "NO_BACKBONE",
    "RANGES",
    "SETTINGS",
    "Bytes",
    "Fraction",
    "Group",
    "OptionalPath",
    "Recipe",
    "Seconds",
    "Setting",
    "Settings",
    "Uri",
    "as_environment",
    "load_settings",
    "pick",
    "service_links",
]
