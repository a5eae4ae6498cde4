"""The model registry in MLflow: runs, versions, aliases, verdicts, history and rollback targets.

The only room that imports MLflow; the import waits until the registry is used, as it takes two seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
