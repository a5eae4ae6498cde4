"""The cluster side: Kubernetes client, acceptance test, roll-out watch, rollback, and the diagnosis behind `why`.

Uses the Kubernetes API and servers' HTTP endpoints. Knows the objects of Cartographer, Tekton, KServe and Knative, but
not how a model is trained or judged.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
