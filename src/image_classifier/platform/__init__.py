"""The cluster side: Kubernetes client, source, acceptance, roll-out watch, rollback and the diagnosis behind `why`.

Speaks to the Kubernetes API and to servers over HTTP; knows the names that Cartographer, Tekton and KServe use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
