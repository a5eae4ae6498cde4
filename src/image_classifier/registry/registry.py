"""The model registry of one registered model: its runs, checkpoints, versions and history."""

import re

from image_classifier.errors import RegistryError
from image_classifier.registry.checkpoints import Checkpoints
from image_classifier.registry.history import History
from image_classifier.registry.runs import Runs
from image_classifier.registry.store import RegistryOptions, Store
from image_classifier.registry.versions import Versions


class Registry:
    """Runs, checkpoints, versions and history of a registered model. Nothing is contacted before the first use."""

    def __init__(self, options: RegistryOptions) -> None:
        """Raises RegistryError for a name or a tracking URI that cannot be used."""
        self.name = options.name
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name) is None:
            raise RegistryError(
                f"{self.name!r} cannot name a registered model: use letters, digits, dots, dashes and underscores"
            )
        self._store = Store(options)
        self.runs = Runs(self._store)
        self.checkpoints = Checkpoints(self._store, self.runs)
        self.versions = Versions(self._store, self.runs)
        self.history = History(self._store, self.versions, self.runs)

    def check(self) -> None:
        """Raise RegistryError, within the registry timeout, if the registry cannot be used."""
        self._store.check()
