"""The command `history`: what served when."""

from image_classifier.registry import Entry, entries
from image_classifier.settings import Settings
from image_classifier.steps.model_access import open_registry
from image_classifier.text import Report


def history(settings: Settings, report: Report) -> list[Entry]:
    """All decisions about the model's versions, the newest first.

    Raises RegistryError if the registry has only models of other names.
    """
    registry = open_registry(settings, report)
    registry.versions.check_name()
    return entries(registry)
